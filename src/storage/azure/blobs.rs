//! Bodies that no queue message can hold, as blobs of one container, through the official client.

use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use bytes::Bytes;

use super::remedy::{Part, Refusal};
use super::{Access, Account};

/// Blobs of one container.
pub(super) struct Blobs {
    client: BlobContainerClient,
    container: String,
}

impl std::fmt::Debug for Blobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs").field("container", &self.container).finish_non_exhaustive()
    }
}

impl Blobs {
    pub(super) fn new(account: &Account, access: &Access, http: &reqwest::Client, container: &str) -> azure_core::Result<Self> {
        let url = super::below(&account.blob, container);
        let options =
            BlobContainerClientOptions { client_options: access.client_options(http), version: super::API_VERSION.to_owned() };
        let client = BlobContainerClient::new(url, access.credential(), Some(options))?;
        Ok(Self { client, container: container.to_owned() })
    }

    pub(super) fn part(&self) -> Part<'_> {
        Part::Container(&self.container)
    }

    pub(super) async fn make(&self) -> Result<(), Refusal> {
        match self.client.create(None).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let refusal = Refusal::from(&error);
                if refusal.status == Some(409) { Ok(()) } else { Err(refusal) }
            }
        }
    }

    pub(super) async fn put(&self, name: &str, body: Bytes) -> Result<(), Refusal> {
        let put = self.client.blob_client(name).upload(body.into(), None).await;
        put.map(drop).map_err(|e| Refusal::from(&e))
    }

    /// None if it is gone.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        let found = match self.client.blob_client(name).download(None).await {
            Ok(found) => found,
            Err(error) => return absent(&error).map(|()| None),
        };
        let body = found.body.collect().await.map_err(|e| Refusal::from(&e))?;
        Ok(Some(body.to_vec()))
    }

    /// One that is gone is fine.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Refusal> {
        match self.client.blob_client(name).delete(None).await {
            Ok(_) => Ok(()),
            Err(error) => absent(&error),
        }
    }

    /// The least call.
    pub(super) async fn probe(&self) -> Result<(), Refusal> {
        self.client.get_properties(None).await.map(drop).map_err(|e| missing(&e))
    }
}

fn absent(error: &azure_core::Error) -> Result<(), Refusal> {
    let refusal = Refusal::from(error);
    if refusal.is(&["BlobNotFound"]) { Ok(()) } else { Err(refusal) }
}

/// An answer without a body may have no code.
fn missing(error: &azure_core::Error) -> Refusal {
    let mut refusal = Refusal::from(error);
    if refusal.status == Some(404) && refusal.code.is_none() {
        refusal.code = Some("ContainerNotFound".to_owned());
    }
    refusal
}
