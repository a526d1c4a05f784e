//! `lockstep demo`: a private cluster, sample data, the shipped projections, a live workload, and proof every few seconds.

mod display;
mod verifier;
mod workload;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lockstep_cluster::{Binaries, Cluster, ClusterOptions};
use lockstep_config::Config;
use lockstep_connect::{Session, Settings};
use lockstep_refresh::GroupStatus;
use lockstep_supervise::Hooks;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Exit;
use crate::cli::DemoArguments;
use crate::run::{Addresses, run_until};
use crate::signals::wait_for_signal;
use display::Display;
use verifier::Verifier;
use workload::Workload;

/// The build must be done within this time.
const BUILD_MAX: Duration = Duration::from_mins(10);

/// The workload must be visible within this time after its end.
const CATCH_UP_MAX: Duration = Duration::from_mins(1);

/// The sample source schema and the shipped projections, as they lie in `config/`.
const SCHEMA: &str = include_str!("../../../../config/sample/schema.sql");
const DATA: &str = include_str!("../../../../config/sample/data.sql");
const CONFIGURATION: &str = include_str!("../../../../config/lockstep.example.toml");
const FILES: &[(&str, &str)] = &[
    ("product_search.sql", include_str!("../../../../config/projections/product_search.sql")),
    ("product_search.indexes.sql", include_str!("../../../../config/projections/product_search.indexes.sql")),
    ("order_search.sql", include_str!("../../../../config/projections/order_search.sql")),
    ("order_search.indexes.sql", include_str!("../../../../config/projections/order_search.indexes.sql")),
    ("current_stock_summary.sql", include_str!("../../../../config/projections/current_stock_summary.sql")),
    ("daily_sales_summary.sql", include_str!("../../../../config/projections/daily_sales_summary.sql")),
    ("fact_daily_sales.sql", include_str!("../../../../config/projections/fact_daily_sales.sql")),
    ("platform_performance.sql", include_str!("../../../../config/projections/platform_performance.sql")),
    ("inventory_health.sql", include_str!("../../../../config/projections/inventory_health.sql")),
    ("stock_consolidated.sql", include_str!("../../../../config/projections/stock_consolidated.sql")),
    ("unmatched_transactions.sql", include_str!("../../../../config/projections/unmatched_transactions.sql")),
    ("recent_items.sql", include_str!("../../../../config/projections/recent_items.sql")),
    ("recent_items.indexes.sql", include_str!("../../../../config/projections/recent_items.indexes.sql")),
    ("item_buckets.sql", include_str!("../../../../config/projections/item_buckets.sql")),
    ("item_buckets.indexes.sql", include_str!("../../../../config/projections/item_buckets.indexes.sql")),
    ("monthly_sales.sql", include_str!("../../../../config/projections/monthly_sales.sql")),
    ("platform_monthly_trends.sql", include_str!("../../../../config/projections/platform_monthly_trends.sql")),
];

/// Runs the demonstration.
///
/// # Errors
/// No PostgreSQL, or something does not start.
pub async fn run(arguments: &DemoArguments, json: bool) -> anyhow::Result<Exit> {
    let binaries = Binaries::find()?;
    let display = Display::new(json);
    display.say(&format!("starting PostgreSQL {} from {}", binaries.major, binaries.directory.display()));
    let options = ClusterOptions { directory: arguments.directory.clone(), durable: true, ..ClusterOptions::default() };
    // From the beginning, so that no signal leaves a cluster behind.
    let interrupted = tokio::spawn(async {
        tokio::select! {
            () = wait_for_signal() => {}
            () = terminal_is_gone() => {}
        }
    });
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(&binaries, &options)).await??;
    let files = tempfile::tempdir()?;
    let projector = OnceLock::new();
    let played = async {
        let config = prepare(&cluster, arguments, files.path(), &display).await?;
        let demonstration = Demonstration::start(config, arguments, display).await?;
        projector.get_or_init(|| demonstration.projector.abort_handle());
        demonstration.play().await
    };
    tokio::select! {
        exit = played => exit,
        _ = interrupted => {
            if let Some(projector) = projector.get() {
                projector.abort();
            }
            eprintln!("\ninterrupted; the cluster is removed");
            Ok(Exit::Good)
        }
    }
}

/// Returns at SIGHUP: there is no configuration here that could be read again.
async fn terminal_is_gone() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => drop(hangup.recv().await),
        Err(_) => std::future::pending().await,
    }
}

/// Loads the sample data and writes the example configuration with this cluster's URL.
async fn prepare(cluster: &Cluster, arguments: &DemoArguments, files: &Path, display: &Display) -> anyhow::Result<Config> {
    let admin = Session::open(&settings(&cluster.url("postgres"))?, "lockstep demo").await?;
    let exists = admin.query_opt("SELECT FROM pg_database WHERE datname = 'shop'", &[]).await?.is_some();
    if !exists {
        admin.batch_execute("CREATE DATABASE shop").await?;
        display.say(&format!("loading {} products, stock items and orders", arguments.products));
        let shop = Session::open(&settings(&cluster.url("shop"))?, "lockstep demo").await?;
        shop.batch_execute(SCHEMA).await.context("sample schema")?;
        shop.batch_execute(&format!("SET lockstep.products = {}; {DATA}", arguments.products)).await.context("sample data")?;
    }
    let projections = files.join("projections");
    std::fs::create_dir(&projections)?;
    for (name, text) in FILES {
        std::fs::write(projections.join(name), text)?;
    }
    let path = files.join("lockstep.toml");
    let text = CONFIGURATION
        .replace("postgres://lockstep@localhost:5432/shop", &cluster.url("shop"))
        // Whatever else listens on this machine.
        .replace("listen = \"127.0.0.1:9187\"", "listen = \"127.0.0.1:0\"")
        .replace("listen = \"127.0.0.1:8080\"", "listen = \"127.0.0.1:0\"")
        // The demonstration measures commit to visible, so no group waits for more changes.
        .replace("linger_ms = 200", "linger_ms = 0");
    std::fs::write(&path, text)?;
    let mut config = Config::load(&path).map_err(|diagnostic| anyhow::anyhow!(diagnostic.render(false)))?;
    if !arguments.feed {
        config.feed_history = None;
        config.projections.iter_mut().for_each(|projection| projection.feed = false);
        config.api.iter_mut().for_each(|api| api.warm.clear());
    }
    Ok(config)
}

