//! What a playbook waits for and how its object is read: held against the table of what Microsoft Graph can tell of.

use super::keys::{self, CHANGES};
use super::near::nearest;
use super::reader::{At, Problems, Section};
use crate::notifications::item::{ChangeType, Item};
use crate::notifications::resources::{Fetch, Permission, RESOURCES, Resource, Rich, fixed, relative, segments};

/// What a playbook waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub kind: SourceKind,
    /// As the document writes it, its query included.
    pub resource: String,
    /// Sorted, each once.
    pub change_types: Vec<ChangeType>,
    /// The object comes along, encrypted.
    pub rich: bool,
    pub lifecycle: bool,
    pub expiration_minutes: Option<u32>,
    pub profile: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A subscription.
    Graph,
    /// What cannot be subscribed to.
    Poll,
}

/// How the object of an item is read before the actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPlan {
    pub mode: FetchMode,
    /// `$select`.
    pub select: Option<String>,
    pub not_found: NotFound,
    pub on_failure: OnFailure,
    /// Its items have an object to read, or the document says so; else reading is only what is usual for what nobody knows.
    pub needed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchMode {
    None,
    Resource,
    Delta,
}

/// What follows a 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    Retry,
    Continue,
    Drop,
}

/// What follows when it cannot be read at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    DeadLetter,
    Continue,
}

/// Kinds whose objects come along only with `$select` (vendor page "Outlook change notifications").
const NEED_SELECT: [&str; 3] = ["message", "event", "contact"];
/// The life above which Teams resources need lifecycle notifications, in minutes.
const WITHOUT_LIFECYCLE: u32 = 60;
/// What the retired alerts are called in the table.
const RETIRED: &str = "security alert";

impl Source {
    /// Its row in the table of resources; none: it is not known.
    #[must_use]
    pub fn row(&self) -> Option<&'static Resource> {
        Resource::of(&self.resource)
    }

    /// Whether an item's resource is of this source, as far as its path tells: the same kind, and no two ids that differ. The ids
    /// of notifications are not always those of the subscription (`users/jane@example.com` becomes `Users/{guid}`).
    pub(super) fn covers(&self, item: &Item) -> bool {
        let Some(path) = item.resource.as_deref().and_then(relative) else { return false };
        let (own, given) = (segments(&self.resource), segments(path));
        let begins = |fixed: &[String]| fixed.iter().zip(&given).all(|(one, other)| one.eq_ignore_ascii_case(other));
        let below = |fixed: &[String]| !fixed.is_empty() && fixed.len() <= given.len() && begins(fixed);
        let same = match self.row() {
            Some(row) => Resource::of_object(path).is_some_and(|known| known.name == row.name),
            None => below(fixed(&own)),
        };
        same && !differ(&own, &given)
    }
}

/// Whether the two paths name another one of the same collection: a user, a team. Only of GUIDs it is known that there is no other
/// name.
fn differ(own: &[String], given: &[String]) -> bool {
    let ids = |path: &[String]| -> Vec<(String, uuid::Uuid)> {
        let pairs =
            path.windows(2).filter_map(|pair| Some((pair[0].to_ascii_lowercase(), uuid::Uuid::parse_str(&pair[1]).ok()?)));
        pairs.collect()
    };
    let given = ids(given);
    ids(own).iter().any(|(word, one)| given.iter().any(|(other, id)| word == other && one != id))
}

