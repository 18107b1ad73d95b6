//! ThreatConnect, the Entra token endpoint, Azure Key Vault, Microsoft Sentinel, Microsoft Defender and Microsoft Graph on this
//! machine.
//!
//! Written from the vendors' documents, not from any client, so that what it accepts and refuses is a second opinion. One
//! world of state is behind all services; tests link it, people run it. It listens on loopback only.
//!
//! Beside them, and started by themselves: [`azurite`] is real storage, [`host`] the Azure Functions host.

pub mod azurite;
mod cases;
mod certificates;
mod control;
mod defender;
mod entra;
pub mod faults;
mod generate;
mod graph;
pub mod host;
mod indicator;
mod managed;
pub mod notifications;
mod odata;
mod playbook;
mod port;
mod rate;
pub mod resources;
mod sentinel;
mod server;
pub mod stix;
mod threatconnect;
mod time;
pub mod tql;
mod vault;
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use tokio::task::JoinHandle;

pub use cases::{Artifact, Case, Cases, Note};
pub use defender::{Defender, DefenderIndicator, DefenderOperation};
pub use generate::{generate, load_csv};
pub use graph::{Gone, Graph, GraphObject, GraphOperation, RetryAfter};
pub use indicator::{Indicator, Quirks};
pub use managed::{IDENTITY_HEADER, MANAGED_CLIENT_ID};
pub use playbook::{Answered, Playbook, Received};
pub use port::FreePort;
pub use threatconnect::Writing;
pub use time::{SimClock, SystemTime, Time};
pub use world::{App, Logged, Object, Owner, Sentinel, Service, User, World};

use notifications::{Delivery, Notifications};
use resources::Resources;
use server::{Door, Shared};

/// The workspace that the emulator begins with.
pub const WORKSPACE: &str = "8ecf8077-cf51-4820-aadd-14040956f35d";
/// The tenant that the emulator begins with.
pub const TENANT: &str = "11111111-aaaa-4bbb-8ccc-222222222222";
/// The app registration that the emulator begins with.
pub const CLIENT_ID: &str = "33333333-dddd-4eee-8fff-444444444444";
/// Its secret; made up.
pub const CLIENT_SECRET: &str = "emulated~client.secret";
/// A second tenant, so that Graph can have one of its own.
pub const GRAPH_TENANT: &str = "44444444-aaaa-4bbb-8ccc-555555555555";
/// The app registration there.
pub const GRAPH_CLIENT_ID: &str = "66666666-dddd-4eee-8fff-777777777777";
/// Its secret; made up.
pub const GRAPH_CLIENT_SECRET: &str = "emulated~graph.secret";
/// The API user of ThreatConnect that the emulator begins with.
pub const ACCESS_ID: &str = "48151623420815108001";
/// Its secret key; made up.
pub const SECRET_KEY: &str = "mAdEuP/kEy+NotReal9x8y7z6w5v4u3t2s1r0q==";
/// Its token; made up.
pub const API_TOKEN: &str = "APIV2:1:emulated:1999999999999:token";

/// How the emulator is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// ThreatConnect and the sinks over HTTPS; login and vault always are.
    pub tls: bool,
    pub time: Arc<dyn Time>,
    /// The sinks count requests and refuse more than their documents allow.
    pub enforce_rate: bool,
    /// The first of eight ports; 0: any that are free.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { tls: true, time: Arc::new(SystemTime), enforce_rate: true, port: 0 }
    }
}

