//! Azurite, Microsoft's own emulator of Azure Storage, as a child process on free ports.
//!
//! Storage is not imitated here: it is Azurite in the version that `azurite/package-lock.json` pins, installed by npm into the
//! checkout's `target/` on first use. It sends no telemetry. It ends with the value that started it, and also when this
//! process dies in any way: it then reads the end of its standard input (`azurite/parent.js`).

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read, copy, sink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;

use crate::TENANT;
use crate::certificates;

/// The account that Azurite knows.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its key; public, the same everywhere.
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

const PACKAGE: [(&str, &str); 4] = [
    ("package.json", include_str!("../azurite/package.json")),
    ("package-lock.json", include_str!("../azurite/package-lock.json")),
    (".npmrc", include_str!("../azurite/.npmrc")),
    ("parent.js", include_str!("../azurite/parent.js")),
];
/// Written last: what is installed.
const INSTALLED: &str = "installed.json";
const NPM: &str = if cfg!(windows) { "npm.cmd" } else { "npm" };

/// How Azurite is started.
#[derive(Debug, Clone, Default)]
pub struct AzuriteOptions {
    /// Where it keeps what is stored; none: in memory.
    pub folder: Option<PathBuf>,
    /// HTTPS with a certificate of [`Azurite::ca_pem`], and bearer tokens ([`token`]) beside the key.
    pub https: bool,
}

/// A running Azurite; dropped, it stops.
#[derive(Debug)]
pub struct Azurite {
    child: Child,
    /// Blob, queue, table: with the account, without a slash at the end.
    urls: [String; 3],
    ca_pem: Option<String>,
    /// Holds certificate and key while it runs.
    _certificates: Option<TempDir>,
}

impl Azurite {
    /// Installs Azurite if need be and starts it; it answers when this returns.
    ///
    /// # Errors
    /// One line: no Node or npm and how to get it, what npm says, or what Azurite says.
    pub async fn start(options: AzuriteOptions) -> anyhow::Result<Self> {
        tokio::task::spawn_blocking(move || Self::run(&options)).await?
    }

    fn run(options: &AzuriteOptions) -> anyhow::Result<Self> {
        let folder = install()?;
        let mut command = Command::new("node");
        command.current_dir(&folder).arg("--require").arg("./parent.js").arg("node_modules/azurite/dist/src/azurite.js");
        command.args(["--blobPort", "0", "--queuePort", "0", "--tablePort", "0", "--silent", "--disableTelemetry"]);
        match &options.folder {
            Some(folder) => drop(command.arg("--location").arg(std::path::absolute(folder)?)),
            None => drop(command.arg("--inMemoryPersistence")),
        }
        let mut ca_pem = None;
        let mut held = None;
        if options.https {
            let made = certificates::make()?;
            let files = TempDir::new()?;
            let (certificate, key) = (files.path().join("certificate.pem"), files.path().join("key.pem"));
            fs::write(&certificate, made.certificate.pem())?;
            fs::write(&key, made.key.serialize_pem())?;
            command.arg("--cert").arg(certificate).arg("--key").arg(key).args(["--oauth", "basic"]);
            (ca_pem, held) = (Some(made.ca_pem), Some(files));
        }
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| not_there("node", &e))?;
        let urls = addresses(&mut child).inspect_err(|_| stop(&mut child))?;
        Ok(Self { child, urls, ca_pem, _certificates: held })
    }

    #[must_use]
    pub fn blob_url(&self) -> &str {
        &self.urls[0]
    }

    #[must_use]
    pub fn queue_url(&self) -> &str {
        &self.urls[1]
    }

    #[must_use]
    pub fn table_url(&self) -> &str {
        &self.urls[2]
    }

    /// With the key.
    #[must_use]
    pub fn connection_string(&self) -> String {
        let [blob, queue, table] = &self.urls;
        let protocol = if self.ca_pem.is_some() { "https" } else { "http" };
        format!(
            "DefaultEndpointsProtocol={protocol};AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={blob};QueueEndpoint={queue};TableEndpoint={table};"
        )
    }

    /// The CA of its certificate; none over plain HTTP.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Stops it at once, as a lost machine would.
    pub fn kill(&mut self) {
        stop(&mut self.child);
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// A bearer token that Azurite accepts for one hour from `now`: it looks at issuer, audience and times, not at the signature.
#[must_use]
pub fn token(now: Timestamp) -> String {
    let now = now.as_second();
    let claims = json!({
        "iss": format!("https://sts.windows.net/{TENANT}/"),
        "aud": "https://storage.azure.com",
        "iat": now - 300,
        "nbf": now - 300,
        "exp": now + 3_600,
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(json!({"alg": "RS256", "typ": "JWT"})), part(claims), URL_SAFE_NO_PAD.encode("emulated"))
}

fn stop(child: &mut Child) {
    // It may have ended by itself.
    drop(child.kill());
    drop(child.wait());
}

/// Reads the three addresses that Azurite prints once it listens; what it prints later is read and dropped.
fn addresses(child: &mut Child) -> anyhow::Result<[String; 3]> {
    let mut output = BufReader::new(child.stdout.take().context("standard output is piped")?);
    let mut errors = child.stderr.take().context("standard error is piped")?;
    let mut urls = Vec::new();
    let mut line = String::new();
    while urls.len() < 3 {
        line.clear();
        if output.read_line(&mut line)? == 0 {
            let mut said = String::new();
            drop(errors.read_to_string(&mut said));
            bail!("Azurite did not start: {}", last_line(&said));
        }
        if let Some((_, address)) = line.trim().split_once("successfully listening at ") {
            urls.push(format!("{address}/{ACCOUNT}"));
        }
    }
    drain(output);
    drain(errors);
    urls.try_into().map_err(|_| anyhow!("three services"))
}

/// A full pipe would stop the child.
fn drain(mut from: impl Read + Send + 'static) {
    std::thread::spawn(move || copy(&mut from, &mut sink()));
}

/// The folder that holds Azurite: installed once, by whichever process comes first; the others wait for it.
fn install() -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/azurite");
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let lock = File::create(folder.join("install.lock"))?;
    lock.lock()?;
    let wanted = PACKAGE.map(|(_, text)| text).concat();
    if fs::read_to_string(folder.join(INSTALLED)).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    for (name, text) in PACKAGE {
        fs::write(folder.join(name), text)?;
    }
    let npm = Command::new(NPM).args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder).stdin(Stdio::null()).output();
    let npm = npm.map_err(|e| not_there("npm", &e))?;
    if !npm.status.success() {
        let said = String::from_utf8_lossy(&npm.stderr);
        let reason =
            said.lines().find(|line| line.contains("npm error") && !line.contains("code")).unwrap_or_else(|| last_line(&said));
        bail!("npm could not install Azurite (it needs the npm registry once): {reason}");
    }
    fs::write(folder.join(INSTALLED), wanted)?;
    Ok(folder)
}

fn last_line(text: &str) -> &str {
    text.trim().lines().next_back().unwrap_or("it says nothing")
}

fn not_there(program: &str, error: &std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        return anyhow!(
            "storage is Azurite here, which needs Node.js 20 or later with npm, and `{program}` is not there: install it from https://nodejs.org or with `apt-get install nodejs npm`, and run this again"
        );
    }
    anyhow!("`{program}` could not be started: {error}")
}
