//! Every setting, one row each: the guide's Table 1 in its order, then ours. Parser, help, schema and examples follow it.
//!
//! Holds data only; what the rows mean together is in `job`.

use super::LoggingLevel;
use super::cloud::CLOUDS;
use super::parse::{Shape, names};
use crate::export::Resend;
use crate::indicator::{ActionToTake, Tlp};
use crate::sinks::TargetProduct;
use crate::sinks::defender::FileHashes;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Param {
    pub(super) key: &'static str,
    /// The name in the guide's Table 1.
    pub(super) guide_name: Option<&'static str>,
    pub(super) required: Required,
    pub(super) shape: Shape,
    pub(super) default: Option<&'static str>,
    /// In the example files, where neither a default nor a blank will do.
    pub(super) example: &'static str,
    /// Never shown; read from the vault if there is one.
    pub(super) secret: bool,
    /// May be given for one job: `<JOB>__<KEY>`.
    pub(super) per_job: bool,
    /// Decides what is sent or how it looks: part of the fingerprint.
    pub(super) content: bool,
    pub(super) help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Required {
    Yes,
    /// With the condition, in words.
    If(&'static str),
    No,
}

/// "clear" is the newer name of "white".
pub(super) const TLP_LEVELS: [(&str, Tlp); 5] =
    [("White", Tlp::White), ("Clear", Tlp::White), ("Green", Tlp::Green), ("Amber", Tlp::Amber), ("Red", Tlp::Red)];

pub(super) const TARGET_PRODUCTS: [(&str, TargetProduct); 2] =
    [(TargetProduct::Sentinel.name(), TargetProduct::Sentinel), (TargetProduct::Defender.name(), TargetProduct::Defender)];

/// The ways to reach a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Its own interface.
    Product,
    /// Microsoft Graph, as the guide does.
    Graph,
}

pub(super) const DELIVERIES: [(&str, Delivery); 2] = [("product", Delivery::Product), ("graph", Delivery::Graph)];

pub(super) const FILE_HASHES: [(&str, FileHashes); 2] = [("longest", FileHashes::Longest), ("all", FileHashes::All)];

pub(super) const ACTIONS: [(&str, ActionToTake); 2] = [("Alert", ActionToTake::Alert), ("Block", ActionToTake::Block)];

/// What `infra/main.bicep` gives every app as `PLAYBOOKS_FILE`, before there are playbooks.
pub(super) const DEPLOYED_PLAYBOOKS: &str = "playbooks/playbooks.toml";

pub(super) const RESENDS: [(&str, Resend); 2] = [("changed", Resend::Changed), ("always", Resend::Always)];

/// The ways to sign in to Microsoft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignIn {
    Secret,
    Managed,
}

pub(super) const SIGN_INS: [(&str, SignIn); 2] = [("secret", SignIn::Secret), ("managed", SignIn::Managed)];

pub(super) const LOGGING_LEVELS: [(&str, LoggingLevel); 5] = [
    ("trace", LoggingLevel::Trace),
    ("debug", LoggingLevel::Debug),
    ("info", LoggingLevel::Info),
    ("warn", LoggingLevel::Warn),
    ("error", LoggingLevel::Error),
];

const INDICATOR_TYPE_NAMES: [&str; 10] =
    ["Address", "CIDR", "Email Address", "Email Subject", "MD5", "SHA1", "SHA256", "Host", "URL", "User Agent"];

const STORAGE_CREDENTIAL_NAMES: [&str; 1] = ["managedidentity"];

const TLP_NAMES: [&str; 5] = names(&TLP_LEVELS);
const TARGET_PRODUCT_NAMES: [&str; 2] = names(&TARGET_PRODUCTS);
const DELIVERY_NAMES: [&str; 2] = names(&DELIVERIES);
const FILE_HASH_NAMES: [&str; 2] = names(&FILE_HASHES);
const ACTION_NAMES: [&str; 2] = names(&ACTIONS);
const RESEND_NAMES: [&str; 2] = names(&RESENDS);
const SIGN_IN_NAMES: [&str; 2] = names(&SIGN_INS);
const LOGGING_LEVEL_NAMES: [&str; 5] = names(&LOGGING_LEVELS);
const CLOUD_NAMES: [&str; 4] = names(&CLOUDS);

