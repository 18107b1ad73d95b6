//! Resources whose notifications name no object: what changed below the root is read once for all of them, and each object that is
//! found becomes an item of its own, with its object.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::fetch::{Next, Trouble};
use super::item::{Costs, Ended, Job};
use super::key::hash;
use super::plan::{Fetch, Plan, Reading, is_gone, reads_by_itself};
use super::turns::{Delta, Turn, Unfinished};
use super::{DispatchError, Dispatcher, path};
use crate::notifications::item::{Item, Work};
use crate::notifications::resources::segments;
use crate::playbooks::OnFailure;

/// A notification of a drive or list comes up to six hours late (vendor page "subscription resource type"): where no place in the
/// changes is known, what was modified since then may be news.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(7);
/// More pages than any drive has: a service that sends us in circles.
const MOST_PAGES: usize = 100_000;
/// Pages that are read for one message; a copy of it goes on with the next, so that no message takes longer than a host lets it.
const PAGES: usize = 50;

impl Dispatcher {
    /// Reads what changed since last time. The place from which to go on is stored with each page, when every object of it has its
    /// message; killed before that, the page is read again, and the messages have the same names ([`Place::mark`]).
    pub(super) async fn changes(
        &self,
        job: Job<'_>,
        plan: &Plan,
        reading: &Reading,
        turn: &mut Turn,
    ) -> Result<Ended, DispatchError> {
        let task = job.task;
        let dead = |reason: String| Ended::Dead { reason, done: task.done.clone() };
        let again = |wait, costs, cause| Ended::Again { wait, costs, cause, done: task.done.clone() };
        let root = match path::of_delta(job.root(reading), reading.select.as_deref()) {
            Ok(root) => root,
            Err(refused) => return Ok(dead(refused.to_string())),
        };
        let playbooks = sharing(job, plan, &root);
        let by_itself = reads_by_itself(task);
        let place = if by_itself { hash(&["delta", &root, &job.names.item]) } else { hash(&["delta", &root]) };
        let place = place[..24].to_owned();
        let (mut at, mut objects, mut restarted) = (self.place(job, turn, &place, &root), 0, false);
        for _ in 0..PAGES {
            turn.keep().await?;
            let page = match self.reader.changes(&at.link).await {
                Ok(page) => page,
                Err(Trouble::Expired | Trouble::NotFound) if at.link != root && !restarted => {
                    // The service has forgotten the place; what changed since it was given is among all that there is.
                    restarted = true;
                    let began = self.clock.now();
                    at = Place { link: root.clone(), began, since: Some(at.news), ..at };
                    continue;
                }
                Err(Trouble::Later(wait, cause)) => return Ok(again(wait, Costs::Attempt, cause)),
                Err(Trouble::Expired | Trouble::NotFound) => return Ok(again(None, Costs::Attempt, "not found".to_owned())),
                Err(_) if reading.on_failure == OnFailure::Continue => {
                    return Ok(Ended::Done { read: None, skipped: true });
                }
                Err(Trouble::Forbidden(reason) | Trouble::Refused(reason)) => return Ok(dead(reason)),
            };
            let mark = at.mark(at.link == root && !restarted && !by_itself);
            objects += self.tell(job, reading, &playbooks, page.objects, (&at, &mark)).await?;
            at.pages += 1;
            match page.next {
                Next::Page(_) if at.pages >= MOST_PAGES => {
                    turn.resource.delta.remove(&place);
                    return Ok(dead("Microsoft Graph sends more pages of changes than a drive can have".to_owned()));
                }
                Next::Page(next) => {
                    at.link = next;
                    turn.resource.delta.insert(place.clone(), at.unfinished());
                    turn.store().await?;
                }
                Next::Delta(_) if by_itself => {
                    turn.resource.delta.remove(&place);
                    return Ok(Ended::Found { read: at.began, objects, playbooks });
                }
                Next::Delta(link) => {
                    turn.resource.delta.insert(place, Delta { link, at: at.began, unfinished: None });
                    return Ok(Ended::Found { read: at.began, objects, playbooks });
                }
            }
        }
        Ok(again(None, Costs::Nothing, "there is more to read".to_owned()))
    }

    /// Where to begin, or to go on.
    fn place(&self, job: Job<'_>, turn: &Turn, place: &str, root: &str) -> Place {
        let earlier = |at: Timestamp| at.saturating_sub(LOOK_BACK).unwrap_or(at);
        let began = self.clock.now();
        match turn.resource.delta.get(place).cloned() {
            Some(Delta { link, at, unfinished: Some(Unfinished { since, news, pages }) }) => {
                Place { link, began: at, since, news, pages }
            }
            Some(Delta { link, at, unfinished: None }) => Place { link, began, since: None, news: earlier(at), pages: 0 },
            None => {
                let news = earlier(job.task.item.received);
                Place { link: root.to_owned(), began, since: Some(news), news, pages: 0 }
            }
        }
    }