pub(super) fn read(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<Source> {
    let kind = section.choice(&keys::KIND, problems);
    let resource = section.text(&keys::RESOURCE, problems);
    let changes = section.choices(&keys::CHANGE_TYPES, problems);
    let rich = section.flag(&keys::INCLUDE_RESOURCE_DATA, problems);
    let lifecycle = section.flag(&keys::LIFECYCLE, problems);
    let minutes = section.whole(&keys::EXPIRATION_MINUTES, problems);
    let profile = section.text(&keys::PROFILE_NAME, problems);
    let allow_retired = section.flag(&keys::ALLOW_RETIRED, problems);
    let kind = if kind? == 0 { SourceKind::Graph } else { SourceKind::Poll };
    let resource = path(resource?, problems)?;
    let row = Resource::of(resource.value);
    match row {
        Some(row) => judge(row, kind, resource.at, section, allow_retired, problems),
        None if kind == SourceKind::Poll => problems.error(resource.at, cannot_be_polled(resource.value)),
        None => {
            let near = nearest(path_of(resource.value), RESOURCES.iter().flat_map(|row| row.paths.iter().copied()));
            let near = near.map(|near| format!("; did you mean `{}`?", near.replace("{}", "{id}"))).unwrap_or_default();
            let text = format!("`{}` is no resource that is known here; Microsoft Graph will decide{near}", resource.value);
            problems.warning(resource.at, text);
        }
    }
    if let Some(problem) = filter_problem(resource.value) {
        problems.warning(resource.at, problem);
    }
    let changes = changes.map(|changes| change_types(row, kind, &changes, problems));
    if rich {
        judge_rich(row, kind, resource, section.place(&keys::INCLUDE_RESOURCE_DATA), problems);
    }
    let most = row.and_then(|row| match row.rich {
        Rich::Allowed(minutes) if rich => Some(minutes),
        _ => row.minutes,
    });
    let minutes = minutes.and_then(|minutes| Some(At { at: minutes.at, value: u32::try_from(minutes.value).ok()? }));
    if let (Some(minutes), Some(most)) = (minutes, most)
        && minutes.value > most
    {
        let text = format!("a subscription to this resource lives {most} minutes at most, not {}", minutes.value);
        problems.error(minutes.at, text);
    }
    let teams = row.is_some_and(|row| row.rich == Rich::Allowed(4_320));
    if teams && !lifecycle && minutes.is_none_or(|minutes| minutes.value > WITHOUT_LIFECYCLE) {
        let text = "Microsoft Teams needs `lifecycle = true` for subscriptions that live longer than 60 minutes";
        problems.error(section.place(&keys::LIFECYCLE), text);
    }
    if kind == SourceKind::Poll {
        for key in [&keys::LIFECYCLE, &keys::EXPIRATION_MINUTES, &keys::PROFILE_NAME] {
            if let Some(entry) = section.entry(key) {
                problems.warning(entry.at, format!("`{}` has no effect: what is polled has no subscription", key.key));
            }
        }
    }
    Some(Source {
        kind,
        resource: resource.value.to_owned(),
        change_types: changes?,
        rich,
        lifecycle,
        expiration_minutes: minutes.map(|minutes| minutes.value),
        profile: profile.map(|profile| profile.value.to_owned()),
    })
}

/// What a source waits for whose playbook has mistakes, and whether that is certain: else it is the most that it may be. None: it
/// may be anything.
pub(super) fn guess(section: &Section<'_>) -> Option<(Source, bool)> {
    let mut wrong = Problems::new("");
    let resource = path(section.text(&keys::RESOURCE, &mut wrong)?, &mut wrong)?;
    let row = Resource::of(resource.value);
    // The table says which of the two it must be.
    let kind = if row.is_some_and(|row| row.minutes.is_none()) { SourceKind::Poll } else { SourceKind::Graph };
    let given = section.choice(&keys::KIND, &mut wrong).map(|kind| [SourceKind::Graph, SourceKind::Poll][kind]);
    let retired = row.is_some_and(|row| row.name == RETIRED) && !section.flag(&keys::ALLOW_RETIRED, &mut wrong);
    if retired || kind == SourceKind::Graph && given == Some(SourceKind::Poll) {
        // Another resource may be meant.
        return None;
    }
    let changes = section.choices(&keys::CHANGE_TYPES, &mut wrong);
    let changes = changes.map(|changes| change_types(row, kind, &changes, &mut wrong));
    let certain = wrong.errors() == 0 && given == Some(kind);
    let source = Source {
        kind,
        resource: resource.value.to_owned(),
        change_types: changes.filter(|_| certain).unwrap_or_else(|| ChangeType::ALL.to_vec()),
        rich: section.flag(&keys::INCLUDE_RESOURCE_DATA, &mut wrong),
        lifecycle: true,
        expiration_minutes: None,
        profile: None,
    };
    Some((source, certain))
}

fn path_of(resource: &str) -> &str {
    resource.split('?').next().unwrap_or_default().trim_matches('/')
}

/// A resource that is no address and leads nowhere else.
fn path<'a>(resource: At<&'a str>, problems: &mut Problems<'_>) -> Option<At<&'a str>> {
    let text = resource.value.trim();
    let path = path_of(text);
    if let Some(placeholder) = placeholder(path) {
        problems.error(resource.at, format!("the resource is refused: {placeholder}"));
        return None;
    }
    let first = path.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let complaint = if path.contains("://") || first.starts_with("graph.microsoft.") {
        "it is a whole address; write only what follows the version, such as `users`"
    } else if matches!(first.as_str(), "v1.0" | "beta") {
        "it begins with the version of the interface; write only what follows the version, such as `users`"
    } else if text.chars().any(char::is_control) || path.split('/').any(|part| part == ".." || part.is_empty()) {
        "it has empty or `..` parts, or control characters"
    } else if path.eq_ignore_ascii_case("me") || path.to_ascii_lowercase().starts_with("me/") {
        "`me` is a signed-in user, and there is none here; write `users/{id}` with the user's id in place of `{id}`"
    } else {
        return Some(At { at: resource.at, value: text });
    };
    problems.error(resource.at, format!("the resource is refused: {complaint}"));
    None
}

/// A path of the documentation is no path yet: Microsoft Graph would be asked for somebody who is called `{id}`.
fn placeholder(path: &str) -> Option<String> {
    let parts = segments(path);
    let at = parts.iter().position(|part| part.contains(['{', '}']))?;
    let before = at.checked_sub(1).and_then(|before| parts.get(before));
    let whose = before.map_or("the id itself".to_owned(), |word| format!("the {}'s id", word.strip_suffix('s').unwrap_or(word)));
    Some(format!("put {whose} in place of `{}`", parts[at]))
}

/// What Microsoft Graph would refuse in the filter, as far as that is seen at a glance.
fn filter_problem(resource: &str) -> Option<&'static str> {
    const UNFINISHED: [&str; 10] = ["eq", "ne", "gt", "ge", "lt", "le", "and", "or", "not", "in"];
    let query = resource.split_once('?')?.1;
    let filter = query.split('&').find_map(|part| part.trim().strip_prefix("$filter="))?.replace('+', " ").replace("%20", " ");
    // Beyond its texts, in which a quote is written twice.
    let bare: String = filter.split('\'').step_by(2).collect::<Vec<_>>().join("''");
    let depth = |open, close| bare.matches(open).count().cmp(&bare.matches(close).count());
    if filter.trim().is_empty() {
        Some("the `$filter` is empty; leave it out")
    } else if filter.matches('\'').count() % 2 == 1 {
        Some("the `$filter` has a quote `'` without its other one; Microsoft Graph will refuse it")
    } else if depth('(', ')').is_ne() {
        Some("the `$filter` has a parenthesis without its other one; Microsoft Graph will refuse it")
    } else if bare.split_whitespace().next_back().is_some_and(|last| UNFINISHED.contains(&last.to_ascii_lowercase().as_str())) {
        Some("the `$filter` ends where a value is missing; Microsoft Graph will refuse it")
    } else {
        None
    }
}

