//! Changing a definition: the new version is built beside the old one, which goes on, and is swapped in.

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Workload, cluster, connect, seed_from_environment};

use crate::harness::{Program, Projector, Readers, Setup, assert_equal, shop, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_changes_under_load() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let directory = tempfile::tempdir()?;
    let indexes = directory.path().join("indexes.sql");
    std::fs::write(&indexes, "CREATE INDEX order_row_status ON order_row (status);\n")?;
    let extra = format!("indexes = \"{}\"", indexes.display());
    let before = Setup::new(
        &cluster.url("postgres"),
        &[
            ("order_row", "SELECT o.id, o.status, o.amount FROM shop.orders o", &extra),
            ("totals", "SELECT o.status, count(*) AS n, sum(o.amount) AS total FROM shop.orders o GROUP BY o.status", ""),
            (
                "shares",
                "SELECT t.status, round(t.n / sum(t.n) OVER (), 4) AS share FROM (SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status) t",
                "",
            ),
            ("other", "SELECT o.id, o.placed FROM shop.orders o", ""),
        ],
    );
    let session = shop(&before.source_url).await?;
    let mut projector = Projector::start(&before, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session
        .batch_execute(
            "CREATE ROLE shop_reader; GRANT SELECT ON read_model.order_row TO shop_reader;
             COMMENT ON COLUMN read_model.order_row.status IS 'where it is';
             CREATE VIEW public.paid AS SELECT id, amount FROM read_model.order_row WHERE status = 'paid'",
        )
        .await?;
    projector.stop().await?;
    let mut workload = Workload::start(&before.source_url, 2, seed);
    let mut after = before.clone();
    after.projections[0].1 = "SELECT o.id, o.status, o.amount, o.amount * 2 AS double FROM shop.orders o".to_owned();
    after.projections[1].1 =
        "SELECT o.status, count(*) AS n, sum(o.amount) AS total, max(o.id) AS last FROM shop.orders o GROUP BY o.status"
            .to_owned();
    after.projections[2].1 = before.projections[2].1.replace(", 4)", ", 6)");
    let oid = "SELECT 'read_model.order_row'::regclass::oid::int8";
    let old_oid: i64 = session.query_one(oid, &[]).await?.get(0);
    let mut projector = Projector::start(&after, None, RefreshOptions::default()).await?;
    // The old version is read, and follows, until the new one takes its place; the others are not disturbed.
    until(&session, &format!("SELECT ({oid}) <> {old_oid} AND count(*) > 0 FROM read_model.order_row WHERE double IS NOT NULL"))
        .await?;
    until(&session, "SELECT count(*) = 0 FROM lockstep.projection WHERE replaces IS NOT NULL").await?;
    workload.reach(workload.commits() + 20).await?;
    workload.finish().await?;
    projector.catch_up().await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    assert_equal(&after).await?;
    let kept: bool = session
        .query_one(
            "SELECT has_table_privilege('shop_reader', 'read_model.order_row', 'SELECT')
                AND col_description('read_model.order_row'::regclass, 2) = 'where it is'
                AND (SELECT count(*) FROM public.paid) = (SELECT count(*) FROM shop.orders WHERE status = 'paid')
                AND EXISTS (SELECT FROM pg_indexes WHERE schemaname = 'read_model' AND tablename = 'order_row' AND indexname = 'order_row_status')",
            &[],
        )
        .await?
        .get(0);
    assert!(kept, "grants, comments, views and indexes are kept");
    let left: String = session
        .query_one(
            "SELECT coalesce(string_agg(relname, ' '), '') FROM pg_class WHERE relname LIKE '%\\_\\_2%' OR relname LIKE '%\\_\\_old%' OR relname LIKE 'new\\_%'",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(left, "");
    // A start with the same configuration changes nothing.
    let new_oid: i64 = session.query_one(oid, &[]).await?.get(0);
    projector.stop().await?;
    let mut projector = Projector::start(&after, None, RefreshOptions::default()).await?;
    session.batch_execute("UPDATE shop.orders SET amount = 5 WHERE id = 1").await?;
    projector.catch_up().await?;
    assert_eq!(session.query_one(oid, &[]).await?.get::<_, i64>(0), new_oid);
    assert_equal(&after).await?;
    // On demand.
    let program = Program::new(&after)?;
    let (status, output, errors) = program.run(&["rebuild", "totals", "--timeout", "50s"])?;
    assert!(status == 0 && output.contains("was rebuilt"), "{status} {output}{errors}");
    projector.catch_up().await?;
    assert_equal(&after).await?;
    let (status, _, errors) = program.run(&["rebuild", "nothing"])?;
    assert!(status == 2 && errors.contains("no projection \"nothing\""), "{status} {errors}");
    projector.stop().await?;
    Ok(())
}

/// What reads a changed projection changes with it: no reader ever sees one of them in its new version and the other in its old.
#[tokio::test(flavor = "multi_thread")]
async fn projections_that_read_each_other_change_together() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let before = Setup::new(
        &cluster.url("postgres"),
        &[
            ("paid", "SELECT o.id, o.status, o.amount FROM shop.orders o WHERE o.status <> 'new'", ""),
            ("by_status", "SELECT p.status, count(*) AS n FROM read_model.paid AS p GROUP BY p.status", ""),
            ("top", "SELECT s.status, s.n FROM read_model.by_status s WHERE s.n > 1", ""),
            ("other", "SELECT o.id FROM shop.orders o", ""),
        ],
    );
    let session = shop(&before.source_url).await?;
    let mut projector = Projector::start(&before, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let mut workload = Workload::start(&before.source_url, 2, seed);
    let oids = "SELECT string_agg(to_regclass('read_model.' || name)::oid::text, ' ' ORDER BY name) FROM unnest('{paid,by_status,top}'::text[]) AS name";
    let old: String = session.query_one(oids, &[]).await?.get(0);
    let other = "SELECT to_regclass('read_model.other')::oid::int8";
    let other_oid: i64 = session.query_one(other, &[]).await?.get(0);
    let mut after = before.clone();
    after.projections[0].1 = "SELECT o.id, o.status, o.amount, o.amount * 2 AS twice FROM shop.orders o".to_owned();
    // One that is changed and reads a changed one, one that only reads, and a new one that needs what is new.
    after.projections[1].1 =
        "SELECT p.status, count(*) AS n, sum(p.twice) AS twice FROM read_model.paid AS p GROUP BY p.status".to_owned();
    after.projections.push(("added".to_owned(), "SELECT p.id, p.twice FROM read_model.paid p".to_owned(), String::new()));
    let readers = Readers::start(
        &before.source_url,
        "SELECT (SELECT count(*) FROM read_model.paid) = (SELECT coalesce(sum(n), 0) FROM read_model.by_status)
            AND (SELECT count(*) FROM read_model.top) = (SELECT count(*) FROM read_model.by_status WHERE n > 1)",
    );
    let mut projector = Projector::start(&after, None, RefreshOptions::default()).await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection WHERE name = 'added'").await?;
    workload.reach(workload.commits() + 20).await?;
    workload.finish().await?;
    projector.catch_up().await?;
    assert!(readers.stop().await? > 10, "they read throughout");
    assert_equal(&after).await?;
    let new: String = session.query_one(oids, &[]).await?.get(0);
    assert!(old.split(' ').zip(new.split(' ')).all(|(old, new)| old != new), "{old} {new}: built beside the old ones");
    assert_eq!(session.query_one(other, &[]).await?.get::<_, i64>(0), other_oid);
    let left: i64 = session
        .query_one("SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_\\_2%' OR relname LIKE '%\\_\\_old%'", &[])
        .await?
        .get(0);
    assert_eq!(left, 0);
    // Rebuilding the first takes its readers along.
    let program = Program::new(&after)?;
    let (status, output, errors) = program.run(&["rebuild", "paid", "--timeout", "50s"])?;
    assert!(status == 0 && output.contains("was rebuilt"), "{status} {output}{errors}");
    projector.catch_up().await?;
    let rebuilt: String = session.query_one(oids, &[]).await?.get(0);
    assert!(new.split(' ').zip(rebuilt.split(' ')).all(|(old, new)| old != new), "{new} {rebuilt}");
    assert_equal(&after).await?;
    projector.stop().await?;
    Ok(())
}

/// A projection that is added does not hold the others' positions back while it is built.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_disturbs_nobody() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), &[("order_row", "SELECT o.id, o.status FROM shop.orders o", "")]);
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    // Its build cannot come to an end: the index that it wants cannot be made.
    let directory = tempfile::tempdir()?;
    let indexes = directory.path().join("indexes.sql");
    std::fs::write(&indexes, "CREATE INDEX ON slow USING gist (id);\n")?;
    setup.projections.push((
        "slow".to_owned(),
        "SELECT o.id, o.amount FROM shop.orders o".to_owned(),
        format!("indexes = \"{}\"", indexes.display()),
    ));
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT count(*) = 1 FROM lockstep.projection WHERE name = 'slow'").await?;
    session.batch_execute("UPDATE shop.orders SET status = 'seen' WHERE id = 1").await?;
    until(&session, "SELECT lockstep.wait_for(pg_current_wal_insert_lsn(), '1 second')").await?;
    let seen: bool = session.query_one("SELECT status = 'seen' FROM read_model.order_row WHERE id = 1", &[]).await?.get(0);
    assert!(seen);
    let built: bool =
        session.query_one("SELECT built_at IS NOT NULL FROM lockstep.projection WHERE name = 'slow'", &[]).await?.get(0);
    assert!(!built);
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_named_and_the_old_version_is_kept_for_a_while() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup =
        Setup::new(&cluster.url("postgres"), &[("order_row", "SELECT o.id, o.status, o.amount FROM shop.orders o", "")]);
    setup.preamble = "[target]\nkeep_old_s = 3600\n".to_owned();
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    session.batch_execute("CREATE VIEW public.amounts AS SELECT id, amount FROM read_model.order_row").await?;
    // The view reads a column that goes.
    setup.projections[0].1 = "SELECT o.id, o.status FROM shop.orders o".to_owned();
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT hint LIKE '%public.amounts cannot be kept%' FROM lockstep.projection WHERE name = 'order_row'")
        .await?;
    // It is not set up again and again because of that.
    let epochs = "SELECT leader_epoch FROM lockstep.installation";
    session.batch_execute("UPDATE shop.orders SET amount = 77 WHERE id = 1").await?;
    until(&session, "SELECT amount = 77 FROM public.amounts WHERE id = 1").await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection WHERE name = 'order_row__2'").await?;
    let epoch: i64 = session.query_one(epochs, &[]).await?.get(0);
    until(&session, "SELECT clock_timestamp() > started_at + interval '4 seconds' FROM lockstep.installation").await?;
    session.batch_execute("UPDATE shop.orders SET amount = 78 WHERE id = 1").await?;
    until(&session, "SELECT amount = 78 FROM public.amounts WHERE id = 1").await?;
    assert_eq!(session.query_one(epochs, &[]).await?.get::<_, i64>(0), epoch);
    let rows: i64 = session.query_one("SELECT count(*) FROM public.amounts", &[]).await?.get(0);
    assert!(rows > 0, "readers of the old version go on");
    projector.stop().await?;
    session.batch_execute("DROP VIEW public.amounts").await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT count(*) = 1 FROM lockstep.retired WHERE table_name = 'order_row__old'").await?;
    projector.is_equal(&setup).await?;
    // Its time comes while the projector runs. Who reads it then is not disturbed.
    let reader = connect(&setup.source_url).await?;
    reader.batch_execute("BEGIN; SELECT FROM read_model.order_row__old").await?;
    session.batch_execute("UPDATE lockstep.retired SET drop_after = now() - interval '1 second'").await?;
    until(
        &session,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'lockstep upkeep' AND wait_event_type = 'Lock')",
    )
    .await?;
    until(
        &session,
        "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'read_model.order_row__old'::regclass AND NOT granted)",
    )
    .await?;
    reader.batch_execute("COMMIT").await?;
    until(&session, "SELECT to_regclass('read_model.order_row__old') IS NULL").await?;
    projector.stop().await?;
    // What is added, and what is no longer configured and goes when asked for.
    setup.projections.push(("second".to_owned(), "SELECT r.code FROM shop.region r".to_owned(), String::new()));
    let program = Program::new(&setup)?;
    let (status, output, errors) = program.run(&["run", "--once"])?;
    assert_eq!(status, 0, "{output}{errors}");
    until(&session, "SELECT to_regclass('read_model.second') IS NOT NULL").await?;
    setup.projections.pop();
    let program = Program::new(&setup)?;
    let (status, output, errors) = program.run(&["run", "--once", "--prune"])?;
    assert_eq!(status, 0, "{output}{errors}");
    until(&session, "SELECT to_regclass('read_model.second') IS NULL").await?;
    Ok(())
}
