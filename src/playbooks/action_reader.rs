//! Reads the actions of a playbook: each kind has its keys, names variables that exist, and secrets by name only.

use std::collections::BTreeSet;

use super::action::{ActionSpec, Address, Auth, BodySpec, Work, severity_of};
use super::address;
use super::document::headers;
use super::evaluate::{META, Variables};
use super::keys::{self, ACTION_KINDS, CASE_STATUSES, INDICATOR_TYPES, Key, Scope};
use super::near::nearest;
use super::reader::{At, Problems, Section, is_name};
use super::secrets::Known;
use super::template::{Shape, Template};
use super::tree::{Node, Value};
use crate::notifications::item;
use crate::platform::{header, vault};

/// What is put there must be of our own making; that of exports is known above this room only by its name.
const OWN_QUEUES: [&str; 3] = [item::QUEUE, item::URGENT_QUEUE, "export-runs"];

/// The variables of a playbook.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// False: it is there already.
    pub(super) fn add(&mut self, name: &str) -> bool {
        self.0.insert(name.to_owned())
    }

    /// What templates may name.
    fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).chain(META)
    }

    fn check(&self, at: usize, name: &str, problems: &mut Problems<'_>) {
        if self.all().any(|known| known == name) {
            return;
        }
        let near = nearest(name, self.all()).map_or_else(
            || format!("there are {}", self.all().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        problems.error(at, format!("there is no variable `{name}`; {near}"));
    }

    fn checked(&self, template: At<Template>, problems: &mut Problems<'_>) -> Template {
        template.value.variables().for_each(|name| self.check(template.at, name, problems));
        template.value
    }
}

/// What reading one action needs.
struct Reading<'a, 'p, 't> {
    section: Section<'a>,
    names: &'a Names,
    secrets: &'a dyn Fn(&str) -> Known,
    problems: &'p mut Problems<'t>,
}

/// `place` is its place in the playbook, from 1.
pub(super) fn read(
    node: &Node,
    place: usize,
    names: &Names,
    secrets: &dyn Fn(&str) -> Known,
    problems: &mut Problems<'_>,
) -> Option<ActionSpec> {
    // The kind decides which keys there are.
    let peeked = Section::peek(node, [Scope::Action, Scope::Action])?;
    let kind = peeked.choice(&keys::ACTION_KIND, problems)?;
    let scope = [Scope::Queue, Scope::Webhook, Scope::Indicator, Scope::Case, Scope::TriggerExport][kind];
    let section = Section::open_both(node, [Scope::Action, scope], problems)?;
    let label = section.text(&keys::LABEL, problems);
    if let Some(label) = label.filter(|label| !is_name(label.value)) {
        problems.error(label.at, format!("`label` takes {}", keys::LABEL.shape.accepts()));
    }
    let mut reading = Reading { section, names, secrets, problems };
    let work = match ACTION_KINDS[kind] {
        "queue" => reading.queue(),
        "webhook" => reading.webhook(),
        "threatconnect_indicator" => reading.indicator(),
        "threatconnect_case" => reading.case(),
        _ => Some(reading.trigger_export()),
    };
    Some(ActionSpec { label: label.map_or_else(|| place.to_string(), |label| label.value.to_owned()), work: work? })
}

impl<'a> Reading<'a, '_, '_> {
    fn queue(&mut self) -> Option<Work> {
        let queue = self.section.text(&keys::QUEUE_NAME, self.problems);
        let body = self.body(&keys::QUEUE_BODY, &keys::QUEUE_TEMPLATE);
        let queue = queue?;
        if !is_queue(queue.value) {
            self.problems
                .error(queue.at, format!("`queue` takes {}, single and not at its ends", keys::QUEUE_NAME.shape.accepts()));
        } else if OWN_QUEUES.contains(&queue.value.trim_end_matches("-poison")) {
            let text = format!("`{}` is a queue of Indicator Relay itself; name another", queue.value);
            self.problems.error(queue.at, text);
        }
        Some(Work::Queue { queue: queue.value.to_owned(), body: body? })
    }

