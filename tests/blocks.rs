//! Blocks through the life of a projection: what a new definition leaves as it was is not built again.

use std::collections::BTreeMap;

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Projector, Setup, assert_equal, until};

/// Gaps between the scores of a team.
const GAPS: &str = "(SELECT s.id, s.points - lag(s.points) OVER (PARTITION BY s.team ORDER BY s.id) AS gap FROM score s)";

/// The share of a team's score.
const TOTALS: &str = "(SELECT s.id, s.team, sum(s.points) OVER (PARTITION BY s.team) AS total FROM score s)";

const TABLES: &str = "CREATE TABLE score (id bigint PRIMARY KEY, team text NOT NULL, points integer NOT NULL);
    INSERT INTO score SELECT i, 'team ' || i % 20, i * 7 % 100 FROM generate_series(1, 2000) AS i";

/// A block's tables: their identity, their files, and the rows of teams that nobody changes meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    files: BTreeMap<String, (u32, u32)>,
    rows: Vec<String>,
}

/// The hidden tables of the block that has a column, by what follows its name, and how often a row of them was written.
async fn tables(session: &Session, column: &str) -> anyhow::Result<(String, Tables)> {
    let name: String = session
        .query_one(
            "SELECT c.relname::text FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
             WHERE c.relnamespace = 'lockstep'::regnamespace AND c.relkind = 'r' AND a.attname = $1 AND c.relname ~ '^ranked__part[0-9]+$'",
            &[&column],
        )
        .await?
        .get(0);
    let rows = session
        .query(
            "SELECT substr(c.relname::text, length($1) + 1), c.oid, pg_relation_filenode(c.oid) FROM pg_class AS c
             WHERE c.relnamespace = 'lockstep'::regnamespace AND c.relkind = 'r' AND starts_with(c.relname::text, $1)",
            &[&name],
        )
        .await?;
    let files = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let still = "id % 20 > 2 ORDER BY id";
    let read = format!("SELECT concat_ws(' ', id, {column}, xmin, ctid) FROM lockstep.{name} WHERE {still}");
    let rows = session.query(&read, &[]).await?.iter().map(|row| row.get(0)).collect();
    Ok((name, Tables { files, rows }))
}

/// What somebody writes meanwhile, to few teams.
async fn load(url: String, mut stop: tokio::sync::watch::Receiver<bool>) -> anyhow::Result<u32> {
    let session = connect(&url).await?;
    let mut commits = 0;
    while !*stop.borrow_and_update() {
        session
            .batch_execute(&format!(
                "UPDATE score SET points = points + 1 WHERE id % 20 = {team} AND id < 200;
                 DELETE FROM score WHERE id = 3000 + {team}; INSERT INTO score VALUES (3000 + {team}, 'team {team}', {commits})",
                team = commits % 3
            ))
            .await?;
        commits += 1;
    }
    Ok(commits)
}

struct Changing {
    setup: Setup,
    session: Session,
    target: Session,
}

impl Changing {
    /// Lets a new definition take its place under load.
    async fn becomes(&mut self, sql: &str) -> anyhow::Result<()> {
        sql.clone_into(&mut self.setup.projections[0].1);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let loading = tokio::spawn(load(self.setup.source_url.clone(), stopped));
        let mut projector = Projector::start(&self.setup, None, RefreshOptions::default()).await?;
        // Waiting for a definition is waiting for its swap.
        let swapped =
            "SELECT count(*) > 0 AND bool_and(replaces IS NULL AND state = 'live' AND stays_as IS NULL) FROM lockstep.projection
                       WHERE EXISTS (SELECT FROM lockstep.projection WHERE name = 'ranked' AND source ->> 'sql' = $sql$";
        until(&self.target, &format!("{swapped}{sql}$sql$)")).await?;
        stop.send_replace(true);
        assert!(loading.await?? > 0);
        projector.catch_up().await?;
        assert_equal(&self.setup).await?;
        let left: i64 = self
            .target
            .query_one(
                "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_\\_2%' OR relname LIKE '~%' OR relname LIKE '%\\_\\_old%'",
                &[],
            )
            .await?
            .get(0);
        assert_eq!(left, 0);
        // Both go on being maintained under their new names.
        self.session.batch_execute("UPDATE score SET points = points + 3 WHERE id IN (41, 61, 42)").await?;
        projector.is_equal(&self.setup).await?;
        projector.stop().await?;
        Ok(())
    }
}

async fn blocks_stay(two_databases: bool) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let first = format!("SELECT g.id, g.gap FROM {GAPS} g WHERE g.gap > 0");
    let mut setup = Setup::new(&cluster.url("postgres"), &[("ranked", &first, "")]);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(TABLES).await?;
    if two_databases {
        session.batch_execute("CREATE DATABASE models").await?;
        setup.target_url = Some(cluster.url("models"));
    }
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.is_equal(&setup).await?;
    projector.stop().await?;
    let target = connect(setup.target_url()).await?;
    let (name, before) = tables(&target, "gap").await?;
    assert_eq!((name.as_str(), before.rows.len(), before.files.len()), ("ranked__part1", 1700, 2));
    let mut changing = Changing { setup, session, target };

