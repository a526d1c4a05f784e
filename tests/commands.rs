//! Every command as a user runs it, with good and bad input: exit status, output, and that nothing is changed when it refuses.

use lockstep_cluster::Cluster;
use lockstep_connect::Session;
use lockstep_testkit::{cluster, cluster_with, connect};

use crate::harness::{Program, Setup, assert_equal, catch_up, shop, until};

/// Exit statuses; the numbers are a promise.
const GOOD: i32 = 0;
const FAILURE: i32 = 1;
const USAGE: i32 = 2;
const TIMED_OUT: i32 = 3;

const ORDERS: &str = "SELECT o.id, o.status FROM shop.orders o";

/// Nothing of ours exists: no schema, no publication, no slot.
async fn assert_untouched(session: &Session) -> anyhow::Result<()> {
    let row = session
        .query_one(
            "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname IN ('lockstep', 'read_model'))
                  + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)",
            &[],
        )
        .await?;
    anyhow::ensure!(row.get::<_, i64>(0) == 0, "something was changed");
    Ok(())
}

/// `check` and `run` both refuse, show the words, and change nothing.
async fn assert_refused(setup: &Setup, words: &[&str]) -> anyhow::Result<()> {
    let program = Program::new(setup)?;
    let session = connect(&setup.source_url).await?;
    for command in [&["check"][..], &["run", "--once"]] {
        let (status, output, errors) = program.run(command)?;
        anyhow::ensure!(status == FAILURE, "{command:?} ended with {status}: {output}{errors}");
        for word in words {
            anyhow::ensure!(errors.contains(word), "{command:?} does not say {word:?}: {errors}");
        }
        anyhow::ensure!(errors.lines().count() < 25, "more than a screen: {errors}");
    }
    assert_untouched(&session).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_an_installation() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[("orders", ORDERS, ""), ("by_status", "SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status", "")],
    );
    let session = shop(&setup.source_url).await?;
    session.batch_execute("CREATE ROLE shop_api LOGIN").await?;
    let mut setup = setup;
    setup.preamble = "[target]\nreaders = [\"shop_api\"]\n".to_owned();
    let program = Program::new(&setup)?;

    let (status, _, errors) = program.run(&["status"])?;
    assert_eq!((status, errors.contains("nothing is set up")), (FAILURE, true), "{errors}");
    let (status, output, errors) = program.run(&["check"])?;
    assert_eq!((status, output.contains("Ready")), (GOOD, true), "{output}{errors}");
    assert_untouched(&session).await?;

    let (status, output, errors) = program.run(&["run", "--once"])?;
    assert_eq!(status, GOOD, "{output}{errors}");
    assert_equal(&setup).await?;

    // Catching up after a pause.
    session.batch_execute("DELETE FROM shop.orders WHERE id < 50; UPDATE shop.orders SET status = 'paid' WHERE id < 90").await?;
    let (status, _, errors) = program.run(&["wait", "--timeout", "300ms"])?;
    assert_eq!((status, errors.contains("timed out")), (TIMED_OUT, true), "{errors}");
    assert_eq!(program.run(&["run", "--once"])?.0, GOOD);
    assert_equal(&setup).await?;

    let mut child = program.start("")?;
    catch_up(&setup).await?;
    session.batch_execute("UPDATE shop.orders SET status = 'sent' WHERE id = 100").await?;
    let (status, output, errors) = program.run(&["wait", "--json"])?;
    assert_eq!((status, output.contains("\"contained\": true")), (GOOD, true), "{output}{errors}");
    assert_equal(&setup).await?;
    let (status, output, _) = program.run(&["status", "--json"])?;
    assert_eq!(status, GOOD, "{output}");
    for field in [
        "staleness_seconds",
        "lag_bytes",
        "snapshot",
        "batch_ms",
        "\"kind\": \"aggregate\"",
        "\"state\": \"live\"",
        "retained_bytes",
    ] {
        assert!(output.contains(field), "{field} is missing: {output}");
    }

    // A second instance does not get in.
    let (status, _, errors) = program.run(&["run", "--once"])?;
    assert_eq!((status, errors.contains("another lockstep")), (FAILURE, true), "{errors}");

    // SIGTERM ends it well.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), nix::sys::signal::Signal::SIGTERM)?;
    assert_eq!(child.wait()?.code(), Some(GOOD), "{}", program.log());

    let reader = connect(&setup.source_url).await?;
    reader
        .batch_execute("SET ROLE shop_api; SELECT * FROM read_model.orders; SELECT lockstep.wait_for('0/1', '1 second')")
        .await?;

    // Another slot: the one before does not stay behind, and one can go back.
    for slot in ["other", "lockstep"] {
        let renamed = Program::new(&setup)?;
        renamed.file("lockstep.toml", &setup.toml().replace("[metrics]", &format!("slot = \"{slot}\"\n[metrics]")))?;
        let (status, output, errors) = renamed.run(&["run", "--once"])?;
        assert_eq!(status, GOOD, "{output}{errors}");
        let slots: Vec<String> =
            session.query("SELECT slot_name::text FROM pg_replication_slots", &[]).await?.iter().map(|row| row.get(0)).collect();
        assert_eq!(slots, [slot]);
    }
    // What is taken out stays as it is, which is no trouble.
    let mut fewer = setup.clone();
    fewer.projections.pop();
    let fewer = Program::new(&fewer)?;
    assert_eq!(fewer.run(&["run", "--once"])?.0, GOOD);
    let (status, output, errors) = fewer.run(&["status"])?;
    assert_eq!((status, output.contains("unmaintained")), (GOOD, true), "{output}{errors}");
    assert_eq!(program.run(&["run", "--once"])?.0, GOOD);
    assert_eq!(program.run(&["status"])?.0, GOOD);
    for command in [&["verify", "nope"][..], &["repair", "nope"], &["rebuild", "nope"]] {
        let (status, _, errors) = program.run(command)?;
        assert_eq!((status, errors.contains("by_status")), (USAGE, true), "{errors}");
    }

    let (status, _, errors) = program.run(&["teardown"])?;
    assert_eq!((status, errors.contains("--yes")), (FAILURE, true), "{errors}");
    // Somebody's view is not in the way half-way.
    session.batch_execute("CREATE VIEW public.paid AS SELECT * FROM read_model.orders WHERE status = 'paid'").await?;
    let (status, _, errors) = program.run(&["teardown", "--yes"])?;
    assert_eq!((status, errors.contains("public.paid")), (FAILURE, true), "{errors}");
    assert_eq!(program.run(&["status"])?.0, GOOD);
    session.batch_execute("DROP VIEW public.paid").await?;
    let (status, output, errors) = program.run(&["teardown", "--yes"])?;
    assert_eq!(status, GOOD, "{output}{errors}");
    assert_untouched(&session).await
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_can_leave_the_tables() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &[("orders", ORDERS, "")]);
    let session = shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    assert_eq!(program.run(&["run", "--once"])?.0, GOOD);
    assert_eq!(program.run(&["teardown", "--yes", "--keep-tables"])?.0, GOOD);
    let rows: i64 = session.query_one("SELECT count(*) FROM read_model.orders", &[]).await?.get(0);
    assert_eq!(rows, 300);
    // What is left is not ours any more, and is not overwritten.
    let (status, _, errors) = program.run(&["run", "--once"])?;
    assert_eq!((status, errors.contains("exists and is not Lockstep's")), (FAILURE, true), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_told() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), crate::harness::PROJECTIONS);
    shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let (status, output, errors) = program.run(&["plan", "--json"])?;
    assert_eq!(status, GOOD, "{errors}");
    let plans: serde_json::Value = serde_json::from_str(&output)?;
    let kinds: Vec<(String, String)> = plans
        .as_array()
        .into_iter()
        .flatten()
        .map(|plan| (plan["name"].as_str().unwrap_or_default().to_owned(), plan["kind"].as_str().unwrap_or_default().to_owned()))
        .collect();
    let expected = [
        ("order_row", "row"),
        ("order_inner", "row"),
        ("line_row", "row"),
        ("members", "row"),
        ("sales_by_status", "aggregate"),
        ("sales_by_region", "aggregate"),
        ("customer_totals", "aggregate"),
        ("everything", "aggregate"),
        ("without_lines", "row"),
        ("statuses", "aggregate"),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    for field in ["relation", "role", "reason", "missing_indexes"] {
        assert!(plans[0]["relations"][0].get(field).is_some(), "{field}: {output}");
    }
    let (status, output, _) = program.run(&["plan", "order_row", "--sql"])?;
    assert_eq!(status, GOOD);
    assert!(output.contains("-- trace") && output.contains("WITH dirty"), "{output}");
    let (status, _, errors) = program.run(&["plan", "nope"])?;
    assert_eq!((status, errors.contains("order_row")), (USAGE, true), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_queries_are_refused_before_anything_is_changed() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = shop(&url).await?;
    session.batch_execute("CREATE TABLE shop.keyless (a integer); CREATE TABLE shop.full_identity (a integer, b text); ALTER TABLE shop.full_identity REPLICA IDENTITY FULL").await?;
    let cases: &[(&str, &str, &[&str])] = &[
        ("SELECT o.id, o.pirce FROM shop.orders o", "", &["o.pirce does not exist", "^^^^", "help"]),
        ("SELEC 1", "", &["syntax error", "^^^^^"]),
        ("SELECT 1; DROP TABLE shop.orders", "", &["multiple commands"]),
        ("SELECT k.a FROM shop.keyless k", "", &["no primary key", "REPLICA IDENTITY FULL"]),
        ("SELECT o.id, random() AS r FROM shop.orders o", "", &["random()", "volatile"]),
        ("SELECT o.status, o.amount FROM shop.orders o", "key = [\"status\"]", &["not unique", "status = "]),
        (ORDERS, "key = [\"nope\"]", &["\"nope\" is not a column"]),
        (ORDERS, "indexes = \"INDEXES\"", &["its indexes", "statement 2 is no CREATE INDEX"]),
        ("SELECT 1 AS one", "", &["reads no table"]),
        ("SELECT o.id, o.amount AS xmin FROM shop.orders o", "", &["\"xmin\" has the name of a system column"]),
        ("SELECT c.relname FROM pg_class c", "", &["system table"]),
    ];
    let directory = tempfile::tempdir()?;
    let indexes = directory.path().join("indexes.sql");
    std::fs::write(&indexes, "CREATE INDEX ON bad (id); DROP TABLE shop.orders;")?;
    for (sql, extra, words) in cases {
        let extra = extra.replace("INDEXES", &indexes.display().to_string());
        let setup = Setup::new(&url, &[("bad", sql, &extra)]);
        assert_refused(&setup, words).await.map_err(|error| error.context(*sql))?;
    }
    // With REPLICA IDENTITY FULL and no key it works.
    let setup = Setup::new(&url, &[("full_identity", "SELECT f.a, f.b FROM shop.full_identity f", "")]);
    let program = Program::new(&setup)?;
    let mut child = program.start("")?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection").await?;
    session.batch_execute("INSERT INTO shop.full_identity VALUES (1, 'x'), (1, 'x'), (2, 'y')").await?;
    session.batch_execute("DELETE FROM shop.full_identity WHERE a = 2").await?;
    catch_up(&setup).await?;
    let result = assert_equal(&setup).await;
    child.kill()?;
    child.wait()?;
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caret_points_into_the_sql_file() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), &[]);
    shop(&setup.source_url).await?;
    setup.preamble = "[[projection]]\nname = \"orders\"\nquery = \"orders.sql\"\n".to_owned();
    let program = Program::new(&setup)?;
    program.file("orders.sql", "-- orders\nSELECT o.id,\n       o.pirce\nFROM shop.orders o;\n")?;
    let (status, _, errors) = program.run(&["check"])?;
    assert_eq!(status, FAILURE);
    assert!(errors.contains("orders.sql:3:8"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unsuitable_servers_and_roles_are_refused() -> anyhow::Result<()> {
    let replica = cluster_with(&["wal_level=replica"])?;
    shop(&replica.url("postgres")).await?;
    assert_refused(
        &Setup::new(&replica.url("postgres"), &[("orders", ORDERS, "")]),
        &["wal_level is replica", "wal_level = logical"],
    )
    .await?;

    let cluster = cluster()?;
    let session = shop(&cluster.url("postgres")).await?;
    session.batch_execute("CREATE ROLE poor LOGIN; GRANT USAGE ON SCHEMA shop TO poor").await?;
    let poor = cluster.url("postgres").replace("postgres@", "poor@");
    assert_refused(&Setup::new(&poor, &[("orders", ORDERS, "")]), &["no SELECT on shop.orders", "GRANT"]).await?;
    session.batch_execute("GRANT SELECT ON ALL TABLES IN SCHEMA shop TO poor").await?;
    assert_refused(
        &Setup::new(&poor, &[("orders", ORDERS, "")]),
        &["ALTER ROLE", "REPLICATION", "CREATE SCHEMA", "CREATE PUBLICATION"],
    )
    .await?;

    let mut elsewhere = Setup::new(&cluster.url("postgres"), &[("orders", ORDERS, "")]);
    elsewhere.source_url = elsewhere.source_url.replace(&cluster.port().to_string(), "1");
    let (status, _, errors) = Program::new(&elsewhere)?.run(&["check"])?;
    assert_eq!((status, errors.contains("cannot reach PostgreSQL")), (FAILURE, true), "{errors}");
    Ok(())
}

/// A shop that is read by a role with the README's grants: it owns nothing there, and its publication was made by the owner.
async fn least_privilege() -> anyhow::Result<(Cluster, Session, Setup)> {
    let cluster = cluster()?;
    let session = shop(&cluster.url("postgres")).await?;
    session
        .batch_execute(
            "CREATE ROLE projector LOGIN REPLICATION;
             GRANT USAGE ON SCHEMA shop TO projector;
             GRANT SELECT ON ALL TABLES IN SCHEMA shop TO projector;
             CREATE SCHEMA lockstep AUTHORIZATION projector;
             CREATE SCHEMA read_model AUTHORIZATION projector;
             CREATE PUBLICATION lockstep FOR TABLE shop.orders WITH (publish_via_partition_root = true)",
        )
        .await?;
    let setup = Setup::new(&cluster.url("postgres").replace("postgres@", "projector@"), &[("orders", ORDERS, "")]);
    Ok((cluster, session, setup))
}

/// The README's grants are enough: a role that owns nothing, a publication made by the owner.
#[tokio::test(flavor = "multi_thread")]
async fn least_privilege_is_enough() -> anyhow::Result<()> {
    let (_cluster, session, setup) = least_privilege().await?;
    let program = Program::new(&setup)?;
    let (status, output, errors) = program.run(&["run", "--once"])?;
    assert_eq!(status, GOOD, "{output}{errors}");
    assert_equal(&setup).await?;
    // What this role may not mend sets the projection aside, and it says so, until somebody else has mended it.
    let mut child = program.start("")?;
    until(&session, "SELECT active FROM pg_replication_slots").await?;
    session.batch_execute("ALTER PUBLICATION lockstep DROP TABLE shop.orders").await?;
    until(&session, "SELECT state = 'faulted' AND reason LIKE '%not published%' FROM lockstep.projection").await?;
    let (status, output, errors) = program.run(&["status"])?;
    assert_eq!((status, output.contains("not published")), (FAILURE, true), "{output}{errors}");
    session.batch_execute("ALTER PUBLICATION lockstep ADD TABLE shop.orders; UPDATE shop.orders SET status = 'seen'").await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection").await?;
    catch_up(&setup).await?;
    assert_eq!(program.run(&["status"])?.0, GOOD);
    child.kill()?;
    child.wait()?;
    assert_equal(&setup).await?;
    let (status, output, errors) = program.run(&["teardown", "--yes"])?;
    assert_eq!((status, output.contains("left publication lockstep")), (GOOD, true), "{output}{errors}");
    Ok(())
}

/// With row-level security the projector must see every row, or it refuses; the one that may bypass it is exact.
#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_must_not_hide_rows() -> anyhow::Result<()> {
    let (cluster, session, setup) = least_privilege().await?;
    session
        .batch_execute(
            "ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
             CREATE POLICY unpaid ON shop.orders USING (status <> 'paid')",
        )
        .await?;
    let program = Program::new(&setup)?;
    for command in [&["check"][..], &["run", "--once"]] {
        let (status, output, errors) = program.run(command)?;
        let said = format!("{output}{errors}");
        assert!(status == FAILURE && said.contains("row-level security") && said.contains("BYPASSRLS"), "{said}");
    }
    let slots: i64 = session.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0);
    assert_eq!(slots, 0, "nothing is set up");
    session.batch_execute("ALTER ROLE projector BYPASSRLS").await?;
    let (status, output, errors) = program.run(&["run", "--once"])?;
    assert_eq!(status, GOOD, "{output}{errors}");
    let superuser = Setup { source_url: cluster.url("postgres"), ..setup };
    assert_equal(&superuser).await?;
    Ok(())
}

