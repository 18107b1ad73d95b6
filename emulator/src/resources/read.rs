//! GET below `/v1.0/`: one object, a collection, or what changed in it since.
//!
//! Not imitated: `$expand`, `$search`, `$count`, `$orderby` (refused), `$batch`, photos and contents.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Kept, Resources, key, visible};
use crate::entra::bearer;
use crate::graph::error;
use crate::notifications::{kind_roles, segments};
use crate::odata::{self, Filter};
use crate::rate::{Limit, seconds};
use crate::server::{Answer, Call};
use crate::world::World;

const AUDIENCE: &str = "https://graph.microsoft.com";
/// Of all security calls of an app in a tenant.
const SECURITY: Limit = Limit { requests: 150, seconds: 60 };
const TOP: usize = 1_000;
const OPTIONS: [&str; 7] = ["$filter", "$top", "$skip", "$skiptoken", "$select", "$deltatoken", "token"];
/// What alerts and incidents can be filtered by.
const SECURITY_FIELDS: [&str; 8] = [
    "assignedTo",
    "classification",
    "determination",
    "createdDateTime",
    "lastUpdateDateTime",
    "severity",
    "serviceSource",
    "status",
];

type Refusal = (u16, &'static str, String);

pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> Answer {
    match read(world, call, now) {
        Ok(answer) => answer,
        Err((429, code, wait)) => error(world, call, now, 429, code, "Too many requests").with("retry-after", &wait),
        Err((status, code, message)) => error(world, call, now, status, code, &message),
    }
}

fn read(world: &mut World, call: &Call, now: Timestamp) -> Result<Answer, Refusal> {
    let Some(app) = bearer(world, call, &[AUDIENCE], now).cloned() else {
        let text = "Access token is missing, expired or for another audience";
        return Err((401, "InvalidAuthenticationToken", text.to_owned()));
    };
    if call.method != "GET" {
        return Err((405, "BadRequest", "The method is not allowed".to_owned()));
    }
    if let Some((option, _)) = call.query.iter().find(|(name, _)| !OPTIONS.contains(&name.as_str())) {
        return Err((400, "BadRequest", format!("The query option '{option}' is not supported")));
    }
    let path = world.resources.resolve(&app.tenant, &decoded(&call.path)?);
    let parts = segments(&path);
    let is_security = parts.first().is_some_and(|first| first == "security");
    if is_security && world.resources.enforce_rate {
        let recent = world.resources.recent.entry((app.tenant.clone(), app.client_id.clone())).or_default();
        let wait = recent.wait(&[SECURITY], now);
        recent.count(now);
        if let Some(wait) = wait {
            return Err((429, "TooManyRequests", seconds(wait).to_string()));
        }
    }
    let needed = roles(&parts);
    if !needed.iter().any(|role| app.roles.iter().any(|known| known == role)) {
        return Err((403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.".to_owned()));
    }
    let rest = Rest { world, call, tenant: &app.tenant, now };
    match parts.last().map(String::as_str) {
        Some("delta" | "delta()") => rest.delta(&path),
        _ if is_object(&parts) => rest.one(&path),
        _ => rest.list(&path),
    }
}

/// An object has a name and an id by turns; below `security` one name stands in front of that.
fn is_object(parts: &[String]) -> bool {
    let ahead = usize::from(parts.first().is_some_and(|first| first == "security"));
    (parts.len() - ahead).is_multiple_of(2)
}

fn decoded(path: &str) -> Result<String, Refusal> {
    let bad = || (400, "BadRequest", "The path is not well formed".to_owned());
    let rest = path.strip_prefix("/v1.0/").ok_or_else(bad)?;
    if rest.contains("//") || rest.split('/').any(|part| part == "..") {
        return Err(bad());
    }
    // A plus stands for itself in a path.
    let form = crate::server::form(&rest.replace('+', "%2B").replace('=', "%3D").replace('&', "%26"));
    form.into_iter().next().map(|(path, _)| path).ok_or_else(bad)
}

/// One of these must have been consented to.
fn roles(parts: &[String]) -> Vec<&'static str> {
    match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["security", "alerts_v2", ..] => vec!["SecurityAlert.Read.All", "SecurityAlert.ReadWrite.All"],
        ["security", "incidents", ..] => vec!["SecurityIncident.Read.All", "SecurityIncident.ReadWrite.All"],
        ["sites", ..] => vec!["Sites.Read.All", "Sites.ReadWrite.All"],
        ["drives", ..] => vec!["Files.Read.All", "Files.ReadWrite.All"],
        [path @ .., "delta"] => kind_roles(&path.join("/")),
        _ => {
            let own = kind_roles(&parts.join("/"));
            if own.is_empty() { kind_roles(&parts[..parts.len().saturating_sub(1)].join("/")) } else { own }
        }
    }
}

impl Resources {
    /// A user by principal name is the one with that id; a user's drive is a drive; its root's changes are its items'.
    fn resolve(&self, tenant: &str, path: &str) -> String {
        let mut parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if let Some((name, key)) = parts.first().and_then(|first| first.strip_suffix(')')?.split_once("('")) {
            let (name, key) = (name.to_owned(), key.trim_end_matches('\'').to_owned());
            parts.splice(..1, [name, key]);
        }
        let Some(known) = self.tenants.get(tenant) else { return parts.join("/") };
        let is = |parts: &[String], i: usize, word: &str| parts.get(i).is_some_and(|part| part.eq_ignore_ascii_case(word));
        if is(&parts, 0, "users") && parts.len() > 1 && !known.objects.contains_key(&key(&parts[..2].join("/"))) {
            let named = |kept: &&Kept| {
                let name = kept.value.as_ref().and_then(|user| user["userPrincipalName"].as_str());
                name.is_some_and(|name| name.eq_ignore_ascii_case(&parts[1]))
            };
            if let Some(user) = known.objects.values().find(named) {
                parts[1].clone_from(&user.id);
            }
        }
        if is(&parts, 0, "users")
            && is(&parts, 2, "drive")
            && let Some(drive) = known.drives.get(&parts[1].to_lowercase())
        {
            parts.splice(..3, ["drives".to_owned(), drive.clone()]);
        }
        if is(&parts, 0, "drives") && is(&parts, 2, "root") && parts.len() == 4 {
            "items".clone_into(&mut parts[2]);
        }
        parts.join("/")
    }
}

/// The rest of a request, once it may.
struct Rest<'w> {
    world: &'w mut World,
    call: &'w Call,
    tenant: &'w str,
    now: Timestamp,
}

