//! Databases whose encodings cannot hold each other, and one that has none: keys are carried as bytes, and what cannot be converted is its
//! row's fault.

use lockstep_cluster::Cluster;
use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Projector, Setup, assert_equal, until};

const SCHEMA: &str = "CREATE TABLE place (name text PRIMARY KEY, note text, size int NOT NULL DEFAULT 1);
    CREATE TABLE label (id int PRIMARY KEY, place text, note text);
    CREATE TABLE plain (id int PRIMARY KEY, v text);
    INSERT INTO place SELECT 'p' || n, 'note ' || n FROM generate_series(1, 30) AS n;
    INSERT INTO label SELECT n, 'p' || n, 'note ' || n FROM generate_series(1, 30) AS n;
    INSERT INTO plain SELECT n, 'v' || n FROM generate_series(1, 30) AS n;";

/// Keys and values that are texts, in every place: rows, groups, what is looked up and what is linked.
const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("rows", "SELECT p.name, p.note, p.size FROM place p", ""),
    ("by_note", "SELECT p.note, count(*) AS n, sum(p.size) AS size FROM place p GROUP BY p.note", ""),
    ("all_names", "SELECT count(*) AS n, string_agg(p.name, ',' ORDER BY p.name) AS names FROM place p", ""),
    ("looked_up", "SELECT l.id, p.note FROM label l JOIN place p ON p.name = l.place", ""),
    ("linked", "SELECT l.id, p.name FROM label l JOIN place p ON p.note = l.note", ""),
    ("plain_rows", "SELECT p.id, p.v FROM plain p", ""),
    ("removed", "SELECT p.name, p.note FROM place p", "on_error = \"remove\""),
];

/// A database of this encoding.
async fn database(cluster: &Cluster, encoding: &str) -> anyhow::Result<(String, Session)> {
    let name = format!("in_{}", encoding.to_lowercase());
    let admin = connect(&cluster.url("postgres")).await?;
    admin
        .batch_execute(&format!("CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"))
        .await?;
    let url = cluster.url(&name);
    let session = connect(&url).await?;
    Ok((url, session))
}

/// What is in quarantine: projection, key, SQLSTATE.
async fn quarantined(target: &Session, expected: &str) -> anyhow::Result<()> {
    let found = "SELECT coalesce(string_agg(DISTINCT concat_ws(':', projection, array_to_string(key, '|'), sqlstate), ' '
                     ORDER BY concat_ws(':', projection, array_to_string(key, '|'), sqlstate)), '') FROM lockstep.quarantine";
    if let Err(error) = until(target, &format!("SELECT ({found}) = $is${expected}$is$")).await {
        let found: String = target.query_one(found, &[]).await?.get(0);
        return Err(error.context(format!("expected {expected}, found {found}")));
    }
    let not_live: i64 = target.query_one("SELECT count(*) FROM lockstep.projection WHERE state <> 'live'", &[]).await?.get(0);
    anyhow::ensure!(not_live == 0, "a key that cannot be converted is no fault of its projection");
    Ok(())
}