    // Another outer query.
    changing.becomes(&format!("SELECT g.id, g.gap * 2 AS twice FROM {GAPS} g WHERE g.gap > 10")).await?;
    assert_eq!(tables(&changing.target, "gap").await?, ("ranked__part1".to_owned(), before));

    // Another block before it, by which it is joined by what has no index yet: it has another number.
    let (_, before) = tables(&changing.target, "gap").await?;
    let by_gap = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'lockstep' AND indexdef LIKE '%(gap)'";
    assert_eq!(changing.target.query_one(by_gap, &[]).await?.get::<_, i64>(0), 0);
    changing.becomes(&format!("SELECT t.id, t.total, g.id AS other FROM {TOTALS} t JOIN {GAPS} g ON g.gap = t.id")).await?;
    assert_eq!(tables(&changing.target, "gap").await?, ("ranked__part2".to_owned(), before));
    assert_eq!(changing.target.query_one(by_gap, &[]).await?.get::<_, i64>(0), 1);

    // They change places.
    let (_, gaps) = tables(&changing.target, "gap").await?;
    let (name, totals) = tables(&changing.target, "total").await?;
    assert_eq!(name, "ranked__part1");
    changing.becomes(&format!("SELECT g.id, t.total + 1 AS more, g.gap FROM {GAPS} g JOIN {TOTALS} t ON g.id = t.id")).await?;
    assert_eq!(tables(&changing.target, "gap").await?, ("ranked__part1".to_owned(), gaps));
    assert_eq!(tables(&changing.target, "total").await?, ("ranked__part2".to_owned(), totals));

    // One of them is another one now.
    let (_, gaps) = tables(&changing.target, "gap").await?;
    let (_, totals) = tables(&changing.target, "total").await?;
    let other = GAPS.replace("ORDER BY s.id", "ORDER BY s.id DESC");
    changing.becomes(&format!("SELECT g.id, t.total, g.gap FROM {other} g JOIN {TOTALS} t ON g.id = t.id")).await?;
    assert_ne!(tables(&changing.target, "gap").await?.1.files, gaps.files);
    assert_eq!(tables(&changing.target, "total").await?, ("ranked__part2".to_owned(), totals));