fn cannot_be_polled(resource: &str) -> String {
    let polled = RESOURCES.iter().filter(|row| row.minutes.is_none()).flat_map(|row| row.paths);
    let polled: Vec<String> = polled.map(|path| format!("`{path}`")).collect();
    format!("`{}` cannot be polled; what can is {}; else use kind = \"graph\"", path_of(resource), polled.join(", "))
}

fn judge(row: &Resource, kind: SourceKind, at: usize, section: &Section<'_>, allow_retired: bool, problems: &mut Problems<'_>) {
    match (kind, row.minutes) {
        (SourceKind::Poll, Some(_)) => problems.error(at, cannot_be_polled(row.paths[0])),
        (SourceKind::Graph, None) => {
            let text = format!("no subscription can be made on a {}; set kind = \"poll\"", row.name);
            problems.error(section.entry(&keys::KIND).map_or(at, |entry| entry.node.at), text);
        }
        _ => {}
    }
    if row.name == RETIRED && kind == SourceKind::Graph {
        let text = "Microsoft has retired `security/alerts`: use kind = \"poll\" with resource = \"security/alerts_v2\"";
        if allow_retired {
            problems.warning(at, text);
        } else {
            problems.error(at, format!("{text}; where it still answers, set `allow_retired = true`"));
        }
    }
    if let Permission::DelegatedOnly(permission) = row.permission {
        let text = format!("only a signed-in user may subscribe to a {} ({permission}), and there is none here", row.name);
        problems.error(at, text);
    }
}

