//! The rules that a new or changed subscription is held against, before and after its endpoints were asked.
//!
//! Where the documents leave a text open it is ours; what clients match on is theirs.

use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::api::{Ask, Refusal, patched};
use super::table::{self, Family, Kind};
use super::{Subscription, TooFar, ahead, rich};
use crate::odata;
use crate::world::World;

/// The shortest life: what ends sooner is raised to it.
const SHORTEST: i64 = 45;
const CLIENT_STATE: usize = 128;
const PER_TENANT: usize = 100;
const PER_MAILBOX: usize = 1_000;

const KNOWN: [&str; 12] = [
    "changeType",
    "notificationUrl",
    "lifecycleNotificationUrl",
    "resource",
    "expirationDateTime",
    "clientState",
    "includeResourceData",
    "encryptionCertificate",
    "encryptionCertificateId",
    "latestSupportedTlsVersion",
    "notificationQueryOptions",
    "notificationUrlAppId",
];
const PUSH: [&str; 3] = ["vapidPublicKey", "webPushEncryptionP256dhPublicKey", "webPushEncryptionSecret"];
const CHANGEABLE: [&str; 4] = ["expirationDateTime", "notificationUrl", "encryptionCertificate", "encryptionCertificateId"];

/// A subscription that is to be, once the endpoints have answered.
#[derive(Debug)]
pub(super) struct Proposal {
    subscription: Subscription,
    is_new: bool,
    /// To be asked, in this order.
    pub urls: Vec<String>,
}

fn bad<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err((400, "BadRequest", message.into()))
}

/// A member that is text; null counts as absent.
fn text<'b>(body: &'b Map<String, Value>, name: &str) -> Result<Option<&'b str>, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => bad(format!("The property {name} is not of its type")),
    }
}

fn required<'b>(body: &'b Map<String, Value>, name: &str) -> Result<&'b str, Refusal> {
    text(body, name)?.filter(|text| !text.is_empty()).map_or_else(|| bad(format!("{name} is a required property")), Ok)
}

pub(super) fn propose(world: &mut World, ask: &Ask<'_>, body: &Map<String, Value>) -> Result<Proposal, Refusal> {
    members(body)?;
    let resource = required(body, "resource")?;
    let kind = kind(world, resource)?;
    let change_type = change_type(kind, required(body, "changeType")?)?;
    may_create(ask, kind)?;
    let notification_url = url(required(body, "notificationUrl")?, "notificationUrl")?;
    let lifecycle_url =
        text(body, "lifecycleNotificationUrl")?.map(|given| url(given, "lifecycleNotificationUrl")).transpose()?;
    let client_state = text(body, "clientState")?.map(str::to_owned);
    if client_state.as_ref().is_some_and(|state| state.chars().count() > CLIENT_STATE) {
        return bad(format!("clientState must not be longer than {CLIENT_STATE} characters"));
    }
    let rich = match body.get("includeResourceData") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(rich)) => *rich,
        Some(_) => return bad("The property includeResourceData is not of its type"),
    };
    let (certificate, certificate_id) = certificate(body)?;
    if rich {
        may_be_rich(kind, resource)?;
    }
    if (rich || kind.type_name == "Presence") && (certificate.is_none() || certificate_id.is_none()) {
        return bad("encryptionCertificate and encryptionCertificateId are required when resource data is included");
    }
    let expires = granted(world, kind, rich, required(body, "expirationDateTime")?, ask.now)?;
    if kind.family == Family::Teams && lifecycle_url.is_none() && expires > ahead(ask.now, 60) {
        return bad(
            "lifecycleNotificationUrl is a required property for subscription creation on this resource when the expirationDateTime value is set to greater than 1 hour.",
        );
    }
    let subscription = Subscription {
        id: world.notifications.guid(),
        tenant: ask.tenant.clone(),
        app: ask.app.clone(),
        resource: resource.to_owned(),
        change_type,
        notification_url,
        lifecycle_url,
        client_state,
        expires,
        rich,
        certificate,
        certificate_id,
        token_app: text(body, "notificationUrlAppId")?.map(str::to_owned),
        created: ask.now,
        patched: Vec::new(),
        reauthorized: Vec::new(),
        paused: None,
    };
    vacant(world, &subscription, kind, ask.now)?;
    // One URL for both is asked twice.
    let urls = [Some(subscription.notification_url.clone()), subscription.lifecycle_url.clone()];
    Ok(Proposal { is_new: true, urls: urls.into_iter().flatten().collect(), subscription })
}

