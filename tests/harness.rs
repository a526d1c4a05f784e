//! A projector in this process or as a child, over a cluster of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lockstep::Exit;
use lockstep::run::{Addresses, run_until};
use lockstep_backstop::{Subject, compare, compare_in_one_session};
use lockstep_cluster::Cluster;
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_refresh::{BatchObserver, RefreshOptions};
use lockstep_supervise::Hooks;
use lockstep_testkit::{cluster, connect};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// No wait in a test is longer: it bounds what hangs, not what is slow because of what runs beside it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Watches something that takes long by its nature: how far it has come must not stand still.
pub(crate) struct Progress {
    reached: u64,
    at: std::time::Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self { reached: 0, at: std::time::Instant::now() }
    }
}

impl Progress {
    /// Fails when the count has stood still for longer than tests are patient.
    pub(crate) fn reached(&mut self, count: u64) -> anyhow::Result<()> {
        if count > self.reached {
            *self = Self { reached: count, at: std::time::Instant::now() };
        }
        anyhow::ensure!(self.at.elapsed() < PATIENCE, "stands still at {count}");
        Ok(())
    }
}

/// Projections over the workload's shop: every kind, every role.
pub(crate) const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("order_row", "SELECT o.id, o.status, o.amount, c.\"fullName\" AS customer, r.name AS region, o.extra FROM shop.orders o
        LEFT JOIN shop.customer c ON c.id = o.customer_id LEFT JOIN shop.region r ON r.code = c.region_code", "key = [\"id\"]"),
    ("order_inner", "SELECT o.id, c.id AS customer_id, c.tier + 1 AS tier FROM shop.orders o
        JOIN shop.customer c ON o.customer_id = c.id AND c.tier > 0 WHERE o.status <> 'new'", ""),
    ("line_row", "SELECT l.order_id, l.position, l.product, l.quantity, o.status FROM shop.line l JOIN shop.orders o ON o.id = l.order_id", ""),
    ("members", "SELECT o.id, o.amount FROM shop.orders o WHERE o.customer_id IN (SELECT c.id FROM shop.customer c WHERE c.tier = 2)
        OR EXISTS (SELECT 1 FROM shop.customer v JOIN shop.region g ON g.code = v.region_code WHERE v.id = o.customer_id AND g.name LIKE 'Region 1%')", ""),
    ("sales_by_status", "SELECT o.status, count(*) AS n, sum(o.amount) AS total, avg(o.amount) AS mean, min(o.placed) AS first,
        count(DISTINCT o.customer_id) AS customers, string_agg(o.id::text, ',' ORDER BY o.id) AS ids FROM shop.orders o GROUP BY o.status", ""),
    ("sales_by_region", "SELECT r.name AS region, o.placed, count(*) AS n, sum(o.amount) FILTER (WHERE o.status = 'paid') AS paid,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY o.amount) AS median
        FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id LEFT JOIN shop.region r ON r.code = c.region_code
        GROUP BY r.name, o.placed HAVING count(*) > 1", ""),
    ("customer_totals", "SELECT c.id, c.\"fullName\" AS name, sum(o.amount) AS total FROM shop.orders o JOIN shop.customer c ON c.id = o.customer_id GROUP BY c.id", ""),
    ("everything", "SELECT count(*) AS n, sum(l.quantity) AS quantity, max(o.amount) AS top FROM shop.line l LEFT JOIN shop.orders o ON o.id = l.order_id", ""),
    ("without_lines", "SELECT o.id, o.status FROM shop.orders o WHERE NOT EXISTS (SELECT 1 FROM shop.line l WHERE l.order_id = o.id)", ""),
    ("statuses", "SELECT o.status, o.placed FROM shop.orders o", ""),
];

/// How a projector is to be set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) source_url: String,
    pub(crate) target_url: Option<String>,
    /// Name, query, additional TOML lines.
    pub(crate) projections: Vec<(String, String, String)>,
    /// TOML before the projections.
    pub(crate) preamble: String,
}

impl Setup {
    pub(crate) fn new(source_url: &str, projections: &[(&str, &str, &str)]) -> Self {
        Self {
            source_url: source_url.to_owned(),
            target_url: None,
            projections: projections.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect(),
            preamble: String::new(),
        }
    }

    pub(crate) fn toml(&self) -> String {
        let mut text = format!("[source]\nurl = \"{}\"\n[metrics]\nlisten = \"\"\n", self.source_url);
        if let Some(target) = &self.target_url {
            text.push_str(&format!("[target]\nurl = \"{target}\"\n"));
        }
        text.push_str(&self.preamble);
        for (name, sql, extra) in &self.projections {
            text.push_str(&format!("[[projection]]\nname = \"{name}\"\nsql = '''{sql}'''\n{extra}\n"));
        }
        text
    }

    pub(crate) fn config(&self) -> Config {
        let path = PathBuf::from("test.toml");
        Config::parse(&path, &self.toml(), &|_| None).unwrap_or_else(|diagnostic| panic!("{}", diagnostic.render(false)))
    }

    pub(crate) fn target_url(&self) -> &str {
        self.target_url.as_deref().unwrap_or(&self.source_url)
    }
}

/// A projector running in this process.
pub(crate) struct Projector {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Exit>>,
    target: Session,
    source: Session,
}

/// A shop whose projections are followed: a cluster, a session on it, and a projector that has caught up.
pub(crate) struct Followed {
    pub(crate) cluster: Cluster,
    pub(crate) setup: Setup,
    pub(crate) session: Session,
    pub(crate) projector: Projector,
}

impl Followed {
    /// In one database, with a cluster of its own.
    pub(crate) async fn shop(projections: &[(&str, &str, &str)]) -> anyhow::Result<Self> {
        let cluster = cluster()?;
        let setup = Setup::new(&cluster.url("postgres"), projections);
        let session = shop(&setup.source_url).await?;
        let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        projector.catch_up().await?;
        Ok(Self { cluster, setup, session, projector })
    }
}

impl Projector {
    pub(crate) async fn start(
        setup: &Setup,
        observer: Option<Arc<dyn BatchObserver>>,
        options: RefreshOptions,
    ) -> anyhow::Result<Self> {
        Self::start_looking(setup, Some(Duration::from_millis(100)), observer, options).await
    }

    /// The same, looking at the source's catalogs as often as it does by itself.
    pub(crate) async fn start_as_usual(setup: &Setup) -> anyhow::Result<Self> {
        Self::start_looking(setup, None, None, RefreshOptions::default()).await
    }

    async fn start_looking(
        setup: &Setup,
        look_at_schema_every: Option<Duration>,
        observer: Option<Arc<dyn BatchObserver>>,
        options: RefreshOptions,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let config = setup.config();
        let hooks = Hooks { observer, options, quiet: true, look_at_schema_every, ..Hooks::default() };
        let task = tokio::spawn(async move { run_until(&config, false, stopped, hooks, None).await });
        Ok(Self { stop, task, target: connect(setup.target_url()).await?, source: connect(&setup.source_url).await? })
    }

    /// The same, with the address of its read API.
    pub(crate) async fn start_with_api(setup: &Setup, options: RefreshOptions) -> anyhow::Result<(Self, std::net::SocketAddr)> {
        let (stop, stopped) = watch::channel(false);
        let (published, mut addresses) = watch::channel(Addresses::default());
        let config = setup.config();
        let hooks = Hooks { options, quiet: true, ..Hooks::default() };
        let task = tokio::spawn(async move { run_until(&config, false, stopped, hooks, Some(published)).await });
        let (target, source) = (connect(setup.target_url()).await?, connect(&setup.source_url).await?);
        let found =
            tokio::time::timeout(PATIENCE, addresses.wait_for(|found| found.api.is_some())).await??.api.context("no address")?;
        Ok((Self { stop, task, target, source }, found))
    }

    /// Waits until every group contains the source's position of now.
    pub(crate) async fn catch_up(&mut self) -> anyhow::Result<()> {
        self.catch_up_within(PATIENCE).await
    }

    /// Catches up, and every projection equals its query.
    pub(crate) async fn is_equal(&mut self, setup: &Setup) -> anyhow::Result<()> {
        self.catch_up().await?;
        assert_equal(setup).await
    }

    /// The same, and stops.
    pub(crate) async fn ends_equal(mut self, setup: &Setup) -> anyhow::Result<()> {
        self.is_equal(setup).await?;
        self.stop().await.map(drop)
    }

    /// The same with another bound, for a build that takes long.
    pub(crate) async fn catch_up_within(&mut self, patience: Duration) -> anyhow::Result<()> {
        let lsn: String = self.source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
        let deadline = tokio::time::Instant::now() + patience;
        while tokio::time::Instant::now() < deadline {
            if self.task.is_finished() {
                let ended = (&mut self.task).await?;
                bail!("the projector ended: {ended:?}");
            }
            // Before the set-up the function does not exist.
            let waited = self.target.query_one("SELECT lockstep.wait_for($1::text::pg_lsn, interval '1 second')", &[&lsn]).await;
            match waited {
                Ok(row) if row.get::<_, bool>(0) => {
                    return until(
                        &self.target,
                        "SELECT NOT EXISTS (SELECT FROM lockstep.projection WHERE state IN ('registered', 'building') AND replaces IS NULL)",
                    )
                    .await;
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let states =
            "SELECT coalesce(string_agg(concat_ws(' ', name, state, sqlstate, reason), '; '), '') FROM lockstep.projection";
        let states = self.target.query_one(states, &[]).await.map_or_else(|_| String::new(), |row| row.get(0));
        bail!("did not catch up with {lsn} within {patience:?}: {states}")
    }

    /// Opens this test's own sessions again after a crash of a server.
    pub(crate) async fn reconnect(&mut self, setup: &Setup) -> anyhow::Result<()> {
        self.target = connect(setup.target_url()).await?;
        self.source = connect(&setup.source_url).await?;
        Ok(())
    }

    /// Stops it; the result is the run's.
    pub(crate) async fn stop(self) -> anyhow::Result<Exit> {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.context("did not stop")??
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&self) -> bool {
        self.task.is_finished()
    }

    /// The run's error, when it ends by itself.
    pub(crate) async fn end(self) -> anyhow::Result<Exit> {
        tokio::time::timeout(PATIENCE, self.task).await.context("did not end")??
    }
}

/// Somebody who reads without a pause: every read must succeed at once and return true.
pub(crate) struct Readers {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<u64>>,
}

impl Readers {
    pub(crate) fn start(url: &str, condition: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (url, condition) = (url.to_owned(), condition.to_owned());
        let task = tokio::spawn(async move {
            let session = connect(&url).await?;
            // A swap holds its lock for milliseconds; a reader that has to wait for work to be done fails.
            session.batch_execute("SET statement_timeout = '5s'").await?;
            let mut reads = 0;
            while !*stopped.borrow() {
                let row = session
                    .query_one(&condition, &[])
                    .await
                    .map_err(|error| anyhow::anyhow!("reading: {}", lockstep_connect::describe(&error)))?;
                anyhow::ensure!(row.get::<_, bool>(0), "a reader saw what no source snapshot holds, after {reads} reads");
                reads += 1;
            }
            Ok(reads)
        });
        Self { stop, task }
    }

    /// How often they have read.
    pub(crate) async fn stop(self) -> anyhow::Result<u64> {
        self.stop.send_replace(true);
        self.task.await?
    }
}

/// Waits until a query on a session returns true.
pub(crate) async fn until(session: &Session, condition: &str) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // The tables that it looks at may not exist yet.
        if let Ok(Some(row)) = session.query_opt(condition, &[]).await
            && row.get::<_, Option<bool>>(0) == Some(true)
        {
            return Ok(());
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "did not become true: {condition}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until every group of a projector in another process contains the source's position of now.
pub(crate) async fn catch_up(setup: &Setup) -> anyhow::Result<()> {
    let source = connect(&setup.source_url).await?;
    let target = connect(setup.target_url()).await?;
    let lsn: String = source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    until(&target, &format!("SELECT lockstep.wait_for('{lsn}'::pg_lsn, interval '1 second')")).await
}

/// Compares every projection with its query on a source that stands still.
pub(crate) async fn assert_equal(setup: &Setup) -> anyhow::Result<()> {
    let source = connect(&setup.source_url).await?;
    let target = connect(setup.target_url()).await?;
    for (name, query, _) in &setup.projections {
        let columns = target
            .query(
                // What may have no equality (json, boxes, arrays of such) is compared as text.
                "SELECT attname::text, typcategory IN ('N', 'S', 'D', 'B', 'T') FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid
                 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[&format!("read_model.{name}")],
            )
            .await?;
        let subject = Subject {
            name: name.clone(),
            schema: "read_model".to_owned(),
            query: query.clone(),
            time_zone: "UTC".to_owned(),
            columns: columns.iter().map(|row| (row.get(0), row.get(1))).collect(),
        };
        source.batch_execute("BEGIN").await?;
        target.batch_execute("BEGIN").await?;
        // A projection over projections is a query on the target.
        let compared = if query.contains("read_model.") {
            compare_in_one_session(&target, &subject).await
        } else {
            compare(&source, &target, &subject).await
        };
        let comparison = compared.map_err(|error| anyhow::anyhow!("{name}: {}", lockstep_connect::describe(&error)))?;
        source.batch_execute("ROLLBACK").await?;
        target.batch_execute("ROLLBACK").await?;
        if !comparison.is_equal() {
            let why = "SELECT coalesce((SELECT state || coalesce(': ' || reason, '') FROM lockstep.projection WHERE name = $1), '')
                           || coalesce((SELECT '; ' || string_agg(DISTINCT message, '; ') FROM lockstep.quarantine WHERE projection = $1), '')";
            let why: String = target.query_one(why, &[name]).await?.get(0);
            anyhow::bail!("{name} differs from its query: {comparison:?} ({why})");
        }
        let counted: i64 = target.query_one("SELECT row_count FROM lockstep.projection WHERE name = $1", &[name]).await?.get(0);
        anyhow::ensure!(counted == comparison.rows, "{name} has {} rows and {counted} are recorded", comparison.rows);
    }
    Ok(())
}

/// The program, as a child process.
pub(crate) struct Program {
    pub(crate) directory: tempfile::TempDir,
}

impl Program {
    pub(crate) fn new(setup: &Setup) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("lockstep.toml"), setup.toml())?;
        Ok(Self { directory })
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.directory.path().join(name), text)?)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command.current_dir(self.directory.path()).args(arguments).stdin(Stdio::null()).env_remove("LOCKSTEP_LOG");
        command
    }

    /// Runs to the end: exit status, standard output, standard error.
    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let output = self.command(arguments).output()?;
        Ok((
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }

    /// Starts `run` in the background, with fail points.
    pub(crate) fn start(&self, failpoints: &str) -> anyhow::Result<Child> {
        let log = std::fs::File::create(self.directory.path().join("log"))?;
        Ok(self.command(&["run"]).env("FAILPOINTS", failpoints).stdout(Stdio::null()).stderr(log).spawn()?)
    }

    /// Waits for a child that ends by itself; one that does not is killed.
    pub(crate) async fn ended(&self, child: &mut Child) -> anyhow::Result<std::process::ExitStatus> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if tokio::time::Instant::now() > deadline {
                child.kill()?;
                bail!("it was to end by itself: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the last thing that it said of itself is that it writes.
    pub(crate) fn log_ends_with_leadership(&self) -> bool {
        let log = self.log();
        let last = |words: &str| log.rfind(words);
        match (last("standing by"), last("this instance writes now")) {
            (None, _) => log.contains("streaming"),
            (Some(waiting), Some(writing)) => writing > waiting,
            (Some(_), None) => false,
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// A database with the workload's schema.
pub(crate) async fn shop(cluster_url: &str) -> anyhow::Result<Session> {
    let session = connect(cluster_url).await?;
    session.batch_execute(lockstep_testkit::SCHEMA).await?;
    Ok(session)
}

/// Sends a signal to a child.
pub(crate) fn signal(child: &Child, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), signal)?)
}
