//! ThreatConnect v3: reads indicators. One concrete client; foreign JSON stays in `wire`.

mod filter;
mod pages;
mod signing;
mod wire;
mod write;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use url::Url;

use crate::indicator::Indicator;
use crate::platform::clock::Clock;
use crate::platform::http::{Bounds, ENCODED, Failure, Http, Reply, Request, Traffic, excerpt, http_date};
use crate::platform::vault::SecretSource;

pub use filter::{FILTERS, Filter, FilterRow};
pub use pages::Pages;
pub use write::{CaseWrite, IndicatorWrite};

/// The extra fields that the mapping needs; none is included unasked.
const FIELDS: [&str; 6] = ["attributes", "falsePositives", "securityLabels", "sightings", "tags", "threatAssess"];
/// Path and query from which on parameters travel in a body: the vendor's own client does the same.
const LONGEST_QUERY: usize = 2_000;
/// Ids or values in one `in (…)`.
const IDS_AT_ONCE: usize = 200;
/// The server accepts a time of signing that is off by less.
const SKEW: Duration = Duration::from_secs(300);

/// How to reach one ThreatConnect instance.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://{instance}/api`; opaque, `/v3/…` is appended.
    pub url: Url,
    pub credentials: Credentials,
    /// Rows asked for per page, 1 to 10,000.
    pub page_size: u32,
}

/// The two documented schemes.
#[derive(Debug, Clone)]
pub enum Credentials {
    Hmac { access_id: String, secret: SecretSource },
    Token(SecretSource),
}

/// An owner that the API user sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub id: u64,
    pub name: String,
    /// `permIndicator` is other than `NONE`.
    pub readable: bool,
}

/// One page of indicators, ids ascending.
#[derive(Debug, Default)]
pub struct Page {
    pub items: Vec<Item>,
    /// Rows that match the query, on the first page of a read only.
    pub count: Option<u64>,
    /// The server's `Date`.
    pub server_time: Option<Timestamp>,
    /// Rows without a readable id.
    pub without_id: u64,
}

/// One row of a page.
#[derive(Debug)]
pub enum Item {
    Indicator(Box<Indicator>),
    /// The id could be read, the rest not.
    Unreadable {
        id: u64,
        reason: String,
    },
}

impl Item {
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Indicator(indicator) => indicator.id,
            Self::Unreadable { id, .. } => *id,
        }
    }
}

/// A failed operation at ThreatConnect.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// One line: what failed, what to do. No secret.
    pub message: String,
    /// Trying later may help.
    pub transient: bool,
    /// The service asked for this wait.
    pub retry_after: Option<Duration>,
}

impl Error {
    pub(crate) fn for_good(message: impl Into<String>) -> Self {
        Self { message: message.into(), transient: false, retry_after: None }
    }
}

/// A client of one instance.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    clock: Arc<dyn Clock>,
    /// Of the base URL; the signed path begins with it.
    page_size: u32,
}

/// Parameters of one list call.
#[derive(Debug, Clone)]
struct Query<'a> {
    tql: &'a str,
    limit: u32,
    start: u64,
    count: bool,
    /// Indicators: the extra fields, sorted by id.
    indicators: bool,
}

