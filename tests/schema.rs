//! The source's schema changes under a running projector.

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::cluster;

use crate::harness::{Followed, Program, Projector, Readers, Setup, assert_equal, shop, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_replaced_and_a_publication_loses_one() -> anyhow::Result<()> {
    let Followed { cluster: _cluster, setup, session, projector } = Followed::shop(&[
        ("regions", "SELECT r.code, r.name FROM shop.region r", ""),
        ("orders", "SELECT o.id, o.status FROM shop.orders o", ""),
    ])
    .await?;
    // The new table is not published: nothing in the stream tells of it.
    session
        .batch_execute(
            "BEGIN; CREATE TABLE shop.region_new (code text PRIMARY KEY, name text); INSERT INTO shop.region_new VALUES ('n', 'New');
             DROP TABLE shop.region; ALTER TABLE shop.region_new RENAME TO region; COMMIT",
        )
        .await?;
    until(&session, "SELECT array_agg(code) = '{n}' FROM read_model.regions").await?;
    session.batch_execute("INSERT INTO shop.region VALUES ('m', 'More')").await?;
    until(&session, "SELECT count(*) = 2 FROM read_model.regions").await?;
    // Somebody takes a table out of the publication.
    session
        .batch_execute("ALTER PUBLICATION lockstep DROP TABLE shop.orders; UPDATE shop.orders SET status = 'unseen' WHERE id < 9")
        .await?;
    until(&session, "SELECT count(*) = 8 FROM read_model.orders WHERE status = 'unseen'").await?;
    // The key becomes another one.
    session
        .batch_execute("BEGIN; ALTER TABLE shop.region DROP CONSTRAINT region_new_pkey; ALTER TABLE shop.region ADD COLUMN id serial PRIMARY KEY; COMMIT")
        .await?;
    // Until the publication lists the new key, PostgreSQL refuses updates.
    until(
        &session,
        "SELECT coalesce(to_jsonb(t) -> 'attnames' @> '\"id\"', true) FROM pg_publication_tables AS t WHERE tablename = 'region'",
    )
    .await?;
    session.batch_execute("UPDATE shop.region SET name = 'Newer', code = 'nn' WHERE code = 'n'").await?;
    until(&session, "SELECT count(*) = 1 FROM read_model.regions WHERE name = 'Newer'").await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_and_go() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &[("parted", "SELECT p.id, p.reg, p.v FROM shop.parted p", "")]);
    let session = shop(&setup.source_url).await?;
    session
        .batch_execute(
            "CREATE TABLE shop.parted (id integer, reg text, v integer, PRIMARY KEY (id, reg)) PARTITION BY LIST (reg);
             CREATE TABLE shop.parted_a PARTITION OF shop.parted FOR VALUES IN ('a');
             CREATE TABLE shop.parted_b PARTITION OF shop.parted FOR VALUES IN ('b');
             INSERT INTO shop.parted SELECT n, (ARRAY['a', 'b'])[1 + n % 2], n FROM generate_series(1, 20) n;
             CREATE TABLE shop.parted_c (id integer NOT NULL, reg text NOT NULL, v integer, PRIMARY KEY (id, reg));
             INSERT INTO shop.parted_c VALUES (100, 'c', 1), (101, 'c', 2)",
        )
        .await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for (change, rows) in [
        ("ALTER TABLE shop.parted ATTACH PARTITION shop.parted_c FOR VALUES IN ('c')", 22),
        ("ALTER TABLE shop.parted DETACH PARTITION shop.parted_b", 12),
        ("TRUNCATE shop.parted_a", 2),
    ] {
        session.batch_execute(change).await?;
        until(&session, &format!("SELECT count(*) = {rows} FROM read_model.parted"))
            .await
            .map_err(|error| error.context(change))?;
        until(&session, "SELECT state = 'live' FROM lockstep.projection").await?;
        projector.is_equal(&setup).await?;
    }
    session.batch_execute("UPDATE shop.parted SET v = v + 1").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}

/// What is undone before anybody looks is noticed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_between_two_looks() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            ("parted", "SELECT p.id, p.reg, p.v FROM shop.parted p", ""),
            ("regions", "SELECT r.code, r.name FROM shop.region r", ""),
        ],
    );
    let session = shop(&setup.source_url).await?;
    session
        .batch_execute(
            "CREATE TABLE shop.parted (id integer, reg text, v integer, PRIMARY KEY (id, reg)) PARTITION BY LIST (reg);
             CREATE TABLE shop.parted_a PARTITION OF shop.parted FOR VALUES IN ('a');
             INSERT INTO shop.parted SELECT n, 'a', n FROM generate_series(1, 20) n; ALTER TABLE shop.region ADD COLUMN other text DEFAULT 'o'",
        )
        .await?;
    for change in [
        "ALTER TABLE shop.parted DETACH PARTITION shop.parted_a; DELETE FROM shop.parted_a WHERE id > 10;
         ALTER TABLE shop.parted ATTACH PARTITION shop.parted_a FOR VALUES IN ('a')",
        "ALTER PUBLICATION lockstep DROP TABLE shop.region; UPDATE shop.region SET name = 'unseen'; ALTER PUBLICATION lockstep ADD TABLE shop.region",
        "ALTER TABLE shop.region RENAME name TO third; ALTER TABLE shop.region RENAME other TO name; ALTER TABLE shop.region RENAME third TO other",
    ] {
        let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        projector.is_equal(&setup).await?;
        let before: String = session.query_one("SELECT started_at::text FROM lockstep.installation", &[]).await?.get(0);
        // In one transaction, so that no look falls in between.
        session.batch_execute(&format!("BEGIN; {change}; COMMIT")).await?;
        until(&session, &format!("SELECT started_at > '{before}' FROM lockstep.installation"))
            .await
            .map_err(|error| error.context(change))?;
        projector.catch_up().await?;
        until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
        projector.catch_up().await?;
        assert_equal(&setup).await.map_err(|error| error.context(change))?;
        projector.stop().await?;
    }
    Ok(())
}

