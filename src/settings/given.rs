//! The first stage: the map as given, the jobs it names, and which text a job has for a key. Knows no meaning.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::Problem;
use super::near::nearest;
use super::params::{self, Param, Required, TABLE};
use super::parse::{self, Shape};

/// Set by Azure.
pub(super) const IDENTITY_ENDPOINT: &str = "IDENTITY_ENDPOINT";

/// A job of `JOBS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobName(String);

impl JobName {
    fn parse(text: &str) -> Result<Self, String> {
        let letters = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if letters && text.starts_with(|first: char| first.is_ascii_lowercase()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("is no name of a job: give `a` to `z`, digits and `-`, a letter first".to_owned())
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The job's own key for a setting. Names hold no `_`, so that no two jobs have the same one.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix())
    }

    fn prefix(&self) -> String {
        Self::prefix_of(&self.0)
    }

    /// Before the keys of a job with this name.
    pub(super) fn prefix_of(name: &str) -> String {
        format!("{}__", name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The text that a job has for a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text<'a> {
    /// As it was given, with the job's prefix if it came from there.
    pub(super) key: String,
    pub(super) text: &'a str,
}

/// Reads texts for one job at a time and collects what is wrong with them.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    map: &'a BTreeMap<String, String>,
    pub(super) jobs: Vec<JobName>,
    /// Whose texts are read; none: those of the process.
    job: Option<JobName>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Reads the names of the jobs.
    pub(super) fn new(map: &'a BTreeMap<String, String>) -> Self {
        let mut reader = Self { map, jobs: Vec::new(), job: None, problems: Vec::new(), notes: Vec::new() };
        let names = reader.read(&params::JOBS, |text| parse::list(text, &['|', ','])).unwrap_or_default();
        for name in names {
            match JobName::parse(&name) {
                Ok(job) if reader.jobs.contains(&job) => reader.refuse(&params::JOBS, format!("names `{name}` twice")),
                Ok(job) => reader.jobs.push(job),
                Err(reason) => reader.refuse(&params::JOBS, format!("{} {reason}", quote(&name))),
            }
        }
        if reader.jobs.is_empty() && reader.problems.is_empty() {
            reader.refuse(&params::JOBS, "names no job; leave it out for one job called `default`".to_owned());
        }
        reader
    }

    /// From now on, texts are those of this job.
    pub(super) fn enter(&mut self, job: &JobName) {
        self.job = Some(job.clone());
    }

    /// A blank text is none: the job's own, else that for all jobs.
    pub(super) fn given(&self, row: &Param) -> Option<Text<'a>> {
        let own = self.job.as_ref().filter(|_| row.per_job).map(|job| job.key(row.key));
        own.into_iter().chain([row.key.to_owned()]).find_map(|key| Some(Text { text: self.text(&key)?, key }))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.map.get(key).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// What a job has for a setting, whichever job is read.
    pub(super) fn of_job(&self, job: &JobName, row: &Param) -> Option<&'a str> {
        self.text(&job.key(row.key)).filter(|_| row.per_job).or_else(|| self.text(row.key))
    }

    /// Azure gives each app that has a managed identity an address to ask for its tokens.
    pub(super) fn in_azure(&self) -> bool {
        self.text(IDENTITY_ENDPOINT).is_some()
    }

    /// What is given, or the default.
    pub(super) fn effective(&self, row: &Param) -> Option<&'a str> {
        self.given(row).map(|given| given.text).or(row.default)
    }

