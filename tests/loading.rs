//! Builds that several sessions load, page by page, while others write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_cluster::Cluster;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, cluster, connect, seed_from_environment};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;

use crate::harness::{Program, Projector, Setup, assert_equal, catch_up, until};

/// A key of two columns; a domain that refuses NULL, over an outer join.
const SCHEMA: &str = "
    CREATE DOMAIN shade AS text NOT NULL;
    CREATE TABLE tag (id int PRIMARY KEY, name shade);
    CREATE TABLE item (code text, n int, v int, note text, tag_id int, PRIMARY KEY (code, n));
    CREATE INDEX ON item (tag_id);
    CREATE INDEX ON item (n);
    CREATE TABLE other (id bigint PRIMARY KEY, v int);
    CREATE TABLE node (id int PRIMARY KEY, parent int);
    CREATE INDEX ON node (parent);
    INSERT INTO node SELECT n, NULLIF(n / 7, 0) FROM generate_series(1, 1400) AS n;
    INSERT INTO tag SELECT n, 'shade ' || n FROM generate_series(1, 20) AS n;
    INSERT INTO item SELECT CASE WHEN n % 2 = 0 THEN 'b' ELSE 'B' END || n % 12, n, n % 100, 'note ' || n, NULLIF(n % 25, 0)
    FROM generate_series(1, 9000) AS n;
    INSERT INTO other SELECT n, n % 50 FROM generate_series(1, 4000) AS n;
    ANALYZE";

const PROJECTIONS: &[(&str, &str, &str)] = &[
    (
        "item_row",
        "SELECT i.code, i.n, i.v, i.note, t.name FROM item i LEFT JOIN tag t ON t.id = i.tag_id",
        "",
    ),
    ("third", "SELECT i.code, i.n, i.v FROM item i WHERE i.v % 3 = 0 AND i.tag_id IN (SELECT t.id FROM tag t WHERE t.name <> 'shade 3')", ""),
    ("by_tag", "SELECT i.tag_id, count(*) AS n, sum(i.v) AS v FROM item i GROUP BY i.tag_id", ""),
    ("all_values", "SELECT i.v FROM item i UNION ALL SELECT o.v FROM other o", ""),
    (
        "newest",
        "SELECT s.code, s.n, s.v FROM (SELECT i.code, i.n, i.v, row_number() OVER (PARTITION BY i.code ORDER BY i.n DESC) AS place FROM item i) s
         WHERE s.place <= 2",
        "",
    ),
    (
        "above",
        "WITH RECURSIVE t AS (SELECT n.id AS top, n.id FROM node n UNION SELECT t.top, n.id FROM node n JOIN t ON n.parent = t.id)
         SELECT top, count(*) AS n FROM t GROUP BY top",
        "",
    ),
];

/// Of the first of them.
const INDEXES: &str =
    "CREATE INDEX one ON item_row (v); CREATE UNIQUE INDEX two ON item_row (n, code); CREATE INDEX ON item_row (name);
    CREATE STATISTICS item_statistics ON v, name FROM item_row; ANALYZE item_row";

/// A change of some row.
fn change(random: &mut StdRng) -> String {
    let (n, new) = (random.random_range(1..9_000), random.random_range(1..2_000_000));
    let code = ["a", "B1", "b2", "Z", "zz"][random.random_range(0..5)];
    match random.random_range(0..12) {
        0..=2 => format!("UPDATE item SET v = {} WHERE n = {n}", new % 100),
        3..=4 => format!("INSERT INTO item VALUES ('{code}', {new}, {}, 'new', {}) ON CONFLICT DO NOTHING", new % 100, new % 22),
        5..=6 => format!("DELETE FROM item WHERE n = {n}"),
        7 => format!("UPDATE item SET code = '{code}' WHERE n = {n}"),
        // Each concerns a twenty-fifth of all items.
        8 if new % 12 == 0 => format!("UPDATE tag SET name = 'shade {}' WHERE id = {}", new % 7, new % 20),
        9 => format!("DELETE FROM other WHERE id = {}; INSERT INTO other VALUES ({new}, 1) ON CONFLICT DO NOTHING", n % 4_000),
        10 => format!("UPDATE node SET parent = {} WHERE id = {}", n % 200, 1_000 + n % 400),
        _ => format!(
            "DELETE FROM item WHERE n BETWEEN {n} AND {n} + 20; UPDATE item SET n = n + 10000000 WHERE n BETWEEN {n} + 21 AND {n} + 25"
        ),
    }
}

