//! What a refusal of Azure Storage means, in one line that says what to do.
//!
//! Source: "Common REST API error codes" and those of table, queue and blob. Branches on codes: texts may change, and the
//! service's own text about a signature says more than an error should.

use azure_core::error::ErrorKind;
use jiff::Timestamp;

use crate::platform::http::{Failure, Reply, error_code, excerpt, http_date};
use crate::platform::identity::NO_SIGN_IN;

/// A resource of the account, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Table(&'a str),
    Queue(&'a str),
    Container(&'a str),
}

impl Part<'_> {
    fn shown(self) -> String {
        match self {
            Self::Table(name) => format!("the table `{name}`"),
            Self::Queue(name) => format!("the queue `{name}`"),
            Self::Container(name) => format!("the blob container `{name}`"),
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::Table(_) => "Storage Table Data Contributor",
            Self::Queue(_) => "Storage Queue Data Contributor",
            Self::Container(_) => "Storage Blob Data Contributor",
        }
    }

    fn command(self, account: &str) -> String {
        let (kind, name) = match self {
            Self::Table(name) => ("table", name),
            Self::Queue(name) => ("queue", name),
            Self::Container(name) => ("container", name),
        };
        format!("az storage {kind} create --name {name} --account-name {account} --auth-mode login")
    }
}

/// What an answer says that is not the one that was hoped for.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// None: there was no answer.
    pub(super) status: Option<u16>,
    pub(super) code: Option<String>,
    /// The service's own words, or what is wrong with the connection; no secret.
    pub(super) detail: String,
    /// The service's time.
    pub(super) date: Option<Timestamp>,
}

impl Refusal {
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// The table, queue or container does not exist.
    pub(super) fn missing(&self) -> bool {
        self.is(&["TableNotFound", "QueueNotFound", "ContainerNotFound"])
    }
}

impl From<&Reply> for Refusal {
    fn from(reply: &Reply) -> Self {
        let header = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
        let code = error_code(&reply.body).or_else(|| header("x-ms-error-code").map(str::to_owned));
        let detail = excerpt(&reply.body).unwrap_or_default();
        Self { status: Some(reply.status), code, detail, date: header("date").and_then(http_date) }
    }
}

impl From<&Failure> for Refusal {
    fn from(failure: &Failure) -> Self {
        Self { status: failure.status, code: failure.code.clone(), detail: failure.cause.clone(), date: None }
    }
}

impl From<&azure_core::Error> for Refusal {
    /// The client's own text may hold the address with its signature: it is not repeated.
    fn from(error: &azure_core::Error) -> Self {
        if let ErrorKind::HttpResponse { status, error_code, raw_response } = error.kind() {
            let header = raw_response.as_ref().and_then(|response| response.headers().get_optional_str(&"date".into()));
            let date = header.and_then(http_date);
            return Self { status: Some(u16::from(*status)), code: error_code.clone(), detail: String::new(), date };
        }
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let detail = match error.kind() {
            ErrorKind::Credential => NO_SIGN_IN.to_owned(),
            // Below the client that knows the address.
            ErrorKind::Connection | ErrorKind::Io if innermost.is::<std::io::Error>() => format!("no connection: {innermost}"),
            ErrorKind::Connection | ErrorKind::Io => "no connection".to_owned(),
            ErrorKind::DataConversion => "an answer that cannot be read".to_owned(),
            _ => "the client refused the request".to_owned(),
        };
        Self { detail, ..Self::default() }
    }
}

/// Beyond this the service refuses a signature that was made in time.
const SKEW_MINUTES: i64 = 15;

/// Who asks, for the words of a remedy.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) account: String,
    /// With the account's key; else as an identity.
    pub(super) by_key: bool,
}