/// What may change; a new URL is asked, though no page says so.
pub(super) fn propose_change(
    world: &mut World,
    ask: &Ask<'_>,
    found: usize,
    body: &Map<String, Value>,
) -> Result<Proposal, Refusal> {
    if let Some(other) = body.keys().find(|name| !CHANGEABLE.contains(&name.as_str()) && !name.starts_with('@')) {
        return bad(format!("The property {other} cannot be changed"));
    }
    let mut subscription = world.notifications.subscriptions[found].clone();
    let (expiry, new_url) = (text(body, "expirationDateTime")?, text(body, "notificationUrl")?);
    if expiry.is_none() && new_url.is_none() {
        return bad("The body must hold expirationDateTime or notificationUrl");
    }
    if let (Some(expiry), Some(kind)) = (expiry, table::find(&subscription.resource)) {
        subscription.expires = granted(world, kind, subscription.rich, expiry, ask.now)?;
    }
    let (certificate, certificate_id) = certificate(body)?;
    subscription.certificate = certificate.or(subscription.certificate);
    subscription.certificate_id = certificate_id.or(subscription.certificate_id);
    let mut urls = Vec::new();
    if let Some(new) = new_url {
        let new = url(new, "notificationUrl")?;
        if new != subscription.notification_url {
            urls.push(new.clone());
        }
        subscription.notification_url = new;
    }
    Ok(Proposal { subscription, is_new: false, urls })
}

/// The endpoints have answered: what is there now. Something may have come in between.
pub(super) fn finish(world: &mut World, proposal: Proposal, now: Timestamp) -> Result<(u16, Subscription), Refusal> {
    let Proposal { subscription, is_new, .. } = proposal;
    if is_new {
        if let Some(kind) = table::find(&subscription.resource) {
            vacant(world, &subscription, kind, now)?;
        }
        // Its endpoints have been asked meanwhile.
        let subscription = Subscription { created: now, ..subscription };
        world.notifications.subscriptions.push(subscription.clone());
        return Ok((201, subscription));
    }
    let found = world.notifications.subscriptions.iter().position(|one| one.id == subscription.id);
    let Some(found) = found else { return Err((404, "ResourceNotFound", "The object was not found.".to_owned())) };
    world.notifications.subscriptions[found] = subscription;
    patched(world, found, now);
    Ok((200, world.notifications.subscriptions[found].clone()))
}

fn members(body: &Map<String, Value>) -> Result<(), Refusal> {
    if let Some(name) = PUSH.iter().find(|name| body.contains_key(**name)) {
        return bad(format!("The property {name} is for browser push only"));
    }
    match body.keys().find(|name| !KNOWN.contains(&name.as_str()) && !name.starts_with('@')) {
        Some(other) => bad(format!("The property '{other}' does not exist on type 'microsoft.graph.subscription'.")),
        None => Ok(()),
    }
}

fn kind(world: &World, resource: &str) -> Result<&'static Kind, Refusal> {
    if resource.split('?').next().is_some_and(|path| path.contains("://")) {
        return bad("The resource must be relative to https://graph.microsoft.com/v1.0/");
    }
    let Some(kind) = table::find(resource) else {
        return bad(format!("Resource '{resource}' is not supported for change notifications"));
    };
    if let Some(filter) = filter(resource) {
        odata::parse(&filter).or_else(|e| bad(format!("Invalid filter clause: {e}")))?;
    } else if kind.family == Family::Security && table::segments(resource).len() == 2 {
        let text = "Operation: Create; Exception: [Status Code: Forbidden; Reason: a filter is needed]";
        return Err((400, "ExtensionError", text.to_owned()));
    }
    if kind.family == Family::Security && world.notifications.no_alerts {
        return bad(format!("Resource '{resource}' is not supported for change notifications"));
    }
    Ok(kind)
}

/// The `$filter` of a resource, decoded.
pub(super) fn filter(resource: &str) -> Option<String> {
    option(resource, "$filter")
}

/// The properties of `$select`.
pub(super) fn select(resource: &str) -> Option<Vec<String>> {
    option(resource, "$select").map(|text| text.split(',').map(|name| name.trim().to_owned()).collect())
}

