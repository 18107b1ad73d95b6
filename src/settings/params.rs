//! The parameters: one row each, the guide's 22 in its order, then ours. Parsing, problems, README table, JSON Schema and
//! the example settings file follow from these rows.

use super::parse;

/// One setting.
#[derive(Debug)]
pub struct Param {
    /// The guide's name, if it is one of the guide's.
    pub guide: Option<&'static str>,
    pub key: &'static str,
    pub required: Required,
    pub scope: Scope,
    /// Its value is shown nowhere, and may be in the vault.
    pub secret: bool,
    /// Changes what is sent: a changed text forces a full run.
    pub shapes: bool,
    /// What is accepted; completes "accepted: …".
    pub accepts: &'static str,
    pub default: Option<&'static str>,
    pub help: &'static str,
    /// Refuses what is not accepted, with the reason.
    pub check: fn(&str) -> Result<(), String>,
}

/// When a value must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    Yes,
    No,
    /// Under the condition that it names.
    When(&'static str),
}

/// Who may set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Also for one job, as `<JOB>__<KEY>`.
    Job,
    /// For the whole process only.
    Process,
}

const fn guide(
    guide: &'static str,
    key: &'static str,
    required: Required,
    accepts: &'static str,
    help: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Param {
    Param { guide: Some(guide), key, required, scope: Scope::Job, secret: false, shapes: true, accepts, default: None, help, check }
}

const fn ours(
    key: &'static str,
    scope: Scope,
    default: Option<&'static str>,
    accepts: &'static str,
    help: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Param {
    Param { guide: None, key, required: Required::No, scope, secret: false, shapes: false, accepts, default, help, check }
}

const UNLESS_TOKEN: Required = Required::When("unless THREATCONNECT_TOKEN is given");
const UNLESS_MANAGED: Required = Required::When("unless IDENTITY is managed");
const DAYS: &str = "1 to 3650";

/// All settings.
pub static PARAMS: [Param; 48] = [
    Param { shapes: false, ..guide("Api User", "API_USER", UNLESS_TOKEN, "a ThreatConnect access id", "signs requests together with THREATCONNECT_SECRET_KEY", parse::text) },
    Param { shapes: false, ..guide("Microsoft Graph Client ID", "MICROSOFT_GRAPH_CLIENT_ID", UNLESS_MANAGED, "an application id", "the app registration that sends", parse::text) },
    Param { shapes: false, secret: true, ..guide("Microsoft Graph Client Secret", "MICROSOFT_GRAPH_CLIENT_SECRET", UNLESS_MANAGED, "the secret's value, not its id", "", parse::text) },
    Param { shapes: false, ..guide("Microsoft Graph Tenant ID", "MICROSOFT_GRAPH_TENANT_ID", Required::Yes, "a tenant id", "", parse::name) },
    guide("Default TLP Level", "DEFAULT_TLP_LEVEL", Required::Yes, "white (clear), green, amber, red", "for indicators without a TLP label", |t| parse::tlp(t).map(drop)),
    guide("Target Product", "TARGET_PRODUCT", Required::Yes, "Microsoft Sentinel, Microsoft Defender for Endpoint", "", |t| parse::target_product(t).map(drop)),
    guide("Action to Take", "ACTION_TO_TAKE", Required::Yes, "Alert, Block", "", |t| parse::action(t).map(drop)),
    guide("Expiration Days - Email", "EXPIRATION_DAYS_EMAIL", Required::Yes, DAYS, "days until an e-mail indicator expires at the target", |t| parse::days(t).map(drop)),
    guide("Expiration Days - File", "EXPIRATION_DAYS_FILE", Required::Yes, DAYS, "days until a file indicator expires", |t| parse::days(t).map(drop)),
    guide("Expiration Days - Network", "EXPIRATION_DAYS_NETWORK", Required::Yes, DAYS, "days until a network indicator expires", |t| parse::days(t).map(drop)),
    guide("Owners", "OWNERS", Required::No, "names of owners, as a JSON array or separated by `|`", "all that the API user sees, if not given", |t| parse::list(t).map(drop)),
    guide("Indicator Types", "INDICATOR_TYPES", Required::No, "Address, CIDR, Email Address, Email Subject, MD5, SHA1, SHA256, Host, URL, User Agent", "all, if not given", |t| parse::kinds(t).map(drop)),
    Param { shapes: false, ..guide("Last Run", "LAST_RUN", Required::When("if ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN is on"), "`30 days ago`, an ISO date", "how far back the first run reads", |t| parse::last_run(t).map(drop)) },
    Param { default: Some("off"), ..guide("Only Send Indicators Modified Since Last Run", "ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", Required::No, parse::SWITCH, "on: incremental runs, with a full one each FULL_RUN_EVERY", |t| parse::switch(t).map(drop)) },
    guide("TQL", "TQL", Required::No, "a TQL query", "replaces Owners, Indicator Types and the five filters below", parse::query),
    guide("Tags Filter", "TAGS_FILTER", Required::No, "names of tags, as a JSON array or separated by `|`", "at least one of them", |t| parse::list(t).map(drop)),
    guide("Minimum ThreatAssess Score", "MINIMUM_THREATASSESS_SCORE", Required::No, "0 to 1000", "", |t| parse::score(t).map(drop)),
    guide("Minimum Confidence Rating", "MINIMUM_CONFIDENCE_RATING", Required::No, "0 to 100", "", |t| parse::confidence(t).map(drop)),
    guide("Minimum Threat Rating", "MINIMUM_THREAT_RATING", Required::No, "0 to 5", "", |t| parse::rating(t).map(drop)),
    guide("False Positive Threshold", "FALSE_POSITIVE_THRESHOLD", Required::No, "0 and up", "the most false positives that an indicator may have; 0 is meaningful", |t| parse::count(t).map(drop)),
    Param { shapes: false, scope: Scope::Process, default: Some("info"), ..guide("Logging Level", "LOGGING_LEVEL", Required::No, "trace, debug, info, warn, error", "", |t| parse::logging_level(t).map(drop)) },
    guide("Indicator Reserve Count", "INDICATOR_RESERVE_COUNT", Required::No, "0 and up", "places kept free at Defender; Sentinel has no cap", |t| parse::count(t).map(drop)),
    ours("JOBS", Scope::Process, None, "names of lower-case letters, digits and `-`, separated by commas or `|`, or as a JSON array", "several exports, each with its own settings as `<JOB>__<KEY>`; one job, `default`, if not given", |t| parse::jobs(t).map(drop)),
    ours("EXPORT_SCHEDULE", Scope::Job, Some("0 */15 * * * *"), "NCRONTAB with five or six fields, UTC", "when the job runs", |t| parse::schedule(t).map(drop)),
    ours("FULL_RUN_EVERY", Scope::Job, Some("24h"), parse::DURATION, "full runs while only modified indicators are sent, from start to start; at most a third of the shortest expiration", |t| parse::duration(t).map(drop)),
    ours("RESEND", Scope::Job, Some("changed"), "changed, always", "`always` sends everything on each run, as the guide's app does", |t| parse::resend(t).map(drop)),
    ours("WITHDRAW", Scope::Job, Some("on"), parse::SWITCH, "take back what left ThreatConnect", |t| parse::switch(t).map(drop)),
    ours("WITHDRAW_LIMIT", Scope::Job, Some("20%"), "0% to 100%", "a full run that would withdraw more (and more than 20 rows) refuses, and says how to approve it", |t| parse::percent(t).map(drop)),
    Param { shapes: true, ..ours("DELIVERY", Scope::Job, Some("product"), "product, graph", "the target's own API, or Microsoft Graph", |t| parse::delivery(t).map(drop)) },
    Param { required: Required::Yes, ..ours("THREATCONNECT_URL", Scope::Job, None, parse::URL, "`https://{instance}/api`", |t| parse::url(t).map(drop)) },
    Param { secret: true, required: Required::When("with API_USER"), ..ours("THREATCONNECT_SECRET_KEY", Scope::Job, None, "the secret key of API_USER", "", parse::text) },
    Param { secret: true, ..ours("THREATCONNECT_TOKEN", Scope::Job, None, "an API token", "instead of API_USER and its key", parse::text) },
    ours("THREATCONNECT_PAGE_SIZE", Scope::Job, Some("1000"), "1 to 10000", "indicators per page", |t| parse::page_size(t).map(drop)),
    Param { shapes: true, required: Required::When("for Microsoft Sentinel"), ..ours("SENTINEL_WORKSPACE_ID", Scope::Job, None, "the GUID of the Log Analytics workspace", "", parse::name) },
    Param { shapes: true, ..ours("SENTINEL_SOURCE_SYSTEM", Scope::Job, Some("Indicator Relay"), "a name other than Microsoft Sentinel", "part of each object's identity: changing it orphans what was sent", parse::source_system) },
    Param { shapes: true, ..ours("SENTINEL_USER_AGENTS", Scope::Job, Some("off"), parse::SWITCH, "send user agents with a pattern that the built-in rules do not match", |t| parse::switch(t).map(drop)) },
    Param { shapes: true, ..ours("SENTINEL_SEVERITY_EXTENSION", Scope::Job, Some("off"), parse::SWITCH, "send the threat rating also where the built-in rules read a severity", |t| parse::switch(t).map(drop)) },
    Param { shapes: true, ..ours("NEVER_SEND", Scope::Job, None, "values, domains and networks, as a JSON array or separated by `|`", "what never goes out: own domains, own networks, public resolvers", |t| parse::never_send(t).map(drop)) },
    Param { shapes: true, ..ours("ALLOW_PRIVATE_ADDRESSES", Scope::Job, Some("off"), parse::SWITCH, "send private and reserved addresses with Block", |t| parse::switch(t).map(drop)) },
    ours("IDENTITY", Scope::Process, Some("secret"), "secret, managed", "`managed`: no client secret at all", |t| parse::identity(t).map(drop)),
    ours("MANAGED_IDENTITY_CLIENT_ID", Scope::Process, None, "a client id", "of a user-assigned identity", parse::text),
    ours("KEY_VAULT_URL", Scope::Process, None, parse::URL, "secrets are read from this vault, each from the secret named by `<KEY>_SECRET_NAME` (default: the key in kebab case)", |t| parse::url(t).map(drop)),
    ours("CLOUD", Scope::Process, Some("global"), "global, usgov, usgov-dod, china", "sets the hosts and scopes below", |t| parse::cloud(t).map(drop)),
    ours("LOGIN_URL", Scope::Process, None, parse::URL, "instead of the cloud's login host", |t| parse::url(t).map(drop)),
    ours("SENTINEL_URL", Scope::Process, None, parse::URL, "instead of the cloud's upload API", |t| parse::url(t).map(drop)),
    ours("SENTINEL_SCOPE", Scope::Process, None, "a resource and `/.default`", "instead of the cloud's Azure Resource Manager", parse::text),
    ours("STATE_FILE", Scope::Process, Some("indicator-relay.db"), "a path", "where the embedded state lives", parse::text),
    ours("TIME_BUDGET", Scope::Process, None, parse::DURATION, "a run that takes longer saves its place and goes on in a continuation", |t| parse::duration(t).map(drop)),
];

/// The row of a key.
#[must_use]
pub fn param(key: &str) -> Option<&'static Param> {
    PARAMS.iter().find(|param| param.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_parameters_stand_in_its_order() {
        let names: Vec<&str> = PARAMS.iter().filter_map(|param| param.guide).collect();
        assert_eq!(
            names,
            [
                "Api User",
                "Microsoft Graph Client ID",
                "Microsoft Graph Client Secret",
                "Microsoft Graph Tenant ID",
                "Default TLP Level",
                "Target Product",
                "Action to Take",
                "Expiration Days - Email",
                "Expiration Days - File",
                "Expiration Days - Network",
                "Owners",
                "Indicator Types",
                "Last Run",
                "Only Send Indicators Modified Since Last Run",
                "TQL",
                "Tags Filter",
                "Minimum ThreatAssess Score",
                "Minimum Confidence Rating",
                "Minimum Threat Rating",
                "False Positive Threshold",
                "Logging Level",
                "Indicator Reserve Count"
            ]
        );
        assert!(PARAMS[..22].iter().all(|param| param.guide.is_some()));
    }

    #[test]
    fn the_guides_keys_are_its_names_in_upper_snake_case() {
        for param in &PARAMS[..22] {
            let name = param.guide.unwrap_or_default().replace(" - ", "_").replace(' ', "_").to_uppercase();
            assert_eq!(name, param.key);
        }
    }

    #[test]
    fn no_key_stands_twice_and_defaults_are_accepted() {
        for (i, param) in PARAMS.iter().enumerate() {
            assert!(PARAMS[..i].iter().all(|other| other.key != param.key), "{}", param.key);
            assert!(param.default.is_none_or(|default| (param.check)(default).is_ok()), "{}", param.key);
        }
    }
}