    fn webhook(&mut self) -> Option<Work> {
        let allow_plain_http = self.section.flag(&keys::ALLOW_PLAIN_HTTP, self.problems);
        let allow_private_address = self.section.flag(&keys::ALLOW_PRIVATE_ADDRESS, self.problems);
        let url = self.section.text(&keys::URL, self.problems);
        let url_secret = self.secret(&keys::URL_SECRET);
        let address = match (url, self.section.entry(&keys::URL_SECRET)) {
            (Some(url), None) => {
                if let Err(error) = address::judge(url.value, allow_plain_http, allow_private_address) {
                    self.problems.error(url.at, format!("`url` is refused: {error}"));
                }
                Some(Address::Url(url.value.trim().to_owned()))
            }
            (None, Some(_)) => url_secret.map(|(name, known)| {
                let judged = known.value().map(|value| address::judge(value, allow_plain_http, allow_private_address));
                if let Some(Err(error)) = judged {
                    let text = format!("the address in the secret `{}` is refused: {error}", name.value);
                    self.problems.error(name.at, text);
                }
                Address::Secret(name.value.to_owned())
            }),
            (Some(url), Some(_)) => {
                self.problems.error(url.at, "`url` and `url_secret` are both given; leave one out");
                None
            }
            (None, None) => {
                if self.section.entry(&keys::URL).is_none() {
                    let at = self.section.at;
                    self.problems.error(at, "a webhook needs `url` or `url_secret`");
                }
                None
            }
        };
        let auth = self.auth();
        self.nothing_in_the_clear();
        let headers = headers(&self.section, &keys::WEBHOOK_HEADERS, self.problems);
        let body = self.body(&keys::WEBHOOK_BODY, &keys::WEBHOOK_TEMPLATE);
        Some(Work::Webhook { address: address?, auth: auth?, headers, body: body?, allow_plain_http, allow_private_address })
    }

    /// The document is no place for secrets: more people read it than may know them. No value is repeated.
    fn nothing_in_the_clear(&mut self) {
        const SECRET: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-functions-key"];
        const LIKE_ONE: [&str; 6] = ["api-key", "apikey", "subscription-key", "auth-token", "secret", "password"];
        let Some(Value::Table(entries)) = self.section.entry(&keys::WEBHOOK_HEADERS).map(|entry| &entry.node.value) else {
            return;
        };
        for entry in entries {
            let name = entry.key.to_ascii_lowercase();
            let way = match name.as_str() {
                "authorization" => "auth = \"header\" with `header_secret`, or auth = \"basic\"".to_owned(),
                _ => format!("auth = \"header\" with header = \"{}\" and `header_secret`", entry.key),
            };
            if SECRET.contains(&name.as_str()) {
                let text = format!("`{}` would stand here in the clear; secrets are given by name only: use {way}", entry.key);
                self.problems.error(entry.at, text);
            } else if LIKE_ONE.iter().any(|part| name.contains(part)) {
                let text = format!("`{}` looks like a secret, and stands here in the clear; if it is one, use {way}", entry.key);
                self.problems.warning(entry.at, text);
            }
        }
    }

    fn auth(&mut self) -> Option<Auth> {
        let way = self.section.choice(&keys::AUTH, self.problems)?;
        let of_basic = [&keys::USERNAME_SECRET, &keys::PASSWORD_SECRET];
        let of_header = [&keys::HEADER_SECRET];
        let (needed, idle): (&[&Key], Vec<&Key>) = match way {
            1 => (&of_basic, vec![&keys::HEADER, &keys::HEADER_SECRET]),
            2 => (&of_header, of_basic.to_vec()),
            _ => (&[], of_basic.into_iter().chain([&keys::HEADER, &keys::HEADER_SECRET]).collect()),
        };
        for key in idle {
            if let Some(given) = self.section.text(key, self.problems) {
                let text = format!("`{}` has no effect with auth = \"{}\"", key.key, keys::AUTHS[way]);
                self.problems.warning(given.at, text);
            }
        }
        let mut secrets = Vec::new();
        for key in needed {
            if self.section.entry(key).is_none() {
                let text = format!("auth = \"{}\" needs `{}`: the name of a secret", keys::AUTHS[way], key.key);
                self.problems.error(self.section.place(&keys::AUTH), text);
            }
            secrets.extend(self.secret(key));
        }
        let header = if way == 2 { self.section.text(&keys::HEADER, self.problems) } else { None };
        if let Some(header) = header.filter(|header| !header::is_name(header.value)) {
            self.problems.error(header.at, "`header` is no name of a header");
        }
        let name_of_header = header.map_or(keys::HEADER.default, |header| header.value);
        if let (2, [(name, known)]) = (way, secrets.as_slice())
            && known.value().is_some_and(|value| header::value_problem(name_of_header, value).is_some())
        {
            let text = format!("what the secret `{}` holds has a character that no header may hold", name.value);
            self.problems.error(name.at, text);
        }
        let mut secrets = secrets.into_iter().map(|(name, _)| name.value.to_owned());
        Some(match way {
            1 => Auth::Basic { username_secret: secrets.next()?, password_secret: secrets.next()? },
            2 => Auth::Header { header: name_of_header.to_owned(), header_secret: secrets.next()? },
            _ => Auth::None,
        })
    }