fn option(resource: &str, name: &str) -> Option<String> {
    let query = resource.split_once('?')?.1;
    crate::server::form(query).into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn change_type(kind: &Kind, given: &str) -> Result<String, Refusal> {
    for text in given.split(',') {
        let Some(changed) = super::Changed::read(text.trim()) else {
            return bad(format!("Invalid changeType '{}'", text.trim()));
        };
        if !kind.changes.contains(&changed) {
            return bad(format!("changeType '{}' is not supported for this resource", changed.name()));
        }
    }
    Ok(given.to_owned())
}

fn may_create(ask: &Ask<'_>, kind: &Kind) -> Result<(), Refusal> {
    if kind.create.iter().any(|role| ask.roles.iter().any(|known| known == role)) {
        return Ok(());
    }
    let text = if kind.create.is_empty() {
        "Operation: Create; Exception: [Status Code: Forbidden; only a signed-in user may]".to_owned()
    } else {
        format!("Operation: Create; Exception: [Status Code: Forbidden; one of {:?} is needed]", kind.create)
    };
    Err((403, "Forbidden", text))
}

fn may_be_rich(kind: &Kind, resource: &str) -> Result<(), Refusal> {
    if kind.rich_minutes.is_none() {
        return bad(format!("Resource '{resource}' is not enabled for rich notifications"));
    }
    if kind.family != Family::Outlook {
        return Ok(());
    }
    let Some(selected) = select(resource) else { return bad("$select is required when resource data is included") };
    let refused = |name: &&String| name.eq_ignore_ascii_case("body") || name.eq_ignore_ascii_case("uniqueBody");
    if let Some(name) = selected.iter().find(refused) {
        return bad(format!("The property {name} cannot be selected when resource data is included"));
    }
    match ["$top", "$skip", "$orderby", "$expand"].iter().find(|name| option(resource, name).is_some()) {
        Some(name) => bad(format!("{name} is not supported when resource data is included")),
        None => Ok(()),
    }
}

/// HTTPS; plain HTTP to this machine, as everything here is on it. Other hosts are never reached.
fn url(given: &str, name: &str) -> Result<String, Refusal> {
    let Ok(parsed) = reqwest::Url::parse(given) else { return bad(format!("{name} is not a valid URL")) };
    let local = parsed.host_str().is_some_and(is_local);
    if parsed.scheme() != "https" && !(parsed.scheme() == "http" && local) {
        return bad(format!("{name} must be an HTTPS address"));
    }
    if !local {
        return Err(super::handshake::timed_out());
    }
    Ok(given.to_owned())
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn certificate(body: &Map<String, Value>) -> Result<(Option<String>, Option<String>), Refusal> {
    let (given, id) = (text(body, "encryptionCertificate")?, text(body, "encryptionCertificateId")?);
    if id.is_some_and(|id| id.chars().count() > CLIENT_STATE) {
        return bad(format!("encryptionCertificateId must not be longer than {CLIENT_STATE} characters"));
    }
    if let Some(given) = given {
        rich::check(given).or_else(|why| bad(format!("encryptionCertificate is invalid: {why}")))?;
    }
    Ok((given.map(str::to_owned), id.map(str::to_owned)))
}

/// The expiry that is granted for one that is asked for.
fn granted(world: &World, kind: &Kind, rich: bool, given: &str, now: Timestamp) -> Result<Timestamp, Refusal> {
    let Ok(wanted) = given.parse::<Timestamp>() else { return bad("expirationDateTime is not a valid DateTimeOffset") };
    let minutes = kind.rich_minutes.filter(|_| rich).unwrap_or(kind.minutes);
    let most = ahead(now, minutes);
    let strict = matches!(kind.family, Family::Outlook | Family::Teams) || world.notifications.too_far == TooFar::Refused;
    if wanted > most && strict {
        return Err(too_far(kind, minutes));
    }
    let lowered = world.notifications.granted_at_most.map_or(most, |minutes| most.min(ahead(now, minutes)));
    // Clocks that differ by seconds do not decide.
    let shortest = ahead(now, SHORTEST);
    Ok(if wanted < shortest { shortest } else { wanted.min(lowered) })
}

/// The two texts that have been seen.
fn too_far(kind: &Kind, minutes: i64) -> Refusal {
    if kind.family == Family::Teams {
        let span = SignedDuration::from_mins(minutes);
        let (days, hours, rest) = (span.as_hours() / 24, span.as_hours() % 24, span.as_mins() % 60);
        let text = format!("The value of 'expirationDateTime' is beyond allowed max '{days}.{hours:02}:{rest:02}:00'");
        return (400, "BadRequest", text);
    }
    (400, "InvalidRequest", format!("Subscription expiration can only be {minutes} minutes in the future."))
}

/// Nothing is there for the same, and there is room.
fn vacant(world: &World, new: &Subscription, kind: &Kind, now: Timestamp) -> Result<(), Refusal> {
    let live = world.notifications.subscriptions(now);
    let mine = |one: &&&Subscription| one.app == new.app && one.tenant == new.tenant;
    let same = |one: &&&Subscription| one.changes() == new.changes() && same_resource(&one.resource, &new.resource);
    // On lists of SharePoint it is not held.
    if kind.family != Family::List
        && let Some(other) = live.iter().filter(mine).find(same)
    {
        let text = format!(
            "A subscription with id '{}' already exists for the requested combination of app, resource and changeType.",
            other.id
        );
        return Err((409, "ObjectIdentifierInUse", text));
    }
    let alike = |one: &&Subscription| table::find(&one.resource).is_some_and(|other| other.family == kind.family);
    let full = match kind.family {
        Family::Directory => live.iter().filter(mine).filter(|one| alike(one)).count() >= PER_TENANT,
        Family::Outlook => {
            let mailbox = table::segments(&new.resource).into_iter().nth(1);
            let same = |one: &&&Subscription| alike(one) && table::segments(&one.resource).into_iter().nth(1) == mailbox;
            live.iter().filter(|one| one.tenant == new.tenant).filter(same).count() >= PER_MAILBOX
        }
        _ => false,
    };
    if full {
        return Err((403, "Forbidden", "The number of subscriptions for this resource has reached its limit.".to_owned()));
    }
    Ok(())
}

fn same_resource(a: &str, b: &str) -> bool {
    let query = |resource: &str| resource.split_once('?').map(|(_, query)| query.to_owned());
    table::segments(a) == table::segments(b) && query(a) == query(b)
}