/// Running services; dropped, they stop.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    ca_pem: String,
    threatconnect: String,
    login: String,
    key_vault: String,
    sentinel: String,
    control: String,
    defender: String,
    graph: String,
    identity: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Emulator {
    /// Starts all services with one API user, one workspace and an app registration in each of two tenants.
    ///
    /// # Errors
    /// A port is taken.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (ca_pem, tls) = server::tls()?;
        let world = World {
            users: vec![User { access_id: ACCESS_ID.to_owned(), secret: SECRET_KEY.to_owned(), token: API_TOKEN.to_owned() }],
            apps: apps(),
            sentinel: Sentinel { enforce_rate: options.enforce_rate, ..Sentinel::default() },
            defender: Defender { enforce_rate: options.enforce_rate, ..Defender::default() },
            graph: Graph { enforce_rate: options.enforce_rate, ..Graph::default() },
            notifications: Notifications { enforce_rate: options.enforce_rate, ..Notifications::default() },
            resources: Resources { enforce_rate: options.enforce_rate, ..Resources::default() },
            ..World::default()
        };
        let client = server::client(&ca_pem)?;
        let shared = Arc::new(Shared { world: world.into(), time: options.time, client });
        let mut tasks = Vec::new();
        let mut urls = Vec::new();
        let doors = [
            (Door::Service(Service::ThreatConnect), options.tls),
            (Door::Service(Service::Login), true),
            (Door::Service(Service::KeyVault), true),
            (Door::Service(Service::Sentinel), options.tls),
            (Door::Control, false),
            (Door::Service(Service::Defender), options.tls),
            (Door::Service(Service::Graph), options.tls),
            (Door::Service(Service::Identity), false),
        ];
        for (i, (door, secure)) in doors.into_iter().enumerate() {
            let port = if options.port == 0 { 0 } else { options.port + u16::try_from(i)? };
            let (port, task) = server::open(door, port, secure.then(|| tls.clone()), Arc::clone(&shared)).await?;
            tasks.push(task);
            urls.push(format!(
                "{}://{}:{port}",
                if secure { "https" } else { "http" },
                if secure { "localhost" } else { "127.0.0.1" }
            ));
        }
        let [threatconnect, login, key_vault, sentinel, control, defender, graph, identity] =
            <[String; 8]>::try_from(urls).map_err(|_| anyhow::anyhow!("eight doors"))?;
        let threatconnect = format!("{threatconnect}/api");
        {
            let mut world = shared.world();
            world.defender.base.clone_from(&defender);
            world.graph.base.clone_from(&graph);
            world.notifications.tokens.login.clone_from(&login);
        }
        Ok(Self { shared, ca_pem, threatconnect, login, key_vault, sentinel, control, defender, graph, identity, tasks })
    }

    /// The world behind the services; they wait while it is held.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }

    /// Sends all notifications that are due by the emulator's clock, as real requests; what was tried. Nothing may hold the world.
    pub async fn deliver_due(&self) -> Vec<Delivery> {
        notifications::deliver_due(&self.shared).await
    }

    /// Sends them as they become due, until the emulator is dropped: for people. Looks once a second, on the machine's clock.
    pub fn deliver_always(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.tasks.push(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
            loop {
                ticks.tick().await;
                notifications::deliver_due(&shared).await;
            }
        }));
    }

    /// The URL of a playbook with a WebHook trigger: see [`World::playbooks`].
    #[must_use]
    pub fn playbook_url(&self, uuid: &str) -> String {
        format!("{}/playbook/{uuid}", self.threatconnect)
    }

    /// The CA that signed the services' certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    #[must_use]
    pub fn threatconnect_url(&self) -> &str {
        &self.threatconnect
    }

    #[must_use]
    pub fn login_url(&self) -> &str {
        &self.login
    }

    #[must_use]
    pub fn key_vault_url(&self) -> &str {
        &self.key_vault
    }

    #[must_use]
    pub fn sentinel_url(&self) -> &str {
        &self.sentinel
    }

    /// Without `/api`.
    #[must_use]
    pub fn defender_url(&self) -> &str {
        &self.defender
    }

    /// Without `/beta`.
    #[must_use]
    pub fn graph_url(&self) -> &str {
        &self.graph
    }

    #[must_use]
    pub fn control_url(&self) -> &str {
        &self.control
    }

    /// What Azure adds to the environment of an app with this managed identity, and how the product is told to use it.
    #[must_use]
    pub fn identity_environment(&self) -> BTreeMap<String, String> {
        let endpoint = format!("{}/msi/token", self.identity);
        let pairs = [
            ("IDENTITY_ENDPOINT", endpoint.as_str()),
            ("IDENTITY_HEADER", IDENTITY_HEADER),
            ("MANAGED_IDENTITY_CLIENT_ID", MANAGED_CLIENT_ID),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// What a program that talks to the emulator is told, as environment.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("THREATCONNECT_URL", self.threatconnect_url()),
            ("API_USER", ACCESS_ID),
            ("THREATCONNECT_SECRET_KEY", SECRET_KEY),
            ("MICROSOFT_GRAPH_CLIENT_ID", CLIENT_ID),
            ("MICROSOFT_GRAPH_CLIENT_SECRET", CLIENT_SECRET),
            ("MICROSOFT_GRAPH_TENANT_ID", TENANT),
            ("SENTINEL_WORKSPACE_ID", WORKSPACE),
            ("LOGIN_URL", self.login_url()),
            ("SENTINEL_URL", self.sentinel_url()),
            ("DEFENDER_URL", self.defender_url()),
            ("GRAPH_URL", self.graph_url()),
            ("DEFAULT_TLP_LEVEL", "amber"),
            ("TARGET_PRODUCT", "Microsoft Sentinel"),
            ("ACTION_TO_TAKE", "Alert"),
            ("EXPIRATION_DAYS_EMAIL", "30"),
            ("EXPIRATION_DAYS_FILE", "90"),
            ("EXPIRATION_DAYS_NETWORK", "30"),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

/// One app with all rights on all sinks, one in a tenant of its own with that on Graph only, and a managed identity with the
/// rights of the first.
fn apps() -> Vec<App> {
    let mut graph = vec!["ThreatIndicators.ReadWrite.OwnedBy".to_owned()];
    graph.extend(notifications::roles());
    let first = App {
        tenant: TENANT.to_owned(),
        client_id: CLIENT_ID.to_owned(),
        secret: CLIENT_SECRET.to_owned(),
        workspaces: vec![WORKSPACE.to_owned()],
        may_read_vault: true,
        managed: false,
        roles: [vec!["Ti.ReadWrite.All".to_owned()], graph.clone()].concat(),
    };
    let second = App {
        tenant: GRAPH_TENANT.to_owned(),
        client_id: GRAPH_CLIENT_ID.to_owned(),
        secret: GRAPH_CLIENT_SECRET.to_owned(),
        workspaces: Vec::new(),
        may_read_vault: false,
        managed: false,
        roles: graph,
    };
    let managed = App { client_id: MANAGED_CLIENT_ID.to_owned(), secret: String::new(), managed: true, ..first.clone() };
    vec![first, second, managed]
}

impl Drop for Emulator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
