//! One suite for every queue: what the product takes for granted.

use std::sync::Arc;
use std::time::Duration;

use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{Message, Queue};

use crate::azurite::{fresh_queue, stores};
use crate::storage::Hand;

/// The least that a message is hidden.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(600);

/// A queue, and how its time goes on: a clock that is set, or the real one.
struct Subject {
    name: &'static str,
    queue: Arc<dyn Queue>,
    clock: Option<Hand>,
}

impl Subject {
    /// Takes the message that becomes visible in a second.
    async fn again(&self, queue: &str) -> Message {
        if let Some(clock) = &self.clock {
            clock.0.advance(SHORT);
        }
        // Real time goes on by itself; each turn is a request.
        for _ in 0..20_000 {
            if let Some(message) = self.queue.receive(queue, 1, SHORT).await.expect("received").pop() {
                return message;
            }
        }
        panic!("{}: it never comes again", self.name);
    }

    /// Until nothing is in the queue any more, as its poison queue got it.
    async fn drained(&self, queue: &str) {
        if let Some(clock) = &self.clock {
            clock.0.advance(SHORT);
        }
        for _ in 0..20_000 {
            assert!(self.queue.receive(queue, 1, LONG).await.expect("received").is_empty(), "{}", self.name);
            if self.queue.count(queue).await.expect("counted") == 0 {
                return;
            }
        }
        panic!("{}: it never goes", self.name);
    }
}

async fn subjects() -> [Subject; 2] {
    let clock = Hand::new();
    let sqlite = SqliteStore::open_in_memory(Arc::new(clock.clone())).expect("SQLite");
    [
        Subject { name: "sqlite", queue: Arc::new(sqlite), clock: Some(clock) },
        Subject { name: "azure", queue: stores().await.queue, clock: None },
    ]
}

#[tokio::test]
async fn a_message_is_received_until_it_is_deleted_and_five_times_at_most() {
    for subject in subjects().await {
        let (name, queue, q) = (subject.name, &subject.queue, fresh_queue());
        // No message holds it: its blob goes where the message goes.
        let now = vec![b'x'; 100_000];
        queue.put(&q, now.clone(), Duration::ZERO).await.expect("put");
        queue.put(&q, b"later".to_vec(), LONG).await.expect("put");
        let first = queue.receive(&q, 10, SHORT).await.expect("received");
        assert_eq!((first.len(), first[0].tries, first[0].body == now), (1, 1, true), "{name}");
        // A second of real time may be over at any moment.
        let hides = fresh_queue();
        queue.put(&hides, b"m".to_vec(), Duration::ZERO).await.expect("put");
        assert_eq!(queue.receive(&hides, 10, LONG).await.expect("received").len(), 1, "{name}");
        assert!(queue.receive(&hides, 10, LONG).await.expect("received").is_empty(), "{name}: hidden from others");
        for tries in 2..=5 {
            let again = subject.again(&q).await;
            assert_eq!((again.tries, again.body == now), (tries, true), "{name}");
            assert!(!queue.delete(&q, &first[0]).await.expect("answered"), "{name}: an old receipt deletes nothing");
        }
        let mut poison = Vec::new();
        if let Some(clock) = &subject.clock {
            clock.0.advance(SHORT);
        }
        for _ in 0..20_000 {
            assert!(queue.receive(&q, 10, LONG).await.expect("received").is_empty(), "{name}: five times at most");
            poison = queue.receive(&format!("{q}-poison"), 10, LONG).await.expect("received");
            if !poison.is_empty() {
                break;
            }
        }
        assert!(poison[0].body == now && poison[0].tries == 1, "{name}");
        assert!(queue.delete(&format!("{q}-poison"), &poison[0]).await.expect("deleted"), "{name}");
        assert!(!queue.delete(&format!("{q}-poison"), &poison[0]).await.expect("answered"), "{name}: once");
        assert_eq!(queue.count(&q).await.expect("counted"), 1, "{name}: what is delayed is still there");
    }
}

