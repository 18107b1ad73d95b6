//! The second stage: what the texts of one job mean, and which rules hold between them.

use std::time::Duration;

use aws_lc_rs::digest;
use url::Url;

use super::cloud::{CLOUDS, Cloud};
use super::given::{JobName, Reader, address_or, list, quote, switch, text};
use super::notifications::{Notifications, read_notifications};
use super::params::{self, Param, SignIn, TABLE};
use super::{Job, LoggingLevel, parse, storage, target};
use crate::export::{LastRun, Policy};
use crate::indicator::{Confidence, Kind, NeverSend, ThreatAssessScore};
use crate::platform::hex;
use crate::platform::identity::Identity;
use crate::platform::schedule::Schedule;
use crate::platform::secret::Secret;
use crate::platform::vault::SecretSource;
use crate::sinks::{ExpirationDays, Terms};
use crate::storage::Place;
use crate::threatconnect::{self, Credentials, Filter};

/// What holds for all jobs.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) storage: Option<Place>,
    pub(super) logging_level: Option<LoggingLevel>,
    pub(super) time_budget: Option<Duration>,
    pub(super) notifications: Option<Notifications>,
    sign_in: Option<SignIn>,
    managed_client_id: Option<String>,
    cloud: Option<Cloud>,
    login: Option<Url>,
}

pub(super) fn read_process(reader: &mut Reader<'_>) -> Process {
    reader.read(&params::KEY_VAULT_URL, parse::address);
    reader.read(&params::OTEL_EXPORTER_OTLP_ENDPOINT, parse::address);
    let sign_in = reader.read(&params::IDENTITY, |text| parse::choice(text, &params::SIGN_INS));
    let vault = reader.given(&params::KEY_VAULT_URL).is_some();
    if sign_in == Some(SignIn::Secret) && !vault && reader.given(&params::MANAGED_IDENTITY_CLIENT_ID).is_some() {
        reader.note("MANAGED_IDENTITY_CLIENT_ID is ignored, since IDENTITY is `secret` and there is no vault".to_owned());
    }
    let cloud = reader.read(&params::CLOUD, |text| parse::choice(text, &CLOUDS));
    Process {
        storage: storage::read_storage(reader, cloud),
        logging_level: reader.read(&params::LOGGING_LEVEL, |text| parse::choice(text, &params::LOGGING_LEVELS)),
        time_budget: reader.read(&params::TIME_BUDGET, parse::duration),
        notifications: read_notifications(reader),
        sign_in,
        managed_client_id: reader.read(&params::MANAGED_IDENTITY_CLIENT_ID, text),
        cloud,
        login: address_or(reader, &params::LOGIN_URL, cloud.map(|cloud| cloud.login)),
    }
}

/// None if there is a problem with it.
pub(super) fn read_job(reader: &mut Reader<'_>, process: &Process, name: &JobName) -> Option<Job> {
    reader.enter(name);
    let fingerprint = fingerprint(reader);
    check_secret_names(reader);
    // All of them are read before the first that is missing ends it, so that every problem is seen.
    let source = read_source(reader);
    let identity = read_identity(reader, process);
    let target = target::read_target(reader, process.cloud, identity.as_ref());
    let filter = read_filter(reader);
    let terms = read_terms(reader);
    let policy = read_policy(reader);
    let (filter, mut terms, policy) = (filter?, terms?, policy?);
    check_intervals(reader, &terms, &policy)?;
    if !filter.kinds.is_empty() {
        terms.kinds.clone_from(&filter.kinds);
    }
    let (target, scope) = target?;
    Some(Job {
        name: name.as_str().to_owned(),
        source: source?,
        filter,
        terms,
        target,
        scope,
        identity: identity?,
        policy,
        fingerprint,
    })
}

fn check_secret_names(reader: &mut Reader<'_>) {
    let vault = reader.given(&params::KEY_VAULT_URL).is_some();
    for row in TABLE.iter().filter_map(|row| row.secret_name()) {
        if vault {
            reader.read(row, parse::secret_name);
        } else if reader.given(row).is_some() {
            reader.refuse(row, "names a secret of a vault, but KEY_VAULT_URL is not given".to_owned());
        }
    }
}