impl Rest<'_> {
    fn one(&self, path: &str) -> Result<Answer, Refusal> {
        let resources = &self.world.resources;
        let kept = resources.tenants.get(self.tenant).and_then(|tenant| tenant.objects.get(&key(path)));
        let seen = kept.filter(|kept| visible(kept.since, resources.visible_after) <= self.now);
        let Some(object) = seen.and_then(|kept| kept.value.as_ref()) else { return Err(missing(path)) };
        let mut object = selected(object, odata::text(self.call, "$select"));
        object["@odata.context"] = "https://graph.microsoft.com/v1.0/$metadata#emulated/$entity".into();
        Ok(Answer { items: 1, ..Answer::json(200, &object) })
    }

    /// What lies right below a path, deleted or not; below a mail folder what is in it.
    fn below(&self, path: &str) -> impl Iterator<Item = &Kept> {
        let parts = segments(path);
        let folder = parts.get(3).filter(|_| parts[2] == "mailfolders").cloned();
        let prefix = match &folder {
            Some(_) => format!("users/{}/messages/", parts[1]),
            None => format!("{}/", key(path)),
        };
        let in_folder = move |kept: &&Kept| {
            let Some((folder, value)) = folder.as_ref().zip(kept.value.as_ref()) else { return true };
            value["parentFolderId"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(folder))
        };
        let resources = &self.world.resources;
        let objects = resources.tenants.get(self.tenant).map(|tenant| &tenant.objects);
        let (after, now) = (resources.visible_after, self.now);
        objects
            .into_iter()
            .flatten()
            .filter(move |(key, kept)| {
                let rest = key.strip_prefix(&prefix);
                rest.is_some_and(|rest| !rest.contains('/')) && visible(kept.since, after) <= now
            })
            .map(|(_, kept)| kept)
            .filter(in_folder)
    }

    fn list(&self, path: &str) -> Result<Answer, Refusal> {
        let bad = |message| (400, "BadRequest", message);
        let filter = odata::text(self.call, "$filter").map(odata::parse).transpose().map_err(bad)?;
        let top = odata::number(self.call, "$top", TOP).map_err(bad)?.unwrap_or(TOP).max(1);
        let skip = odata::number(self.call, "$skip", usize::MAX).map_err(bad)?.unwrap_or(0);
        let skip = odata::number(self.call, "$skiptoken", usize::MAX).map_err(bad)?.unwrap_or(skip);
        if key(path).starts_with("security/") {
            check(filter.as_ref())?;
        }
        let fits = |value: &&Value| {
            let get = |name: &str| value.pointer(&format!("/{name}")).cloned().unwrap_or_default();
            filter.as_ref().is_none_or(|filter| filter.matches(&get))
        };
        let mut rows: Vec<&Value> = self.below(path).filter_map(|kept| kept.value.as_ref()).filter(fits).collect();
        // Some order that says nothing, the same each time.
        rows.sort_by_key(|row| scatter(row["id"].as_str().unwrap_or_default()));
        let size = top.min(self.world.resources.page);
        let select = odata::text(self.call, "$select");
        let page: Vec<Value> = rows.iter().skip(skip).take(size).map(|row| selected(row, select)).collect();
        let options = [("$skip", String::new()), ("$skiptoken", (skip + page.len()).to_string())];
        let more = rows.len() > skip + page.len();
        let next = more.then(|| ("@odata.nextLink", odata::link(&self.world.graph.base, self.call, &options)));
        Ok(collection(&page, next))
    }

    fn delta(&self, path: &str) -> Result<Answer, Refusal> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let is_drive = key(parent).starts_with("drives/") || key(parent).starts_with("sites/");
        if segments(parent).len() == 3 && parent.to_ascii_lowercase().ends_with("/messages") {
            let text = "Change tracking is not supported against 'microsoft.graph.message'; ask for a folder's.";
            return Err((400, "BadRequest", text.to_owned()));
        }
        let text = |name| odata::text(self.call, name);
        let given = if is_drive { text("token") } else { text("$skiptoken").or(text("$deltatoken")) };
        let resources = &self.world.resources;
        let start = Position { from: 0, to: resources.sequence, fresh: true };
        let at = match given {
            None => start,
            Some("latest") => Position { from: start.to, ..start },
            Some(token) => {
                let bad = || (400, "BadRequest", "The token is malformed".to_owned());
                let at = Position::read(token, resources.sequence).ok_or_else(bad)?;
                if (if at.fresh { at.to } else { at.from }) < resources.forgotten {
                    return Err((410, "resyncRequired", "Resync required. Replace any local items with the server's".to_owned()));
                }
                at
            }
        };
        let changed = |kept: &&Kept| kept.sequence > at.from && kept.sequence <= at.to && !(at.fresh && kept.value.is_none());
        let mut rows: Vec<&Kept> = self.below(parent).filter(changed).collect();
        rows.sort_by_key(|kept| kept.sequence);
        let top = odata::number(self.call, "$top", TOP).map_err(|message| (400, "BadRequest", message))?.unwrap_or(TOP);
        let page = &rows[..rows.len().min(top.max(1)).min(resources.page.max(1))];
        let select = text("$select");
        let shown = page.iter().map(|kept| match &kept.value {
            Some(value) => selected(value, select),
            None if is_drive => json!({"id": kept.id, "deleted": {"state": "deleted"}}),
            None => json!({"id": kept.id, "@removed": {"reason": "deleted"}}),
        });
        let shown: Vec<Value> = shown.collect();
        let (next, delta) = if is_drive { ("token", "token") } else { ("$skiptoken", "$deltatoken") };
        let link = |option: &str, token: String| {
            let options = [("$skiptoken", String::new()), ("$deltatoken", String::new()), ("token", String::new())];
            let mut options: Vec<(&str, String)> = options.into_iter().filter(|(name, _)| *name != option).collect();
            options.push((option, token));
            odata::link(&self.world.graph.base, self.call, &options)
        };
        let last = page.last().map_or(at.to, |kept| kept.sequence);
        let member = if rows.len() > page.len() {
            ("@odata.nextLink", link(next, Position { from: last, ..at }.next()))
        } else {
            ("@odata.deltaLink", link(delta, format!("d{}", at.to)))
        };
        Ok(collection(&shown, Some(member)))
    }
}

