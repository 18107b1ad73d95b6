//! Settings in two stages: text as given, then validated meaning. Every problem is reported at once.
//!
//! `params` is the table, `parse` reads one value, this file puts a job together, `render` shows the table.

mod params;
mod parse;
mod render;
mod vault;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;

pub use params::{PARAMS, Param, Required, Scope};
pub use render::{Format, local_settings_example, render, render_markdown};
pub use vault::{VaultPlan, VaultSecret, plan_vault};

use crate::export::{Policy, Resend};
use crate::platform::identity::Identity;
use crate::platform::secret::Secret;
use crate::sinks::{ExpirationDays, Terms, sentinel};
use crate::threatconnect::{self, Credentials, FILTERS, Filter};
use params::param;
use parse::TargetProduct;

/// Upload requests a minute that Sentinel grants to one identity (vendor page "Upload STIX objects").
const SENTINEL_RATE: usize = 100;
/// The name of the job where `JOBS` is not given.
const DEFAULT_JOB: &str = "default";

/// Everything that the product is told, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In the order of `JOBS`.
    pub jobs: Vec<Job>,
    /// Where embedded state lives.
    pub state_file: PathBuf,
    pub logging_level: LoggingLevel,
    /// Of one invocation; none if a run may take as long as it takes.
    pub time_budget: Option<Duration>,
    /// What the user should know though it is no error: one line each.
    pub notes: Vec<String>,
}

/// One set of the guide's parameters.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    pub source: threatconnect::Config,
    pub filter: Filter,
    pub terms: Terms,
    pub target: Target,
    pub identity: Identity,
    pub policy: Policy,
    /// Changes when a setting changes that decides what is sent or how it looks; holds no secret.
    pub fingerprint: String,
}

/// Where a job delivers.
#[derive(Debug, Clone)]
pub enum Target {
    Sentinel {
        config: sentinel::Config,
        /// Of the token.
        scope: String,
    },
}

/// The guide's "Logging Level".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggingLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One problem of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As the user wrote it or would write it, with the job's prefix if it came with one.
    pub key: String,
    /// The guide's name of the parameter, if it is one of the guide's.
    pub guide_name: Option<&'static str>,
    /// What is wrong, the value given unless it is secret, and what is accepted.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.guide_name {
            Some(guide) => write!(f, "{} (guide: {guide}) {}", self.key, self.message),
            None => write!(f, "{} {}", self.key, self.message),
        }
    }
}

impl Settings {
    /// Reads all settings from `given` (the environment, as a map).
    ///
    /// # Errors
    /// All problems at once.
    pub fn from_map(given: &BTreeMap<String, String>) -> Result<Self, Vec<Problem>> {
        let mut texts = Texts::read(given);
        let mut jobs = Vec::new();
        for name in texts.jobs.clone() {
            jobs.extend(texts.job(&name));
        }
        share_rates(&mut jobs);
        let state_file = texts.get(None, "STATE_FILE").map(PathBuf::from).unwrap_or_default();
        let logging_level = texts.parsed(None, "LOGGING_LEVEL", parse::logging_level).unwrap_or(LoggingLevel::Info);
        let time_budget = texts.parsed(None, "TIME_BUDGET", parse::duration);
        texts.problems.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| a.message.cmp(&b.message)));
        texts.problems.dedup();
        if texts.problems.is_empty() {
            Ok(Self { jobs, state_file, logging_level, time_budget, notes: texts.notes })
        } else {
            Err(texts.problems)
        }
    }
}

