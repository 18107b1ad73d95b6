//! Where state and queues are: the Functions host's storage settings, else the embedded file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use super::cloud::{Cloud, GLOBAL_STORAGE};
use super::given::{Reader, text};
use super::params::{self, Param};
use super::parse;
use crate::platform::identity::Resident;
use crate::platform::secret::Secret;
use crate::storage::Place;
use crate::storage::azure::{Account, Credential, DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY};

/// The settings that name the account without a key.
const BY_IDENTITY: [&Param; 6] = [
    &params::STORAGE_ACCOUNT_NAME,
    &params::STORAGE_CREDENTIAL,
    &params::STORAGE_CLIENT_ID,
    &params::STORAGE_BLOB_URI,
    &params::STORAGE_QUEUE_URI,
    &params::STORAGE_TABLE_URI,
];
const ADDRESSES: [&Param; 3] = [&params::STORAGE_BLOB_URI, &params::STORAGE_QUEUE_URI, &params::STORAGE_TABLE_URI];
const SERVICES: [&str; 3] = ["blob", "queue", "table"];

/// None if there is a problem with it.
pub(super) fn read_storage(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Option<Place> {
    let by_identity: Vec<&str> = BY_IDENTITY.iter().filter(|row| reader.given(row).is_some()).map(|row| row.key).collect();
    let by_key = reader.given(&params::STORAGE).is_some();
    if !by_key && by_identity.is_empty() {
        return reader.read(&params::STATE_FILE, text).map(|path| Place::Embedded(path.into()));
    }
    if reader.given(&params::STATE_FILE).is_some() {
        reader.note("STATE_FILE is ignored, since a storage account is given".to_owned());
    }
    if by_key && !by_identity.is_empty() {
        // The host would take the key, without a word.
        let message = format!(
            "is an account key given where identity is set ({}): leave it out, or the host would use the key",
            by_identity.join(", ")
        );
        reader.refuse(&params::STORAGE, message);
        return None;
    }
    if by_key {
        return reader.read(&params::STORAGE, connection_string).map(|account| Place::Azure(Box::new(account)));
    }
    let credential = read_credential(reader);
    let (name, [blob, queue, table]) = read_addresses(reader, cloud)?;
    let credential = Credential::Identity(credential?);
    Some(Place::Azure(Box::new(Account { name, blob, queue, table, credential })))
}

/// What the Functions host takes for the managed identity.
pub(super) fn is_managed(credential: &str) -> bool {
    credential.eq_ignore_ascii_case("managedidentity")
}

fn read_credential(reader: &mut Reader<'_>) -> Option<Resident> {
    let managed = match reader.given(&params::STORAGE_CREDENTIAL) {
        Some(given) if is_managed(given.text) => true,
        Some(_) => {
            let message = "give `managedidentity`, or leave it out to use who is signed in on this machine (`az login`)";
            return reader.read(&params::STORAGE_CREDENTIAL, |_| Err(message.to_owned()));
        }
        // IDENTITY is of the targets: on a laptop, who is signed in reads the state of an app whose targets know an identity.
        None => reader.in_azure(),
    };
    let own = reader.read(&params::STORAGE_CLIENT_ID, text);
    if !managed {
        if own.is_some() {
            reader.refuse(
                &params::STORAGE_CLIENT_ID,
                format!("names a managed identity: set {}=managedidentity too", params::STORAGE_CREDENTIAL.key),
            );
            return None;
        }
        return Some(Resident::Developer);
    }
    // With a credential of its own the account follows the host: no client id means the system-assigned identity.
    let shared = (reader.given(&params::STORAGE_CREDENTIAL).is_none())
        .then(|| reader.read(&params::MANAGED_IDENTITY_CLIENT_ID, text))
        .flatten();
    Some(Resident::Managed { client_id: own.or(shared) })
}

/// The account's name and the addresses of blob, queue and table.
fn read_addresses(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Option<(String, [Url; 3])> {
    let missing: Vec<&Param> = ADDRESSES.into_iter().filter(|row| reader.given(row).is_none()).collect();
    if missing.is_empty() {
        let found = ADDRESSES.map(|row| reader.read(row, parse::address));
        let name = reader.read(&params::STORAGE_ACCOUNT_NAME, account_name);
        let [Some(blob), Some(queue), Some(table)] = found else { return None };
        let name = name.or_else(|| name_in(&table))?;
        return Some((name, [blob, queue, table]));
    }
    if missing.len() < ADDRESSES.len() || reader.given(&params::STORAGE_ACCOUNT_NAME).is_none() {
        for row in missing {
            let message = format!(
                "is required without {}: give its address, or the account's name alone",
                params::STORAGE_ACCOUNT_NAME.key
            );
            reader.refuse(row, message);
        }
        return None;
    }
    let name = reader.read(&params::STORAGE_ACCOUNT_NAME, account_name)?;
    let suffix = cloud?.storage;
    if suffix != GLOBAL_STORAGE {
        let wanted =
            ADDRESSES.iter().zip(SERVICES).map(|(row, service)| format!("{}=https://{name}.{service}.{suffix}", row.key));
        let message = format!(
            "is looked for in the global cloud by the Functions host; in place of it give {}",
            wanted.collect::<Vec<_>>().join(", ")
        );
        reader.refuse(&params::STORAGE_ACCOUNT_NAME, message);
        return None;
    }
    let [blob, queue, table] = SERVICES.map(|service| parse::address(&format!("https://{name}.{service}.{suffix}")).ok());
    Some((name, [blob?, queue?, table?]))
}

/// The first label of a host, or the first segment of a path on this machine.
fn name_in(url: &Url) -> Option<String> {
    let in_path = url.path_segments().and_then(|mut segments| segments.next()).filter(|segment| !segment.is_empty());
    let in_host = || url.host_str().and_then(|host| host.split('.').next());
    in_path.or_else(in_host).map(str::to_owned)
}

fn account_name(text: &str) -> Result<String, String> {
    let valid = (3..=24).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if valid { Ok(text.to_owned()) } else { Err("give the account's name: 3 to 24 lower-case letters and digits".to_owned()) }
}

/// Reads a connection string. No message repeats any of it: the key may stand in the wrong place.
fn connection_string(text: &str) -> Result<Account, String> {
    let mut parts = Parts::default();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or("holds a part without `=`: copy the connection string anew")?;
        parts.take(name.trim(), value.trim())?;
    }
    if parts.development {
        let services = [10_000, 10_001, 10_002];
        let addresses = services.map(|port| parse::address(&format!("http://127.0.0.1:{port}/{DEVELOPMENT_ACCOUNT}")));
        let [Ok(blob), Ok(queue), Ok(table)] = addresses else { return Err("cannot be used".to_owned()) };
        let credential = Credential::Key(Secret::new(DEVELOPMENT_KEY));
        return Ok(Account { name: DEVELOPMENT_ACCOUNT.to_owned(), blob, queue, table, credential });
    }
    let name = parts.name.ok_or("has no AccountName")?;
    let key = parts
        .key
        .ok_or("has no AccountKey: copy the connection string anew, or use identity (AzureWebJobsStorage__accountName)")?;
    let (protocol, suffix) = (parts.protocol.unwrap_or("https"), parts.suffix.unwrap_or(GLOBAL_STORAGE));
    let address = |service: usize| {
        let derived = || format!("{protocol}://{name}.{}.{suffix}", SERVICES[service]);
        let text = parts.endpoints[service].map_or_else(derived, str::to_owned);
        parse::address(&text).map_err(|_| {
            let words = ["BlobEndpoint", "QueueEndpoint", "TableEndpoint"];
            format!("the address in {}, or made of EndpointSuffix and DefaultEndpointsProtocol, is none, or `http://` elsewhere than on this machine", words[service])
        })
    };
    let credential = Credential::Key(Secret::new(key));
    Ok(Account { name: name.to_owned(), blob: address(0)?, queue: address(1)?, table: address(2)?, credential })
}

#[derive(Default)]
struct Parts<'a> {
    development: bool,
    protocol: Option<&'a str>,
    suffix: Option<&'a str>,
    name: Option<&'a str>,
    key: Option<&'a str>,
    endpoints: [Option<&'a str>; 3],
}

impl<'a> Parts<'a> {
    fn take(&mut self, name: &str, value: &'a str) -> Result<(), String> {
        match name.to_ascii_lowercase().as_str() {
            "usedevelopmentstorage" if value.eq_ignore_ascii_case("true") => self.development = true,
            "defaultendpointsprotocol" if ["http", "https"].contains(&value) => self.protocol = Some(value),
            "defaultendpointsprotocol" => {
                return Err("DefaultEndpointsProtocol must be `https`, or `http` on this machine".to_owned());
            }
            "endpointsuffix" => self.suffix = Some(value),
            "accountname" => {
                account_name(value).map_err(|_| "AccountName is no name of an account: 3 to 24 lower-case letters and digits")?;
                self.name = Some(value);
            }
            "accountkey" => {
                let key = STANDARD.decode(value).ok().filter(|key| !key.is_empty());
                key.ok_or("AccountKey is no base64: copy the connection string anew")?;
                self.key = Some(value);
            }
            "blobendpoint" => self.endpoints[0] = Some(value),
            "queueendpoint" => self.endpoints[1] = Some(value),
            "tableendpoint" => self.endpoints[2] = Some(value),
            "fileendpoint" | "developmentstorageproxyuri" => {}
            "sharedaccesssignature" => {
                return Err("holds a shared access signature, which ends: give AccountName and AccountKey, or use identity (AzureWebJobsStorage__accountName)".to_owned());
            }
            _ => return Err("holds a part that no connection string has: copy it anew".to_owned()),
        }
        Ok(())
    }
}
