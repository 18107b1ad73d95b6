//! The Queue service as the host uses it: a small client with Shared Key or an account SAS, for Azurite.
//!
//! Not imitated: identities (with settings for an identity, give the host a connection string of its own), retries.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::{Method, Response, Url};

use super::app::Settings;

/// The account that Azurite knows.
const DEVELOPMENT: &str = "AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1";
const VERSION: &str = "2021-12-02";
/// A connection that is quiet for five seconds is closed by Azurite, at times while a request is on its way.
const KEPT: Duration = Duration::from_secs(4);

/// The accounts that functions name by their connection.
#[derive(Debug)]
pub(crate) struct Storage {
    clients: BTreeMap<String, QueueClient>,
    fallback: Option<QueueClient>,
}

impl Storage {
    /// Clients for all settings that are connection strings; others use `fallback`.
    pub(crate) fn new(
        connections: &[String],
        settings: &Settings,
        fallback: Option<&str>,
        ca_pem: Option<&str>,
    ) -> anyhow::Result<Self> {
        let client = |connection: &str| QueueClient::trusting(connection, ca_pem);
        let mut clients = BTreeMap::new();
        for name in connections {
            let value =
                [name.clone(), format!("AzureWebJobs{name}")].iter().find_map(|key| settings.get(key)).filter(|v| !v.is_empty());
            if let Some(value) = value {
                let client = client(value).with_context(|| format!("the app setting `{name}` is not usable"))?;
                clients.insert(name.clone(), client);
            }
        }
        Ok(Self { clients, fallback: fallback.map(client).transpose()? })
    }

    pub(crate) fn client(&self, connection: &str) -> Option<&QueueClient> {
        self.clients.get(connection).or(self.fallback.as_ref())
    }
}

/// The queues of one account.
#[derive(Clone)]
pub struct QueueClient {
    http: reqwest::Client,
    endpoint: Url,
    account: String,
    key: Option<hmac::Key>,
    sas: Option<String>,
}

impl std::fmt::Debug for QueueClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueClient").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

/// A message that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub insertion: String,
    pub expiration: String,
    pub pop_receipt: String,
    pub next_visible: String,
    pub dequeue_count: i64,
    pub text: String,
}

impl QueueClient {
    /// From a connection string; `UseDevelopmentStorage=true` is Azurite on its usual port.
    pub fn new(connection: &str) -> anyhow::Result<Self> {
        Self::trusting(connection, None)
    }

    /// The same for a service whose certificate this CA has signed.
    pub fn trusting(connection: &str, ca_pem: Option<&str>) -> anyhow::Result<Self> {
        let part = |text: &str, name: &str| {
            let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned());
            found.next().filter(|value| !value.is_empty())
        };
        let development = part(connection, "UseDevelopmentStorage").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let connection = if development { DEVELOPMENT } else { connection };
        let endpoint = part(connection, "QueueEndpoint").or_else(|| {
            let account = part(connection, "AccountName")?;
            let suffix = part(connection, "EndpointSuffix").unwrap_or_else(|| "core.windows.net".to_owned());
            Some(format!("https://{account}.queue.{suffix}"))
        });
        let endpoint = endpoint.context("the connection string names neither `QueueEndpoint` nor `AccountName`")?;
        let key =
            part(connection, "AccountKey").map(|key| STANDARD.decode(key)).transpose().context("`AccountKey` is not base64")?;
        let sas = part(connection, "SharedAccessSignature").map(|sas| sas.trim_start_matches('?').to_owned());
        if key.is_none() && sas.is_none() {
            bail!("the connection string holds neither `AccountKey` nor `SharedAccessSignature`");
        }
        Ok(Self {
            http: match ca_pem {
                Some(pem) => reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes())?]),
                None => reqwest::Client::builder(),
            }
            .pool_idle_timeout(KEPT)
            .build()?,
            endpoint: Url::parse(endpoint.trim_end_matches('/')).context("`QueueEndpoint` is not a URL")?,
            account: part(connection, "AccountName").unwrap_or_default(),
            key: key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)),
            sas,
        })
    }

    /// Fetches messages and hides them for `lease` (whole seconds); none: the queue does not exist.
    pub async fn fetch(&self, queue: &str, count: usize, lease: Duration) -> anyhow::Result<Option<Vec<Message>>> {
        let path = format!("{queue}/messages");
        let query = [("numofmessages", count.to_string()), ("visibilitytimeout", seconds(lease))];
        let response = self.send(Method::GET, &path, &query, None).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let text = checked(response, "fetch messages of", queue)?.text().await?;
        Ok(Some(messages(&text)))
    }

    /// Hides a message for so long from now; its new pop receipt.
    pub async fn hide(&self, queue: &str, id: &str, receipt: &str, span: Duration) -> anyhow::Result<String> {
        let query = [("popreceipt", receipt.to_owned()), ("visibilitytimeout", seconds(span))];
        let response = self.send(Method::PUT, &format!("{queue}/messages/{id}"), &query, None).await?;
        let response = checked(response, "update a message of", queue)?;
        let receipt = response.headers().get("x-ms-popreceipt").and_then(|value| value.to_str().ok());
        Ok(receipt.context("the update of a message came without a pop receipt")?.to_owned())
    }

    /// How many messages a queue holds, hidden ones too; none: it does not exist.
    pub async fn count(&self, queue: &str) -> anyhow::Result<Option<u64>> {
        let response = self.send(Method::GET, queue, &[("comp", "metadata".to_owned())], None).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let response = checked(response, "count the messages of", queue)?;
        let count = response.headers().get("x-ms-approximate-messages-count").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Some(count.context("the queue service gave no count of messages")?))
    }

    /// Deletes a message; the receipt must be the newest.
    pub async fn delete(&self, queue: &str, id: &str, receipt: &str) -> anyhow::Result<()> {
        let query = [("popreceipt", receipt.to_owned())];
        let response = self.send(Method::DELETE, &format!("{queue}/messages/{id}"), &query, None).await?;
        checked(response, "delete a message of", queue).map(drop)
    }

    /// Puts a message; the queue is made if it is not there.
    pub async fn put_creating(&self, queue: &str, text: &str) -> anyhow::Result<()> {
        let body = format!("<QueueMessage><MessageText>{}</MessageText></QueueMessage>", escaped(text));
        let path = format!("{queue}/messages");
        let mut response = self.send(Method::POST, &path, &[], Some(body.clone())).await?;
        if response.status() == 404 {
            let created = self.send(Method::PUT, queue, &[], None).await?;
            checked(created, "create", queue)?;
            response = self.send(Method::POST, &path, &[], Some(body)).await?;
        }
        checked(response, "put a message into", queue).map(drop)
    }

    async fn send(&self, method: Method, path: &str, query: &[(&str, String)], body: Option<String>) -> anyhow::Result<Response> {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().map_err(|()| anyhow::anyhow!("`QueueEndpoint` is not a URL"))?.extend(path.split('/'));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let signed = signature_input(&method, &self.account, &url, query, body.as_ref().map_or(0, String::len));
        if let Some(sas) = &self.sas {
            url.set_query(Some(&url.query().map_or_else(|| sas.clone(), |query| format!("{query}&{sas}"))));
        }
        let mut request = self.http.request(method, url);
        let (date, canonical) = signed;
        request = request.header("x-ms-date", date).header("x-ms-version", VERSION);
        if let Some(key) = &self.key {
            let signature = STANDARD.encode(hmac::sign(key, canonical.as_bytes()));
            request = request.header("authorization", format!("SharedKey {}:{signature}", self.account));
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/xml").body(body);
        }
        let request = request.build()?;
        self.http.execute(request).await.context("failed to reach the queue service; is Azurite running?")
    }
}