    /// The meaning of what is given, or of the default. None if there is neither, and if it is refused, which is a problem then.
    pub(super) fn read<T>(&mut self, row: &Param, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.effective(row)?) {
            Ok(value) => Some(value),
            Err(reason) => {
                let shown = self.effective(row).filter(|text| may_show(row, text));
                self.refuse(row, shown.map(|text| format!("{}: {reason}", quote(text))).unwrap_or(reason));
                None
            }
        }
    }

    /// As [`Reader::read`]; nothing given is a problem too.
    pub(super) fn need<T>(&mut self, row: &Param, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if self.effective(row).is_none() {
            let condition = match row.required {
                Required::If(condition) => format!(" if {condition}"),
                Required::Yes | Required::No => String::new(),
            };
            let vault = row.secret_name().and_then(|name| name.default);
            let vault =
                vault.map(|name| format!(", or set KEY_VAULT_URL and keep it in the vault as `{name}`")).unwrap_or_default();
            self.refuse(row, format!("is required{condition}: give {}{vault}", row.shape.accepts()));
        }
        self.read(row, parse)
    }

    /// Notes a problem under the key as it was given. Where nothing was given, the key for all jobs stands for it,
    /// unless other jobs have one of their own.
    pub(super) fn refuse(&mut self, row: &Param, message: String) {
        let others_have_own = || self.jobs.iter().any(|job| row.per_job && self.text(&job.key(row.key)).is_some());
        let key = match (self.given(row), &self.job) {
            (Some(given), _) => given.key,
            (None, Some(job)) if others_have_own() => job.key(row.key),
            (None, _) => row.key.to_owned(),
        };
        self.problems.push(Problem { key, guide_name: row.guide_name, message });
    }

    /// A line for the user about the job that is read.
    pub(super) fn note(&mut self, text: String) {
        let job = self.job.as_ref().filter(|_| self.text(params::JOBS.key).is_some());
        self.notes.push(job.map(|job| format!("job `{}`: {text}", job.as_str())).unwrap_or(text));
    }

    /// Looks at the keys that no row explains: what was probably meant for us must not be ignored in silence.
    pub(super) fn judge_strays(&mut self) {
        let known = |key: &str| {
            let own = |row: &Param| row.per_job && self.jobs.iter().any(|job| job.key(row.key) == key);
            TABLE.iter().any(|row| row.key == key || own(row))
        };
        let strays: Vec<&String> = self.map.keys().filter(|key| !known(key) && self.text(key).is_some()).collect();
        for key in strays {
            let job = self.jobs.iter().filter(|job| key.starts_with(&job.prefix())).max_by_key(|job| job.prefix().len());
            match (job.map(|job| (job, &key[job.prefix().len()..])), key.rsplit_once("__")) {
                (Some((job, rest)), _) => {
                    let guide_name = params::row(rest).and_then(|row| row.guide_name);
                    self.problems.push(Problem { key: key.clone(), guide_name, message: stray_of(job, rest) });
                }
                // Other keys of that prefix are the host's own affair.
                (None, Some((prefix, _))) if prefix.eq_ignore_ascii_case(params::STORAGE.key) => {
                    let Some(near) = nearest(key, TABLE.iter().map(|row| row.key)) else { continue };
                    let message = format!("is no setting; is `{near}` meant?");
                    self.problems.push(Problem { key: key.clone(), guide_name: None, message });
                }
                (None, Some((prefix, rest))) => {
                    if params::row(rest).is_some() {
                        self.notes.push(format!("{} is ignored: no job of JOBS has the prefix {}", quote(key), quote(prefix)));
                    }
                }
                (None, None) => {
                    let Some(near) = nearest(key, TABLE.iter().map(|row| row.key)) else { continue };
                    // A short name that differs in a letter may well belong to another program.
                    if near.len() < 10 {
                        self.notes.push(format!("{} is ignored: is `{near}` meant?", quote(key)));
                    } else {
                        let message = format!("is no setting; is `{near}` meant?");
                        self.problems.push(Problem { key: key.clone(), guide_name: None, message });
                    }
                }
            }
        }
    }
}

/// Why a key with the prefix of a job is not one of its settings.
fn stray_of(job: &JobName, rest: &str) -> String {
    if params::row(rest).is_some() {
        return format!("`{rest}` holds for all jobs: give it without the prefix");
    }
    let own = TABLE.iter().filter(|row| row.per_job).map(|row| row.key);
    match nearest(rest, own) {
        Some(near) => format!("is no setting of the job `{}`; is `{}` meant?", job.as_str(), job.key(near)),
        None => format!("is no setting of the job `{}`; the command `settings` lists them", job.as_str()),
    }
}

/// Whether a text is no secret and can hold none.
pub(super) fn may_show(row: &Param, text: &str) -> bool {
    let may_hold_one = match row.shape {
        Shape::Address => text.contains(['@', '?', '#']),
        // A secret that was pasted in place of its name.
        Shape::SecretName => parse::secret_name(text).is_err(),
        Shape::ConnectionString => !text.eq_ignore_ascii_case("UseDevelopmentStorage=true"),
        _ => false,
    };
    !row.secret && !may_hold_one
}

/// One line, not too long.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 100;
    let line: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    let line = line.replace("\\\"", "\"").replace("\\'", "'");
    format!("`{line}{}`", if text.chars().nth(LONGEST).is_some() { "…" } else { "" })
}

/// In the order of the table, each once.
pub(super) fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    let place = |problem: &Problem| {
        let (job, key) = problem.key.rsplit_once("__").unwrap_or(("", &problem.key));
        let place = TABLE.iter().position(|row| row.key == key || row.key == problem.key).unwrap_or(TABLE.len());
        (place, job.to_owned(), problem.key.clone())
    };
    problems.sort_by_cached_key(place);
    let mut seen = BTreeSet::new();
    problems.retain(|problem| seen.insert((problem.key.clone(), problem.message.clone())));
    problems
}

/// The address given, else the cloud's.
pub(super) fn address_or(reader: &mut Reader<'_>, row: &Param, default: Option<&str>) -> Option<Url> {
    if reader.given(row).is_some() { reader.read(row, parse::address) } else { parse::address(default?).ok() }
}

pub(super) fn switch(reader: &mut Reader<'_>, row: &Param) -> Option<bool> {
    reader.need(row, parse::switch)
}

pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    parse::list(text, &['|'])
}

#[expect(clippy::unnecessary_wraps, reason = "any text will do, but readers of texts may refuse")]
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}
