//! Every key of the document, one row each. Reader, README and schema follow it.
//!
//! Holds data only.

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub scope: Scope,
    pub key: &'static str,
    pub shape: Shape,
    pub required: bool,
    /// As it would be written; blank: none.
    pub default: &'static str,
    /// The name in the guide's set-up of a notification playbook.
    pub guide: Option<&'static str>,
    pub help: &'static str,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Document,
    Defaults,
    Profile,
    Playbook,
    Source,
    Fetch,
    Select,
    /// Of every kind.
    Action,
    Queue,
    Webhook,
    Indicator,
    Case,
    Artifact,
    TriggerExport,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Text(&'static str),
    Flag,
    Whole {
        from: i64,
        to: i64,
    },
    Choice(&'static [&'static str]),
    Choices(&'static [&'static str]),
    Expression,
    /// Name → expression.
    Expressions,
    Template,
    Templates,
    /// Name → template.
    NamedTemplates,
    /// Name → text.
    NamedTexts,
    /// A text, or a table or list whose texts are templates.
    Body,
    /// Another table of this document.
    Table(Scope),
    /// Name → table.
    NamedTables(Scope),
    Tables(Scope),
}

impl Scope {
    pub const ALL: [Self; 14] = [
        Self::Document,
        Self::Defaults,
        Self::Profile,
        Self::Playbook,
        Self::Source,
        Self::Fetch,
        Self::Select,
        Self::Action,
        Self::Queue,
        Self::Webhook,
        Self::Indicator,
        Self::Case,
        Self::Artifact,
        Self::TriggerExport,
    ];

    /// As the table stands in a document.
    #[must_use]
    pub const fn header(self) -> &'static str {
        match self {
            Self::Document => "(top)",
            Self::Defaults => "[defaults]",
            Self::Profile => "[profile.NAME]",
            Self::Playbook => "[[playbook]]",
            Self::Source => "[playbook.source]",
            Self::Fetch => "[playbook.fetch]",
            Self::Select => "[playbook.select]",
            Self::Action => "[[playbook.action]]",
            Self::Queue => "[[playbook.action]] kind = \"queue\"",
            Self::Webhook => "[[playbook.action]] kind = \"webhook\"",
            Self::Indicator => "[[playbook.action]] kind = \"threatconnect_indicator\"",
            Self::Case => "[[playbook.action]] kind = \"threatconnect_case\"",
            Self::Artifact => "[[playbook.action.artifacts]]",
            Self::TriggerExport => "[[playbook.action]] kind = \"trigger_export\"",
        }
    }
}

impl Shape {
    /// For people: what it accepts.
    #[must_use]
    pub fn accepts(self) -> String {
        match self {
            Self::Text(what) => what.to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Whole { from, to } if from == to => from.to_string(),
            Self::Whole { from, to } => format!("a whole number from {from} to {to}"),
            Self::Choice(choices) => quoted(choices),
            Self::Choices(choices) => format!("a list of {}", quoted(choices)),
            Self::Expression => "a JMESPath expression".to_owned(),
            Self::Expressions => "a table of variables, each a JMESPath expression".to_owned(),
            Self::Template => "a text, with `{variable}`s".to_owned(),
            Self::Templates => "a list of texts, with `{variable}`s".to_owned(),
            Self::NamedTemplates => "a table of texts, with `{variable}`s".to_owned(),
            Self::NamedTexts => "a table of texts".to_owned(),
            Self::Body => "a table (sent as JSON) or a text, with `{variable}`s".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::NamedTables(_) => "a table for each name".to_owned(),
            Self::Tables(_) => "a list of tables".to_owned(),
        }
    }
}

fn quoted(choices: &[&str]) -> String {
    choices.iter().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(", ")
}

pub(super) const PRIORITIES: [&str; 2] = ["normal", "urgent"];
pub(super) const ROOTS: [&str; 3] = ["context", "item", "resource_data"];
pub(super) const SOURCE_KINDS: [&str; 2] = ["graph", "poll"];
pub(super) const CHANGES: [&str; 3] = ["created", "updated", "deleted"];
pub(super) const FETCH_MODES: [&str; 3] = ["none", "resource", "delta"];
pub(super) const NOT_FOUND: [&str; 3] = ["retry", "continue", "drop"];
pub(super) const ON_FAILURE: [&str; 2] = ["dead_letter", "continue"];
pub(super) const ACTION_KINDS: [&str; 5] =
    ["queue", "webhook", "threatconnect_indicator", "threatconnect_case", "trigger_export"];