    /// A message for each object and playbook.
    async fn tell(
        &self,
        job: Job<'_>,
        reading: &Reading,
        playbooks: &[String],
        objects: Vec<Value>,
        (at, mark): (&Place, &str),
    ) -> Result<usize, DispatchError> {
        let news = objects.into_iter().filter(|object| at.since.is_none_or(|since| is_since(object, since)));
        let found = |object| found(&job.task.item, job.root(reading), object, (at.began, mark));
        let found: Vec<Item> = news.map(found).collect();
        let count = found.len();
        let mut works = Vec::with_capacity(found.len() * playbooks.len());
        for item in found {
            for playbook in playbooks {
                let Work::Item(mut task) = Work::first(item.clone()) else { continue };
                task.playbook = Some(playbook.clone());
                works.push(Work::Item(task));
            }
        }
        self.put_all(job.queue, works.into_iter()).await?;
        Ok(count)
    }
}

/// A place in the changes while they are read.
struct Place {
    link: String,
    began: Timestamp,
    /// See [`Unfinished`].
    since: Option<Timestamp>,
    news: Timestamp,
    pages: usize,
}

impl Place {
    /// What tells this read from all others, and is the same when its page is read again. The link alone does not, since a full read
    /// may come by the links of an earlier one: it is the one with this `since`, which is stored, or follows from what is stored. Only
    /// of the first read of a root it follows from the item, and another item may begin that again.
    fn mark(&self, is_first: bool) -> String {
        let since = self.since.filter(|_| !is_first).map(|since| since.to_string());
        hash(&["read", &self.link, &since.unwrap_or_default()])
    }

    fn unfinished(&self) -> Delta {
        let unfinished = Unfinished { since: self.since, news: self.news, pages: self.pages };
        Delta { link: self.link.clone(), at: self.began, unfinished: Some(unfinished) }
    }
}

/// All who ask for the same read the same place, and so must be told together.
fn sharing(job: Job<'_>, plan: &Plan, root: &str) -> Vec<String> {
    let sharing = |other: &&Plan| match &other.fetch {
        Fetch::Delta(reading) => {
            let same = path::of_delta(job.root(reading), reading.select.as_deref()).is_ok_and(|path| path == root);
            let told = !job.task.had.contains(&other.name) && (other.matches)(&job.task.item, job.made_for);
            other.name == plan.name || same && told
        }
        _ => false,
    };
    job.plans.iter().filter(sharing).map(|plan| plan.name.clone()).collect()
}

/// The object as an item: it looks like a notification of its own. It is known again by its tag, also where a full read finds it once
/// more. Without one, and where it is gone (the tag is then the one that it had, and it may go more than once), it looks as it did
/// before while something happened in between: then it is known again only by the read that found it. A content's tag (`cTag`) is
/// none, since it does not change with a name.
fn found(item: &Item, root: &str, object: Value, (read, mark): (Timestamp, &str)) -> Item {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let id = text("id").unwrap_or_default();
    let tag = ["@odata.etag", "eTag"].into_iter().find_map(text).filter(|_| !is_gone(&object));
    let tag = tag.map_or_else(|| hash(&[mark, &object.to_string()]), str::to_owned);
    let mut data = Map::from_iter([("id".to_owned(), json!(id)), ("@odata.etag".to_owned(), json!(tag))]);
    if let Some(kind) = text("@odata.type") {
        data.insert("@odata.type".to_owned(), json!(kind));
    }
    let mut above = segments(root);
    if above.last().is_some_and(|last| last.eq_ignore_ascii_case("root")) {
        above.pop();
    }
    let mut notification = item.notification.clone();
    notification.insert("resourceData".to_owned(), Value::Object(data));
    Item {
        resource: Some(format!("{}/items/{id}", above.join("/"))),
        notification,
        client_state: None,
        encrypted: None,
        tokens: Vec::new(),
        object: Some(object),
        read: Some(read),
        ..item.clone()
    }
}

/// Modified since then, as far as it says. What does not say may be: told once too often is better than never.
fn is_since(object: &Value, since: Timestamp) -> bool {
    let time = |name: &str| object.get(name).and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
    time("lastModifiedDateTime").max(time("createdDateTime")).is_none_or(|at| at >= since)
}