/// The date of a request, and what is signed.
fn signature_input(method: &Method, account: &str, url: &Url, query: &[(&str, String)], length: usize) -> (String, String) {
    #[expect(clippy::disallowed_methods, reason = "Azurite compares with the machine's clock")]
    let now = Timestamp::now();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let (length, kind) = if length == 0 { (String::new(), "") } else { (length.to_string(), "application/xml") };
    let mut sorted: Vec<String> = query.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
    sorted.sort();
    let resource = format!("/{account}{}{}", url.path(), sorted.concat());
    let text = format!("{method}\n\n\n{length}\n\n{kind}\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{VERSION}\n{resource}");
    (date, text)
}

/// Whole seconds, rounded up.
fn seconds(span: Duration) -> String {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).to_string()
}

fn checked(response: Response, doing: &str, queue: &str) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let code = response.headers().get("x-ms-error-code").and_then(|value| value.to_str().ok()).unwrap_or("no code").to_owned();
    bail!("failed to {doing} `{queue}`: {status} ({code})")
}

/// The messages of an answer; their elements hold text only.
fn messages(xml: &str) -> Vec<Message> {
    let element = |xml: &str, name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| unescaped(text))
    };
    let one = |xml: &str| {
        let text = |name: &str| element(xml, name).unwrap_or_default();
        Message {
            id: text("MessageId"),
            insertion: text("InsertionTime"),
            expiration: text("ExpirationTime"),
            pop_receipt: text("PopReceipt"),
            next_visible: text("TimeNextVisible"),
            dequeue_count: text("DequeueCount").parse().unwrap_or(0),
            text: text("MessageText"),
        }
    };
    xml.split("<QueueMessage>").skip(1).map(one).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#xD;")
}

fn unescaped(text: &str) -> String {
    let plain = |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("&#") {
        let Some((digits, after)) = after.split_once(';') else { break };
        let code = digits.strip_prefix(['x', 'X']).map_or_else(|| digits.parse(), |hex| u32::from_str_radix(hex, 16));
        out.push_str(&plain(before));
        out.extend(code.ok().and_then(char::from_u32));
        rest = after;
    }
    (out + &plain(rest)).replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_texts_survive() {
        let text = "<a & \"b\"> &lt; é\r\n";
        let xml = format!(
            "<?xml version=\"1.0\"?><QueueMessagesList><QueueMessage><MessageId>1</MessageId><DequeueCount>2</DequeueCount><MessageText>{}</MessageText></QueueMessage></QueueMessagesList>",
            escaped(text)
        );
        let read = messages(&xml);
        assert_eq!((read.len(), read[0].text.as_str(), read[0].dequeue_count), (1, text, 2));
    }

    #[test]
    fn a_connection_string_without_a_key_is_refused() {
        assert!(QueueClient::new("QueueEndpoint=http://127.0.0.1:1/a").is_err());
        assert!(QueueClient::new("UseDevelopmentStorage=true").is_ok());
        assert!(!format!("{:?}", QueueClient::new("UseDevelopmentStorage=true").unwrap()).contains("Eby8"));
    }
}