#[test]
fn wrong_usage_is_refused() -> anyhow::Result<()> {
    let setup = Setup::new("postgres://nobody@127.0.0.1:1/none", &[("orders", ORDERS, "")]);
    let program = Program::new(&setup)?;
    for arguments in
        [&["fly"][..], &["wait", "--lsn", "x"], &["wait", "--timeout", "soon"], &["-c", "missing.toml", "check"], &[]]
    {
        let (status, _, errors) = program.run(arguments)?;
        assert_eq!(status, USAGE, "{arguments:?}: {errors}");
    }
    program.file("lockstep.toml", "[source]\nurl = \"postgres://a@b/c\"\nslto = \"x\"\n")?;
    let (status, _, errors) = program.run(&["check"])?;
    assert_eq!(status, USAGE);
    assert!(errors.contains("slto") && errors.contains("lockstep.toml:3"), "{errors}");
    Ok(())
}

/// What reads each other in a circle, or is in two groups, or names an unknown time zone, is refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_chains_and_zones_are_refused() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    shop(&url).await?;
    let refused = |preamble: &str, projections: &[(&str, &str, &str)], parts: &[&str]| -> anyhow::Result<()> {
        let mut setup = Setup::new(&url, projections);
        preamble.clone_into(&mut setup.preamble);
        let (status, _, errors) = Program::new(&setup)?.run(&["plan"])?;
        anyhow::ensure!(status == FAILURE, "{errors}");
        for part in parts {
            anyhow::ensure!(errors.contains(part), "{part} is not in:\n{errors}");
        }
        Ok(())
    };
    refused(
        "",
        &[("a", "SELECT b.id FROM read_model.b", ""), ("b", "SELECT a.id FROM read_model.a", "")],
        &["projection a reads itself, by way of b", "break the circle"],
    )?;
    refused(
        "[[group]]\nname = \"x\"\n",
        &[("a", "SELECT o.id FROM shop.orders o", ""), ("b", "SELECT a.id FROM read_model.a", "group = \"x\"")],
        &["projection b is in group \"x\" and a in \"default\"", "must be in one group"],
    )?;
    refused(
        "",
        &[("a", "SELECT o.id FROM shop.orders o", "timezone = \"Mars/Olympus\"")],
        &["knows no time zone \"Mars/Olympus\"", "^^^"],
    )?;
    // The caret points into the text as the user wrote it, stand-ins or not.
    refused(
        "",
        &[("a", "SELECT o.id FROM shop.orders o", ""), ("b", "SELECT read_model.a.id,\n  nope FROM read_model.a", "")],
        &["projection b"],
    )?;
    refused(
        "",
        &[("a", "SELECT o.id FROM shop.orders o", ""), ("b", "SELECT a.id FROM read_model.a\nWHERE a.nope > 3", "")],
        &["column a.nope does not exist", "WHERE a.nope > 3", "      ^^^^^^"],
    )
}

