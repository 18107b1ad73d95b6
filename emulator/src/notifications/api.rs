//! The calls on `/v1.0/subscriptions`: who may, how often, and what each answers.
//!
//! Texts of refusals are those of the reference's section 3.8, where it has them. Not imitated: `Prefer`, `$select` on one
//! subscription (ignored), reading other apps' subscriptions.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::create::{self, Proposal};
use super::{Subscription, ahead, seven};
use crate::entra::bearer;
use crate::graph::error;
use crate::odata;
use crate::rate::{Limit, seconds};
use crate::server::{Answer, Call, Shared};
use crate::world::World;

const AUDIENCE: &str = "https://graph.microsoft.com";
const CONTEXT: &str = "https://graph.microsoft.com/v1.0/$metadata#subscriptions";
const WINDOW: i64 = 20;
/// PATCH and reauthorize are to be this many minutes apart.
const APART: i64 = 10;

/// A refusal: status, code, message.
pub(super) type Refusal = (u16, &'static str, String);

/// One request of an app that may ask.
#[derive(Debug, Clone)]
pub(super) struct Ask<'c> {
    pub call: &'c Call,
    pub now: Timestamp,
    pub tenant: String,
    pub app: String,
    pub roles: Vec<String>,
}

enum Step {
    Done(Answer),
    /// To be made or changed once these URLs have answered.
    Ask(Box<Proposal>),
}

/// Answers a call; while an endpoint is asked, the world goes on.
pub(crate) async fn answer(shared: &Shared, call: &Call, now: Timestamp) -> Answer {
    let step = {
        let mut world = shared.world();
        begin(&mut world, call, now)
    };
    let proposal = match step {
        Step::Done(answer) => return answer,
        Step::Ask(proposal) => proposal,
    };
    for url in &proposal.urls {
        if let Err(refusal) = super::handshake::shake(shared, url).await {
            return refuse(&mut shared.world(), call, shared.time.now(), refusal);
        }
    }
    let now = shared.time.now();
    let (answer, eager) = {
        let mut world = shared.world();
        match create::finish(&mut world, *proposal, now) {
            Ok((status, subscription)) => {
                let eager = world.notifications.eager && status == 201;
                if eager {
                    world.raise_for(&subscription, now);
                }
                (Answer { items: 1, ..Answer::json(status, &shown(&subscription, true)) }, eager)
            }
            Err(refusal) => (refuse(&mut world, call, now, refusal), false),
        }
    };
    if eager {
        // Boxed: a delivery is a large future, and rare here.
        Box::pin(super::deliver_due(shared)).await;
    }
    answer
}

fn refuse(world: &mut World, call: &Call, now: Timestamp, (status, code, message): Refusal) -> Answer {
    error(world, call, now, status, code, &message)
}

fn begin(world: &mut World, call: &Call, now: Timestamp) -> Step {
    match step(world, call, now) {
        Ok(step) => step,
        Err(refusal) => {
            let wait = if refusal.0 == 429 { refusal.2.parse::<i64>().ok() } else { None };
            let refusal = if wait.is_some() { (429, refusal.1, "Too many requests".to_owned()) } else { refusal };
            let answer = refuse(world, call, now, refusal);
            Step::Done(match wait {
                Some(wait) => answer.with("retry-after", &wait.to_string()),
                None => answer,
            })
        }
    }
}

fn step(world: &mut World, call: &Call, now: Timestamp) -> Result<Step, Refusal> {
    let Some(app) = bearer(world, call, &[AUDIENCE], now).cloned() else {
        let text = "Access token is missing, expired or for another audience";
        return Err((401, "InvalidAuthenticationToken", text.to_owned()));
    };
    let ask = Ask { call, now, tenant: app.tenant, app: app.client_id, roles: app.roles };
    let rest = call.path.trim_start_matches("/v1.0/subscriptions").trim_matches('/');
    let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
    match (call.method.as_str(), id, action) {
        ("GET", "", _) => pace(world, &ask, "list", 40, 25)?,
        ("GET", _, _) => pace(world, &ask, "get", 2_000, 500)?,
        ("POST", _, "reauthorize") => pace(world, &ask, "reauthorize", 4_000, 1_000)?,
        _ => pace(world, &ask, "write", 2_000, 500)?,
    }
    match (call.method.as_str(), id, action) {
        ("GET", "", "") => list(world, &ask).map(Step::Done),
        ("GET", id, "") => {
            let found = own(world, &ask, id)?;
            Ok(Step::Done(Answer { items: 1, ..Answer::json(200, &shown(&world.notifications.subscriptions[found], true)) }))
        }
        ("POST", "", "") => create::propose(world, &ask, &body(call)?).map(|proposal| Step::Ask(Box::new(proposal))),
        ("PATCH", id, "") if !id.is_empty() => {
            let found = own(world, &ask, id)?;
            may_renew(&ask, &world.notifications.subscriptions[found])?;
            create::propose_change(world, &ask, found, &body(call)?).map(|proposal| Step::Ask(Box::new(proposal)))
        }
        ("DELETE", id, "") if !id.is_empty() => {
            let found = own(world, &ask, id)?;
            world.notifications.subscriptions.remove(found);
            Ok(Step::Done(Answer::text(204, "", String::new())))
        }
        ("POST", id, "reauthorize") => {
            let found = own(world, &ask, id)?;
            may_renew(&ask, &world.notifications.subscriptions[found])?;
            reauthorize(world, found, now);
            Ok(Step::Done(Answer::text(204, "", String::new())))
        }
        _ => Err((405, "BadRequest", "The method is not allowed".to_owned())),
    }
}