    /// A secret's name, and what is known of it. Its value, written by mistake, is not repeated.
    fn secret(&mut self, key: &Key) -> Option<(At<&'a str>, Known)> {
        let name = self.section.text(key, self.problems)?;
        if !name.value.is_empty() && name.value.len() <= 127 && is_secret(name.value) {
            let known = (self.secrets)(name.value);
            let set = format!("set it, or the vault's secret `{}`", vault::spelling(name.value));
            match known {
                Known::Missing => self.problems.error(name.at, format!("there is no secret `{}`; {set}", name.value)),
                Known::NotHere => {
                    let text = format!("there is no secret `{}` here; where this is to run, {set}", name.value);
                    self.problems.warning(name.at, text);
                }
                Known::Kept | Known::Given(_) => {}
            }
            return Some((name, known));
        }
        let text = format!("`{}` takes the name of a secret (letters, digits, `-`, `_`), never its value", key.key);
        self.problems.error(name.at, text);
        None
    }

    fn body(&mut self, key: &Key, template: &Key) -> Option<BodySpec> {
        let kind = self.section.choice(key, self.problems)?;
        if kind == 1 && self.names.0.is_empty() {
            let text = "body = \"selected\" sends `{}`: there is no variable; add some in `[playbook.select]`";
            self.problems.warning(self.section.place(key), text);
        }
        let entry = self.section.entry(template);
        match (kind, entry) {
            (2, None) => {
                self.problems.error(self.section.place(key), "body = \"template\" needs `template`");
                None
            }
            (2, Some(entry)) => {
                let shape = shape(&entry.node, self.problems)?;
                shape.variables().iter().for_each(|name| self.names.check(entry.node.at, name, self.problems));
                if let Value::Text(text) = &entry.node.value
                    && text.trim_start().starts_with(['{', '['])
                    && !text.trim_start().starts_with("{{")
                    && Template::parse(text.trim_start()).variables().next().is_some_and(|_| text.contains('"'))
                {
                    let text = "this looks like JSON, which a value with a quote would break; write `template` as a table";
                    self.problems.warning(entry.node.at, text);
                }
                Some(BodySpec::Template(shape))
            }
            (_, Some(entry)) => {
                self.problems.warning(entry.at, "`template` has no effect without body = \"template\"");
                Some(if kind == 0 { BodySpec::Context } else { BodySpec::Selected })
            }
            (_, None) => Some(if kind == 0 { BodySpec::Context } else { BodySpec::Selected }),
        }
    }

    fn indicator(&mut self) -> Option<Work> {
        let owner = self.section.text(&keys::OWNER, self.problems);
        let indicator_type = self.section.choice(&keys::TYPE, self.problems);
        let values = self.section.text(&keys::VALUES, self.problems);
        self.section.choice(&keys::INDICATOR_MODE, self.problems);
        let rating = self.section.whole(&keys::RATING, self.problems);
        let confidence = self.section.whole(&keys::CONFIDENCE, self.problems);
        let tags = self.templates(&keys::INDICATOR_TAGS);
        let mut attributes = Vec::new();
        for (key, attribute) in [(&keys::DESCRIPTION, "Description"), (&keys::SOURCE_TEXT, "Source")] {
            attributes.extend(self.template(key).map(|template| (attribute.to_owned(), template)));
        }
        for (entry, text) in self.section.named_texts(&keys::ATTRIBUTES, self.problems) {
            if attributes.iter().any(|(kind, _)| *kind == entry.key) {
                self.problems.error(entry.at, format!("the attribute `{}` is there twice", entry.key));
            }
            let template = At { at: entry.node.at, value: Template::parse(text) };
            attributes.push((entry.key.clone(), self.names.checked(template, self.problems)));
        }
        let label = self.section.text(&keys::SECURITY_LABEL, self.problems);
        if let Some(values) = values {
            self.names.check(values.at, values.value, self.problems);
        }
        let small = |number: At<i64>| u8::try_from(number.value).ok();
        Some(Work::Indicator {
            owner: owner?.value.to_owned(),
            indicator_type: INDICATOR_TYPES[indicator_type?],
            values: values?.value.to_owned(),
            rating: rating.and_then(small),
            confidence: confidence.and_then(small),
            tags,
            attributes,
            security_label: label.map(|label| label.value.to_owned()),
        })
    }