const DAYS: Shape = Shape::Whole { from: 1, to: 3650 };
const COUNT: Shape = Shape::Whole { from: 0, to: u64::MAX };

/// What most rows have: an optional text of a job.
const JOB: Param = Param {
    key: "",
    guide_name: None,
    required: Required::No,
    shape: Shape::Text("text"),
    default: None,
    example: "",
    secret: false,
    per_job: true,
    content: false,
    help: "",
};

/// What decides which indicators are sent, or how they look.
const CONTENT: Param = Param { content: true, ..JOB };

/// What holds for the whole process.
const PROCESS: Param = Param { per_job: false, ..JOB };

/// Which secret of the vault to read.
const SECRET_NAME: Param = Param { shape: Shape::SecretName, ..JOB };

/// The name of a row is its key, unless it is one of the Functions host's, which come with theirs.
macro_rules! table {
    ($($key:ident $(= $host:literal)?: $row:expr;)*) => {
        $(pub(super) static $key: Param = Param { key: table!(@key $key $($host)?), ..$row };)*

        /// All rows, in order.
        pub(super) static TABLE: &[&Param] = &[$(&$key),*];
    };
    (@key $key:ident) => { stringify!($key) };
    (@key $key:ident $host:literal) => { $host };
}

table! {
    API_USER: Param {
        guide_name: Some("Api User"),
        required: Required::If("THREATCONNECT_TOKEN is not given"),
        shape: Shape::Text("the access id of a ThreatConnect API user"),
        help: "ThreatConnect access id; signs with THREATCONNECT_SECRET_KEY.",
        ..JOB
    };
    MICROSOFT_GRAPH_CLIENT_ID: Param {
        guide_name: Some("Microsoft Graph Client ID"),
        required: Required::If("IDENTITY=secret"),
        shape: Shape::Text("the client id of an app registration"),
        help: "Client id of the app registered in Microsoft Entra.",
        ..JOB
    };
    MICROSOFT_GRAPH_CLIENT_SECRET: Param {
        guide_name: Some("Microsoft Graph Client Secret"),
        required: Required::If("IDENTITY=secret"),
        shape: Shape::Text("the value of a client secret"),
        secret: true,
        help: "Value of a client secret of that app.",
        ..JOB
    };
    MICROSOFT_GRAPH_TENANT_ID: Param {
        guide_name: Some("Microsoft Graph Tenant ID"),
        required: Required::Yes,
        shape: Shape::Text("the id of a tenant, or one of its domain names"),
        help: "Id of the Microsoft Entra tenant.",
        ..JOB
    };
    DEFAULT_TLP_LEVEL: Param {
        guide_name: Some("Default TLP Level"),
        required: Required::Yes,
        shape: Shape::Choice(&TLP_NAMES),
        example: "Amber",
        help: "TLP of indicators without a TLP label. Clear is White.",
        ..CONTENT
    };
    TARGET_PRODUCT: Param {
        guide_name: Some("Target Product"),
        required: Required::Yes,
        shape: Shape::Choice(&TARGET_PRODUCT_NAMES),
        example: "Microsoft Sentinel",
        help: "Where indicators go.",
        ..CONTENT
    };
    ACTION_TO_TAKE: Param {
        guide_name: Some("Action to Take"),
        required: Required::Yes,
        shape: Shape::Choice(&ACTION_NAMES),
        example: "Alert",
        help: "What the target does when it sees an indicator.",
        ..CONTENT
    };
    EXPIRATION_DAYS_EMAIL: Param {
        guide_name: Some("Expiration Days - Email"),
        required: Required::Yes,
        shape: DAYS,
        example: "30",
        help: "Days until an email indicator expires at the target, unless it is sent again.",
        ..CONTENT
    };
    EXPIRATION_DAYS_FILE: Param {
        guide_name: Some("Expiration Days - File"),
        required: Required::Yes,
        shape: DAYS,
        example: "90",
        help: "The same for file indicators.",
        ..CONTENT
    };
    EXPIRATION_DAYS_NETWORK: Param {
        guide_name: Some("Expiration Days - Network"),
        required: Required::Yes,
        shape: DAYS,
        example: "30",
        help: "The same for network indicators.",
        ..CONTENT
    };
    OWNERS: Param {
        guide_name: Some("Owners"),
        shape: Shape::List("names of ThreatConnect owners"),
        help: "Owners whose indicators are sent; all that the API user sees if blank. A name that does not exist is an error of the run.",
        ..CONTENT
    };
    INDICATOR_TYPES: Param {
        guide_name: Some("Indicator Types"),
        shape: Shape::Choices(&INDICATOR_TYPE_NAMES),
        help: "Types of indicators that are sent; all ten if blank.",
        ..CONTENT
    };
    LAST_RUN: Param {
        guide_name: Some("Last Run"),
        required: Required::If("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN=on"),
        shape: Shape::LastRun,
        help: "How far back the first run reads. Ignored unless only modified indicators are sent.",
        ..CONTENT
    };
    ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN: Param {
        guide_name: Some("Only Send Indicators Modified Since Last Run"),
        shape: Shape::Switch,
        default: Some("off"),
        help: "On: runs read what was modified, with a full run every FULL_RUN_EVERY. Off: every run reads everything.",
        ..CONTENT
    };
    TQL: Param {
        guide_name: Some("TQL"),
        shape: Shape::Text("a query in TQL"),
        help: "Custom query. Replaces Owners, Indicator Types, Tags Filter, the three minimums and False Positive Threshold.",
        ..CONTENT
    };
    TAGS_FILTER: Param {
        guide_name: Some("Tags Filter"),
        shape: Shape::List("tags"),
        help: "An indicator must have at least one of these tags.",
        ..CONTENT
    };
    MINIMUM_THREATASSESS_SCORE: Param {
        guide_name: Some("Minimum ThreatAssess Score"),
        shape: Shape::Whole { from: 0, to: 1000 },
        help: "The least ThreatAssess score.",
        ..CONTENT
    };
    MINIMUM_CONFIDENCE_RATING: Param {
        guide_name: Some("Minimum Confidence Rating"),
        shape: Shape::Whole { from: 0, to: 100 },
        help: "The least confidence rating.",
        ..CONTENT
    };
    MINIMUM_THREAT_RATING: Param {
        guide_name: Some("Minimum Threat Rating"),
        shape: Shape::Rating,
        help: "The least threat rating.",
        ..CONTENT
    };
    FALSE_POSITIVE_THRESHOLD: Param {
        guide_name: Some("False Positive Threshold"),
        shape: COUNT,
        help: "The most false positives that an indicator may have; 0 sends those without any.",
        ..CONTENT
    };
    LOGGING_LEVEL: Param {
        guide_name: Some("Logging Level"),
        shape: Shape::Choice(&LOGGING_LEVEL_NAMES),
        default: Some("info"),
        help: "How much is logged.",
        ..PROCESS
    };
    INDICATOR_RESERVE_COUNT: Param {
        guide_name: Some("Indicator Reserve Count"),
        shape: COUNT,
        help: "Of the 15,000 places at Microsoft Defender for Endpoint, those to leave free; above 15,000 nothing is sent there. Has no effect at Microsoft Sentinel.",
        ..JOB
    };

    JOBS: Param {
        shape: Shape::List("names of jobs (`a` to `z`, digits and `-`, a letter first)"),
        default: Some("default"),
        help: "Several sets of these settings. A job called `my-job` takes a setting from MY_JOB__KEY, else from KEY. Commas separate too.",
        ..PROCESS
    };
    EXPORT_SCHEDULE: Param {
        shape: Shape::Schedule,
        default: Some("0 */15 * * * *"),
        help: "When runs start. Day of month and day of week must both match; Sunday is 0.",
        ..JOB
    };
    FULL_RUN_EVERY: Param {
        shape: Shape::Duration,
        default: Some("24h"),
        help: "Time between full runs while only modified indicators are sent; at most a third of the shortest expiration.",
        ..JOB
    };
    RESEND: Param {
        shape: Shape::Choice(&RESEND_NAMES),
        default: Some("changed"),
        help: "`changed` sends what is new, changed or close to its expiry; `always` sends everything on each run, as the guide's app does.",
        ..JOB
    };
    WITHDRAW: Param {
        shape: Shape::Switch,
        default: Some("on"),
        help: "Take back what ThreatConnect no longer has.",
        ..JOB
    };
    WITHDRAW_LIMIT: Param {
        shape: Shape::Percent,
        default: Some("20%"),
        help: "A run that would take back more than this share of what is at the target, and more than 20, asks for approval.",
        ..JOB
    };
    DELIVERY: Param {
        shape: Shape::Choice(&DELIVERY_NAMES),
        default: Some("product"),
        help: "`product` uses the target's own interface. `graph` goes through Microsoft Graph's tiIndicator as the guide does, which Microsoft has announced to remove.",
        ..CONTENT
    };
    THREATCONNECT_URL: Param {
        required: Required::Yes,
        shape: Shape::Address,
        example: "https://example.threatconnect.com/api",
        help: "Address of the ThreatConnect API: https://{instance}/api.",
        ..CONTENT
    };
    THREATCONNECT_SECRET_KEY: Param {
        required: Required::If("API_USER is given"),
        shape: Shape::Text("the secret key of the API user"),
        secret: true,
        help: "Secret key of API_USER.",
        ..JOB
    };
    THREATCONNECT_TOKEN: Param {
        required: Required::If("API_USER is not given"),
        shape: Shape::Text("a ThreatConnect API token"),
        secret: true,
        help: "API token, in place of API_USER and its secret key; not both.",
        ..JOB
    };
    THREATCONNECT_PAGE_SIZE: Param {
        shape: Shape::Whole { from: 1, to: 10_000 },
        default: Some("1000"),
        help: "Indicators asked for in one request.",
        ..JOB
    };
    SENTINEL_WORKSPACE_ID: Param {
        required: Required::If("TARGET_PRODUCT=Microsoft Sentinel and DELIVERY=product"),
        shape: Shape::Text("the GUID of a Log Analytics workspace"),
        help: "GUID of the Log Analytics workspace, not its name or resource id.",
        ..CONTENT
    };
    SENTINEL_SOURCE_SYSTEM: Param {
        shape: Shape::Text("a name other than `Microsoft Sentinel`"),
        default: Some("Indicator Relay"),
        help: "Source that Sentinel shows. Keep it: under another name everything is uploaded again and the old objects stay until they expire.",
        ..CONTENT
    };
    SENTINEL_USER_AGENTS: Param {
        shape: Shape::Switch,
        default: Some("off"),
        help: "Send User Agent indicators to Sentinel.",
        ..CONTENT
    };
    SENTINEL_SEVERITY_EXTENSION: Param {
        shape: Shape::Switch,
        default: Some("off"),
        help: "Add the severity as a STIX extension.",
        ..CONTENT
    };
    DEFENDER_DEVICE_GROUPS: Param {
        shape: Shape::List("names of device groups"),
        help: "Device groups of Microsoft Defender that the indicators apply to; all devices if blank.",
        ..CONTENT
    };
    DEFENDER_FILE_HASHES: Param {
        shape: Shape::Choice(&FILE_HASH_NAMES),
        default: Some("longest"),
        help: "Which hashes of a file Microsoft Defender gets: the longest, which it heeds first, or all.",
        ..CONTENT
    };
    NEVER_SEND: Param {
        shape: Shape::List("values, domains (with their subdomains) and networks"),
        help: "What never goes out, whatever ThreatConnect says: own domains, own networks, public resolvers.",
        ..CONTENT
    };
    ALLOW_PRIVATE_ADDRESSES: Param {
        shape: Shape::Switch,
        default: Some("off"),
        help: "Send private and reserved addresses even with the action Block.",
        ..CONTENT
    };
    IDENTITY: Param {
        shape: Shape::Choice(&SIGN_IN_NAMES),
        default: Some("secret"),
        help: "How to sign in to Microsoft: with the client secret, or with a managed identity.",
        ..PROCESS
    };
    MANAGED_IDENTITY_CLIENT_ID: Param {
        shape: Shape::Text("the client id of a user-assigned managed identity"),
        help: "For a user-assigned managed identity.",
        ..PROCESS
    };
    KEY_VAULT_URL: Param {
        shape: Shape::Address,
        help: "Key Vault that holds the secrets. Each secret setting is then read from the vault, by its name in lower case with `-`.",
        ..PROCESS
    };
    MICROSOFT_GRAPH_CLIENT_SECRET_SECRET_NAME: Param {
        default: Some("microsoft-graph-client-secret"),
        help: "Name in the vault of MICROSOFT_GRAPH_CLIENT_SECRET.",
        ..SECRET_NAME
    };
    THREATCONNECT_SECRET_KEY_SECRET_NAME: Param {
        default: Some("threatconnect-secret-key"),
        help: "Name in the vault of THREATCONNECT_SECRET_KEY.",
        ..SECRET_NAME
    };
    THREATCONNECT_TOKEN_SECRET_NAME: Param {
        default: Some("threatconnect-token"),
        help: "Name in the vault of THREATCONNECT_TOKEN.",
        ..SECRET_NAME
    };
    CLIENT_STATE_KEY_SECRET_NAME: Param {
        default: Some("client-state-key"),
        per_job: false,
        help: "Name in the vault of CLIENT_STATE_KEY.",
        ..SECRET_NAME
    };
    CLIENT_STATE_KEY_PREVIOUS_SECRET_NAME: Param {
        default: Some("client-state-key-previous"),
        per_job: false,
        help: "Name in the vault of CLIENT_STATE_KEY_PREVIOUS; there need be none.",
        ..SECRET_NAME
    };
    CLOUD: Param {
        shape: Shape::Choice(&CLOUD_NAMES),
        default: Some("global"),
        help: "Microsoft's cloud; sets the addresses and the scope below. GCC is in the global cloud.",
        ..PROCESS
    };
    LOGIN_URL: Param {
        shape: Shape::Address,
        help: "Address to sign in at, in place of the cloud's.",
        ..PROCESS
    };
    SENTINEL_URL: Param {
        shape: Shape::Address,
        help: "Address of Sentinel's upload API, in place of the cloud's.",
        ..JOB
    };
    SENTINEL_SCOPE: Param {
        shape: Shape::Text("a scope such as `https://management.azure.com/.default`"),
        help: "Scope of the tokens for Sentinel, in place of the cloud's.",
        ..JOB
    };
    DEFENDER_URL: Param {
        shape: Shape::Address,
        help: "Address of Defender's API, in place of the cloud's; regional ones (https://eu.api.security.microsoft.com) are nearer.",
        ..JOB
    };
    DEFENDER_SCOPE: Param {
        shape: Shape::Text("a scope such as `https://api.securitycenter.microsoft.com/.default`"),
        help: "Scope of the tokens for Defender, in place of the cloud's.",
        ..JOB
    };
    GRAPH_URL: Param {
        shape: Shape::Address,
        help: "Address of Microsoft Graph, in place of the cloud's.",
        ..JOB
    };
    GRAPH_SCOPE: Param {
        shape: Shape::Text("a scope such as `https://graph.microsoft.com/.default`"),
        help: "Scope of the tokens for Microsoft Graph, in place of the cloud's.",
        ..JOB
    };
    STORAGE = "AzureWebJobsStorage": Param {
        shape: Shape::ConnectionString,
        help: "Storage account for state and queues, by its key: the Functions host's own setting. For Azurite and tests.",
        ..PROCESS
    };
    STORAGE_ACCOUNT_NAME = "AzureWebJobsStorage__accountName": Param {
        shape: Shape::Text("the name of a storage account"),
        help: "The same account by identity, without a key: in Azure the managed identity, elsewhere who is signed in (`az login`).",
        ..PROCESS
    };
    STORAGE_CREDENTIAL = "AzureWebJobsStorage__credential": Param {
        shape: Shape::Choice(&STORAGE_CREDENTIAL_NAMES),
        help: "Use the managed identity for the account; in Azure always.",
        ..PROCESS
    };
    STORAGE_CLIENT_ID = "AzureWebJobsStorage__clientId": Param {
        shape: Shape::Text("the client id of a user-assigned managed identity"),
        help: "For a user-assigned managed identity.",
        ..PROCESS
    };
    STORAGE_BLOB_URI = "AzureWebJobsStorage__blobServiceUri": Param {
        shape: Shape::Address,
        help: "Address of the account's blob service, in place of its name: for other clouds and own domains. All three or none.",
        ..PROCESS
    };
    STORAGE_QUEUE_URI = "AzureWebJobsStorage__queueServiceUri": Param {
        shape: Shape::Address,
        help: "Address of its queue service.",
        ..PROCESS
    };
    STORAGE_TABLE_URI = "AzureWebJobsStorage__tableServiceUri": Param {
        shape: Shape::Address,
        help: "Address of its table service.",
        ..PROCESS
    };
    STATE_FILE: Param {
        shape: Shape::Text("a path"),
        default: Some("indicator-relay.db"),
        help: "File that remembers what was sent, where no storage account is given.",
        ..PROCESS
    };
    PLAYBOOKS_FILE: Param {
        shape: Shape::Text("a path, or `{container}/{blob}` of the storage account"),
        default: Some("playbooks.toml"),
        help: "The playbooks: what to do about notifications.",
        ..PROCESS
    };
    PUBLIC_URL: Param {
        shape: Shape::Address,
        help: "Address of this app that Microsoft Graph calls, without `/api/notifications`. Nothing is subscribed to without it.",
        ..PROCESS
    };
    CLIENT_STATE_KEY: Param {
        shape: Shape::Text("at least 16 random characters"),
        secret: true,
        help: "Key that proves notifications to be of our own subscriptions. Without it and without a vault, one is made at first use.",
        ..PROCESS
    };
    CLIENT_STATE_KEY_PREVIOUS: Param {
        shape: Shape::Text("at least 16 random characters"),
        secret: true,
        help: "The key before it, until all subscriptions made with that one are replaced.",
        ..PROCESS
    };
    ENCRYPTION_CERTIFICATES: Param {
        shape: Shape::List("names of certificates in the vault, or files (PEM, PKCS#12)"),
        help: "Certificates for notifications that bring the changed object along, newest first.",
        ..PROCESS
    };
    TOKEN_AUDIENCES: Param {
        shape: Shape::List("client ids"),
        help: "Apps that the tokens of encrypted notifications must be for; if blank, MICROSOFT_GRAPH_CLIENT_ID and MANAGED_IDENTITY_CLIENT_ID. With a system-assigned identity, give its application (client) id.",
        ..PROCESS
    };
    TOKEN_TENANTS: Param {
        shape: Shape::List("ids of tenants (GUIDs)"),
        help: "Tenants whose encrypted notifications are taken; MICROSOFT_GRAPH_TENANT_ID if blank. If that is a domain name, give the id of the tenant, here or there: tokens name no other.",
        ..PROCESS
    };
    SUBSCRIPTION_SCHEDULE: Param {
        shape: Shape::Schedule,
        default: Some("0 */5 * * * *"),
        help: "When subscriptions are compared with what the playbooks want, and renewed.",
        ..PROCESS
    };
    ALERT_POLL_SCHEDULE: Param {
        shape: Shape::Schedule,
        default: Some("0 */5 * * * *"),
        help: "When alerts and incidents are polled, which nobody can subscribe to.",
        ..PROCESS
    };
    OTEL_EXPORTER_OTLP_ENDPOINT: Param {
        shape: Shape::Address,
        help: "OpenTelemetry collector that gets spans and metrics (OTLP over HTTP). The other standard OTEL variables hold too.",
        ..PROCESS
    };
    TIME_BUDGET: Param {
        shape: Shape::Duration,
        help: "Time that one invocation may take before it hands over to the next.",
        ..PROCESS
    };
}