/// A column that a query uses gets another type: the projection is built anew beside the old one, which is read until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_used_column_gets_another_type() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            ("typed", "SELECT o.id, o.amount FROM shop.orders o", ""),
            ("totals", "SELECT o.status, sum(o.amount) AS total FROM shop.orders o GROUP BY o.status", ""),
            ("without", "SELECT o.id, o.status FROM shop.orders o", ""),
        ],
    );
    let session = shop(&setup.source_url).await?;
    session.batch_execute("DROP VIEW shop.paid_order CASCADE").await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let readers = Readers::start(
        &setup.source_url,
        "SELECT (SELECT count(*) FROM read_model.typed) > 0 AND (SELECT count(*) FROM read_model.totals) > 0",
    );
    let type_of = |table: &str, column: &str, wanted: &str| {
        format!(
            "SELECT format_type(atttypid, NULL) = '{wanted}' FROM pg_attribute
             WHERE attrelid = 'read_model.{table}'::regclass AND attname = '{column}'"
        )
    };
    for (new_type, typed, total) in
        [("double precision", "double precision", "double precision"), ("bigint", "bigint", "numeric")]
    {
        session.batch_execute(&format!("ALTER TABLE shop.orders ALTER amount TYPE {new_type}")).await?;
        session.batch_execute("UPDATE shop.orders SET amount = amount + 1 WHERE id < 10").await?;
        until(&session, &type_of("typed", "amount", typed)).await?;
        until(&session, &type_of("totals", "total", total)).await?;
        until(&session, "SELECT bool_and(state = 'live') AND count(*) = 3 FROM lockstep.projection").await?;
        projector.is_equal(&setup).await?;
    }
    assert!(readers.stop().await? > 10);
    projector.stop().await?;
    Ok(())
}

/// A query that begins to fail faults its projection, also over a restart, and comes back when it works again.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_for_a_while() -> anyhow::Result<()> {
    let Followed { cluster: _cluster, setup, session, projector } = Followed::shop(&[
        ("with_note", "SELECT o.id, o.extra FROM shop.orders o", ""),
        ("without", "SELECT o.id, o.amount FROM shop.orders o", ""),
    ])
    .await?;
    projector.stop().await?;
    session
        .batch_execute("ALTER TABLE shop.orders RENAME COLUMN extra TO other; UPDATE shop.orders SET amount = 1 WHERE id = 1")
        .await?;
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT amount = 1 FROM read_model.without WHERE id = 1").await?;
    until(&session, "SELECT state = 'faulted' AND reason LIKE '%extra%' FROM lockstep.projection WHERE name = 'with_note'")
        .await?;
    let kept: i64 = session.query_one("SELECT count(*) FROM read_model.with_note", &[]).await?.get(0);
    assert!(kept > 0, "its last good rows stay");
    // What cannot be compared is not equal, whoever is asked for.
    let program = Program::new(&setup)?;
    for names in [&["verify", "--json"][..], &["verify", "--json", "with_note"]] {
        let (status, output, errors) = program.run(names)?;
        let views: serde_json::Value = serde_json::from_str(&output)?;
        let one = views.as_array().into_iter().flatten().find(|view| view["projection"] == "with_note");
        assert!(status == 1 && one.is_some_and(|view| view["outcome"] == "not comparable"), "{status} {output} {errors}");
    }
    session
        .batch_execute(
            "ALTER TABLE shop.orders RENAME COLUMN other TO extra; UPDATE shop.orders SET extra = '{\"b\": 2}' WHERE id = 2",
        )
        .await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection WHERE name = 'with_note'").await?;
    let projector = projector;
    projector.ends_equal(&setup).await?;
    // A query that never worked is refused: that is a mistake in the configuration.
    let mut wrong = setup.clone();
    wrong.projections.push(("typo".to_owned(), "SELECT o.id, o.nothing FROM shop.orders o".to_owned(), String::new()));
    let (status, _, errors) = Program::new(&wrong)?.run(&["run", "--once"])?;
    assert!(status == 1 && errors.contains("nothing"), "{status} {errors}");
    Ok(())
}
