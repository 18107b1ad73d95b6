//! Reads what notifications are about, from Microsoft Graph: one object, or one page of what changed.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use url::Url;

use crate::platform::http::{Bounds, Failure, Http, Reply, Request, excerpt, path_below};
use crate::platform::json;

/// One look is short, since the worker tries again by delayed copies; a wait that the service asks for is handed on.
const BOUNDS: Bounds = Bounds { attempts: 1, total: Duration::ZERO, attempt: Duration::from_secs(60), body: 32 << 20 };

/// Why there is no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Not there, or not there yet.
    NotFound,
    /// A place in the changes that the service knows no more.
    Expired,
    /// Trying again changes nothing: one line with what to do.
    Refused(String),
    /// Not permitted, which somebody has to mend.
    Forbidden(String),
    /// After this time, if the service says so.
    Later(Option<Duration>, String),
}

/// One page of what changed below a root.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Changes {
    pub objects: Vec<Value>,
    pub next: Next,
}

/// Where to go on, as path and query below the service's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// There is more now.
    Page(String),
    /// All was read; from here on next time.
    Delta(String),
}

/// A reader.
#[derive(Debug, Clone)]
pub struct Reader {
    http: Http,
    /// Of the service: links in its answers lead below it, or nowhere.
    base: Url,
}

impl Reader {
    /// `http` has the address `base`.
    #[must_use]
    pub fn new(http: Http, base: Url) -> Self {
        Self { http: http.bounded(BOUNDS), base }
    }

    pub(super) async fn object(&self, path: &str) -> Result<Value, Trouble> {
        let body = self.read("read a changed object", path).await?;
        json::read(&body.body).map_err(|_| Trouble::Later(None, "the answer of Microsoft Graph is no JSON".to_owned()))
    }

    pub(super) async fn changes(&self, path: &str) -> Result<Changes, Trouble> {
        let reply = self.read("read what changed", path).await?;
        let broken = || Trouble::Later(None, "the answer of Microsoft Graph is no page of changes".to_owned());
        let Ok(Value::Object(mut page)) = json::read(&reply.body) else { return Err(broken()) };
        let Some(Value::Array(objects)) = page.remove("value") else { return Err(broken()) };
        let link = |name: &str| page.get(name).and_then(Value::as_str).map(|link| self.below(link));
        let next = match (link("@odata.nextLink"), link("@odata.deltaLink")) {
            (Some(link), _) => Next::Page(link?),
            (None, Some(link)) => Next::Delta(link?),
            (None, None) => return Err(broken()),
        };
        Ok(Changes { objects, next })
    }

    fn below(&self, link: &str) -> Result<String, Trouble> {
        let url = Url::parse(link).ok();
        url.and_then(|url| path_below(&self.base, &url))
            .ok_or_else(|| Trouble::Refused("a link of Microsoft Graph leads to another service; check GRAPH_URL".to_owned()))
    }

    async fn read(&self, operation: &'static str, path: &str) -> Result<Reply, Trouble> {
        let request = Request { operation, method: Method::GET, path: path.to_owned(), body: None, idempotent: true };
        let reply = self.http.send(request).await.map_err(|failure| unanswered(&failure))?;
        let said = || excerpt(&reply.body).map(|text| format!(" ({text})")).unwrap_or_default();
        match reply.status {
            200..=299 => Ok(reply),
            404 => Err(Trouble::NotFound),
            410 => Err(Trouble::Expired),
            401 | 403 => Err(Trouble::Forbidden(format!(
                "Microsoft Graph does not permit to {operation}; grant the app the resource's read permission{}",
                said()
            ))),
            status => Err(Trouble::Refused(format!("Microsoft Graph refused to {operation}: status {status}{}", said()))),
        }
    }
}

fn unanswered(failure: &Failure) -> Trouble {
    if failure.transient {
        Trouble::Later(failure.retry_after, failure.to_string())
    } else {
        Trouble::Forbidden(failure.to_string())
    }
}