    fn case(&mut self) -> Option<Work> {
        let name = self.template(&keys::CASE_NAME);
        let status = self.section.choice(&keys::STATUS, self.problems);
        let severity = self.template(&keys::SEVERITY);
        let fixed = severity.as_ref().filter(|severity| severity.variables().next().is_none());
        if let Some(Err(error)) = fixed.map(|fixed| severity_of(&fixed.fill(&Variables::new()))) {
            self.problems.error(self.section.place(&keys::SEVERITY), error.to_string());
        }
        let description = self.template(&keys::CASE_DESCRIPTION);
        let tags = self.templates(&keys::CASE_TAGS);
        let notes = self.templates(&keys::NOTES);
        let mut artifacts = Vec::new();
        for node in self.section.tables(&keys::ARTIFACTS, self.problems) {
            let Some(artifact) = Section::open(node, Scope::Artifact, self.problems) else { continue };
            let kind = artifact.text(&keys::ARTIFACT_TYPE, self.problems);
            let values = artifact.text(&keys::ARTIFACT_VALUES, self.problems);
            if let Some(values) = values {
                self.names.check(values.at, values.value, self.problems);
            }
            artifacts.extend(kind.zip(values).map(|(kind, values)| (kind.value.to_owned(), values.value.to_owned())));
        }
        Some(Work::Case {
            name: name?,
            status: CASE_STATUSES[status?],
            severity: severity.unwrap_or_else(|| Template::parse(keys::SEVERITY.default)),
            description,
            tags,
            artifacts,
            notes,
        })
    }

    fn trigger_export(&mut self) -> Work {
        let job = self.section.text(&keys::JOB, self.problems);
        let seconds = self.section.whole(&keys::COALESCE_SECONDS, self.problems);
        if let Some(job) = job.filter(|job| !is_name(job.value)) {
            self.problems.error(job.at, format!("`job` takes {}", keys::JOB.shape.accepts()));
        }
        let seconds = seconds.and_then(|seconds| u32::try_from(seconds.value).ok());
        Work::TriggerExport { job: job.map(|job| job.value.to_owned()), coalesce_seconds: seconds.unwrap_or(60) }
    }

    fn template(&mut self, key: &Key) -> Option<Template> {
        let template = self.section.template(key, self.problems)?;
        Some(self.names.checked(template, self.problems))
    }

    fn templates(&mut self, key: &Key) -> Vec<Template> {
        let templates = self.section.templates(key, self.problems);
        templates.into_iter().map(|template| self.names.checked(template, self.problems)).collect()
    }
}

fn is_secret(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// As Azure names queues.
fn is_queue(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (3..=63).contains(&name.len())
        && name.chars().all(good)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// A body's tree; leaves that are texts are templates.
fn shape(node: &Node, problems: &mut Problems<'_>) -> Option<Shape> {
    Some(match &node.value {
        Value::Text(text) => Shape::Template(Template::parse(text)),
        Value::Whole(number) => Shape::Fixed((*number).into()),
        Value::Flag(flag) => Shape::Fixed((*flag).into()),
        Value::List(list) => Shape::List(list.iter().map(|one| shape(one, problems)).collect::<Option<_>>()?),
        Value::Table(entries) => {
            let member = |entry: &super::tree::Entry| Some((entry.key.clone(), shape(&entry.node, problems)?));
            Shape::Members(entries.iter().map(member).collect::<Option<_>>()?)
        }
        Value::Other(name) => {
            problems.error(node.at, format!("`template` holds {name}; write it as a text"));
            return None;
        }
    })
}