/// The row of a key without job prefix.
pub(super) fn row(key: &str) -> Option<&'static Param> {
    TABLE.iter().copied().find(|row| row.key == key)
}

impl Param {
    /// The row that names this secret in the vault; none if this is no secret.
    pub(super) fn secret_name(&self) -> Option<&'static Param> {
        row(&format!("{}_SECRET_NAME", self.key)).filter(|_| self.secret)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::indicator::Kind;

    /// Table 1 of the guide, first column.
    const GUIDE: [&str; 22] = [
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
        "Indicator Reserve Count",
    ];

    #[test]
    fn the_guides_parameters_come_first_in_its_order() {
        let names: Vec<_> = TABLE.iter().map_while(|row| row.guide_name).collect();
        assert_eq!(names, GUIDE);
        assert!(TABLE[22..].iter().all(|row| row.guide_name.is_none()));
    }

    #[test]
    fn the_guides_keys_are_its_names_in_upper_snake_case() {
        for row in &TABLE[..22] {
            let name = row.guide_name.unwrap_or_default().to_uppercase();
            let words: Vec<_> = name.split([' ', '-']).filter(|word| !word.is_empty()).collect();
            assert_eq!(row.key, words.join("_"));
        }
    }

    #[test]
    fn no_key_is_there_twice_and_none_looks_like_that_of_a_job() {
        let keys: BTreeSet<_> = TABLE.iter().map(|row| row.key).collect();
        assert_eq!(keys.len(), TABLE.len());
        let ours = keys.iter().filter(|key| !key.starts_with(STORAGE.key));
        assert!({ ours }.all(|key| !key.contains("__") && key.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')));
    }

    #[test]
    fn each_secret_has_a_name_in_the_vault_which_is_its_key_in_kebab_case() {
        for row in TABLE.iter().filter(|row| row.secret) {
            let name = row.secret_name().expect("a row for the secret's name");
            assert_eq!(name.default, Some(row.key.to_ascii_lowercase().replace('_', "-").as_str()));
            assert_eq!(name.per_job, row.per_job);
            assert!(row.default.is_none() && row.example.is_empty() && !row.content);
        }
    }

    #[test]
    fn every_row_is_explained_and_no_required_one_has_a_default() {
        for row in TABLE {
            assert!(row.help.ends_with('.') && !row.shape.accepts().is_empty(), "{}", row.key);
            assert!(row.required == Required::No || row.default.is_none(), "{}", row.key);
            assert!(row.per_job || !row.content, "{}", row.key);
        }
    }

    #[test]
    fn the_indicator_types_are_the_domains() {
        assert_eq!(INDICATOR_TYPE_NAMES, Kind::ALL.map(Kind::guide_name));
    }

    #[test]
    fn the_actions_are_the_domains() {
        assert_eq!(ACTIONS.map(|(name, action)| (name, action.name() == name)), [("Alert", true), ("Block", true)]);
    }
}
