//! What the program says and does when it starts, before any timer.

use emulator::Emulator;
use jiff::Timestamp;

use super::{Served, USERS, WEBHOOK};

fn subscribed(emulator: &Emulator) -> usize {
    emulator.world().notifications.subscriptions(Timestamp::now()).len()
}

#[tokio::test]
async fn what_playbooks_want_is_made_at_the_start() {
    let mut served = Served::new(USERS).await;
    served.set("SUBSCRIPTION_SCHEDULE", "0 0 0 1 1 *");
    let _child = served.start().await;
    served.until("a subscription", |emulator| subscribed(emulator) == 1).await;
    assert!(served.log().contains("1 playbook can run; subscriptions wanted: users"), "{}", served.log());
}

#[tokio::test]
async fn what_is_missing_is_told_at_the_start() {
    let mut served = Served::new(&USERS.replace("body = \"selected\"", "body = \"selected\"\nwhat = 1")).await;
    served.set("SUBSCRIPTION_SCHEDULE", "0 0 0 1 1 *");
    let mut child = served.start().await;
    served.until("a mistake", |_| served.log().contains("`what` is no key here")).await;
    served.until("what follows", |_| served.log().contains("some playbooks are left out until their mistakes are mended")).await;
    child.kill().await.expect("killed");

    let mended = USERS.replace("WEBHOOK", &served.emulator.playbook_url(WEBHOOK));
    std::fs::write(served.folder.path().join("playbooks.toml"), mended).expect("written");
    served.set("PUBLIC_URL", "");
    let mut child = served.start().await;
    served
        .until("no address", |_| served.log().contains("\"level\":\"WARN\",\"message\":\"nothing is subscribed to: PUBLIC_URL"))
        .await;
    child.kill().await.expect("killed");

    served.set("PLAYBOOKS_FILE", "nowhere.toml");
    let _child = served.start().await;
    served
        .until("no document", |_| {
            served.log().contains("\"level\":\"ERROR\",\"message\":\"nothing is subscribed to: PLAYBOOKS_FILE is `nowhere.toml`")
        })
        .await;
}

#[tokio::test]
async fn what_could_not_be_made_says_when_it_is_tried_next() {
    let mut served = Served::new(USERS).await;
    served.set("PUBLIC_URL", "http://127.0.0.1:9");
    served.set("SUBSCRIPTION_SCHEDULE", "*/1 * * * * *");
    let _child = served.start().await;
    let reason = "our own address http://127.0.0.1:9/api/notifications does not answer as Graph needs it";
    let looks = |said: &str| said.matches("subscriptions.reconciled").count();
    served.until("a second look", |_| looks(&served.log()) >= 2 && served.log().contains(reason)).await;
    // A third one may have been taken by now.
    let said = served.log();
    assert_eq!(said.matches(reason).count(), 1, "{said}");
    assert!(said.contains("subscription to users: not created: our own address"), "{said}");
    assert_eq!(said.matches("0 of 1 subscription is there; users is tried again after ").count(), looks(&said), "{said}");
}
