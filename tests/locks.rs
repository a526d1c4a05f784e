//! The application's rows and tables are read, and nothing more.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lockstep_connect::{Session, describe};
use lockstep_refresh::{BatchObserver, BatchView, RefreshOptions};
use lockstep_testkit::{Workload, cluster, connect, seed_from_environment};

use crate::conformance;
use crate::harness::{PATIENCE, PROJECTIONS, Program, Projector, Setup, shop};

/// Looks, before every commit, at the locks that the batch's sessions hold on the application's tables.
#[derive(Default)]
pub(crate) struct Locks {
    found: Mutex<Vec<String>>,
    looks: Mutex<u64>,
}

/// Locks beyond reading on tables outside of Lockstep's schemas, and the session's transaction id where it has one and only reads.
const BEYOND_READING: &str = "SELECT coalesce(array_agg(l.mode || ' on ' || l.relation::regclass::text), '{}')
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND l.locktype IN ('relation', 'tuple') AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND n.nspname NOT IN ('lockstep', 'read_model', 'pg_catalog', 'pg_toast') AND n.nspname NOT LIKE 'pg_%temp%'
      AND l.mode <> 'AccessShareLock'";

impl Locks {
    async fn look(&self, batch: &BatchView<'_>) -> Result<(), String> {
        for session in [batch.source, batch.target] {
            let row = session.query_one(BEYOND_READING, &[]).await.map_err(|error| describe(&error))?;
            self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(row.get::<_, Vec<String>>(0));
        }
        if !batch.one_database {
            let row = batch.source.query_one("SELECT current_setting('transaction_read_only')", &[]).await;
            if row.map_err(|error| describe(&error))?.get::<_, &str>(0) != "on" {
                return Err("the source's session may write".to_owned());
            }
        }
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ok(())
    }

    /// Fails if there ever was one, or nobody looked.
    pub(crate) fn none_beyond_reading(&self) -> anyhow::Result<()> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(found.is_empty(), "locks beyond reading: {}", found.join(", "));
        anyhow::ensure!(*self.looks.lock().unwrap_or_else(PoisonError::into_inner) > 0, "nobody looked");
        Ok(())
    }
}

impl BatchObserver for Locks {
    fn before_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, Result<(), String>> {
        async move { self.look(&batch).await }.boxed()
    }

    fn after_commit<'a>(&'a self, _batch: BatchView<'a>) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }
}

/// Both look at every batch.
pub(crate) struct LocksAnd<O>(pub(crate) Arc<Locks>, pub(crate) Arc<O>);

impl<O: BatchObserver> BatchObserver for LocksAnd<O> {
    fn before_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, Result<(), String>> {
        async move {
            self.1.before_commit(batch).await?;
            self.0.look(&batch).await
        }
        .boxed()
    }

    fn after_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, ()> {
        self.1.after_commit(batch)
    }
}

/// How the rows of schemas are stored, and who locked or deleted them; and how many were written since the statistics began.
pub(crate) async fn stored(session: &Session, schemas: &str) -> anyhow::Result<Vec<String>> {
    let schemas: Vec<&str> = schemas.split(", ").collect();
    let tables = session
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname = ANY ($1) AND c.relkind = 'r' ORDER BY 1",
            &[&schemas],
        )
        .await?;
    let mut all = Vec::new();
    for table in tables {
        let table: String = table.get(0);
        let row = session
            .query_one(
                &format!("SELECT md5(string_agg(ctid::text || ' ' || xmin || ' ' || xmax, ',' ORDER BY ctid)) FROM {table}"),
                &[],
            )
            .await?;
        all.push(format!("{table} {}", row.get::<_, Option<&str>>(0).unwrap_or_default()));
    }
    anyhow::ensure!(!all.is_empty(), "no table in {schemas:?}");
    Ok(all)
}