/// Between two transactions of a writer.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// One that writes until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    /// One that locks takes a lock now and then that waits for whoever reads, and that others wait for.
    fn start(url: &str, seed: u64, locks: bool) -> Self {
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (url, flag, count) = (url.to_owned(), stop.clone(), commits.clone());
        let task = tokio::spawn(async move {
            let session = connect(&url).await?;
            let mut random = StdRng::seed_from_u64(seed);
            while !flag.load(Ordering::Relaxed) {
                let lock = if locks && random.random_ratio(1, 30) { "LOCK TABLE item IN ACCESS EXCLUSIVE MODE; " } else { "" };
                match session.batch_execute(&format!("BEGIN; {lock}{}; COMMIT", change(&mut random))).await {
                    Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    // A key that is there already.
                    Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => session.batch_execute("ROLLBACK").await?,
                    Err(error) => return Err(error.into()),
                }
                // It is not to be a flood: what is built is to be more than what changes.
                tokio::time::sleep(PAUSE).await;
            }
            Ok(())
        });
        Self { stop, commits, task }
    }

    /// Returns how often it has committed.
    async fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.commits.load(Ordering::Relaxed))
    }
}

/// The setup, and the folder that its script of indexes is in.
async fn setup(source_url: &str, target: Option<&Cluster>) -> anyhow::Result<(Setup, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let indexes = folder.path().join("indexes.sql");
    std::fs::write(&indexes, INDEXES)?;
    let mut setup = Setup::new(source_url, PROJECTIONS);
    setup.target_url = target.map(|target| target.url("postgres"));
    let types = target.map(|_| "make_types = true\n").unwrap_or_default();
    setup.preamble = format!("{types}[[group]]\nname = \"all\"\n");
    for (_, _, extra) in &mut setup.projections {
        extra.push_str("\ngroup = \"all\"\n");
    }
    setup.projections[0].2.push_str(&format!("indexes = \"{}\"\n", indexes.display()));
    connect(source_url).await?.batch_execute(SCHEMA).await?;
    Ok((setup, folder))
}

const ALL_LIVE: &str = "SELECT bool_and(state = 'live') FROM lockstep.projection";