fn read_source(reader: &mut Reader<'_>) -> Option<threatconnect::Config> {
    let url = reader.need(&params::THREATCONNECT_URL, parse::address);
    let page_size = whole(reader, &params::THREATCONNECT_PAGE_SIZE);
    let user = reader.read(&params::API_USER, text);
    let token = reader.given(&params::THREATCONNECT_TOKEN).map(|given| SecretSource::Given(Secret::new(given.text)));
    let credentials = match (user, token) {
        (Some(_), Some(_)) => {
            let message = "cannot be given together with API_USER: leave one of them out";
            reader.refuse(&params::THREATCONNECT_TOKEN, message.to_owned());
            None
        }
        (Some(access_id), None) => {
            let secret = reader.need(&params::THREATCONNECT_SECRET_KEY, secret);
            secret.map(|secret| Credentials::Hmac { access_id, secret })
        }
        (None, Some(token)) => Some(Credentials::Token(token)),
        (None, None) => reader.need(&params::API_USER, |_| Err(String::new())),
    };
    Some(threatconnect::Config { url: url?, credentials: credentials?, page_size: u32::try_from(page_size?).ok()? })
}

fn read_identity(reader: &mut Reader<'_>, process: &Process) -> Option<Identity> {
    let tenant = reader.need(&params::MICROSOFT_GRAPH_TENANT_ID, parse::tenant);
    if process.sign_in? == SignIn::Managed {
        tenant?;
        return Some(Identity::Managed { client_id: process.managed_client_id.clone() });
    }
    let client_id = reader.need(&params::MICROSOFT_GRAPH_CLIENT_ID, text);
    let secret = reader.need(&params::MICROSOFT_GRAPH_CLIENT_SECRET, secret);
    Some(Identity::ClientSecret { tenant: tenant?, client_id: client_id?, secret: secret?, login: process.login.clone()? })
}

/// The guide's seven filters, or the query that replaces them.
fn read_filter(reader: &mut Reader<'_>) -> Option<Filter> {
    let replaced: [&Param; 7] = [
        &params::OWNERS,
        &params::INDICATOR_TYPES,
        &params::TAGS_FILTER,
        &params::MINIMUM_THREATASSESS_SCORE,
        &params::MINIMUM_CONFIDENCE_RATING,
        &params::MINIMUM_THREAT_RATING,
        &params::FALSE_POSITIVE_THRESHOLD,
    ];
    if let Some(tql) = reader.read(&params::TQL, text) {
        let ignored: Vec<String> = replaced.into_iter().filter_map(|row| Some(reader.given(row)?.key)).collect();
        if !ignored.is_empty() {
            reader.note(format!("TQL replaces {}: ignored", ignored.join(", ")));
        }
        return Some(Filter { tql: Some(tql), ..Filter::default() });
    }
    let refused = reader.problems.len();
    let filter = Filter {
        owners: reader.read(&params::OWNERS, list).unwrap_or_default(),
        kinds: reader.read(&params::INDICATOR_TYPES, parse::kinds).unwrap_or_default(),
        tags: reader.read(&params::TAGS_FILTER, list).unwrap_or_default(),
        minimum_score: whole(reader, &params::MINIMUM_THREATASSESS_SCORE).and_then(ThreatAssessScore::new),
        minimum_confidence: whole(reader, &params::MINIMUM_CONFIDENCE_RATING).and_then(Confidence::new),
        minimum_rating: reader.read(&params::MINIMUM_THREAT_RATING, parse::rating),
        false_positive_threshold: whole(reader, &params::FALSE_POSITIVE_THRESHOLD),
        tql: None,
    };
    (reader.problems.len() == refused).then_some(filter)
}

fn read_terms(reader: &mut Reader<'_>) -> Option<Terms> {
    let default_tlp = reader.need(&params::DEFAULT_TLP_LEVEL, |text| parse::choice(text, &params::TLP_LEVELS));
    let action = reader.need(&params::ACTION_TO_TAKE, |text| parse::choice(text, &params::ACTIONS));
    let [email, file, network] =
        [&params::EXPIRATION_DAYS_EMAIL, &params::EXPIRATION_DAYS_FILE, &params::EXPIRATION_DAYS_NETWORK]
            .map(|row| reader.need(row, |text| row.shape.whole(text)).and_then(|days| u16::try_from(days).ok()));
    let never_send = if reader.given(&params::NEVER_SEND).is_some() {
        reader.read(&params::NEVER_SEND, |text| NeverSend::parse(&list(text)?).map_err(|reasons| reasons.join("; ")))
    } else {
        Some(NeverSend::default())
    };
    let allow_private_addresses = switch(reader, &params::ALLOW_PRIVATE_ADDRESSES);
    Some(Terms {
        default_tlp: default_tlp?,
        action: action?,
        expiration_days: ExpirationDays { email: email?, file: file?, network: network? },
        kinds: Kind::ALL.to_vec(),
        never_send: never_send?,
        allow_private_addresses: allow_private_addresses?,
    })
}

