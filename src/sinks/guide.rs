//! The guide's 22 mapping rows, verbatim and in its order (Tables 2 to 5), and what a sink's column beside them is.
//!
//! The guide's wording lives here and not in the sink that follows it word for word, so that a sink can go.

/// One row of the guide's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuideField {
    /// The guide's heading of the table.
    pub table: &'static str,
    /// "ThreatConnect Field".
    pub field: &'static str,
    /// "Microsoft Graph API Field".
    pub graph: &'static str,
}

const ALL: &str = "All Observable Types";
const EMAIL: &str = "Email Observables";
const NETWORK: &str = "Network Observables";
const FILE: &str = "File Observables";

const fn row(table: &'static str, field: &'static str, graph: &'static str) -> GuideField {
    GuideField { table, field, graph }
}

/// The rows; every sink answers each of them once, in this order.
pub static GUIDE: [GuideField; 22] = [
    row(ALL, "Confidence", "confidence"),
    row(ALL, "\"ThreatConnect | Owner: {Owner}\"", "description"),
    row(ALL, "XID", "externalId"),
    row(ALL, "Attribute: \"Phase of Intrusion\"", "killChain"),
    row(ALL, "False Positive Count", "knownFalsePositives"),
    row(ALL, "Attribute: \"Last Seen\"", "lastReportedDateTime"),
    row(ALL, "Threat Rating", "severity"),
    row(ALL, "Tags", "tags"),
    row(ALL, "Security Label", "tlpLevel"),
    row(ALL, "\"Watchlist\"", "threatType"),
    row(ALL, "Weblink", "additionalInformation"),
    row(EMAIL, "Indicator: Email Address", "emailSenderAddress"),
    row(EMAIL, "Indicator: Email Subject", "emailSubject"),
    row(NETWORK, "Indicator: Host", "domainName"),
    row(NETWORK, "Indicator: CIDR", "networkCidrBlock"),
    row(NETWORK, "Indicator: Address", "networkIPv4"),
    row(NETWORK, "Attribute: \"Network Protocol Analysis\"", "networkPort"),
    row(NETWORK, "Attribute: \"Network Protocol Analysis\"", "networkProtocol"),
    row(NETWORK, "Indicator: URL", "url"),
    row(NETWORK, "Indicator: User Agent", "userAgent"),
    row(FILE, "File Hash Type", "fileHashType"),
    row(FILE, "Indicator: File", "fileHashValue"),
];

/// How a sink answers one row of the guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// The property that it is written to, and how.
    Property { path: &'static str, note: &'static str },
    /// Why it is not written: the text that users see where an observable is skipped for it.
    Declined(&'static str),
}

/// Short, so that a column reads as a table.
pub(crate) const fn to(path: &'static str, note: &'static str) -> Fill {
    Fill::Property { path, note }
}

/// A sink's column beside the guide's rows.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// `Microsoft Sentinel`.
    pub product: &'static str,
    /// In the guide's order.
    pub fields: &'static [Fill; 22],
    /// What the vendor needs and the guide does not name: property and value.
    pub beyond: &'static [(&'static str, &'static str)],
}
