//! What every story needs: an emulator, a clock that is set, a store, and the product wired over them in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use emulator::{Emulator, Indicator, Options, SimClock, TENANT, Time as _, WORKSPACE};
use indicator_relay::app::{App, Surroundings};
use indicator_relay::export::{Progress, Report, Request};
use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::settings::Settings;
use indicator_relay::storage::StateStore;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::telemetry::Telemetry;
use jiff::Timestamp;
use tokio::sync::watch;

pub(crate) const START: &str = "2026-11-24T09:00:00Z";
pub(crate) const SENTINEL: &str = "Microsoft Sentinel";
pub(crate) const DEFENDER: &str = "Microsoft Defender for Endpoint";

/// The product's clock and the emulator's are one; who sleeps jumps, who sets an alarm waits for others to move.
#[derive(Debug, Clone)]
pub(crate) struct TestClock {
    sim: SimClock,
    moved: watch::Sender<()>,
}

impl TestClock {
    pub(crate) fn new() -> Self {
        Self { sim: SimClock::at(START.parse().expect("a time")), moved: watch::Sender::new(()) }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.sim.advance(by);
        self.moved.send_replace(());
    }

    /// Somebody waits for an alarm.
    pub(crate) fn is_awaited(&self) -> bool {
        self.moved.receiver_count() > 0
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.sim.now()
    }