async fn only_reads(two_databases: bool) -> anyhow::Result<()> {
    let (source, target) = (cluster()?, two_databases.then(cluster).transpose()?);
    let constructs = conformance::all();
    let mut projections: Vec<(&str, &str, &str)> = PROJECTIONS.to_vec();
    let alone = constructs.iter().filter(|(_, sql, extra)| !sql.contains("read_model.") && !extra.contains("group"));
    projections.extend(alone.step_by(if two_databases { 6 } else { 3 }));
    let mut setup = Setup::new(&source.url("postgres"), &projections);
    setup.target_url = target.as_ref().map(|target| target.url("postgres"));
    let session = shop(&setup.source_url).await?;
    let mut workload = Workload::start(&setup.source_url, 2, seed_from_environment());
    workload.reach(60).await?;
    workload.finish().await?;
    let before = stored(&session, "shop").await?;
    let locks = Arc::new(Locks::default());
    let mut projector = Projector::start(&setup, Some(locks.clone()), RefreshOptions::default()).await?;
    projector.catch_up_within(PATIENCE * 3).await?;
    assert_eq!(stored(&session, "shop").await?, before, "a row was locked or written");
    // Every role of every table: the rows that are there are changed, and nothing is added that would lock others.
    session.batch_execute("UPDATE shop.orders SET amount = amount + 1; UPDATE shop.customer SET tier = tier; UPDATE shop.payment SET amount = 1").await?;
    let before = stored(&session, "shop").await?;
    projector.catch_up_within(PATIENCE * 3).await?;
    assert_eq!(stored(&session, "shop").await?, before, "a row was locked or written");
    projector.stop().await?;
    locks.none_beyond_reading()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_projection_locks_or_writes_what_is_the_application_s() -> anyhow::Result<()> {
    only_reads(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_projection_locks_or_writes_in_another_database() -> anyhow::Result<()> {
    only_reads(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_lock_rows_are_refused_with_the_words_to_delete() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = connect(&url).await?;
    session
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT n, n FROM generate_series(1, 50) AS n;
             CREATE VIEW v AS SELECT id, n FROM t FOR UPDATE; CREATE VIEW over_v AS SELECT id FROM v;
             CREATE FUNCTION locking(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM FROM t WHERE id = $1 FOR UPDATE; RETURN 1; END';
             CREATE FUNCTION over_locking(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN locking($1); END';
             CREATE FUNCTION writes(int) RETURNS int BEGIN ATOMIC UPDATE t SET n = $1 WHERE id = $1 RETURNING n; END;
             CREATE FUNCTION over_writes(int) RETURNS int LANGUAGE sql STABLE RETURN writes($1);
             CREATE FUNCTION \"Twice over\"(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT over_locking ($1)';
             CREATE FUNCTION notes(bigint, int) RETURNS bigint LANGUAGE sql AS 'INSERT INTO t VALUES (-$2, 0) RETURNING $1';
             CREATE AGGREGATE noting (int) (SFUNC = notes, STYPE = bigint, INITCOND = '0');
             CREATE DOMAIN locked AS int CHECK (over_locking(VALUE) = 1);
             CREATE VIEW over_function AS SELECT id, over_locking(id) AS n FROM t;
             CREATE FUNCTION lock() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM t; RETURN NULL; END';
             CREATE FUNCTION harmless(int) RETURNS int LANGUAGE sql AS 'SELECT $1 /* FOR UPDATE */ -- LOCK';
             CREATE FUNCTION reads(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT harmless($1) + count(locking.lock)::int FROM (SELECT 1 AS lock) AS locking'",
        )
        .await?;
    let before = stored(&session, "public").await?;
    for (sql, words, caret) in [
        ("SELECT id, n FROM t FOR UPDATE", "delete the words FOR UPDATE", "^^^"),
        (
            "SELECT id, n FROM t ORDER BY n LIMIT 3 FOR NO KEY UPDATE OF t SKIP LOCKED",
            "delete the words FOR NO KEY UPDATE OF t SKIP LOCKED",
            "^^^",
        ),
        ("WITH w AS (SELECT id FROM t FOR SHARE) SELECT id FROM w", "delete the words FOR SHARE", "^^^"),
        (
            "SELECT a.id FROM t a WHERE EXISTS (SELECT FROM t b WHERE b.n = a.n FOR KEY SHARE)",
            "delete the words FOR KEY SHARE",
            "^^^",
        ),
        ("SELECT id FROM v", "which locks rows of the application (FOR UPDATE OF t)", "^"),
        ("SELECT id FROM over_v", "the view public.v, which locks rows", "help"),
        ("SELECT id, locking(id) AS l FROM t", "locking(), which is volatile", "help"),
        ("SELECT id, over_locking(id) AS l FROM t", "calls public.locking(integer), which is volatile and locks or writes", "^"),
        ("SELECT id, over_writes(id) AS l FROM t", "calls public.writes(integer), which is volatile and locks or writes", "^"),
        (
            "SELECT id, \"Twice over\"(id) AS l FROM t",
            "calls public.locking(integer), which is volatile and locks or writes",
            "^",
        ),
        ("SELECT noting(id) AS l FROM t", "calls public.notes(bigint,integer), which is volatile and locks or writes", "^"),
        ("SELECT id::locked AS l FROM t", "calls public.locking(integer), which is volatile and locks or writes", "help"),
        ("SELECT id, n FROM over_function", "calls public.locking(integer), which is volatile and locks or writes", "help"),
    ] {
        let program = Program::new(&Setup::new(&url, &[("p", sql, "")]))?;
        let (status, _, errors) = program.run(&["check"])?;
        assert!(status == 1 && errors.contains(words) && errors.contains(caret), "{sql}: {errors}");
    }
    // Neither words that call nothing, nor a comment, nor a trigger's function.
    let program = Program::new(&Setup::new(&url, &[("p", "SELECT id, reads(id) AS l FROM t", "")]))?;
    let (status, _, errors) = program.run(&["check"])?;
    assert_eq!(status, 0, "{errors}");
    assert_eq!(stored(&session, "public").await?, before);
    Ok(())
}