fn read_policy(reader: &mut Reader<'_>) -> Option<Policy> {
    let incremental = switch(reader, &params::ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN);
    let schedule = reader.need(&params::EXPORT_SCHEDULE, Schedule::parse);
    let full_run_every = reader.need(&params::FULL_RUN_EVERY, parse::duration);
    let resend = reader.need(&params::RESEND, |text| parse::choice(text, &params::RESENDS));
    let withdraw = switch(reader, &params::WITHDRAW);
    let withdraw_limit = reader.need(&params::WITHDRAW_LIMIT, parse::percent);
    let reserve = reader.read(&params::INDICATOR_RESERVE_COUNT, |text| params::INDICATOR_RESERVE_COUNT.shape.whole(text));
    let last_run = if incremental? {
        Some(reader.need(&params::LAST_RUN, LastRun::parse)?)
    } else {
        for row in [&params::LAST_RUN, &params::FULL_RUN_EVERY] {
            if let Some(given) = reader.given(row) {
                reader.note(format!("{} is ignored, since every run reads everything", given.key));
            }
        }
        None
    };
    Some(Policy {
        incremental: incremental?,
        last_run,
        schedule: schedule?,
        full_run_every: full_run_every?,
        resend: resend?,
        withdraw: withdraw?,
        withdraw_limit: withdraw_limit?,
        reserve: reserve.unwrap_or(0),
    })
}

/// Nothing may expire between two full runs, even if one of them fails.
fn check_intervals(reader: &mut Reader<'_>, terms: &Terms, policy: &Policy) -> Option<()> {
    let days = terms.expiration_days.shortest();
    let longest = Duration::from_secs(u64::from(days) * 86_400 / 3);
    let full_run_every = policy.incremental.then_some((&params::FULL_RUN_EVERY, policy.full_run_every));
    // A full run starts when a run is scheduled, so the schedule bounds it in either case.
    let schedule = Some((&params::EXPORT_SCHEDULE, policy.schedule.longest_gap()));
    let mut fits = Some(());
    for (row, interval) in full_run_every.into_iter().chain(schedule).filter(|(_, interval)| *interval > longest) {
        fits = None;
        let text = reader.effective(row).map(quote).unwrap_or_default();
        reader.refuse(
            row,
            format!(
                "{text}: full runs could lie {} apart, but at most a third of the shortest expiration ({days} days: {}) keeps \
                 indicators from expiring in between; run more often or raise the expiration days",
                spoken(interval),
                spoken(longest)
            ),
        );
    }
    fits
}

/// Whole hours where there are some, as users write durations.
fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds % 3600, seconds % 60) {
        (0, _) => format!("{}h", seconds / 3600),
        (_, 0) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// First 16 bytes of SHA-256, in hex, over what decides what is sent and is not as it is by default: a setting that a later
/// version adds changes nothing until somebody gives it.
fn fingerprint(reader: &Reader<'_>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for row in TABLE.iter().filter(|row| row.content) {
        let text = reader.effective(row).unwrap_or_default();
        if row.default.unwrap_or_default() == text {
            continue;
        }
        context.update(format!("{}={}:{text};", row.key, text.len()).as_bytes());
    }
    hex::digits(&context.finish().as_ref()[..16])
}

fn whole(reader: &mut Reader<'_>, row: &Param) -> Option<u64> {
    reader.read(row, |text| row.shape.whole(text))
}

#[expect(clippy::unnecessary_wraps, reason = "any text will do, but readers of texts may refuse")]
fn secret(text: &str) -> Result<SecretSource, String> {
    Ok(SecretSource::Given(Secret::new(text)))
}