impl Caller {
    /// One line: what is wrong and what to change.
    pub(super) fn explain(&self, part: Part<'_>, refusal: &Refusal, now: Timestamp) -> String {
        let account = &self.account;
        if refusal.missing() {
            return format!("{} does not exist: deploy `infra/`, or run `{}`", part.shown(), part.command(account));
        }
        let code = refusal.code.as_deref().unwrap_or_default();
        match (refusal.status, code) {
            (_, "KeyBasedAuthenticationNotPermitted") => format!(
                "the account takes no keys: leave out AzureWebJobsStorage and set AzureWebJobsStorage__accountName={account}"
            ),
            (_, "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation") | (Some(401), _) => {
                self.not_believed(refusal, now)
            }
            (_, "AuthorizationPermissionMismatch") => format!(
                "the identity has no role for it: give it \"{}\" on the storage account; that takes some minutes",
                part.role()
            ),
            (Some(403), _) if self.by_key => {
                format!(
                    "the account refuses this machine{}: is its key right, and does its firewall (networking) let this machine in?",
                    shown_code(code)
                )
            }
            (Some(403), _) => format!(
                "refused{}: give the identity \"{}\" on the storage account, and look at the account's firewall (networking)",
                shown_code(code),
                part.role()
            ),
            (_, "AccountIsDisabled") => "the storage account is disabled".to_owned(),
            (Some(404), _) => format!("there is no such storage account{}: check AzureWebJobsStorage", shown_code(code)),
            (Some(status), _) if refusal.detail.is_empty() || refusal.detail.starts_with("status ") => {
                format!("{} answered with status {status}{}", part.shown(), shown_code(code))
            }
            (Some(status), _) => {
                format!("{} answered with status {status}{}: {}", part.shown(), shown_code(code), refusal.detail)
            }
            (None, _) if refusal.detail.starts_with(NO_SIGN_IN) && !self.by_key => {
                "no sign-in: on this machine use `az login`; in Azure set AzureWebJobsStorage__credential=managedidentity and see whether AzureWebJobsStorage__clientId is one of the app's identities"
                    .to_owned()
            }
            (None, _) if refusal.detail.starts_with("no connection") => {
                format!("{}; check AzureWebJobsStorage (is the account called `{account}`?) and the way to it", refusal.detail)
            }
            (None, _) => refusal.detail.clone(),
        }
    }

    /// Who we are was not accepted: the clock, the key, or the identity's tenant.
    fn not_believed(&self, refusal: &Refusal, now: Timestamp) -> String {
        let off = refusal.date.map_or(0, |date| now.duration_since(date).as_secs() / 60);
        if off.abs() >= SKEW_MINUTES {
            return format!("this machine's clock is {} minutes {}: set it", off.abs(), if off > 0 { "fast" } else { "slow" });
        }
        if self.by_key {
            return "the account key is wrong or was replaced: copy AzureWebJobsStorage anew from the account's access keys"
                .to_owned();
        }
        "the sign-in is not accepted: the identity must be one of the storage account's tenant".to_owned()
    }
}

fn shown_code(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" ({code})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(by_key: bool, status: u16, code: &str) -> String {
        let caller = Caller { account: "contoso".to_owned(), by_key };
        let refusal = Refusal { status: Some(status), code: Some(code.to_owned()), ..Refusal::default() };
        caller.explain(Part::Queue("export-runs"), &refusal, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        for (by_key, status, code, remedy) in [
            (
                false,
                404,
                "QueueNotFound",
                "`az storage queue create --name export-runs --account-name contoso --auth-mode login`",
            ),
            (false, 403, "AuthorizationPermissionMismatch", "\"Storage Queue Data Contributor\""),
            (false, 403, "AuthorizationFailure", "\"Storage Queue Data Contributor\""),
            (true, 403, "AuthorizationFailure", "firewall"),
            (true, 403, "AuthenticationFailed", "account key is wrong"),
            (false, 401, "InvalidAuthenticationInfo", "tenant"),
            (true, 403, "KeyBasedAuthenticationNotPermitted", "AzureWebJobsStorage__accountName=contoso"),
            (true, 404, "ResourceNotFound", "no such storage account"),
            (true, 409, "QueueBeingDeleted", "status 409 (QueueBeingDeleted)"),
        ] {
            let line = explain(by_key, status, code);
            assert!(line.contains(remedy) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_told_from_a_wrong_key() {
        let caller = Caller { account: "contoso".to_owned(), by_key: true };
        let date = Some("2026-11-24T09:00:00Z".parse().expect("a time"));
        let refusal = Refusal { status: Some(403), code: Some("AuthenticationFailed".to_owned()), date, ..Refusal::default() };
        let line = |now: &str| caller.explain(Part::Table("t"), &refusal, now.parse().expect("a time"));
        assert!(line("2026-11-24T06:00:00Z").contains("clock is 180 minutes slow"));
        assert!(line("2026-11-24T09:20:00Z").contains("clock is 20 minutes fast"));
        assert!(line("2026-11-24T09:01:00Z").contains("key is wrong"));
    }
}