pub(super) const BODIES: [&str; 3] = ["context", "selected", "template"];
pub(super) const AUTHS: [&str; 3] = ["none", "basic", "header"];
/// Types of one value; as ThreatConnect spells them (its documentation, "Indicators: fields").
pub(super) const INDICATOR_TYPES: [&str; 11] =
    ["Address", "EmailAddress", "File", "Host", "URL", "ASN", "CIDR", "Email Subject", "Hashtag", "Mutex", "User Agent"];
pub(super) const CASE_STATUSES: [&str; 2] = ["Open", "Closed"];
pub(super) const SEVERITIES: [&str; 4] = ["Low", "Medium", "High", "Critical"];

const ROW: Key = Key { scope: Scope::Document, key: "", shape: Shape::Flag, required: false, default: "", guide: None, help: "" };
const DEFAULTS: Key = Key { scope: Scope::Defaults, ..ROW };
const PROFILE: Key = Key { scope: Scope::Profile, ..ROW };
const PLAYBOOK: Key = Key { scope: Scope::Playbook, ..ROW };
const SOURCE: Key = Key { scope: Scope::Source, ..ROW };
const FETCH: Key = Key { scope: Scope::Fetch, ..ROW };
const SELECT: Key = Key { scope: Scope::Select, ..ROW };
const ACTION: Key = Key { scope: Scope::Action, ..ROW };
const QUEUE: Key = Key { scope: Scope::Queue, ..ROW };
const WEBHOOK: Key = Key { scope: Scope::Webhook, ..ROW };
const SECRET: Key = Key { shape: Shape::Text("the name of a secret"), ..WEBHOOK };
const INDICATOR: Key = Key { scope: Scope::Indicator, ..ROW };
const CASE: Key = Key { scope: Scope::Case, ..ROW };
const ARTIFACT: Key = Key { scope: Scope::Artifact, ..ROW };
const EXPORT: Key = Key { scope: Scope::TriggerExport, ..ROW };

const BODY: Key = Key {
    key: "body",
    shape: Shape::Choice(&BODIES),
    default: "context",
    help: "`context`: notification, resource and meta; `selected`: the variables; `template`: what `template` says.",
    ..ROW
};
const TEMPLATE: Key = Key { key: "template", shape: Shape::Body, help: "The body, with `body = \"template\"`.", ..ROW };

/// The name in the macro is ours, the key in the document is the row's.
macro_rules! table {
    ($($name:ident: $row:expr;)*) => {
        $(pub(super) static $name: Key = $row;)*

        /// All rows, in order.
        pub static KEYS: &[&Key] = &[$(&$name),*];
    };
}