/// What is set aside is known to the next start, and `statements` on the source mend all of it.
async fn is_mended(
    program: &Program,
    setup: &Setup,
    (source, target): (&Session, &Session),
    statements: &str,
) -> anyhow::Result<()> {
    let mut projector = Projector::start(setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    source.batch_execute(statements).await?;
    projector.catch_up().await?;
    quarantined(target, "").await?;
    assert_equal(setup).await?;
    succeeds(program, &["verify"])?;
    projector.stop().await.map(drop)
}

/// Rows in which tables and queries of one database differ, compared there: no client has to read them.
async fn equal_in_place(session: &Session) -> anyhow::Result<()> {
    for (name, query, _) in PROJECTIONS {
        let sql = format!(
            "SELECT (SELECT count(*) FROM ({query} EXCEPT ALL SELECT * FROM read_model.{name}) AS a)
                  + (SELECT count(*) FROM (SELECT * FROM read_model.{name} EXCEPT ALL {query}) AS b)"
        );
        let different: i64 = session.query_one(&sql, &[]).await?.get(0);
        anyhow::ensure!(different == 0, "{name}: {different} rows differ");
    }
    Ok(())
}

fn succeeds(program: &Program, command: &[&str]) -> anyhow::Result<String> {
    let (status, output, errors) = program.run(command)?;
    anyhow::ensure!(status == 0, "{command:?}: {status} {output}{errors}");
    Ok(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_are_carried_as_they_are() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let (url, session) = database(&cluster, "SQL_ASCII").await?;
    session.batch_execute(SCHEMA).await?;
    // Some are there when it is built.
    session
        .batch_execute(
            r"INSERT INTO place VALUES (E'caf\xe9', E'br\xfbl\xe9'); INSERT INTO label VALUES (31, E'caf\xe9', E'br\xfbl\xe9')",
        )
        .await?;
    let mut setup = Setup::new(&url, PROJECTIONS);
    setup.projections.push(("shares".to_owned(), "SELECT p.name, 10 / p.size AS share FROM place p".to_owned(), String::new()));
    let program = Program::new(&setup)?;
    let checked = succeeds(&program, &["check"])?;
    assert!(checked.contains("SQL_ASCII") && checked.contains("carried as they are"), "{checked}");
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    equal_in_place(&session).await?;
    for change in [
        r"INSERT INTO place VALUES (E'\xff\xfe', E'\xc3', 4); UPDATE plain SET v = E'\xe9' WHERE id = 3",
        r"UPDATE place SET note = E'note \xe9' WHERE name = 'p2'; UPDATE label SET note = E'note \xe9' WHERE id = 2",
        r"UPDATE place SET name = E'caf\xe8' WHERE name = E'caf\xe9'; UPDATE plain SET v = 'next' WHERE id = 4",
        r"UPDATE label SET place = E'caf\xe8' WHERE id = 31; UPDATE place SET note = E'br\xfbl\xe9 \xe9' WHERE name = E'caf\xe8'",
        r"DELETE FROM place WHERE name = E'\xff\xfe'; UPDATE place SET size = size + 1",
    ] {
        session.batch_execute(change).await?;
        projector.catch_up().await?;
        equal_in_place(&session).await?;
    }
    quarantined(&session, "").await?;
    succeeds(&program, &["wait", "--timeout", "30s"])?;
    succeeds(&program, &["verify"])?;
    let status = succeeds(&program, &["status"])?;
    assert!(!status.contains("stalled"), "{status}");
    // What fails for another reason is set aside by such a key, known to the next start, and heals.
    session
        .batch_execute(r"UPDATE place SET size = 0 WHERE name = E'caf\xe8'; UPDATE place SET size = 9 WHERE name = 'p9'")
        .await?;
    projector.catch_up().await?;
    quarantined(&session, r"shares:E'caf\xe8':22012").await?;
    projector.stop().await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let listed = succeeds(&program, &["quarantine"])?;
    assert!(listed.contains(r"E'caf\xe8'"), "{listed}");
    session.batch_execute(r"UPDATE place SET size = 1 WHERE name = E'caf\xe8'").await?;
    projector.catch_up().await?;
    quarantined(&session, "").await?;
    equal_in_place(&session).await?;
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_cannot_read_is_set_aside_by_key() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let (source_url, source) = database(&cluster, "SQL_ASCII").await?;
    let (target_url, target) = database(&cluster, "UTF8").await?;
    source.batch_execute(SCHEMA).await?;
    source.batch_execute(r"INSERT INTO place VALUES (E'caf\xe9', 'brown'); UPDATE plain SET v = E'\xe9' WHERE id = 1").await?;
    let mut setup = Setup::new(&source_url, PROJECTIONS);
    setup.target_url = Some(target_url);
    let program = Program::new(&setup)?;
    let checked = succeeds(&program, &["check"])?;
    assert!(checked.contains("SQL_ASCII") && checked.contains("quarantine"), "{checked}");
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    quarantined(
        &target,
        r"all_names:E'caf\xe9':22021 by_note:E'caf\xe9':22021 plain_rows:1:22021 removed:E'caf\xe9':22021 rows:E'caf\xe9':22021",
    )
    .await?;
    source
        .batch_execute(
            r"UPDATE plain SET v = E'\xe8' WHERE id = 2; UPDATE plain SET v = 'fine' WHERE id = 3;
              UPDATE place SET note = E'br\xfbl' WHERE name = 'p4'; UPDATE place SET note = 'good' WHERE name = 'p5';
              UPDATE label SET note = 'good' WHERE id = 6",
        )
        .await?;
    projector.catch_up().await?;
    until(&target, "SELECT count(*) = 2 FROM lockstep.quarantine WHERE projection = 'plain_rows' AND sqlstate = '22021'").await?;
    until(&target, "SELECT count(*) = 2 FROM lockstep.quarantine WHERE projection = 'rows' AND sqlstate = '22021'").await?;
    let found: i64 = target
        .query_one(
            "SELECT (SELECT count(*) FROM read_model.plain_rows WHERE id > 2) + (SELECT count(*) FROM read_model.rows WHERE note = 'good')
                  + (SELECT count(*) FROM read_model.plain_rows WHERE v = 'fine') + (SELECT count(*) FROM read_model.linked WHERE id = 6)",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(found, 28 + 1 + 1 + 1, "the others go on");
    succeeds(&program, &["wait", "--timeout", "30s"])?;
    let listed = succeeds(&program, &["quarantine"])?;
    assert!(listed.contains(r"E'caf\xe9'") && listed.contains("22021"), "{listed}");
    projector.stop().await?;
    is_mended(
        &program,
        &setup,
        (&source, &target),
        r"DELETE FROM place WHERE name = E'caf\xe9'; UPDATE place SET note = 'brown' WHERE name = 'p4'; UPDATE plain SET v = 'mended' WHERE id < 3",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn characters_without_a_place_in_the_target_are_set_aside_by_key() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let (source_url, source) = database(&cluster, "UTF8").await?;
    let (target_url, target) = database(&cluster, "LATIN1").await?;
    source.batch_execute(SCHEMA).await?;
    source
        .batch_execute("INSERT INTO place VALUES ('漢字', 'brown'), ('café', 'brûlé'); UPDATE plain SET v = '5 €' WHERE id = 1")
        .await?;
    let mut setup = Setup::new(&source_url, PROJECTIONS);
    setup.target_url = Some(target_url);
    let program = Program::new(&setup)?;
    let checked = succeeds(&program, &["check"])?;
    assert!(checked.contains("LATIN1") && checked.contains("quarantine"), "{checked}");
    // A query that cannot even be written down there is that projection's fault.
    let mut with_literal = setup.clone();
    with_literal.projections.push(("literal".to_owned(), "SELECT p.id, '€' AS sign FROM plain p".to_owned(), String::new()));
    let (status, _, checked) = Program::new(&with_literal)?.run(&["check"])?;
    assert!(status == 1 && checked.contains("projection literal: its query has a character"), "{checked}");
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    until(&target, "SELECT count(*) = 1 FROM lockstep.quarantine WHERE projection = 'plain_rows' AND sqlstate = '22P05'").await?;
    source
        .batch_execute(
            "UPDATE plain SET v = '漢' WHERE id = 2; UPDATE plain SET v = 'é' WHERE id = 3;
             UPDATE place SET note = '€' WHERE name = 'p4'; UPDATE place SET note = 'good' WHERE name = 'p5';
             UPDATE label SET note = 'good' WHERE id = 6",
        )
        .await?;
    projector.catch_up().await?;
    until(&target, "SELECT count(*) = 2 FROM lockstep.quarantine WHERE projection = 'plain_rows' AND sqlstate = '22P05'").await?;
    let found: i64 = target
        .query_one(
            "SELECT (SELECT count(*) FROM read_model.plain_rows WHERE id > 2) + (SELECT count(*) FROM read_model.rows WHERE note IN ('good', 'brûlé'))
                  + (SELECT count(*) FROM read_model.plain_rows WHERE v = 'é') + (SELECT count(*) FROM read_model.linked WHERE id = 6)",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(found, 28 + 2 + 1 + 1, "the others go on");
    succeeds(&program, &["wait", "--timeout", "30s"])?;
    let status = succeeds(&program, &["status"])?;
    assert!(!status.contains("stalled") && !status.contains("faulted"), "{status}");
    let listed = succeeds(&program, &["quarantine"])?;
    assert!(listed.contains(r"E'\xe6\xbc\xa2\xe5\xad\x97'") && listed.contains("22P05"), "{listed}");
    projector.stop().await?;
    is_mended(
        &program,
        &setup,
        (&source, &target),
        "DELETE FROM place WHERE name = '漢字'; UPDATE place SET note = 'brown' WHERE name = 'p4'; UPDATE plain SET v = 'mended' WHERE id < 3",
    )
    .await
}

/// Where the source's own encoding has bytes that are no character, no session of ours can be told of such a key.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_converted_at_all_concern_their_table_alone() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let (source_url, source) = database(&cluster, "WIN1252").await?;
    source.batch_execute(SCHEMA).await?;
    let setup = Setup::new(&source_url, PROJECTIONS);
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    source
        .batch_execute(
            r"INSERT INTO place VALUES (E'\x81', 'unknown'), ('caf€', 'known'); UPDATE plain SET v = 'é€' WHERE id = 1",
        )
        .await?;
    projector.catch_up().await?;
    source.batch_execute("UPDATE plain SET v = v || '!'").await?;
    projector.catch_up().await?;
    let found: i64 = source.query_one("SELECT count(*) FROM read_model.plain_rows WHERE v LIKE '%!'", &[]).await?.get(0);
    assert_eq!(found, 30, "other tables go on");
    let states = "SELECT string_agg(name, ' ' ORDER BY name) FROM lockstep.projection WHERE state = 'live'";
    let live: String = source.query_one(states, &[]).await?.get(0);
    assert!(live.contains("plain_rows"), "{live}");
    source.batch_execute(r"DELETE FROM place WHERE name = E'\x81'").await?;
    until(&source, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.catch_up().await?;
    equal_in_place(&source).await?;
    succeeds(&program, &["verify"])?;
    projector.stop().await?;
    Ok(())
}