/// A whole projection's reason comes with its place in the query, and every statement can be seen.
#[tokio::test(flavor = "multi_thread")]
async fn plans_point_at_what_makes_them_whole() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let projections = [
        ("numbered", "SELECT e.id, row_number() OVER (ORDER BY e.id) AS n FROM shop.employee e", ""),
        ("unequal", "SELECT a.id, b.id AS other FROM shop.employee a JOIN shop.employee b ON b.id <> a.id", ""),
        ("linked", "SELECT o.id, p.id AS payment FROM shop.orders o LEFT JOIN shop.payment p ON p.order_id = o.id", ""),
        (
            "growing",
            "SELECT t.placed, t.n - lag(t.n) OVER (ORDER BY t.placed) AS growth FROM (SELECT placed, count(*) AS n FROM shop.orders GROUP BY placed) t",
            "",
        ),
    ];
    let setup = Setup::new(&cluster.url("postgres"), &projections);
    shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let (status, output, errors) = program.run(&["plan", "--sql"])?;
    assert_eq!(status, GOOD, "{errors}");
    for part in [
        "not incremental, because a window function looks over all rows",
        "|     row_number() OVER (ORDER BY ",
        "shop.employee (as b) is joined without an equality or a range",
        "^^^^^^^^^^^^^",
        "link    shop.payment as p: many rows may match; what they were joined by is kept: p.order_id = o.id",
        "state   lockstep.linked_link2 (k1 bigint, l1 bigint): what each row of shop.payment was joined by",
        "-- link: what the dirty rows of shop.payment as p are joined by now",
        "-- trace: from those values to root keys",
        "growing  (recomputed from growing__part1 when that has changed)",
        "    block growing__part1  (aggregate, incremental)",
        "groups  accumulated",
    ] {
        assert!(output.contains(part), "{part} is not in:\n{output}");
    }
    let (_, output, _) = program.run(&["plan", "numbered", "--json"])?;
    let plans: serde_json::Value = serde_json::from_str(&output)?;
    let position = usize::try_from(plans[0]["position"].as_u64().unwrap_or_default())?;
    assert!(plans[0]["query"].as_str().unwrap_or_default()[position..].starts_with("row_number()"), "{output}");
    Ok(())
}