table! {
    VERSION: Key { key: "version", shape: Shape::Whole { from: 1, to: 1 }, required: true,
        help: "Of the document.", ..ROW };
    DEFAULTS_TABLE: Key { key: "defaults", shape: Shape::Table(Scope::Defaults),
        help: "For playbooks that do not say.", ..ROW };
    PROFILES: Key { key: "profile", shape: Shape::NamedTables(Scope::Profile),
        help: "How `POST /api/notifications/NAME` is answered.", ..ROW };
    PLAYBOOKS: Key { key: "playbook", shape: Shape::Tables(Scope::Playbook),
        help: "The playbooks.", ..ROW };

    DEFAULT_MAX_ATTEMPTS: Key { key: "max_attempts", shape: Shape::Whole { from: 1, to: 100 }, default: "16",
        help: "How often an item is tried before it goes to the dead letters. Looks for an object that is not there yet are not counted.", ..DEFAULTS };

    CODE: Key { key: "code", shape: Shape::Whole { from: 200, to: 299 }, default: "202", guide: Some("Response Code"),
        help: "Any 2xx counts as delivered; whatever the playbook does later.", ..PROFILE };
    HEADERS: Key { key: "headers", shape: Shape::NamedTexts, guide: Some("Response Header"),
        help: "Of the answer.", ..PROFILE };
    PROFILE_BODY: Key { key: "body", shape: Shape::Text("a text"), guide: Some("Response Body"),
        help: "Of the answer.", ..PROFILE };

    NAME: Key { key: "name", shape: Shape::Text("a name: letters, digits, `-`, `_`"), required: true, guide: Some("WebHook Name"),
        help: "Unique. It is part of the keys that keep actions from being done twice: keep it.", ..PLAYBOOK };
    ENABLED: Key { key: "enabled", default: "true", guide: Some("Active, Design Mode"),
        help: "Off: nothing is subscribed to; what still comes is put with the dead letters.", ..PLAYBOOK };
    PAUSED: Key { key: "paused", default: "false",
        help: "The subscription is kept, and items are held for a replay.", ..PLAYBOOK };
    PRIORITY: Key { key: "priority", shape: Shape::Choice(&PRIORITIES), default: "normal", guide: Some("Prioritization"),
        help: "`urgent` has a queue and workers of its own.", ..PLAYBOOK };
    TENANT: Key { key: "tenant", shape: Shape::Text("the name of a job"), default: "default",
        help: "The job whose Microsoft tenant is meant.", ..PLAYBOOK };
    ROOT: Key { key: "root", shape: Shape::Choice(&ROOTS), default: "context", guide: Some("Iterator, JSON Data"),
        help: "What expressions see of each item: `context` (notification, resource, meta), `item` (the notification) or `resource_data` (the guide's #graph.resource_data.array.json).", ..PLAYBOOK };
    WHEN: Key { key: "when", shape: Shape::Expression,
        help: "Items for which it is not true by the rules of JMESPath are skipped.", ..PLAYBOOK };
    MAX_ATTEMPTS: Key { key: "max_attempts", shape: Shape::Whole { from: 1, to: 100 }, default: "16",
        help: "As in `[defaults]`.", ..PLAYBOOK };
    SOURCE_TABLE: Key { key: "source", shape: Shape::Table(Scope::Source), required: true, guide: Some("Trigger"),
        help: "What it waits for.", ..PLAYBOOK };
    FETCH_TABLE: Key { key: "fetch", shape: Shape::Table(Scope::Fetch),
        help: "How `resource` is read before the actions.", ..PLAYBOOK };
    SELECT_TABLE: Key { key: "select", shape: Shape::Table(Scope::Select), guide: Some("JMESPath"),
        help: "The variables.", ..PLAYBOOK };
    ACTIONS: Key { key: "action", shape: Shape::Tables(Scope::Action), required: true,
        help: "What is done, in this order.", ..PLAYBOOK };

    KIND: Key { key: "kind", shape: Shape::Choice(&SOURCE_KINDS), default: "graph",
        help: "`graph`: a subscription; `poll`: what cannot be subscribed to, read by ALERT_POLL_SCHEDULE.", ..SOURCE };
    RESOURCE: Key { key: "resource", shape: Shape::Text("a resource of Microsoft Graph, such as `users`"), required: true, guide: Some("Resource"),
        help: "Relative to the version of the interface; a query may follow.", ..SOURCE };
    CHANGE_TYPES: Key { key: "change_types", shape: Shape::Choices(&CHANGES), required: true, guide: Some("Change Type"),
        help: "Pairs of resource and change that the service refuses or never answers are errors. Of polled alerts, `updated` includes new ones, as with the guide's trigger.", ..SOURCE };
    INCLUDE_RESOURCE_DATA: Key { key: "include_resource_data", default: "false",
        help: "The changed object comes with the notification, encrypted.", ..SOURCE };
    LIFECYCLE: Key { key: "lifecycle", default: "true",
        help: "Microsoft Graph tells of gaps and of what ends.", ..SOURCE };
    EXPIRATION_MINUTES: Key { key: "expiration_minutes", shape: Shape::Whole { from: 45, to: 43_200 },
        help: "How long a subscription is to live before it is renewed; the longest that is allowed, less 10.", ..SOURCE };
    PROFILE_NAME: Key { key: "profile", shape: Shape::Text("the name of a `[profile.NAME]`"),
        help: "How deliveries are answered; else 202 without a body.", ..SOURCE };
    ALLOW_RETIRED: Key { key: "allow_retired", default: "false",
        help: "Accepts the retired `security/alerts`, for clouds that still have it.", ..SOURCE };

    MODE: Key { key: "mode", shape: Shape::Choice(&FETCH_MODES),
        help: "By the resource: `resource` for most, `delta` for drives and lists, `none` for what is polled or comes with its data. Never for `deleted`.", ..FETCH };
    FETCH_SELECT: Key { key: "select", shape: Shape::Text("names of properties, separated by commas"),
        help: "Only these properties: `$select`; of what changed in a drive or list also id, eTag, createdDateTime, lastModifiedDateTime \
            and deleted.", ..FETCH };
    NOT_FOUND_KEY: Key { key: "not_found", shape: Shape::Choice(&NOT_FOUND), default: "retry",
        help: "What follows when five looks within a minute and a half find nothing: `retry` looks on as often as `max_attempts` says.", ..FETCH };
    ON_FAILURE_KEY: Key { key: "on_failure", shape: Shape::Choice(&ON_FAILURE), default: "dead_letter",
        help: "When it cannot be read at last, or the notification names none: `continue` runs the actions without `resource`.", ..FETCH };

    STRING: Key { key: "string", shape: Shape::Expressions, guide: Some("JMESPath String Expressions"),
        help: "Variables that are texts.", ..SELECT };
    STRING_ARRAY: Key { key: "string_array", shape: Shape::Expressions, guide: Some("JMESPath StringArray Expressions"),
        help: "Variables that are arrays of texts.", ..SELECT };
    STRIP_QUOTES: Key { key: "strip_quotes", default: "true", guide: Some("Strip Quotes from String Output"),
        help: "Off: texts are written as JSON, with quotes.", ..SELECT };
    STRIP_JSON: Key { key: "strip_json", default: "false", guide: Some("Strip JSON formatting from String Output"),
        help: "On: of objects and arrays only the values, joined by `, `.", ..SELECT };
    FAIL_ON_NO_RESULTS: Key { key: "fail_on_no_results", default: "false", guide: Some("Fail on No Results"),
        help: "On: null or an empty array sends the item to the dead letters.", ..SELECT };

    ACTION_KIND: Key { key: "kind", shape: Shape::Choice(&ACTION_KINDS), required: true,
        help: "What is done.", ..ACTION };
    LABEL: Key { key: "label", shape: Shape::Text("a name: letters, digits, `-`, `_`"),
        help: "Stands in the action's key instead of its place, so that actions may be moved.", ..ACTION };

    QUEUE_NAME: Key { key: "queue", shape: Shape::Text("the name of a queue: 3 to 63 of a-z, 0-9, `-`"), required: true,
        help: "Made if it is not there.", ..QUEUE };
    QUEUE_BODY: Key { scope: Scope::Queue, ..BODY };
    QUEUE_TEMPLATE: Key { scope: Scope::Queue, ..TEMPLATE };

    URL: Key { key: "url", shape: Shape::Text("an https address"),
        help: "Where it is posted to. This or `url_secret`.", ..WEBHOOK };
    URL_SECRET: Key { key: "url_secret", help: "Holds the address, where that is a secret itself.", ..SECRET };
    AUTH: Key { key: "auth", shape: Shape::Choice(&AUTHS), default: "none",
        help: "How the request proves itself.", ..WEBHOOK };
    USERNAME_SECRET: Key { key: "username_secret", help: "With `auth = \"basic\"`.", ..SECRET };
    PASSWORD_SECRET: Key { key: "password_secret", help: "With `auth = \"basic\"`.", ..SECRET };
    HEADER: Key { key: "header", shape: Shape::Text("the name of a header"), default: "Authorization",
        help: "With `auth = \"header\"`.", ..WEBHOOK };
    HEADER_SECRET: Key { key: "header_secret", help: "Holds the header's value, with `auth = \"header\"`.", ..SECRET };
    WEBHOOK_HEADERS: Key { key: "headers", shape: Shape::NamedTexts, help: "Further headers; no secrets.", ..WEBHOOK };
    WEBHOOK_BODY: Key { scope: Scope::Webhook, ..BODY };
    WEBHOOK_TEMPLATE: Key { scope: Scope::Webhook, ..TEMPLATE };
    ALLOW_PLAIN_HTTP: Key { key: "allow_plain_http", default: "false",
        help: "Accepts an `http` address, over which everything can be read on the way.", ..WEBHOOK };
    ALLOW_PRIVATE_ADDRESS: Key { key: "allow_private_address", default: "false",
        help: "Accepts an address within a private network.", ..WEBHOOK };

    OWNER: Key { key: "owner", shape: Shape::Text("a ThreatConnect owner"), required: true,
        help: "Where the indicators go.", ..INDICATOR };
    TYPE: Key { key: "type", shape: Shape::Choice(&INDICATOR_TYPES), required: true,
        help: "As ThreatConnect spells it.", ..INDICATOR };
    VALUES: Key { key: "values", shape: Shape::Text("the name of a variable"), required: true,
        help: "One indicator for each of its texts.", ..INDICATOR };
    INDICATOR_MODE: Key { key: "mode", shape: Shape::Choice(&["upsert"]), default: "upsert",
        help: "Made, or changed where it is there.", ..INDICATOR };
    RATING: Key { key: "rating", shape: Shape::Whole { from: 0, to: 5 }, help: "Threat rating.", ..INDICATOR };
    CONFIDENCE: Key { key: "confidence", shape: Shape::Whole { from: 0, to: 100 }, help: "Confidence rating.", ..INDICATOR };
    INDICATOR_TAGS: Key { key: "tags", shape: Shape::Templates, help: "Added; a tag that is one array gives one tag for each text.", ..INDICATOR };
    DESCRIPTION: Key { key: "description", shape: Shape::Template, help: "The attribute Description.", ..INDICATOR };
    SOURCE_TEXT: Key { key: "source", shape: Shape::Template, help: "The attribute Source.", ..INDICATOR };
    ATTRIBUTES: Key { key: "attributes", shape: Shape::NamedTemplates, help: "Further attributes, by type.", ..INDICATOR };
    SECURITY_LABEL: Key { key: "security_label", shape: Shape::Text("the name of a security label"),
        help: "One that exists, such as `TLP:AMBER`.", ..INDICATOR };

    CASE_NAME: Key { key: "name", shape: Shape::Template, required: true,
        help: "Cut at 255 characters. One case for each resource, by a hash of its id.", ..CASE };
    STATUS: Key { key: "status", shape: Shape::Choice(&CASE_STATUSES), default: "Open", help: "Of a new case.", ..CASE };
    SEVERITY: Key { key: "severity", shape: Shape::Template, default: "Medium",
        help: "Low, Medium, High or Critical, in any case, or one `{variable}` that is; informational is Low, all else an error.", ..CASE };
    CASE_DESCRIPTION: Key { key: "description", shape: Shape::Template, help: "Cut at 1,500 characters.", ..CASE };
    CASE_TAGS: Key { key: "tags", shape: Shape::Templates, help: "As for indicators.", ..CASE };
    ARTIFACTS: Key { key: "artifacts", shape: Shape::Tables(Scope::Artifact), help: "What belongs to the case.", ..CASE };
    NOTES: Key { key: "notes", shape: Shape::Templates, help: "Notes of the case.", ..CASE };
    ARTIFACT_TYPE: Key { key: "type", shape: Shape::Text("an artifact type, such as `IP Address`"), required: true,
        help: "As ThreatConnect spells it; not the names of indicator types.", ..ARTIFACT };
    ARTIFACT_VALUES: Key { key: "values", shape: Shape::Text("the name of a variable"), required: true,
        help: "One artifact for each of its texts.", ..ARTIFACT };

    JOB: Key { key: "job", shape: Shape::Text("the name of a job"), help: "Else all of them.", ..EXPORT };
    COALESCE_SECONDS: Key { key: "coalesce_seconds", shape: Shape::Whole { from: 0, to: 86_400 }, default: "60",
        help: "Within this time one run is enough, however many items ask.", ..EXPORT };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_there_twice_and_each_says_what_it_is() {
        let mut seen = std::collections::HashSet::new();
        for key in KEYS {
            assert!(seen.insert((key.scope, key.key)), "{:?} {}", key.scope, key.key);
            assert!(key.help.ends_with('.') && !key.key.is_empty(), "{}", key.key);
            assert!(!key.required || key.default.is_empty(), "{} is required and has a default", key.key);
            // An action has the keys of all actions as well.
            let of_kind =
                [Scope::Queue, Scope::Webhook, Scope::Indicator, Scope::Case, Scope::TriggerExport].contains(&key.scope);
            assert!(!(of_kind && [ACTION_KIND.key, LABEL.key].contains(&key.key)), "{}", key.key);
        }
    }
}
