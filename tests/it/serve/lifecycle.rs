//! What Microsoft Graph says of subscriptions themselves, to the real program.

use emulator::notifications::{Lifecycle, Subscription};
use emulator::{Service, TENANT};
use jiff::Timestamp;
use serde_json::json;

use super::{Served, USER, USERS};

/// The one subscription that there is.
fn subscription(served: &Served) -> Subscription {
    let world = served.emulator.world();
    let live = world.notifications.subscriptions(Timestamp::now());
    assert_eq!(live.len(), 1, "{live:?}\n{}", served.log());
    live[0].clone()
}

#[tokio::test]
async fn a_challenge_that_comes_many_times_leads_to_one_renewal() {
    let served = Served::new(USERS).await;
    let _child = served.start().await;
    served.subscribe().await;
    let id = subscription(&served).id;
    for count in 1..=3 {
        assert!(served.emulator.world().raise_lifecycle(&id, Lifecycle::ReauthorizationRequired, Timestamp::now()));
        served.deliver().await;
        served.until("it is done", |_| served.log().matches("\"done\":1,").count() >= count).await;
    }
    let renewed = subscription(&served);
    assert_eq!((renewed.id, renewed.patched.len(), renewed.reauthorized.len()), (id, 1, 0), "{}", served.log());
    assert!(served.emulator.world().notifications.too_close.is_empty());
}

#[tokio::test]
async fn a_subscription_that_was_removed_is_made_anew_and_what_was_missed_is_looked_up() {
    let mut served = Served::new(USERS).await;
    served.set("SUBSCRIPTION_SCHEDULE", "*/1 * * * * *");
    let _child = served.start().await;
    let looks = |emulator: &emulator::Emulator| {
        let world = emulator.world();
        world.log.iter().filter(|logged| logged.service == Service::Graph && logged.target.contains("/users/delta")).count()
    };
    served.until("a subscription, and a place in the changes", |emulator| looks(emulator) >= 1).await;
    let removed = subscription(&served).id;
    {
        let mut world = served.emulator.world();
        assert!(world.remove_subscription(&removed, Timestamp::now()));
        // Nobody is told of this one.
        assert_eq!(world.put_user(TENANT, USER, json!({"displayName": "Jane"}), Timestamp::now()), 0);
    }
    served.deliver().await;
    served.until_received(1).await;
    assert_eq!(served.bodies(), [json!({"name": "Jane"})], "it was looked up");
    // Who looks it up may have listed before it was removed: then the next run makes it.
    let live = |emulator: &emulator::Emulator| emulator.world().notifications.subscriptions(Timestamp::now()).len();
    served.until("it is made anew", |emulator| live(emulator) == 1).await;
    let made = subscription(&served);
    assert!(made.id != removed && made.patched.is_empty());
    // The new one tells of what comes next.
    assert_eq!(served.emulator.world().put_user(TENANT, USER, json!({"displayName": "Joan"}), Timestamp::now()), 1);
    served.deliver().await;
    served.until_received(2).await;
    assert_eq!(served.bodies()[1], json!({"name": "Joan"}));
    assert!(served.emulator.world().notifications.too_close.is_empty());
}