impl Client {
    #[must_use]
    pub fn new(config: Config, client: reqwest::Client, clock: Arc<dyn Clock>) -> Self {
        let signer = signing::Signer { credentials: config.credentials, clock: Arc::clone(&clock) };
        // Large pages with all attributes are slow to answer.
        let bounds = Bounds { attempt: Duration::from_secs(120), total: Duration::from_secs(300), ..Bounds::default() };
        let http = Http::new("ThreatConnect", client, Arc::clone(&clock), config.url, Arc::new(signer)).bounded(bounds);
        Self { http, clock, page_size: config.page_size }
    }

    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        self.http.traffic()
    }

    /// All owners that the API user sees.
    ///
    /// # Errors
    /// [`Error`] as every call here.
    pub async fn owners(&self) -> Result<Vec<Owner>, Error> {
        let mut owners = Vec::new();
        loop {
            let query = Query { tql: "", limit: 500, start: owners.len() as u64, count: false, indicators: false };
            let reply = self.call("read owners", "/v3/security/owners", &query).await?;
            let (page, rows) = wire::decode_owners(&reply.body).map_err(|cause| no_page("read owners", &cause))?;
            let full = rows >= query.limit as usize;
            owners.extend(page);
            if !full {
                return Ok(owners);
            }
        }
    }

    /// Reads what `filter` selects and, with `since`, was modified after it, in ascending order of id, beginning after id `after`.
    #[must_use]
    pub fn pages(&self, filter: &Filter, since: Option<Timestamp>, after: u64) -> Pages {
        Pages::new(self.clone(), filter.tql(since), after)
    }

    /// Whether ThreatConnect accepts the query of `filter`: asks for rows beyond the last one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn accepts(&self, filter: &Filter) -> Result<(), Error> {
        self.pages(filter, None, pages::HIGHEST_ID - 1).next().await.map(drop)
    }

    /// How many rows a read would meet, as far as ThreatConnect says, and its time.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn count(&self, filter: &Filter, since: Option<Timestamp>) -> Result<(Option<u64>, Option<Timestamp>), Error> {
        let tql = filter.tql(since);
        let query = Query { tql: &tql, limit: 1, start: 0, count: true, indicators: true };
        let page = self.page("count indicators", &query).await?;
        Ok((page.count, page.server_time))
    }

    /// Those of `ids` that the filter still selects (with `since` as in [`Client::pages`]).
    ///
    /// # Errors
    /// [`Error`]; never a part of the answer.
    pub async fn by_ids(&self, filter: &Filter, since: Option<Timestamp>, ids: &[u64]) -> Result<Vec<Item>, Error> {
        let mut items = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(IDS_AT_ONCE) {
            let list: Vec<String> = chunk.iter().map(u64::to_string).collect();
            let tql = format!("{} and id in ({})", filter.tql(since), list.join(", "));
            items.extend(self.list("read indicators by id", &tql, chunk.len()).await?);
        }
        Ok(items)
    }

    /// Every copy of a value that the API user sees, active or not, whatever the filter.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn by_summary(&self, summary: &str) -> Result<Vec<Item>, Error> {
        // ThreatConnect keeps hashes in upper case, and joins those of one file.
        let (upper, lower) = (filter::quote(&summary.to_uppercase()), filter::quote(&summary.to_lowercase()));
        let hash = matches!(summary.len(), 32 | 40 | 64) && summary.bytes().all(|b| b.is_ascii_hexdigit());
        let within = if hash { format!(" or summary contains {upper} or summary contains {lower}") } else { String::new() };
        let matching = format!("(summary in ({}, {upper}, {lower}){within})", filter::quote(summary));
        let mut items = Vec::new();
        for active in ["true", "false"] {
            let tql = format!("indicatorActive = {active} and {matching}");
            items.extend(self.list("look up a value", &tql, self.page_size as usize).await?);
        }
        Ok(items)
    }

    async fn list(&self, operation: &'static str, tql: &str, limit: usize) -> Result<Vec<Item>, Error> {
        let limit = u32::try_from(limit).unwrap_or(self.page_size).clamp(1, 10_000);
        let query = Query { tql, limit, start: 0, count: false, indicators: true };
        Ok(self.page(operation, &query).await?.items)
    }

    async fn page(&self, operation: &'static str, query: &Query<'_>) -> Result<Page, Error> {
        let reply = self.call(operation, "/v3/indicators", query).await?;
        let server_time = reply.headers.get("date").and_then(|date| http_date(date.to_str().ok()?));
        let decoded = wire::decode_page(&reply.body).map_err(|cause| no_page(operation, &cause))?;
        Ok(Page { items: decoded.items, count: decoded.count, server_time, without_id: decoded.without_id })
    }

    async fn call(&self, operation: &'static str, path: &str, query: &Query<'_>) -> Result<Reply, Error> {
        let reply = self.http.send(query.request(operation, path)).await.map_err(|failure| unanswered(&failure))?;
        if reply.status == 200 {
            return Ok(reply);
        }
        Err(self.refused(operation, &reply))
    }

    /// What a status other than 200 means for the settings.
    fn refused(&self, operation: &str, reply: &Reply) -> Error {
        let said = excerpt(&reply.body).unwrap_or_else(|| format!("status {}", reply.status));
        let advice = match reply.status {
            400 => "ThreatConnect refused the query; check TQL and the filters".to_owned(),
            401 => self.unauthorised(&said, reply),
            403 => "the API user may not do this; check its permissions and OWNERS".to_owned(),
            404 => "there is no v3 API at THREATCONNECT_URL; it ends in `/api` on most instances".to_owned(),
            300..=399 => "THREATCONNECT_URL leads elsewhere; name the address that it leads to".to_owned(),
            _ => format!("an unexpected status {}", reply.status),
        };
        Error::for_good(format!("failed to {operation} from ThreatConnect: {advice} ({said})"))
    }

    fn unauthorised(&self, said: &str, reply: &Reply) -> String {
        let server = reply.headers.get("date").and_then(|date| http_date(date.to_str().ok()?));
        let skew = server.map(|server| self.clock.now().duration_since(server).unsigned_abs());
        if said.contains("Timestamp out of") || skew.is_some_and(|skew| skew > SKEW) {
            let off = skew.map(|skew| format!(" by {} s", skew.as_secs())).unwrap_or_default();
            return format!("this machine's clock and ThreatConnect's differ{off}; at most 300 s are accepted");
        }
        if said.contains("Signature data") {
            return "THREATCONNECT_SECRET_KEY does not belong to API_USER (guide: Api User)".to_owned();
        }
        if said.contains("Access Denied") {
            return "API_USER (guide: Api User) is unknown, or may not see an owner".to_owned();
        }
        "the credentials are not accepted; check API_USER and THREATCONNECT_SECRET_KEY, or THREATCONNECT_TOKEN, which expires"
            .to_owned()
    }
}