    fn monotonic(&self) -> Duration {
        let micros = self.sim.now().as_microsecond();
        Duration::from_micros(u64::try_from(micros).expect("after 1970"))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let to = self.sim.now().checked_add(duration).expect("in range");
        let clock = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            clock.sim.advance_to(to);
            clock.moved.send_replace(());
        })
    }

    fn alarm(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let at = self.sim.now().checked_add(duration).expect("in range");
        let (sim, mut moved) = (self.sim.clone(), self.moved.subscribe());
        Box::pin(async move {
            while sim.now() < at {
                if moved.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

/// One world with the product beside it.
pub(crate) struct Rig {
    pub(crate) emulator: Emulator,
    pub(crate) clock: TestClock,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) settings: BTreeMap<String, String>,
    client: reqwest::Client,
    runs: u32,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let clock = TestClock::new();
        let options = Options { time: Arc::new(clock.sim.clone()), ..Options::default() };
        let emulator = Emulator::start(options).await.expect("free ports");
        let store = SqliteStore::open_in_memory(Arc::new(clock.clone())).expect("SQLite");
        let root = reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).expect("a certificate");
        let client = reqwest::Client::builder()
            .tls_certs_only([root])
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        let settings = emulator.environment();
        Self { emulator, clock, store: Arc::new(store), settings, client, runs: 0 }
    }

    /// A rig whose job delivers to Defender.
    pub(crate) async fn at_defender() -> Self {
        let mut rig = Self::new().await;
        rig.set("TARGET_PRODUCT", DEFENDER);
        rig
    }

    /// A rig whose job delivers through Microsoft Graph.
    pub(crate) async fn at_graph(product: &str) -> Self {
        let mut rig = Self::new().await;
        rig.set("TARGET_PRODUCT", product);
        rig.set("DELIVERY", "graph");
        rig
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The product as a new process would find it.
    pub(crate) fn app(&self) -> App {
        self.app_over(Arc::clone(&self.store))
    }

    /// What a process of its own would find around it, with its state in `folder`.
    pub(crate) fn surroundings(&self, folder: &std::path::Path) -> Surroundings {
        let mut environment = self.settings.clone();
        environment.insert("STATE_FILE".to_owned(), folder.join("state.db").display().to_string());
        Surroundings {
            environment,
            client: self.client.clone(),
            clock: Arc::new(self.clock.clone()),
            telemetry: Telemetry::default(),
        }
    }

    pub(crate) fn app_over(&self, store: Arc<dyn StateStore>) -> App {
        let settings = Settings::from_map(&self.settings).unwrap_or_else(|problems| panic!("{problems:?}"));
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let queue = Arc::new(SqliteStore::open_in_memory(Arc::clone(&clock)).expect("SQLite"));
        App::new(settings, &self.client, &clock, store, queue).expect("an app")
    }

    /// One run of a job by a process of its own.
    pub(crate) async fn run_job(&mut self, job: &str, request: Request) -> Report {
        self.run_over(Arc::clone(&self.store), job, request).await
    }

    pub(crate) async fn run_over(&mut self, store: Arc<dyn StateStore>, job: &str, request: Request) -> Report {
        self.runs += 1;
        let app = self.app_over(store);
        let job = app.exporter.jobs().iter().find(|known| known.name == job).expect("a job").clone();
        let (run, worker) = (format!("run{}", self.runs), format!("worker{}", self.runs));
        let report = app.exporter.run(&job, &request, (&run, &worker), &Progress::default()).await;
        let tally = indicator_relay::export::Tally {
            read: report.read,
            outcomes: report.outcomes,
            ..indicator_relay::export::Tally::default()
        };
        if let Err(law) = tally.laws() {
            panic!("{law}: {report:#?}");
        }
        report
    }

    pub(crate) async fn run(&mut self) -> Report {
        self.run_job("default", Request::default()).await
    }

    pub(crate) async fn full(&mut self) -> Report {
        self.run_job("default", Request { full: true, ..Request::default() }).await
    }

    /// Adds an indicator of the first owner, and says its id.
    pub(crate) fn add(&self, type_name: &str, value: &str) -> u64 {
        self.add_of("Acme Org", type_name, value, |_| ())
    }

    pub(crate) fn add_of(&self, owner: &str, type_name: &str, value: &str, change: impl FnOnce(&mut Indicator)) -> u64 {
        let mut indicator = Indicator::new(owner, type_name, value, self.now());
        change(&mut indicator);
        self.emulator.world().add(indicator)
    }

    pub(crate) fn add_hosts(&self, count: usize) -> Vec<u64> {
        (0..count).map(|i| self.add("Host", &format!("h{i}.example"))).collect()
    }

    /// Patterns that are live at the emulator's Sentinel.
    pub(crate) fn live(&self) -> Vec<String> {
        let world = self.emulator.world();
        let mut patterns: Vec<String> = world.live(WORKSPACE, self.now()).values().map(|object| object.pattern.clone()).collect();
        patterns.sort();
        patterns
    }

    /// Hosts that are live there.
    pub(crate) fn live_hosts(&self) -> Vec<String> {
        let host = |pattern: &String| {
            pattern.strip_prefix("[domain-name:value = '").and_then(|rest| rest.strip_suffix("']")).map(str::to_owned)
        };
        self.live().iter().filter_map(host).collect()
    }

    /// The live object of a host.
    pub(crate) fn object(&self, host: &str) -> serde_json::Value {
        let world = self.emulator.world();
        let pattern = format!("[domain-name:value = '{host}']");
        let live = world.live(WORKSPACE, self.now());
        live.values().find(|object| object.pattern == pattern).unwrap_or_else(|| panic!("{host} is not there")).value()
    }

    /// Values that the emulator's Defender holds.
    pub(crate) fn at_defenders(&self) -> Vec<String> {
        let world = self.emulator.world();
        let mut values: Vec<String> = world.at_defender(TENANT, self.now()).into_iter().map(|i| i.value.clone()).collect();
        values.sort();
        values
    }

    /// Live entities that Graph holds for a product, by external id.
    pub(crate) fn at_graphs(&self, product: &str) -> BTreeMap<String, serde_json::Value> {
        let target = if product == SENTINEL { "Azure Sentinel" } else { "Microsoft Defender ATP" };
        let world = self.emulator.world();
        let live = world.at_graph(TENANT, target, self.now()).into_iter();
        live.map(|object| {
            let entity = serde_json::Value::Object(object.entity.clone());
            (entity["externalId"].as_str().unwrap_or_default().to_owned(), entity)
        })
        .collect()
    }

    /// A score for an indicator, as analysts change it: `lastModified` stays.
    pub(crate) fn score(&self, id: u64, score: u16) {
        assert!(self.emulator.world().edit(id, |indicator| indicator.score = Some(score)));
    }

    /// No upload was older than what it replaced.
    pub(crate) fn assert_nothing_stale(&self) {
        assert_eq!(self.emulator.world().sentinel.stale, Vec::<String>::new());
    }
}

/// An hour.
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// The run is complete, and did just this.
#[track_caller]
pub(crate) fn assert_sent(report: &Report, accepted: u64, unchanged: u64, withdrawn: u64) {
    let found = (report.complete, report.outcomes.accepted, report.outcomes.unchanged, report.withdrawn);
    assert_eq!(found, (true, accepted, unchanged, withdrawn), "{report:#?}");
}