/// Stage one: who set which text, and what is wrong with each alone.
struct Texts<'a> {
    given: &'a BTreeMap<String, String>,
    jobs: Vec<String>,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl<'a> Texts<'a> {
    fn read(given: &'a BTreeMap<String, String>) -> Self {
        let mut texts = Self { given, jobs: vec![DEFAULT_JOB.to_owned()], problems: Vec::new(), notes: Vec::new() };
        if let Some(text) = filled(given.get("JOBS"))
            && let Ok(names) = parse::jobs(text)
        {
            texts.jobs = names;
        }
        for (key, value) in given {
            texts.check(key, value);
        }
        texts
    }

    /// What is wrong with one entry of the environment. Entries that are not ours are nobody's business.
    fn check(&mut self, key: &str, value: &str) {
        let (job, bare) = match key.split_once("__") {
            Some((prefix, bare)) if self.jobs.iter().any(|job| prefix_of(job) == prefix) => (Some(prefix), bare),
            _ => (None, key),
        };
        let secret_name = bare.strip_suffix("_SECRET_NAME").and_then(param).is_some_and(|param| param.secret);
        let Some(param) = param(bare) else {
            if job.is_some() && !secret_name {
                let near = nearest(bare).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                self.problem(key, None, format!("is no setting{near}"));
            } else if let Some(near) = nearest(bare).filter(|near| looks_mistyped(bare, near)) {
                self.notes.push(format!("{key} is no setting; {near} is one"));
            }
            return;
        };
        if job.is_some() && param.scope == Scope::Process {
            self.problem(key, param.guide, "is for the whole process and cannot be set for one job".to_owned());
            return;
        }
        let Some(text) = filled(Some(value)) else { return };
        if let Err(why) = (param.check)(text) {
            let shown = if param.secret { String::new() } else { format!("`{}` ", shorten(text)) };
            self.problem(key, param.guide, format!("{shown}{why}; accepted: {}", param.accepts));
        }
    }

    fn problem(&mut self, key: &str, guide_name: Option<&'static str>, message: String) {
        self.problems.push(Problem { key: key.to_owned(), guide_name, message });
    }

    /// A problem of a key of the table, at a job.
    fn complain(&mut self, job: &str, key: &'static str, message: impl Into<String>) {
        let (given_as, _) = self.entry(Some(job), key);
        self.problem(&given_as, param(key).and_then(|param| param.guide), message.into());
    }

    /// The key under which a value is given or would be, and the value.
    fn entry(&self, job: Option<&str>, key: &str) -> (String, Option<&'a str>) {
        if let Some(job) = job {
            let own = format!("{}__{key}", prefix_of(job));
            if let Some(text) = filled(self.given.get(&own)) {
                return (own, Some(text));
            }
        }
        (key.to_owned(), filled(self.given.get(key)))
    }

    /// The text of a key: the job's, else the process's, else the default.
    fn get(&self, job: Option<&str>, key: &str) -> Option<&'a str> {
        self.entry(job, key).1.or_else(|| param(key).and_then(|param| param.default))
    }

    /// The meaning of a key; none if it is absent or wrong, which stage one has said already.
    fn parsed<T>(&self, job: Option<&str>, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.get(job, key).and_then(|text| parse(text).ok())
    }

    /// As [`Texts::parsed`]; an absent value is a problem.
    fn required<T>(&mut self, job: &str, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if self.get(Some(job), key).is_none() {
            let accepts = param(key).map_or("", |param| param.accepts);
            self.complain(job, key, format!("is required; accepted: {accepts}"));
        }
        self.parsed(Some(job), key, parse)
    }

    /// Stage two: one job, if nothing is missing.
    fn job(&mut self, name: &str) -> Option<Job> {
        let at = Some(name);
        let source = self.source(name);
        let identity = self.identity(name);
        let terms = self.terms(name);
        let filter = self.filter(name);
        let target = self.target(name);
        let policy = terms.as_ref().and_then(|terms| self.policy(name, terms));
        if self.parsed(at, "INDICATOR_RESERVE_COUNT", parse::count).is_some_and(|count| count > 0) {
            self.notes.push(format!("INDICATOR_RESERVE_COUNT has no effect on job `{name}`: Microsoft Sentinel has no cap"));
        }
        let fingerprint = self.fingerprint(name);
        Some(Job { name: name.to_owned(), source: source?, filter, terms: terms?, target: target?, identity: identity?, policy: policy?, fingerprint })
    }

    fn source(&mut self, job: &str) -> Option<threatconnect::Config> {
        let at = Some(job);
        let url = self.required(job, "THREATCONNECT_URL", parse::url);
        let page_size = self.parsed(at, "THREATCONNECT_PAGE_SIZE", parse::page_size).unwrap_or(1_000);
        let user = self.get(at, "API_USER");
        let token = self.get(at, "THREATCONNECT_TOKEN");
        let credentials = match (user, token) {
            (Some(_), Some(_)) => {
                self.complain(job, "API_USER", "and THREATCONNECT_TOKEN are both given; give one way to sign in");
                None
            }
            (None, Some(token)) => Some(Credentials::Token(Secret::new(token))),
            (None, None) => {
                self.complain(job, "API_USER", "is required, unless THREATCONNECT_TOKEN is given");
                None
            }
            (Some(user), None) => {
                let secret = self.required(job, "THREATCONNECT_SECRET_KEY", |text| Ok(Secret::new(text)));
                secret.map(|secret| Credentials::Hmac { access_id: user.to_owned(), secret })
            }
        };
        Some(threatconnect::Config { url: url?, credentials: credentials?, page_size })
    }

    fn identity(&mut self, job: &str) -> Option<Identity> {
        let tenant = self.required(job, "MICROSOFT_GRAPH_TENANT_ID", |text| Ok(text.to_owned()));
        if self.parsed(None, "IDENTITY", parse::identity) == Some(true) {
            return Some(Identity::Managed { client_id: self.get(None, "MANAGED_IDENTITY_CLIENT_ID").map(str::to_owned) });
        }
        let client_id = self.required(job, "MICROSOFT_GRAPH_CLIENT_ID", |text| Ok(text.to_owned()));
        let secret = self.required(job, "MICROSOFT_GRAPH_CLIENT_SECRET", |text| Ok(Secret::new(text)));
        let cloud = self.parsed(None, "CLOUD", parse::cloud)?;
        let login = match self.get(None, "LOGIN_URL") {
            Some(_) => self.parsed(None, "LOGIN_URL", parse::url),
            None => parse::url(cloud.login).ok(),
        };
        if login.as_ref().is_some_and(|login| login.scheme() != "https") {
            self.complain(job, "LOGIN_URL", "must be https, on this machine too: the official client sends no secret without it");
        }
        Some(Identity::ClientSecret { tenant: tenant?, client_id: client_id?, secret: secret?, login: login? })
    }

    fn terms(&mut self, job: &str) -> Option<Terms> {
        let at = Some(job);
        let default_tlp = self.required(job, "DEFAULT_TLP_LEVEL", parse::tlp);
        let action = self.required(job, "ACTION_TO_TAKE", parse::action);
        let email = self.required(job, "EXPIRATION_DAYS_EMAIL", parse::days);
        let file = self.required(job, "EXPIRATION_DAYS_FILE", parse::days);
        let network = self.required(job, "EXPIRATION_DAYS_NETWORK", parse::days);
        let all = || crate::indicator::Kind::ALL.to_vec();
        let kinds = if self.get(at, "TQL").is_some() { all() } else { self.parsed(at, "INDICATOR_TYPES", parse::kinds).unwrap_or_else(all) };
        Some(Terms {
            default_tlp: default_tlp?,
            action: action?,
            expiration_days: ExpirationDays { email: email?, file: file?, network: network? },
            kinds,
            never_send: self.parsed(at, "NEVER_SEND", parse::never_send).unwrap_or_default(),
            allow_private_addresses: self.parsed(at, "ALLOW_PRIVATE_ADDRESSES", parse::switch).unwrap_or(false),
        })
    }

    fn filter(&mut self, job: &str) -> Filter {
        let at = Some(job);
        let tql = self.get(at, "TQL").map(str::to_owned);
        if tql.is_some() {
            let ignored: Vec<&str> = FILTERS.iter().map(|row| row.key).filter(|key| self.get(at, key).is_some()).collect();
            if !ignored.is_empty() {
                self.notes.push(format!("TQL of job `{job}` replaces {}", ignored.join(", ")));
            }
        }
        Filter {
            owners: self.parsed(at, "OWNERS", parse::list).unwrap_or_default(),
            kinds: self.parsed(at, "INDICATOR_TYPES", parse::kinds).unwrap_or_default(),
            tags: self.parsed(at, "TAGS_FILTER", parse::list).unwrap_or_default(),
            minimum_score: self.parsed(at, "MINIMUM_THREATASSESS_SCORE", parse::score),
            minimum_confidence: self.parsed(at, "MINIMUM_CONFIDENCE_RATING", parse::confidence),
            minimum_rating: self.parsed(at, "MINIMUM_THREAT_RATING", parse::rating),
            false_positive_threshold: self.parsed(at, "FALSE_POSITIVE_THRESHOLD", parse::count),
            tql,
        }
    }

    fn target(&mut self, job: &str) -> Option<Target> {
        let at = Some(job);
        let product = self.required(job, "TARGET_PRODUCT", parse::target_product)?;
        let graph = self.parsed(at, "DELIVERY", parse::delivery).unwrap_or(false);
        if product == TargetProduct::Defender {
            self.complain(job, "TARGET_PRODUCT", "`Microsoft Defender for Endpoint` is not in this version; accepted: Microsoft Sentinel");
            return None;
        }
        if graph {
            self.complain(job, "DELIVERY", "`graph` is not in this version; accepted: product");
            return None;
        }
        let cloud = self.parsed(None, "CLOUD", parse::cloud);
        let workspace_id = self.required(job, "SENTINEL_WORKSPACE_ID", |text| Ok(text.to_owned()));
        let url = match self.get(None, "SENTINEL_URL") {
            Some(_) => self.parsed(None, "SENTINEL_URL", parse::url),
            None => cloud.and_then(|cloud| parse::url(cloud.sentinel).ok()),
        };
        let scope = self.get(None, "SENTINEL_SCOPE").map(str::to_owned).or(cloud.map(|cloud| cloud.sentinel_scope.to_owned()));
        let on = |key| self.parsed(at, key, parse::switch).unwrap_or(false);
        let config = sentinel::Config {
            url: url?,
            workspace_id: workspace_id?,
            source_system: self.get(at, "SENTINEL_SOURCE_SYSTEM")?.to_owned(),
            user_agents: on("SENTINEL_USER_AGENTS"),
            severity_extension: on("SENTINEL_SEVERITY_EXTENSION"),
            requests_per_minute: u32::try_from(SENTINEL_RATE).unwrap_or(100),
        };
        Some(Target::Sentinel { config, scope: scope? })
    }

    fn policy(&mut self, job: &str, terms: &Terms) -> Option<Policy> {
        let at = Some(job);
        let incremental = self.parsed(at, "ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", parse::switch).unwrap_or(false);
        let last_run = if incremental {
            Some(self.required(job, "LAST_RUN", parse::last_run)?)
        } else {
            if self.get(at, "LAST_RUN").is_some() {
                self.notes.push(format!("LAST_RUN of job `{job}` is ignored: ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN is off"));
            }
            None
        };
        let policy = Policy {
            incremental,
            last_run,
            schedule: self.parsed(at, "EXPORT_SCHEDULE", parse::schedule)?,
            full_run_every: self.parsed(at, "FULL_RUN_EVERY", parse::duration)?,
            resend: self.parsed(at, "RESEND", parse::resend).unwrap_or(Resend::Changed),
            withdraw: self.parsed(at, "WITHDRAW", parse::switch).unwrap_or(true),
            withdraw_limit: self.parsed(at, "WITHDRAW_LIMIT", parse::percent).unwrap_or(20),
        };
        // What is there must be refreshed before it expires, with room for a run that fails.
        let shortest = Duration::from_secs(u64::from(terms.expiration_days.shortest()) * 86_400);
        if policy.interval() * 3 > shortest {
            let key = if incremental { "FULL_RUN_EVERY" } else { "EXPORT_SCHEDULE" };
            let most = shortest / 3;
            self.complain(
                job,
                key,
                format!(
                    "leaves {} between two full runs; at most a third of the shortest expiration ({} days), so {}",
                    shown(policy.interval()),
                    terms.expiration_days.shortest(),
                    shown(most)
                ),
            );
        }
        Some(policy)
    }

    /// Over the texts, after defaults, of all settings that shape what is sent.
    fn fingerprint(&self, job: &str) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        for param in PARAMS.iter().filter(|param| param.shapes) {
            let text = self.get(Some(job), param.key).unwrap_or_default();
            context.update(format!("{}={}:{text}\n", param.key, text.len()).as_bytes());
        }
        context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Destinations that share service and identity share its rate.