fn change_types(row: Option<&Resource>, kind: SourceKind, given: &[At<usize>], problems: &mut Problems<'_>) -> Vec<ChangeType> {
    let mut changes = Vec::new();
    for change in given {
        let Some(change_type) = ChangeType::parse(CHANGES[change.value]) else { continue };
        if changes.contains(&change_type) {
            problems.warning(change.at, format!("\"{}\" is there twice", change_type.name()));
            continue;
        }
        changes.push(change_type);
        if let Some(row) = row.filter(|row| row.refuses(change_type)) {
            let allowed: Vec<String> =
                row.changes.unwrap_or_default().iter().map(|change| format!("\"{}\"", change.name())).collect();
            let note = if row.note.is_empty() || kind == SourceKind::Poll { String::new() } else { format!(" ({})", row.note) };
            let text = format!("\"{}\" never comes for a {}; it has {}{note}", change_type.name(), row.name, allowed.join(", "));
            problems.error(change.at, text);
        }
    }
    if let (Some(row), Some(first)) = (row.filter(|row| row.changes.is_none()), given.first()) {
        let text = format!("Microsoft does not say which changes of a {} can be asked for; it may refuse these", row.name);
        problems.warning(first.at, text);
    }
    changes.sort_unstable();
    changes
}

fn judge_rich(row: Option<&Resource>, kind: SourceKind, resource: At<&str>, at: usize, problems: &mut Problems<'_>) {
    if kind == SourceKind::Poll {
        problems.error(at, "`include_resource_data` is for subscriptions; what is polled has its data");
    } else if let Some(row) = row.filter(|row| row.rich == Rich::Never) {
        let text = format!("the data of a {} cannot come with notifications; leave it out, and `fetch` reads it", row.name);
        problems.error(at, text);
    } else if row.is_some_and(|row| NEED_SELECT.contains(&row.name)) && !resource.value.contains("$select=") {
        let text = "with `include_resource_data`, Outlook needs `?$select=` with the wanted properties in the resource";
        problems.error(resource.at, text);
    }
}