/// Pages of 250 rows are loaded by three sessions while somebody writes; then everything is equal, and stays so.
async fn loaded_while_written(two_databases: bool) -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let (source, target) = (cluster()?, two_databases.then(cluster).transpose()?);
    let (setup, _indexes) = setup(&source.url("postgres"), target.as_ref()).await?;
    let oracle = Arc::new(Oracle::strict());
    let options = RefreshOptions { page_rows_max: 250, ..RefreshOptions::default() };
    let writer = Writer::start(&setup.source_url, seed, true);
    let mut projector = Projector::start(&setup, Some(oracle.clone()), options).await?;
    until(&connect(setup.target_url()).await?, ALL_LIVE).await?;
    let commits = writer.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    println!("{commits} commits meanwhile, {} comparisons", oracle.total().compared);
    anyhow::ensure!(commits > 20, "hardly anything was written while it was built: {commits}");
    assert_eq!(oracle.total().different, 0);
    assert_equal(&setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn loaded_while_written_in_one_database() -> anyhow::Result<()> {
    loaded_while_written(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn loaded_while_written_in_two_databases() -> anyhow::Result<()> {
    loaded_while_written(true).await
}

/// The process dies while pages are loaded, after they were and before the batch says so, and between two indexes: nothing is built from
/// the start for it, and everything is equal.
async fn dies_while_loading(two_databases: bool) -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let (source, target) = (cluster()?, two_databases.then(cluster).transpose()?);
    let (setup, _indexes) = setup(&source.url("postgres"), target.as_ref()).await?;
    let more = "INSERT INTO item SELECT 'm' || n % 12, n, n % 100, 'note ' || n, NULLIF(n % 25, 0) FROM generate_series(9001, 30000) AS n;
                ANALYZE item";
    connect(&setup.source_url).await?.batch_execute(more).await?;
    let program = Program::new(&setup)?;
    let target = connect(setup.target_url()).await?;
    let writer = Writer::start(&setup.source_url, seed, false);
    let mut left_over = 0_i64;
    for failpoint in ["load_page=1*off->return", "pages_loaded=return", "pages_loaded=1*off->return", "index_made=1*off->return"]
    {
        let mut child = program.start(failpoint)?;
        let ended = program.ended(&mut child).await.map_err(|error| error.context(failpoint))?;
        anyhow::ensure!(!ended.success(), "it was to abort at {failpoint}: {}", program.log());
        let row = target.query_one("SELECT count(build_until), count(build_position) FROM lockstep.projection", &[]).await?;
        anyhow::ensure!(failpoint.starts_with("index") || row.get::<_, i64>(1) > 0, "nothing was built before {failpoint}");
        left_over += row.get::<_, i64>(0);
    }
    anyhow::ensure!(left_over > 0, "no attempt left pages behind: {left_over}");
    let indexes = "SELECT cardinality(indexes_done) FROM lockstep.projection WHERE name = 'item_row'";
    anyhow::ensure!(target.query_one(indexes, &[]).await?.get::<_, i32>(0) > 0, "no index was made before it died");
    let mut child = program.start("")?;
    let result = async {
        until(&target, ALL_LIVE).await?;
        writer.finish().await?;
        catch_up(&setup).await?;
        let made = "SELECT count(*) FROM pg_index WHERE indrelid = 'read_model.item_row'::regclass AND indisvalid";
        // The key's own, and three.
        anyhow::ensure!(target.query_one(made, &[]).await?.get::<_, i64>(0) == 4, "indexes are missing, or there twice");
        assert_equal(&setup).await
    };
    let result = result.await.map_err(|error| error.context(program.log()));
    child.kill()?;
    child.wait()?;
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn dies_while_loading_in_one_database() -> anyhow::Result<()> {
    dies_while_loading(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dies_while_loading_in_two_databases() -> anyhow::Result<()> {
    dies_while_loading(true).await
}

/// What was recomputed at once while it was built, because a table was emptied, is not built once more after a crash: its rows have no
/// unique index that would refuse them. Indexes without a name, of which two would be called the same, are made, too.
#[tokio::test(flavor = "multi_thread")]
async fn emptied_while_it_is_built() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), &[PROJECTIONS[3]]);
    let folder = tempfile::tempdir()?;
    let indexes = folder.path().join("indexes.sql");
    let same_name = "CREATE INDEX ON all_values ((v + 1)); CREATE INDEX ON all_values ((v + 2)); CREATE INDEX ON all_values ((v + 3));
                     CREATE INDEX ON all_values ((v + 4)); CREATE INDEX ON all_values ((v + 5)); CREATE INDEX ON all_values ((v + 6));";
    std::fs::write(&indexes, same_name)?;
    setup.projections[0].2 = format!("indexes = \"{}\"\n", indexes.display());
    let session = connect(&setup.source_url).await?;
    session.batch_execute(SCHEMA).await?;
    let program = Program::new(&setup)?;
    for failpoint in ["pages_loaded=return", "index_made=1*off->return"] {
        let ended = program.ended(&mut program.start(failpoint)?).await.map_err(|error| error.context(failpoint))?;
        anyhow::ensure!(!ended.success(), "it was to abort at {failpoint}: {}", program.log());
        session.batch_execute("TRUNCATE other; INSERT INTO other SELECT n, n % 50 FROM generate_series(1, 3000) AS n").await?;
    }
    let row = session.query_one("SELECT state, build_position FROM lockstep.projection", &[]).await?;
    let (state, position): (&str, Option<Vec<String>>) = (row.get(0), row.get(1));
    assert_eq!((state, position), ("building", Some(vec!["2".to_owned()])), "all of it was to be done at once");
    let mut child = program.start("")?;
    let result = async {
        until(&session, ALL_LIVE).await?;
        catch_up(&setup).await?;
        let made = "SELECT count(*) FROM pg_index WHERE indrelid = 'read_model.all_values'::regclass AND indisvalid AND indexprs IS NOT NULL
                    AND pg_get_indexdef(indexrelid) LIKE '%v + %'";
        assert_eq!(session.query_one(made, &[]).await?.get::<_, i64>(0), 6, "indexes are missing, or there twice");
        assert_equal(&setup).await
    };
    let result = result.await.map_err(|error| error.context(program.log()));
    child.kill()?;
    child.wait()?;
    result
}