/// So many calls of an app in 20 s, over all tenants and in this one; refused ones count. The wait stands in the message.
fn pace(world: &mut World, ask: &Ask<'_>, what: &'static str, of_app: usize, here: usize) -> Result<(), Refusal> {
    let notifications = &mut world.notifications;
    if !notifications.enforce_rate {
        return Ok(());
    }
    let mut longest = None;
    for (key, requests) in [(ask.app.clone(), of_app), (format!("{} {}", ask.app, ask.tenant), here)] {
        let recent = notifications.recent.entry((what, key)).or_default();
        longest = longest.max(recent.wait(&[Limit { requests, seconds: WINDOW }], ask.now));
        recent.count(ask.now);
    }
    longest.map_or(Ok(()), |wait| Err((429, "TooManyRequests", seconds(wait).to_string())))
}

fn body(call: &Call) -> Result<serde_json::Map<String, Value>, Refusal> {
    if !call.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        return Err((400, "BadRequest", "The content type must be application/json".to_owned()));
    }
    serde_json::from_slice(&call.body).map_err(|e| (400, "BadRequest", format!("Unable to read JSON request payload: {e}")))
}

/// Where an own subscription that has not ended is.
fn own(world: &World, ask: &Ask<'_>, id: &str) -> Result<usize, Refusal> {
    let mine = |one: &Subscription| one.id == id && one.app == ask.app && one.tenant == ask.tenant && one.is_live(ask.now);
    world
        .notifications
        .subscriptions
        .iter()
        .position(mine)
        .ok_or_else(|| (404, "ResourceNotFound", "The object was not found.".to_owned()))
}

fn may_renew(ask: &Ask<'_>, subscription: &Subscription) -> Result<(), Refusal> {
    let roles = subscription.kind().map_or(&[][..], |kind| kind.renew);
    if roles.iter().any(|role| ask.roles.iter().any(|known| known == role)) {
        return Ok(());
    }
    Err((403, "Forbidden", format!("Operation: Update; Exception: [Status Code: Forbidden; one of {roles:?} is needed]")))
}

fn reauthorize(world: &mut World, found: usize, now: Timestamp) {
    let subscription = &mut world.notifications.subscriptions[found];
    let close = subscription.patched.last().is_some_and(|at| ahead(*at, APART) > now);
    subscription.reauthorized.push(now);
    subscription.paused = None;
    let id = subscription.id.clone();
    if close {
        world.notifications.too_close.push(id);
    }
}

/// A PATCH was accepted.
pub(super) fn patched(world: &mut World, found: usize, now: Timestamp) {
    let subscription = &mut world.notifications.subscriptions[found];
    let close = subscription.reauthorized.last().is_some_and(|at| ahead(*at, APART) > now);
    subscription.patched.push(now);
    subscription.paused = None;
    let id = subscription.id.clone();
    if close {
        world.notifications.too_close.push(id);
    }
}

fn list(world: &World, ask: &Ask<'_>) -> Result<Answer, Refusal> {
    if let Some((option, _)) = ask.call.query.iter().find(|(key, _)| key != "$skiptoken") {
        return Err((400, "BadRequest", format!("The query option {option} is not supported")));
    }
    let bad = |message| (400, "BadRequest", message);
    let skip = odata::number(ask.call, "$skiptoken", usize::MAX).map_err(bad)?.unwrap_or(0);
    let mine = |one: &&&Subscription| one.app == ask.app && one.tenant == ask.tenant;
    let all = world.notifications.subscriptions(ask.now);
    let mut rows = all.iter().filter(mine).skip(skip);
    let page: Vec<Value> = rows.by_ref().take(world.notifications.page).map(|one| shown(one, false)).collect();
    let mut answer = json!({"@odata.context": CONTEXT, "value": page});
    if rows.next().is_some() {
        let options = [("$skiptoken", (skip + page.len()).to_string())];
        answer["@odata.nextLink"] = odata::link(&world.graph.base, ask.call, &options).into();
    }
    Ok(Answer { items: page.len(), ..Answer::json(200, &answer) })
}

/// As it is answered; a list withholds the client state.
fn shown(one: &Subscription, with_state: bool) -> Value {
    json!({
        "@odata.context": format!("{CONTEXT}/$entity"),
        "id": one.id,
        "resource": one.resource,
        "applicationId": one.app,
        "changeType": one.change_type,
        "clientState": one.client_state.as_ref().filter(|_| with_state),
        "notificationUrl": one.notification_url,
        "notificationQueryOptions": null,
        "lifecycleNotificationUrl": one.lifecycle_url,
        "expirationDateTime": seven(one.expires),
        "creatorId": "5a2c0e1f-0000-4000-9000-0000000000c1",
        "includeResourceData": one.rich,
        "latestSupportedTlsVersion": "v1_2",
        "encryptionCertificate": one.certificate,
        "encryptionCertificateId": one.certificate_id,
        "notificationUrlAppId": one.token_app,
    })
}