fn share_rates(jobs: &mut [Job]) {
    let shares: Vec<(String, String)> = jobs
        .iter()
        .map(|job| match &job.target {
            Target::Sentinel { config, .. } => {
                let who = match &job.identity {
                    Identity::ClientSecret { tenant, client_id, .. } => format!("{tenant} {client_id}"),
                    Identity::Managed { client_id } => format!("managed {client_id:?}"),
                };
                (format!("{} {who}", config.url), config.destination().fingerprint)
            }
        })
        .collect();
    for (job, (service, _)) in jobs.iter_mut().zip(&shares) {
        let sharers: BTreeSet<&String> = shares.iter().filter(|(other, _)| other == service).map(|(_, home)| home).collect();
        let Target::Sentinel { config, .. } = &mut job.target;
        config.requests_per_minute = u32::try_from(SENTINEL_RATE / sharers.len().max(1)).unwrap_or(1).max(1);
    }
}

/// A value that says something; an empty one is as good as none.
fn filled(text: Option<&(impl AsRef<str> + ?Sized)>) -> Option<&str> {
    text.map(AsRef::as_ref).map(str::trim).filter(|text| !text.is_empty())
}

/// `my-job` sets `MY_JOB__KEY`.
fn prefix_of(job: &str) -> String {
    job.to_ascii_uppercase().replace('-', "_")
}

/// The setting whose name is most like this one.
fn nearest(key: &str) -> Option<&'static str> {
    let near = PARAMS.iter().map(|param| (strsim::damerau_levenshtein(param.key, key), param.key)).min()?;
    (near.0 <= key.len() / 3).then_some(near.1)
}

/// A foreign variable with a similar name is no mistake of ours to report; a letter or two off in a long name is.
fn looks_mistyped(key: &str, near: &str) -> bool {
    key.len() >= 6 && strsim::damerau_levenshtein(key, near) <= 2
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn shown(duration: Duration) -> String {
    match duration.as_secs() {
        s if s % 86_400 == 0 => format!("{} days", s / 86_400),
        s if s % 3_600 == 0 => format!("{} h", s / 3_600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests;
