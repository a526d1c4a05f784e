//! What operators look at: metrics, readiness, the page, the views in SQL.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Workload, cluster, cluster_with, connect, seed_from_environment};

use crate::harness::{PATIENCE, PROJECTIONS, Program, Projector, Setup, catch_up, shop, until};
use crate::http::{Feed, PRODUCT_INDEXES, PRODUCT_SEARCH, PRODUCTS, SAMPLE, get};

const RECENT_ITEMS: &str = include_str!("../config/projections/recent_items.sql");

/// A running program that is ended when the test is.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// An address that nobody listens on. Somebody may take it before we do; then the program says so and the test fails.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Names of metrics in the files of a directory: in dashboards, rules and runbooks.
fn named_in(directory: &Path, found: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            named_in(&path, found)?;
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        found.extend(words.filter(|word| is_metric(word)).map(base).map(str::to_owned));
    }
    Ok(())
}

fn is_metric(word: &str) -> bool {
    let begins = ["lockstep_", "product_search_", "item_search_"].iter().any(|prefix| word.starts_with(prefix));
    let ends = [
        "_total",
        "_seconds",
        "_bytes",
        "_ms",
        "_ratio",
        "_state",
        "_rows",
        "_keys",
        "_active",
        "_subscribers",
        "_stalled",
        "_aside",
        "_withheld",
        "_bucket",
        "_sum",
        "_count",
    ];
    (begins && ends.iter().any(|suffix| word.ends_with(suffix))) || ["cache_hit_ratio", "db_connection_usage"].contains(&word)
}

