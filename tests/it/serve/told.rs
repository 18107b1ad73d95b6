//! What the log says, and does not say, of what comes.

use std::time::Duration;

use emulator::{Answered, TENANT};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Served, USER, USERS, WEBHOOK};

fn lines(served: &Served) -> Vec<Value> {
    served.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn what_waits_for_an_earlier_change_is_not_said_to_be_handled() {
    let served = Served::new(USERS).await;
    let _child = served.start().await;
    served.subscribe().await;
    let slow = Answered { status: 200, hang: Duration::from_secs(3), ..Answered::default() };
    served.emulator.world().playbooks.get_mut(WEBHOOK).expect("one").script.push_back(slow);
    for name in ["Jane", "Joan"] {
        assert_eq!(served.emulator.world().put_user(TENANT, USER, json!({"displayName": name}), Timestamp::now()), 1);
        served.deliver().await;
        served.until_received(1).await;
    }
    served.until_received(2).await;
    served.until("both are done", |_| served.log().matches("\"done\":1,").count() >= 2).await;
    let handled: Vec<Value> = lines(&served).into_iter().filter(|line| line["event"] == "notification.handled").collect();
    let done = handled.iter().filter(|line| line["done"] == 1).count();
    assert!(done == 2 && handled.iter().all(|line| line["waits"] == false), "{handled:#?}");
}

#[tokio::test]
async fn a_delivery_without_a_body_is_a_warning_once_in_a_minute() {
    let served = Served::new(USERS).await;
    let _child = served.start().await;
    let client = reqwest::Client::new();
    for _ in 0..3 {
        let answer =
            client.post(format!("http://127.0.0.1:{}/api/notifications", served.port.number())).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 202);
    }
    let told = lines(&served);
    let of = |text: &str| told.iter().filter(|line| line["message"].as_str().is_some_and(|said| said.contains(text))).count();
    assert_eq!((of("a delivery came without a body"), of("received a delivery without a notification: empty body")), (1, 3));
    assert!(!served.log().contains("host.json") && told.iter().all(|line| line["level"] != "ERROR"), "{}", served.log());
}