/// The plan, with defaults by the resource where nothing is said.
pub(super) fn read_fetch(section: Option<&Section<'_>>, source: Option<&Source>, problems: &mut Problems<'_>) -> FetchPlan {
    let comes_along = source.is_some_and(|source| source.rich || source.kind == SourceKind::Poll);
    let usual = source.and_then(Source::row).map_or(FetchMode::Resource, |row| row.fetch.into());
    let usual = if comes_along { FetchMode::None } else { usual };
    let mut plan = FetchPlan {
        mode: usual,
        select: None,
        not_found: NotFound::Retry,
        on_failure: OnFailure::DeadLetter,
        needed: section.is_some() || source.is_some_and(|source| source.rich || source.row().is_some()),
    };
    let Some(section) = section else { return plan };
    let modes = [FetchMode::None, FetchMode::Resource, FetchMode::Delta];
    if let Some(mode) = section.choice(&keys::MODE, problems) {
        plan.mode = modes[mode];
        let at = section.place(&keys::MODE);
        let fetch = source.and_then(Source::row).map(|row| row.fetch);
        if comes_along && plan.mode != FetchMode::None {
            problems.warning(at, "nothing is fetched: the data comes along");
            plan.mode = FetchMode::None;
        } else if plan.mode == FetchMode::Resource && fetch == Some(Fetch::Delta) {
            problems.error(at, "the notifications of this resource name no object: use mode = \"delta\" or \"none\"");
        } else if plan.mode == FetchMode::Delta && fetch.is_some_and(|fetch| fetch != Fetch::Delta) {
            problems.error(at, "\"delta\" is for drives and lists; here mode is \"resource\" or \"none\"");
        }
    }
    plan.not_found =
        [NotFound::Retry, NotFound::Continue, NotFound::Drop][section.choice(&keys::NOT_FOUND_KEY, problems).unwrap_or_default()];
    plan.on_failure =
        [OnFailure::DeadLetter, OnFailure::Continue][section.choice(&keys::ON_FAILURE_KEY, problems).unwrap_or_default()];
    if let Some(select) = section.text(&keys::FETCH_SELECT, problems) {
        let good = |c: char| c.is_ascii_alphanumeric() || "_,./@ ".contains(c);
        let empty = select.value.split(',').any(|name| name.trim().is_empty());
        if empty || !select.value.chars().all(good) {
            let text = "`select` takes names of properties, separated by commas, such as `id,displayName`";
            problems.error(select.at, text);
        } else if plan.mode == FetchMode::None && !source.is_some_and(|source| source.rich) {
            problems.warning(select.at, "`select` has no effect: nothing is fetched");
        }
        plan.select = Some(select.value.split(',').map(str::trim).collect::<Vec<_>>().join(","));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notifications::item::{Event, Origin};

    fn covers(subscribed: &str, resource: &str) -> bool {
        let source = Source {
            kind: SourceKind::Graph,
            resource: subscribed.to_owned(),
            change_types: vec![ChangeType::Created],
            rich: false,
            lifecycle: true,
            expiration_minutes: None,
            profile: None,
        };
        let at = "2026-11-24T09:00:00Z".parse().expect("a time");
        let item = Item::new(Origin::Graph, at, Event::Change(ChangeType::Created));
        source.covers(&Item { resource: Some(resource.to_owned()), ..item })
    }

    const ONE: &str = "3f6c0000-0000-4000-8000-00000000000a";
    const OTHER: &str = "3f6c0000-0000-4000-8000-00000000000b";

    /// As the vendor pages "Get change notifications for …" show what comes for each subscription.
    #[test]
    fn a_source_covers_what_the_service_names_for_it() {
        for (subscribed, resource) in [
            ("users", format!("Users/{ONE}")),
            ("users/jane@a.example", format!("Users/{ONE}")),
            ("groups/g/members", "Groups/g".to_owned()),
            ("users/jane@a.example/messages", format!("Users/{ONE}/Messages/AAMk=")),
            ("users/u/mailFolders('inbox')/messages?$filter=isRead eq false", format!("Users/{ONE}/Messages/AAMk=")),
            ("users/u/contacts", format!("Users/{ONE}/Contacts/AAMk=")),
            ("users/u/contactFolders/f/contacts", format!("Users/{ONE}/Contacts/AAMk=")),
            ("users/u/drive/root", "users/u/drive/root".to_owned()),
            ("chats/getAllMessages", "chats('19:a@thread.v2')/messages('160')".to_owned()),
            ("users/u/chats/getAllMessages", "chats('19:a@thread.v2')/messages('160')".to_owned()),
            ("chats/19:a@thread.v2/messages", "chats('19:a@thread.v2')/messages('160')".to_owned()),
            ("chats", "chats('19:a@thread.v2')".to_owned()),
            ("chats/getAllMembers", "chats('19:a@thread.v2')/members('MCMj=')".to_owned()),
            ("teams/t/channels/c/messages", "teams('t')/channels('c')/messages('1')".to_owned()),
            ("teams/t/channels/c/messages", "teams('t')/channels('c')/messages('1')/replies('2')".to_owned()),
            ("teams/getAllMessages", "teams('t')/channels('c')/messages('1')/replies('2')".to_owned()),
            ("teams/getAllMembers", "teams('t')/members('ZWUw=')".to_owned()),
            ("teams/t/members", "teams('t')/members('ZWUw=')".to_owned()),
            ("teams/t/channels/getAllMembers", "teams('t')/channels('c')/members('ZWUw=')".to_owned()),
            ("teams/getAllChannels/getAllMembers", "teams('t')/channels('c')/members('ZWUw=')".to_owned()),
            ("teams/getAllChannels", "teams('t')/channels('c')".to_owned()),
            ("communications/callRecords", "communications/callRecords/c".to_owned()),
            ("communications/onlineMeetings/getAllTranscripts", "communications/onlineMeetings('m')/transcripts('t')".to_owned()),
            ("communications/onlineMeetings/getAllRecordings", "communications/onlineMeetings('m')/recordings('r=')".to_owned()),
            ("communications/onlineMeetings/m/transcripts", "communications/onlineMeetings('m')/transcripts('t')".to_owned()),
            ("users/u/onlineMeetings/getAllTranscripts", "communications/onlineMeetings('m')/transcripts('t')".to_owned()),
            ("users/u/onlineMeetings/getAllTranscripts", "users('u')/onlineMeetings('m')/transcripts('t')".to_owned()),
            ("users/u/onlineMeetings/getAllRecordings", "communications/onlineMeetings('m')/recordings('r=')".to_owned()),
            (
                "communications/onlineMeetings/?$filter=JoinWebUrl eq 'https://teams.example/l'",
                "communications/onlineMeetings?$filter=joinWebUrl+eq+'https://teams.example/l'".to_owned(),
            ),
            (
                "copilot/interactionHistory/getAllEnterpriseInteractions?$filter=conversationType ne 'bizchat'",
                "copilot/interactionHistory/interactions('1731701801008')".to_owned(),
            ),
            (
                "copilot/users/u/interactionHistory/getAllEnterpriseInteractions",
                "copilot/interactionHistory/interactions('1')".to_owned(),
            ),
            ("solutions/virtualEvents/events", "solutions/virtualEvents/events/".to_owned()),
            (
                "solutions/virtualEvents/events/getEventsFromOrganizers(organizerIds=['a', 'b'])",
                "solutions/virtualEvents/events/".to_owned(),
            ),
            ("solutions/virtualEvents/webinars/w1", "solutions/virtualEvents/webinars/w1/".to_owned()),
            ("solutions/virtualEvents/webinars/w1/sessions", "solutions/virtualEvents/webinars/w1/sessions".to_owned()),
            // What no page lists: all below its fixed segments.
            ("books/getAllPages", "books('b')/chapters('c')/pages('p')".to_owned()),
            ("books/b/pages", "books('b')/pages('p')".to_owned()),
        ] {
            assert!(covers(subscribed, &resource), "{subscribed}: {resource}");
            assert!(covers(subscribed, &format!("/{resource}")), "{subscribed}: /{resource}");
        }
    }

    #[test]
    fn a_source_covers_no_other_kind_and_nothing_of_another_id() {
        for (subscribed, resource) in [
            ("users", format!("Users/{ONE}/Messages/AAMk=")),
            ("users", format!("Users/{ONE}/licenseDetails/x")),
            ("users", "groups/g".to_owned()),
            (&format!("users/{OTHER}"), format!("Users/{ONE}")),
            (&format!("users/{OTHER}/messages"), format!("Users/{ONE}/Messages/AAMk=")),
            ("users/u/messages", format!("Users/{ONE}/Events/AAMk=")),
            ("users/u/messages", "chats('c')/messages('1')".to_owned()),
            ("chats/getAllMessages", "chats('c')/members('1')".to_owned()),
            ("chats/getAllMessages", "teams('t')/channels('c')/messages('1')".to_owned()),
            ("chats", "chats('c')/messages('1')".to_owned()),
            ("teams", "teams('t')/channels('c')".to_owned()),
            ("teams/getAllChannels", "teams('t')/channels('c')/messages('1')".to_owned()),
            ("teams/getAllMembers", "teams('t')/channels('c')/members('m')".to_owned()),
            ("teams/getAllMembers", "teams('t')".to_owned()),
            ("teams/getAllMessages", "teams('t')/channels('c')/messages('1')/hostedContents('2')".to_owned()),
            (&format!("teams/{OTHER}/channels/c/messages"), format!("teams('{ONE}')/channels('c')/messages('1')/replies('2')")),
            ("communications/onlineMeetings/getAllTranscripts", "communications/onlineMeetings('m')/recordings('r')".to_owned()),
            ("communications/onlineMeetings/getAllTranscripts", "communications/onlineMeetings".to_owned()),
            ("communications/onlineMeetings", "communications/onlineMeetings('m')/transcripts('t')".to_owned()),
            ("solutions/virtualEvents/webinars/w1", "solutions/virtualEvents/webinars/w1/sessions".to_owned()),
            ("books/getAllPages", "films('f')".to_owned()),
            ("getAllPages", "films('f')".to_owned()),
        ] {
            assert!(!covers(subscribed, &resource), "{subscribed}: {resource}");
        }
        assert!(!covers("users", ""));
    }
}