/// What a projection keeps beside its table is told with its size: blocks by name, below what reads them.
#[tokio::test(flavor = "multi_thread")]
async fn status_tells_of_blocks() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let both = "SELECT c.id, s.n FROM shop.customer c LEFT JOIN \
                (SELECT o.customer_id AS a, 1 AS n FROM shop.orders o UNION ALL SELECT p.order_id, 1 FROM shop.payment p) s ON s.a = c.id";
    let setup = Setup::new(&cluster.url("postgres"), &[("joined", both, ""), ("orders", ORDERS, "")]);
    let session = shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    assert_eq!(program.run(&["run", "--once"])?.0, GOOD);
    assert_equal(&setup).await?;
    let (status, output, errors) = program.run(&["status", "--json"])?;
    assert_eq!(status, GOOD, "{errors}");
    let told: serde_json::Value = serde_json::from_str(&output)?;
    let block = &told["projections"][1];
    assert_eq!((block["part_of"].as_str(), block["kind"].as_str()), (Some("joined"), Some("aggregate")), "{output}");
    let rows: i64 =
        session.query_one("SELECT (SELECT count(*) FROM shop.orders) + (SELECT count(*) FROM shop.payment)", &[]).await?.get(0);
    assert_eq!(block["rows"].as_i64(), Some(rows), "{output}");
    assert!(block["bytes"].as_i64() > Some(8192) && told["projections"][0]["bytes"].as_i64() > Some(8192), "{output}");
    assert_eq!(
        (told["projections"][2]["name"].as_str(), told["projections"][2]["state_bytes"].as_i64()),
        (Some("orders"), Some(0))
    );
    // Blocks are verified with what reads them, those with equal rows too.
    let (status, output, errors) = program.run(&["verify"])?;
    assert_eq!(status, GOOD, "{output}{errors}");
    let (_, output, _) = program.run(&["status"])?;
    assert!(output.contains("  block joined__part1"), "{output}");
    Ok(())
}