#[tokio::test]
async fn bodies_of_every_size_and_kind_come_back() {
    for subject in subjects().await {
        let (name, queue, q) = (subject.name, &subject.queue, fresh_queue());
        let all_bytes: Vec<u8> = (0..=255).collect();
        let pointer = br#"{"indicator-relay-blob":"export-runs/none"}"#.to_vec();
        let kib = 48 << 10;
        let sizes = [0, 1, kib - 1, kib, kib + 1, 9 << 20].map(|length| vec![b'a'; length]);
        for body in sizes.into_iter().chain([all_bytes, pointer, "<é>&\n".as_bytes().to_vec()]) {
            queue.put(&q, body.clone(), Duration::ZERO).await.expect("put");
            let message = queue.receive(&q, 1, LONG).await.expect("received").remove(0);
            assert!(message.body == body, "{name}: {} bytes", body.len());
            assert!(queue.delete(&q, &message).await.expect("deleted"), "{name}");
            if let Some(blob) = message.blob {
                let text = format!(r#"{{"indicator-relay-blob":"{blob}"}}"#);
                assert_eq!(queue.open(&text).await.expect("answered"), None, "{name}: the blob goes with its message");
            }
        }
    }
}

#[tokio::test]
async fn who_is_handed_only_the_text_gets_the_body_until_it_was_handled() {
    let queue = stores().await.queue;
    let q = fresh_queue();
    let body = vec![b'x'; 60_000];
    queue.put(&q, body.clone(), Duration::ZERO).await.expect("put");
    let message = queue.receive(&q, 1, SHORT).await.expect("received").remove(0);
    // As the host hands it over: the message's own text.
    let blob = message.blob.clone().expect("a blob");
    let text = format!(r#"{{"indicator-relay-blob":"{blob}"}}"#);
    let opened = queue.open(&text).await.expect("opened").expect("not handled yet");
    assert!(opened.body == body);
    queue.discard(&opened).await.expect("dropped");
    queue.discard(&opened).await.expect("twice is fine");
    assert_eq!(queue.open(&text).await.expect("answered"), None, "it was handled already");
    let subject = Subject { name: "azure", queue, clock: None };
    subject.drained(&q).await;

    for subject in subjects().await {
        let opened = subject.queue.open(r#"{"job":"default"}"#).await.expect("opened").expect("a body");
        assert_eq!((opened.body.as_slice(), &opened.blob), (br#"{"job":"default"}"#.as_slice(), &None), "{}", subject.name);
        subject.queue.discard(&opened).await.expect("nothing to drop");
    }
}

#[tokio::test]
async fn a_queue_is_counted_and_one_that_is_not_there_is_empty() {
    for subject in subjects().await {
        let (name, queue, q) = (subject.name, &subject.queue, fresh_queue());
        assert_eq!(queue.count(&q).await.expect("counted"), 0, "{name}");
        assert!(queue.receive(&q, 10, SHORT).await.expect("received").is_empty(), "{name}");
        queue.probe(&q).await.expect("made on first use");
        for _ in 0..40 {
            queue.put(&q, b"m".to_vec(), Duration::ZERO).await.expect("put");
        }
        let taken = queue.receive(&q, 100, LONG).await.expect("received");
        assert!((1..=100).contains(&taken.len()), "{name}: {}", taken.len());
        assert_eq!(queue.count(&q).await.expect("counted"), 40, "{name}: hidden ones too");
    }
}

#[tokio::test]
async fn a_delay_longer_than_queues_can_is_cut() {
    for subject in subjects().await {
        let (name, queue, q) = (subject.name, &subject.queue, fresh_queue());
        queue.put(&q, b"late".to_vec(), Duration::from_secs(30 * 24 * 3_600)).await.expect("put");
        assert!(queue.receive(&q, 1, SHORT).await.expect("received").is_empty(), "{name}");
        if let Some(clock) = &subject.clock {
            clock.0.advance(indicator_relay::storage::LONGEST_DELAY);
            assert_eq!(queue.receive(&q, 1, SHORT).await.expect("received").len(), 1, "{name}");
        }
    }
}

#[test]
fn messages_are_encoded_as_the_host_expects() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("host.json");
    let text = std::fs::read_to_string(path).expect("host.json");
    let host: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let queues = &host["extensions"]["queues"];
    assert_eq!(queues["messageEncoding"], indicator_relay::storage::azure::MESSAGE_ENCODING);
    assert_eq!(queues["maxDequeueCount"], indicator_relay::storage::TRIES);
}

#[tokio::test]
async fn who_looks_takes_nothing_and_what_is_in_a_poison_queue_stays_there() {
    for subject in subjects().await {
        let (name, queue) = (subject.name, fresh_queue());
        let poison = format!("{queue}-poison");
        assert!(subject.queue.peek(&poison, 10).await.expect(name).is_empty(), "{name}: it is not there yet");
        for body in [b"small".to_vec(), vec![b'x'; 100_000]] {
            subject.queue.put(&poison, body, Duration::ZERO).await.expect(name);
        }
        for _ in 0..2 {
            let mut sizes: Vec<usize> =
                subject.queue.peek(&poison, 10).await.expect(name).iter().map(|message| message.body.len()).collect();
            sizes.sort_unstable();
            assert_eq!(sizes, [5, 100_000], "{name}");
        }
        let taken = subject.queue.receive(&poison, 10, SHORT).await.expect(name);
        assert_eq!((taken.len(), taken[0].tries), (2, 1), "{name}: a look is no try");
        assert!(subject.queue.delete(&poison, &taken[1]).await.expect(name));
        for tries in 2..8 {
            assert_eq!(subject.again(&poison).await.tries, tries, "{name}");
        }
        assert_eq!(subject.queue.count(&format!("{poison}-poison")).await.expect(name), 0, "{name}");
    }
}

#[tokio::test]
async fn what_is_given_back_is_there_again_at_once_or_after_a_while_and_counts_as_tried() {
    for subject in subjects().await {
        let (name, queue, q) = (subject.name, &subject.queue, fresh_queue());
        // One that a message holds, and one that none does.
        for body in [b"small".to_vec(), vec![b'x'; 100_000]] {
            queue.put(&q, body.clone(), Duration::ZERO).await.expect("put");
            let first = queue.receive(&q, 1, LONG).await.expect("received").remove(0);
            assert!(queue.release(&q, &first, Duration::ZERO).await.expect("given back"), "{name}");
            assert!(!queue.delete(&q, &first).await.expect("answered"), "{name}: it is not in hand any more");
            assert!(!queue.release(&q, &first, LONG).await.expect("answered"), "{name}: nor can it be hidden");
            let second = queue.receive(&q, 1, LONG).await.expect("received").remove(0);
            assert_eq!((second.tries, second.body == body), (2, true), "{name}");
            assert!(queue.release(&q, &second, SHORT).await.expect("given back"), "{name}");
            let third = subject.again(&q).await;
            assert_eq!((third.tries, third.body == body), (3, true), "{name}");
            assert!(!queue.release(&q, &second, Duration::ZERO).await.expect("answered"), "{name}: it is another's");
            assert!(queue.delete(&q, &third).await.expect("deleted"), "{name}");
            assert!(!queue.release(&q, &third, Duration::ZERO).await.expect("answered"), "{name}: it is gone");
        }
    }
}