/// A histogram's name without what its series add.
fn base(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_named_is_exported() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = connect(&url).await?;
    session.batch_execute(SAMPLE).await?;
    session.batch_execute(PRODUCTS).await?;
    session.batch_execute("CREATE TABLE strict (id int PRIMARY KEY, t text); INSERT INTO strict VALUES (1, '1')").await?;
    let (metrics, api) = (free_address()?, free_address()?);
    let extra = format!("key = [\"id\"]\nindexes = \"{PRODUCT_INDEXES}\"\n");
    let mut setup = Setup::new(
        &url,
        &[
            ("product_search", PRODUCT_SEARCH, &extra),
            ("recent_items", RECENT_ITEMS, ""),
            ("strict", "SELECT s.id, s.t::int AS t FROM strict s", ""),
        ],
    );
    setup.preamble = format!(
        "[backstop]\nschedule = \"* * * * * *\"\n[feed]\n[api]\nlisten = \"{api}\"\n
         [[api.warm]]\nprojection = \"product_search\"\npath = \"/api/products?limit=3\"\n"
    );
    let program = Program::new(&setup)?;
    program.file("lockstep.toml", &setup.toml().replace("listen = \"\"", &format!("listen = \"{metrics}\"")))?;
    let _run = Run(program
        .command(&["run"])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(program.directory.path().join("log"))?)
        .spawn()?);
    until(&session, "SELECT count(*) > 0 FROM lockstep.mv_refresh_log WHERE success AND projection = 'product_search'").await?;
    catch_up(&setup).await?;
    // Something of everything: reads of both kinds, a fallback, a subscriber, a bad row, a verification.
    let mut feed = Feed::open(api, "/api/changes/product_search", "").await?;
    assert_eq!(feed.next().await?.name, "ready");
    assert_eq!(get(api, "/api/products").await?.status, 200);
    assert_eq!(get(api, "/api/read/recent_items").await?.status, 200);
    session.batch_execute("UPDATE strict SET t = 'x'; UPDATE custom_posts SET title = 'New' WHERE slug = 'p1'").await?;
    assert_eq!(feed.next().await?.name, "change");
    let (status, output, errors) = program.run(&["verify", "product_search"])?;
    assert_eq!(status, 0, "{output}{errors}");
    until(&session, "SELECT count(*) = 1 FROM lockstep.quarantine").await?;
    session.batch_execute("ALTER TABLE read_model.product_search RENAME TO hidden").await?;
    let answer = get(api, "/api/products").await?;
    assert_eq!(answer.header("lockstep-source"), Some("view"), "{}", answer.body);
    session.batch_execute("ALTER TABLE read_model.hidden RENAME TO product_search").await?;
    let mut named = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for directory in ["deploy", "docs"] {
        named_in(&root.join(directory), &mut named)?;
    }
    assert!(named.len() > 30, "{named:?}");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let missing = loop {
        let text = get(metrics, "/metrics").await?.body;
        let exported: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .map(base)
            .collect();
        let missing: Vec<String> = named.iter().filter(|name| !exported.contains(name.as_str())).cloned().collect();
        // Some are told every few seconds.
        if missing.is_empty() || tokio::time::Instant::now() > deadline {
            break missing;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_eq!(missing, Vec::<String>::new(), "named in a dashboard, rule or runbook, and not exported");
    let text = get(metrics, "/metrics").await?.body;
    assert!(text.contains("lockstep_warm_requests_total{projection=\"product_search\",outcome=\"success\"}"), "{text}");
    assert!(text.contains("product_search_query_duration_ms_bucket{source=\"projection\",le=\"25\"}"), "{text}");
    assert!(text.contains("product_search_fallback_total 1"), "{text}");
    // The page and what it is made of.
    for (path, content_type) in [
        ("/", "text/html"),
        ("/assets/page.js", "text/javascript"),
        ("/assets/page.css", "text/css"),
        ("/assets/uPlot.min.js", "text/javascript"),
        ("/assets/uPlot.min.css", "text/css"),
        ("/status.json", "application/json"),
        ("/history.json", "application/json"),
        ("/plans/product_search", "application/json"),
    ] {
        let answer = get(metrics, path).await?;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").is_some_and(|found| found.starts_with(content_type)), "{path}");
        assert!(answer.header("content-security-policy").is_some(), "{path}");
    }
    assert_eq!((get(metrics, "/assets/x").await?.status, get(metrics, "/plans/x").await?.status), (404, 404));
    let status = get(metrics, "/status.json").await?.json();
    assert_eq!(status["instance"]["state"], "leading");
    let projections = status["projections"].as_array().cloned().unwrap_or_default();
    let found: Vec<(&str, i64)> = projections
        .iter()
        .map(|projection| (projection["name"].as_str().unwrap_or_default(), projection["quarantined"].as_i64().unwrap_or(-1)))
        .collect();
    assert_eq!(found, [("product_search", 0), ("recent_items", 0), ("strict", 1)], "{status}");
    assert!(projections[0]["last_verification"]["outcome"] == "equal" && projections[0]["view"]["success"] == true, "{status}");
    assert!(status["slot"]["active"] == true && status["groups"][0]["freshness_p50_ms"].is_number(), "{status}");
    let mut events = Feed::open(metrics, "/events", "").await?;
    let event: serde_json::Value = serde_json::from_str(&events.next().await?.data)?;
    assert_eq!(event["projections"].as_array().map(Vec::len), Some(3));
    let rows: i64 = session.query_one("SELECT count(*) FROM lockstep.status WHERE state = 'live'", &[]).await?.get(0);
    assert_eq!(rows, 3);
    Ok(())
}

/// Alarms that depend on a gauge must go off when what would set the gauge is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_when_the_database_is_gone_or_a_query_fails() -> anyhow::Result<()> {
    let mut cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = connect(&url).await?;
    session.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a int, b int); INSERT INTO t VALUES (1, 1, 1)").await?;
    let metrics = free_address()?;
    let mut setup = Setup::new(&url, &[("one", "SELECT t.id, t.a FROM t", ""), ("other", "SELECT t.id, t.b FROM t", "")]);
    setup.preamble = "[backstop]\n".to_owned();
    let program = Program::new(&setup)?;
    program.file("lockstep.toml", &setup.toml().replace("listen = \"\"", &format!("listen = \"{metrics}\"")))?;
    let mut run = Run(program.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    until(&session, "SELECT count(*) = 2 FROM lockstep.projection WHERE state = 'live'").await?;
    let metric = |name: &'static str| async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // The process may just be starting.
            let text = get(metrics, "/metrics").await.map(|answer| answer.body).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.trim().parse::<f64>().ok());
            if let Some(value) = value {
                return anyhow::Ok(value);
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "{name} is not told: {text}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert!(metric("lockstep_staleness_seconds{group=\"default\"}").await? < 3.0);
    assert_eq!(get(metrics, "/readyz").await?.status, 200);
    drop(session);
    cluster.stop_server("immediate")?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while metric("lockstep_staleness_seconds{group=\"default\"}").await? < 4.0 {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "the staleness does not grow");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let status = get(metrics, "/status.json").await?.json();
    assert_eq!(status["instance"]["state"], "setting up again", "{status}");
    cluster.start_server()?;
    let session = connect(&url).await?;
    // A query that fails: its projection is faulted, also after a restart, when no group has it.
    session.batch_execute("ALTER TABLE t RENAME b TO c").await?;
    drop(run.0.kill());
    drop(run.0.wait());
    run.0 = program.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let faulted = "lockstep_projection_state{group=\"default\",projection=\"other\",state=\"faulted\"}";
    assert!((metric(faulted).await? - 1.0).abs() < f64::EPSILON);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let ready = get(metrics, "/readyz").await?;
        if ready.status == 503 && ready.body == "other is faulted\n" {
            break;
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{}", ready.body);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Whoever looks into the server's log finds nothing there that Lockstep does as a matter of course.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_s_log_stays_quiet() -> anyhow::Result<()> {
    let cluster = cluster_with(&["log_line_prefix=%a: "])?;
    let mut projections = PROJECTIONS.to_vec();
    let by_clock = "SELECT o.id, o.placed > now() - interval '1 day' AS recent FROM shop.orders o";
    projections.push(("by_clock", by_clock, ""));
    let mut setup = Setup::new(&cluster.url("postgres"), &projections);
    setup.preamble =
        "[time]\nresolution_ms = 50\n[feed]\n[backstop]\nschedule = \"* * * * * *\"\n[api]\nlisten = \"127.0.0.1:0\"\n"
            .to_owned();
    let session = shop(&setup.source_url).await?;
    let (mut projector, address) = Projector::start_with_api(&setup, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for (path, status) in [("order_row?facets=status", 200), ("order_row?amount=gte.much", 400), ("order_row?source=view", 400)] {
        assert_eq!(get(address, &format!("/api/read/{path}")).await?.status, status, "{path}");
    }
    let mut workload = Workload::start(&setup.source_url, 2, seed_from_environment());
    workload.reach(100).await?;
    workload.finish().await?;
    until(&session, "SELECT count(*) > 1 FROM lockstep.mv_refresh_log WHERE view = 'mv_by_clock' AND success").await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let log = std::fs::read_to_string(cluster.directory().join("log"))?;
    let levels = ["WARNING", "ERROR", "FATAL", "PANIC"];
    // What the test itself and its workload are told is theirs; what a client writes for a number, and what follows from it, the client's.
    let of_a_client = ["invalid input syntax for type numeric: \"much\"", "current transaction is aborted"];
    let of_others = |line: &str| {
        line.starts_with("lockstep test: ")
            || (line.starts_with("lockstep read: ") && of_a_client.iter().any(|words| line.contains(words)))
    };
    let ours = |line: &&str| !of_others(line) && levels.iter().any(|level| line.contains(level));
    let said: Vec<&str> = log.lines().filter(ours).collect();
    assert!(said.is_empty() && log.contains("ready to accept connections"), "{said:#?}");
    Ok(())
}

/// A value of a metric, as soon as it is told.
async fn told(metrics: SocketAddr, name: &str, wanted: impl Fn(f64) -> bool) -> anyhow::Result<f64> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let text = get(metrics, "/metrics").await.map(|answer| answer.body).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.trim().parse::<f64>().ok());
        if let Some(value) = value.filter(|value| wanted(*value)) {
            return Ok(value);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{name} is {value:?}: {text}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// One wrong row counts once however often it is found, and a group that is set aside is as far behind as its rows are.
#[tokio::test(flavor = "multi_thread")]
async fn drift_counts_once_and_what_is_set_aside_lags() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = connect(&url).await?;
    session
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT n, n FROM generate_series(1, 9) n;
             CREATE TABLE u (id int PRIMARY KEY, b text); INSERT INTO u VALUES (1, '1')",
        )
        .await?;
    let metrics = free_address()?;
    let aside = "group = \"aside\"\non_error = \"halt\"";
    let mut setup =
        Setup::new(&url, &[("one", "SELECT t.id, t.a FROM t", ""), ("other", "SELECT u.id, u.b::int AS b FROM u", aside)]);
    setup.preamble = "[[group]]\nname = \"aside\"\n".to_owned();
    let program = Program::new(&setup)?;
    program.file("lockstep.toml", &setup.toml().replace("listen = \"\"", &format!("listen = \"{metrics}\"")))?;
    let _run = Run(program.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    until(&session, "SELECT count(*) = 2 FROM lockstep.projection WHERE state = 'live'").await?;
    catch_up(&setup).await?;
    let (total, differing) = ("lockstep_drift_rows_total{projection=\"one\"}", "lockstep_differing_rows{projection=\"one\"}");
    let is = |expected: f64| move |value: f64| (value - expected).abs() < f64::EPSILON;
    for (corruption, command, outcome, drift, still) in [
        ("UPDATE read_model.one SET a = 100 WHERE id = 3", "verify", 1, 1.0, 1.0),
        ("", "verify", 1, 1.0, 1.0),
        ("DELETE FROM read_model.one WHERE id = 4", "verify", 1, 2.0, 2.0),
        ("", "repair", 0, 2.0, 0.0),
        ("", "verify", 0, 2.0, 0.0),
        ("UPDATE read_model.one SET a = 100 WHERE id = 3", "repair", 0, 3.0, 0.0),
    ] {
        session.batch_execute(corruption).await?;
        let (status, output, errors) = program.run(&[command, "one"])?;
        assert_eq!(status, outcome, "{corruption} {command}: {output} {errors}");
        told(metrics, differing, is(still)).await?;
        let found = told(metrics, total, |_| true).await?;
        assert!(is(drift)(found), "{corruption} {command}: {found} rows of drift");
    }
    // The other group's only projection is set aside, and the first one goes on.
    session.batch_execute("UPDATE u SET b = 'x'").await?;
    until(&session, "SELECT state = 'faulted' FROM lockstep.projection WHERE name = 'other'").await?;
    told(metrics, "lockstep_projection_state{group=\"aside\",projection=\"other\",state=\"faulted\"}", is(1.0)).await?;
    session.batch_execute("INSERT INTO t SELECT n, n FROM generate_series(10, 20000) n").await?;
    catch_up_with(&session, "one").await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = get(metrics, "/status.json").await?.json();
        let group = |name: &str| status["groups"].as_array().into_iter().flatten().find(|group| group["name"] == name).cloned();
        let (goes_on, aside) = (group("default").unwrap_or_default(), group("aside").unwrap_or_default());
        assert!(goes_on["set_aside"] == false && aside["set_aside"] == true, "{status}");
        let (staleness, other) = (aside["staleness_seconds"].as_f64(), goes_on["staleness_seconds"].as_f64());
        // Its rows are older than the writing that the other one has taken in, and more than a megabyte behind, or nobody knows how far.
        let behind = aside["lag_bytes"].as_i64().is_none_or(|bytes| bytes > 1_000_000);
        if behind && staleness > other && staleness.is_some_and(|seconds| seconds > 2.0) {
            break;
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{status}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn catch_up_with(session: &lockstep_connect::Session, projection: &str) -> anyhow::Result<()> {
    let lsn: String = session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    until(session, &format!("SELECT lockstep.wait_for('{lsn}'::pg_lsn, interval '1 second', '{projection}')")).await
}