fn settings(url: &str) -> anyhow::Result<Settings> {
    Ok(Settings::resolve(Some(url), &|_| None)?)
}

struct Demonstration {
    config: Config,
    arguments: DemoArguments,
    display: Display,
    verifier: Arc<Verifier>,
    projector: JoinHandle<anyhow::Result<Exit>>,
    stop: watch::Sender<bool>,
    statuses: watch::Receiver<Vec<watch::Receiver<GroupStatus>>>,
    addresses: watch::Receiver<Addresses>,
}

impl Demonstration {
    async fn start(config: Config, arguments: &DemoArguments, display: Display) -> anyhow::Result<Self> {
        let verifier = Arc::new(Verifier::open(&config).await?);
        let (stop, stopped) = watch::channel(false);
        let (statuses, addresses) = (watch::Sender::new(Vec::new()), watch::Sender::new(Addresses::default()));
        let (receiver, found) = (statuses.subscribe(), addresses.subscribe());
        let hooks =
            Hooks { observer: Some(verifier.clone()), statuses: Some(statuses), quiet: !display.is_live(), ..Hooks::default() };
        let running = config.clone();
        let projector = tokio::spawn(async move { run_until(&running, false, stopped, hooks, Some(addresses)).await });
        Ok(Self {
            config,
            arguments: arguments.clone(),
            display,
            verifier,
            projector,
            stop,
            statuses: receiver,
            addresses: found,
        })
    }

    async fn play(mut self) -> anyhow::Result<Exit> {
        let began = Instant::now();
        self.until_live().await?;
        self.display.say(&format!(
            "built {} projections in {:.1} s; the workload starts",
            self.rows().len(),
            began.elapsed().as_secs_f64()
        ));
        let addresses = *self.addresses.borrow();
        self.display.look_at(addresses);
        self.verifier.start_measuring();
        let mut workload = Workload::start(&self.config.source, self.arguments.rate);
        let started = Instant::now();
        let deadline = self.arguments.seconds.map(|seconds| started + Duration::from_secs(seconds));
        while deadline.is_none_or(|deadline| Instant::now() < deadline) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.projector.is_finished() {
                return self.projector.await?;
            }
            workload.check().await?;
            self.display.frame(&self.verifier.report(), workload.commits(), started.elapsed(), &self.groups());
        }
        let commits = workload.finish().await?;
        let worked = started.elapsed();
        self.catch_up().await?;
        self.verifier.final_comparison().await?;
        self.stop.send_replace(true);
        self.projector.await??;
        let report = self.verifier.report();
        self.display.summary(
            &report,
            commits,
            worked,
            &self.statuses.borrow().iter().map(|status| status.borrow().clone()).collect::<Vec<_>>(),
        )?;
        let names: Vec<&str> = self.config.projections.iter().map(|projection| projection.name.as_str()).collect();
        Ok(if report.proves(&names) { Exit::Good } else { Exit::Failure })
    }

    fn groups(&self) -> Vec<GroupStatus> {
        self.statuses.borrow().iter().map(|status| status.borrow().clone()).collect()
    }

    fn rows(&self) -> Vec<(String, i64)> {
        self.groups().iter().flat_map(|group| group.projections.iter().map(|p| (p.name.clone(), p.rows))).collect()
    }

    async fn until_live(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BUILD_MAX;
        loop {
            let groups = self.groups();
            if !groups.is_empty() && groups.iter().all(GroupStatus::is_live) {
                return Ok(());
            }
            let faulted = groups
                .iter()
                .flat_map(|group| &group.projections)
                .find_map(|p| p.reason.as_ref().map(|reason| (&p.name, reason)));
            if let Some((name, reason)) = faulted {
                bail!("{name}: {reason}");
            }
            if self.projector.is_finished() {
                let ended = (&mut self.projector).await??;
                bail!("the projector ended: {ended:?}");
            }
            if Instant::now() > deadline {
                bail!("the build took longer than {BUILD_MAX:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn catch_up(&self) -> anyhow::Result<()> {
        let source = Session::open(&self.config.source, "lockstep demo").await?;
        let row = source
            .query_one(
                "SELECT lockstep.wait_for(pg_current_wal_insert_lsn(), $1::text::interval)",
                &[&format!("{} seconds", CATCH_UP_MAX.as_secs())],
            )
            .await?;
        if !row.get::<_, bool>(0) {
            bail!("the workload was not visible within {CATCH_UP_MAX:?}");
        }
        Ok(())
    }
}