/// Where a delta query is: changes after one, up to another.
#[derive(Debug, Clone, Copy)]
struct Position {
    from: u64,
    to: u64,
    /// From the beginning: what is deleted is not told of.
    fresh: bool,
}

impl Position {
    fn next(self) -> String {
        format!("n{}.{}.{}", self.from, self.to, u8::from(self.fresh))
    }

    fn read(token: &str, now: u64) -> Option<Self> {
        if let Some(from) = token.strip_prefix('d') {
            return Some(Self { from: from.parse().ok()?, to: now, fresh: false });
        }
        let mut parts = token.strip_prefix('n')?.splitn(3, '.');
        let mut number = || parts.next()?.parse::<u64>().ok();
        Some(Self { from: number()?, to: number()?, fresh: number()? == 1 })
    }
}

fn collection(value: &[Value], link: Option<(&str, String)>) -> Answer {
    let items = value.len();
    let mut body = json!({"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#emulated", "value": value});
    if let Some((name, link)) = link {
        body[name] = link.into();
    }
    Answer { items, ..Answer::json(200, &body) }
}

fn check(filter: Option<&Filter>) -> Result<(), Refusal> {
    let Some(filter) = filter else { return Ok(()) };
    match filter.fields().into_iter().find(|field| !SECURITY_FIELDS.contains(field)) {
        Some(field) => Err((400, "BadRequest", format!("Invalid filter clause: '{field}' cannot be filtered by"))),
        None => Ok(()),
    }
}

fn selected(object: &Value, select: Option<&str>) -> Value {
    let (Some(select), Value::Object(members)) = (select, object) else { return object.clone() };
    let kept = |name: &str| name.starts_with('@') || name == "id" || select.split(',').any(|one| one.trim() == name);
    let members: Map<String, Value> =
        members.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    Value::Object(members)
}

fn missing(path: &str) -> Refusal {
    let parts = segments(path);
    let id = path.rsplit('/').next().unwrap_or_default();
    match (parts.first().map(String::as_str), parts.len()) {
        (Some("users" | "groups"), 2) => {
            let text =
                format!("Resource '{id}' does not exist or one of its queried reference-property objects are not present.");
            (404, "Request_ResourceNotFound", text)
        }
        (Some("users"), _) => (404, "ErrorItemNotFound", "The specified object was not found in the store.".to_owned()),
        _ => (404, "itemNotFound", "The resource could not be found.".to_owned()),
    }
}

fn scatter(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