impl Query<'_> {
    fn request(&self, operation: &'static str, path: &str) -> Request {
        let query = self.encoded();
        let request = Request { operation, method: Method::GET, path: format!("{path}?{query}"), body: None, idempotent: true };
        if request.path.len() < LONGEST_QUERY {
            return request;
        }
        let mut data = serde_json::json!({ "resultLimit": self.limit, "resultStart": self.start });
        if !self.tql.is_empty() {
            data["tql"] = self.tql.into();
        }
        if self.count {
            data["count"] = true.into();
        }
        if self.indicators {
            data["fields"] = FIELDS.as_slice().into();
            data["sorting"] = "id asc".into();
        }
        let body = serde_json::json!({ "data": data }).to_string();
        Request { path: path.to_owned(), body: Some(body.into()), ..request }
    }

    fn encoded(&self) -> String {
        let mut parts = Vec::new();
        if self.count {
            parts.push("count=true".to_owned());
        }
        if self.indicators {
            parts.extend(FIELDS.iter().map(|field| format!("fields={field}")));
        }
        parts.push(format!("resultLimit={}", self.limit));
        parts.push(format!("resultStart={}", self.start));
        if self.indicators {
            parts.push("sorting=id%20asc".to_owned());
        }
        if !self.tql.is_empty() {
            parts.push(format!("tql={}", utf8_percent_encode(self.tql, ENCODED)));
        }
        parts.join("&")
    }
}

fn no_page(operation: &str, cause: &str) -> Error {
    let hint =
        if cause.contains("HTML") { "; does THREATCONNECT_URL name the API (it ends in `/api` on most instances)?" } else { "" };
    Error {
        transient: !cause.contains("HTML"),
        ..Error::for_good(format!("failed to {operation} from ThreatConnect: {cause}{hint}"))
    }
}

fn unanswered(failure: &Failure) -> Error {
    let hint = match failure.status {
        Some(503) => "; ThreatConnect says 503 also when the instance is not licensed for the API",
        _ if !failure.transient => "",
        _ => "; is THREATCONNECT_URL reachable from here? Nothing was changed, the next run goes on from here",
    };
    Error { message: format!("{failure}{hint}"), transient: failure.transient, retry_after: failure.retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded_as_the_signing_vector_has_it() {
        let tql = "indicatorActive = true and ownerName in (\"Acme Org\", \"Acme \\\"Red\\\" Source\") and typeName in (\"Address\", \"CIDR\", \"EmailAddress\", \"Email Subject\", \"File\", \"Host\", \"URL\", \"User Agent\") and hasTag(name in (\"APT29\", \"Ransomware\")) and threatAssessScore >= 500 and confidence >= 60 and rating >= 3 and falsePositiveCount <= 0 and lastModified > \"2023-11-21T10:11:12Z\" and id > 0";
        let query = Query { tql, limit: 1_000, start: 0, count: false, indicators: true };
        let request = query.request("read indicators", "/v3/indicators");
        assert_eq!(
            format!("/api{}", request.path),
            "/api/v3/indicators?fields=attributes&fields=falsePositives&fields=securityLabels&fields=sightings&fields=tags&fields=threatAssess&resultLimit=1000&resultStart=0&sorting=id%20asc&tql=indicatorActive%20%3D%20true%20and%20ownerName%20in%20%28%22Acme%20Org%22%2C%20%22Acme%20%5C%22Red%5C%22%20Source%22%29%20and%20typeName%20in%20%28%22Address%22%2C%20%22CIDR%22%2C%20%22EmailAddress%22%2C%20%22Email%20Subject%22%2C%20%22File%22%2C%20%22Host%22%2C%20%22URL%22%2C%20%22User%20Agent%22%29%20and%20hasTag%28name%20in%20%28%22APT29%22%2C%20%22Ransomware%22%29%29%20and%20threatAssessScore%20%3E%3D%20500%20and%20confidence%20%3E%3D%2060%20and%20rating%20%3E%3D%203%20and%20falsePositiveCount%20%3C%3D%200%20and%20lastModified%20%3E%20%222023-11-21T10%3A11%3A12Z%22%20and%20id%20%3E%200"
        );
    }

    #[test]
    fn a_long_query_travels_in_a_body_and_the_bare_path_is_signed() {
        let tql = format!("hasTag(name in ({}))", vec!["\"a rather long tag name\""; 100].join(", "));
        let request =
            Query { tql: &tql, limit: 10, start: 0, count: true, indicators: true }.request("read indicators", "/v3/indicators");
        assert_eq!(request.path, "/v3/indicators");
        let body: serde_json::Value = serde_json::from_slice(&request.body.expect("a body")).expect("JSON");
        assert_eq!(body["data"]["tql"], tql);
        assert_eq!((&body["data"]["count"], &body["data"]["sorting"]), (&true.into(), &"id asc".into()));
    }
}
