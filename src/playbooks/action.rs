//! What playbooks ask for, as data with everything filled in: whoever performs it decides nothing, and sees no template.
//!
//! Nothing is done here, and secrets are names only.

use serde::Serialize;
use serde_json::Value;

/// Something to do, with everything filled in.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// One message; who puts it adds the idempotency key.
    Queue { queue: String, body: Body },
    /// A POST with the idempotency key as a header.
    Webhook {
        address: Address,
        auth: Auth,
        headers: Vec<(String, String)>,
        body: Body,
        allow_plain_http: bool,
        allow_private_address: bool,
    },
    /// Each value made, or changed where it is there.
    #[serde(rename = "threatconnect_indicator")]
    ThreatConnectIndicator {
        owner: String,
        /// As ThreatConnect spells it.
        indicator_type: &'static str,
        /// May be none: then there is nothing to do.
        values: Vec<String>,
        rating: Option<u8>,
        confidence: Option<u8>,
        tags: Vec<String>,
        /// Type and value; `Description` and `Source` are the defaults of their types.
        attributes: Vec<(String, String)>,
        security_label: Option<String>,
    },
    /// Made, or changed where one with this external id is there.
    #[serde(rename = "threatconnect_case")]
    ThreatConnectCase {
        /// 35 characters, the same for the same resource.
        xid: String,
        /// At most 255 characters.
        name: String,
        status: &'static str,
        severity: &'static str,
        /// At most 1,500 characters.
        description: Option<String>,
        tags: Vec<String>,
        /// Type and summary.
        artifacts: Vec<(String, String)>,
        notes: Vec<String>,
    },
    /// An export now; several within this time are one.
    TriggerExport { job: Option<String>, coalesce_seconds: u32 },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// `application/json`.
    Json(Value),
    /// `text/plain; charset=utf-8`, unless a header says otherwise.
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    Url(String),
    /// By name. What it holds is to be judged by `address::judge` when it is read.
    Secret(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    None,
    Basic { username_secret: String, password_secret: String },
    Header { header: String, header_secret: String },
}