    // Who wants it rebuilt wants all of it rebuilt.
    let (_, totals) = tables(&changing.target, "total").await?;
    let mut projector = Projector::start(&changing.setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let (status, output, errors) = Program::new(&changing.setup)?.run(&["rebuild", "ranked", "--timeout", "50s"])?;
    assert!(status == 0 && output.contains("was rebuilt"), "{status} {output}{errors}");
    assert_ne!(tables(&changing.target, "total").await?.1.files, totals.files);
    projector.ends_equal(&changing.setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_leaves_a_block_as_it_was_keeps_its_tables() -> anyhow::Result<()> {
    blocks_stay(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_databases_too() -> anyhow::Result<()> {
    blocks_stay(true).await
}

/// Blocks of blocks stay and go with them.
#[tokio::test(flavor = "multi_thread")]
async fn so_do_blocks_of_blocks() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let sql = |least: i32, places: i32, groups: &str| {
        format!(
            "SELECT r.team, r.tens, r.place FROM (
                 SELECT q.team, q.tens, rank() OVER (PARTITION BY q.tens ORDER BY q.n DESC) AS place
                 FROM (SELECT s.team, s.points / 10 AS tens, count(*) AS n FROM score s WHERE s.points > {least} GROUP BY {groups}) q) r
             WHERE r.place <> {places}"
        )
    };
    let setup = Setup::new(&cluster.url("postgres"), &[("ranked", &sql(0, 3, "s.team, s.points / 10"), "")]);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(TABLES).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.is_equal(&setup).await?;
    projector.stop().await?;
    let target = connect(setup.target_url()).await?;
    let blocks = "SELECT array_agg(concat_ws(' ', name, part_of, to_regclass(format('lockstep.%I', name))::oid) ORDER BY name)
                  FROM lockstep.projection WHERE part_of IS NOT NULL";
    let read = async |session: &Session| anyhow::Ok(session.query_one(blocks, &[]).await?.get::<_, Vec<String>>(0));
    let first = read(&target).await?;
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first[1].starts_with("ranked__part1__part1 ranked__part1 "), "{first:?}");
    let mut changing = Changing { setup, session, target };
    changing.becomes(&sql(0, 2, "s.team, s.points / 10")).await?;
    assert_eq!(read(&changing.target).await?, first);
    changing.becomes(&sql(5, 2, "s.team, s.points / 10")).await?;
    let second = read(&changing.target).await?;
    assert_eq!(second.len(), 2, "{second:?}");
    assert!(first.iter().zip(&second).all(|(first, second)| first != second), "{first:?} {second:?}");
    let tables: i64 = changing
        .target
        .query_one("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'ranked%'", &[])
        .await?
        .get(0);
    let registered: i64 =
        changing.target.query_one("SELECT sum(1 + cardinality(state_tables)) FROM lockstep.projection", &[]).await?.get(0);
    assert_eq!(tables, registered);
    Ok(())
}

/// Of a partition of a thousand rows a block keeps those that its reader asks for; another limit makes it another block.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_holds_no_more_than_its_limit() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let sql = |limit: &str| {
        format!(
            "SELECT r.id, r.points FROM (SELECT s.id, s.points, row_number() OVER (PARTITION BY s.team ORDER BY s.points DESC, s.id) AS place
                 FROM score s) r WHERE {limit}"
        )
    };
    let setup = Setup::new(&cluster.url("postgres"), &[("ranked", &sql("r.place <= 3"), "")]);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(&format!("{TABLES}; UPDATE score SET team = 'team ' || id % 2")).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.is_equal(&setup).await?;
    let rows = async |session: &Session| {
        anyhow::Ok(session.query_one("SELECT count(*) FROM lockstep.ranked__part1", &[]).await?.get::<_, i64>(0))
    };
    assert_eq!(rows(&session).await?, 6, "three of each thousand");
    // The first of a partition goes, and the fourth takes a place.
    session
        .batch_execute(
            "DELETE FROM score WHERE id = (SELECT id FROM score WHERE team = 'team 1' ORDER BY points DESC, id LIMIT 1)",
        )
        .await?;
    projector.is_equal(&setup).await?;
    assert_eq!(rows(&session).await?, 6);
    session.batch_execute("UPDATE score SET team = 'team 3' WHERE team = 'team 1' AND id < 4").await?;
    projector.is_equal(&setup).await?;
    assert_eq!(rows(&session).await?, 8);
    projector.stop().await?;
    let target = connect(setup.target_url()).await?;
    let mut changing = Changing { setup, session, target };
    for (limit, is_kept) in
        [("r.place < 3", true), ("r.place BETWEEN 2 AND 5", true), ("1 = r.place", true), ("r.place > 1000", false)]
    {
        changing.becomes(&sql(limit)).await?;
        let condition = if is_kept { limit } else { "true" };
        let windows = "SELECT row_number() OVER (PARTITION BY s.team ORDER BY s.points DESC, s.id) AS place FROM score s";
        let expected = format!("SELECT count(*) FROM ({windows}) AS r WHERE {condition}");
        let expected: i64 = changing.session.query_one(&expected, &[]).await?.get(0);
        assert_eq!(rows(&changing.target).await?, expected, "{limit}");
    }
    Ok(())
}
