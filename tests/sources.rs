//! Where answers come from: chain, flag and rollout, positions, time limits, and a configuration that is read again.

use std::time::Duration;

use lockstep_testkit::{cluster, connect};

use crate::harness::{PATIENCE, Program, Setup, until};
use crate::http::{get, get_with};
use crate::serving::{Serving, Shop, write_config};

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_positions() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut shop = Shop::open(&cluster.url("postgres"), "", "min_lsn_wait_ms = 30000\n").await?;
    let at = shop.address;
    let first = get(at, "/api/products?brand=Acme").await?;
    let tag = first.header("etag").unwrap_or_default().to_owned();
    assert!(tag.starts_with("W/\"") && first.header("lockstep-lsn").is_some() && first.header("lockstep-staleness").is_some());
    let second = get_with(at, "/api/products?brand=Acme", &format!("If-None-Match: \"x\", {tag}\r\n")).await?;
    assert_eq!((second.status, second.body.as_str()), (304, ""));
    assert_eq!(get_with(at, "/api/products?brand=Bolt", "If-None-Match: *\r\n").await?.status, 304);
    let other = get_with(at, "/api/products?brand=Bolt", &format!("If-None-Match: {tag}\r\n")).await?;
    assert_eq!(other.status, 200, "it is the tag of another question");
    // Who has written reads it, by its position.
    for price in 1..20 {
        shop.session
            .batch_execute(&format!(
                "UPDATE custom_posts SET \"customFields\" = \"customFields\" || '{{\"recommendedPrice\": {price}}}' WHERE slug = 'p1'"
            ))
            .await?;
        let lsn: String = shop.session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
        let headers = format!("Lockstep-Min-LSN: {lsn}\r\nIf-None-Match: {tag}\r\n");
        let answer = get_with(at, "/api/products?brand=Acme&sortBy=created_at&sortOrder=ASC", &headers).await?;
        assert_eq!(answer.json()["data"][0]["recommended_price"], price, "{}", answer.body);
        assert_eq!(answer.source(), "projection");
    }
    let changed = get_with(at, "/api/products?brand=Acme", &format!("If-None-Match: {tag}\r\n")).await?;
    assert_eq!(changed.status, 200);
    shop.projector.catch_up().await?;
    let zipped = get_with(at, "/api/products", "Accept-Encoding: gzip\r\n").await?;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert_eq!(zipped.header("access-control-allow-origin"), None, "other sites' scripts are not let in by default");
    shop.projector.stop().await?;
    Ok(())
}

/// A projector that does not follow: positions are never contained.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_not_contained_in_time() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let shop = Shop::open(&cluster.url("postgres"), "", "min_lsn_wait_ms = 50\n").await?;
    let refused = get(shop.address, "/api/products?min_lsn=FFFFFFFF/0").await?;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.body);
    shop.projector.stop().await?;
    let program = Program::new(&shop.setup)?;
    let serving = Serving::start(&program, &shop.setup, "min_lsn_wait_ms = 50\nmin_lsn_miss = \"tables\"").await?;
    shop.session.batch_execute("UPDATE custom_posts SET title = 'Written' WHERE slug = 'p6'").await?;
    let lsn: String = shop.session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    let answer = get(serving.address, &format!("/api/products?brand=Cozy&min_lsn={lsn}")).await?;
    assert_eq!(answer.source(), "tables", "{}", answer.body);
    assert!(answer.names().contains(&"Written".to_owned()));
    let log = program.log();
    assert!(!log.contains("cannot be read"), "{log}");
    let without = get(serving.address, "/api/products?brand=Cozy").await?;
    assert_eq!(without.source(), "projection");
    assert_eq!(get(serving.address, "/api/products?min_lsn=0/1").await?.source(), "projection");
    // What a projection reads from another one contains what that contains, whatever the source is called.
    assert_eq!(get(serving.address, "/api/read/over?source=tables").await?.status, 400);
    assert_eq!(get(serving.address, "/api/read/over?min_lsn=0/1").await?.source(), "projection");
    assert_eq!(get(serving.address, &format!("/api/read/over?min_lsn={lsn}")).await?.status, 503);
    // What is set aside will not contain it by itself, and says so.
    shop.session.batch_execute("UPDATE lockstep.projection SET state = 'faulted' WHERE name = 'over'").await?;
    let aside = get(serving.address, "/api/read/over?min_lsn=0/1").await?;
    assert_eq!((aside.status, aside.json()["title"].as_str()), (503, Some("Set aside")), "{}", aside.body);
    assert!(aside.body.contains("set aside until its query or its data is mended"), "{}", aside.body);
    shop.session.batch_execute("UPDATE lockstep.projection SET state = 'live' WHERE name = 'over'").await?;
    shop.session.batch_execute("ALTER TABLE read_model.over RENAME TO hidden").await?;
    let stale = get(serving.address, "/api/read/over").await?;
    let staleness: f64 = stale.header("lockstep-staleness").unwrap_or_default().parse()?;
    assert!(stale.source() == "tables" && staleness > 0.0, "{staleness}");
    // What is set aside does not contain what its group contains.
    shop.session.batch_execute("UPDATE lockstep.projection SET state = 'faulted' WHERE name = 'product_search'").await?;
    assert_eq!(get(serving.address, "/api/products?min_lsn=0/1").await?.source(), "tables");
    shop.session.batch_execute("UPDATE lockstep.projection SET state = 'live' WHERE name = 'product_search'").await?;
    assert!(!without.names().contains(&"Written".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_the_flag_and_the_rollout() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let shop = Shop::open(&cluster.url("postgres"), "[backstop]\nschedule = \"* * * * * *\"", "allow_source = true\n").await?;
    let at = shop.address;
    until(&shop.session, "SELECT count(*) > 0 FROM lockstep.mv_refresh_log WHERE success AND projection = 'product_search'")
        .await?;
    // Every source gives the same answer.
    let mut bodies = Vec::new();
    for source in ["projection", "view", "tables"] {
        let answer = get(at, &format!("/api/products?source={source}&sortBy=name&facets=brand,price&priceMin=20")).await?;
        assert_eq!((answer.status, answer.source()), (200, source), "{}", answer.body);
        bodies.push(answer.body);
    }
    assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2], "{bodies:#?}");
    shop.projector.stop().await?;
    let program = Program::new(&shop.setup)?;
    let serving = Serving::start(&program, &shop.setup, "").await?;
    let source_of = |key: String| async move {
        let answer = get_with(serving.address, "/api/products", &format!("X-Request-Key: {key}\r\n")).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.body);
        anyhow::Ok(answer.source().to_owned())
    };
    assert_eq!(source_of("a".to_owned()).await?, "projection");
    // Ten, fifty, a hundred percent, sticky; and off. A file that is wrong changes nothing.
    let mut taking_part: Vec<String> = Vec::new();
    for (api, expected) in [
        ("rollout_percent = 10", 5..=35),
        ("rollout_percent = 50", 70..=130),
        ("rollout_percent = 777", 70..=130),
        ("rollout_percent = 100", 200..=200),
        ("enabled = false", 0..=0),
    ] {
        let hangups = program.log().matches("has been read again").count() + program.log().matches("is not reloaded").count();
        write_config(&program, &shop.setup, api)?;
        serving.hang_up()?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while program.log().matches("has been read again").count() + program.log().matches("is not reloaded").count() == hangups {
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "not read again: {}", program.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut found = Vec::new();
        for n in 0..200 {
            if source_of(format!("user-{n}")).await? == "projection" {
                found.push(format!("user-{n}"));
            }
        }
        assert!(expected.contains(&found.len()), "{api}: {}", found.len());
        if api.starts_with("rollout") {
            assert!(taking_part.iter().all(|key| found.contains(key)), "{api}: who takes part goes on taking part");
            taking_part = found;
        }
    }
    // Even where a projection comes after the tables, it does not answer for a position that it does not contain.
    let other = Program::new(&shop.setup)?;
    let tables_first =
        Serving::start(&other, &shop.setup, "request_timeout_ms = 2000\nsources = [\"tables\", \"projection\"]").await?;
    let locked = connect(shop.setup.target_url()).await?;
    locked.batch_execute("BEGIN; LOCK TABLE custom_posts").await?;
    assert_eq!(get(tables_first.address, "/api/products").await?.source(), "projection");
    assert_eq!(get(tables_first.address, "/api/products?min_lsn=FFFFFFFF/0").await?.status, 504);
    locked.batch_execute("ROLLBACK").await?;
    // The table is gone: the view answers; the view is gone: the tables do. Nothing of it is an error for the client.
    write_config(&program, &shop.setup, "")?;
    let serving = Serving::start(&program, &shop.setup, "").await?;
    shop.session.batch_execute("ALTER TABLE read_model.product_search RENAME TO hidden").await?;
    let answer = get(serving.address, "/api/products?sortBy=name&facets=brand,price&priceMin=20").await?;
    assert_eq!((answer.status, answer.source()), (200, "view"), "{}", answer.body);
    assert_eq!(answer.body, bodies[0]);
    assert_eq!(answer.header("etag"), None);
    shop.session.batch_execute("DROP MATERIALIZED VIEW read_model.mv_product_search").await?;
    let answer = get(serving.address, "/api/products?sortBy=name&facets=brand,price&priceMin=20").await?;
    assert_eq!((answer.status, answer.source()), (200, "tables"), "{}", answer.body);
    assert_eq!(answer.body, bodies[0]);
    shop.session.batch_execute("ALTER TABLE custom_posts RENAME TO posts").await?;
    let answer = get(serving.address, "/api/products").await?;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{}", answer.body);
    Ok(())
}

/// A source that does not answer in time is followed by the next; without a next one the client is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let shop = Shop::open(&url, "", "request_timeout_ms = 300\nmin_lsn_wait_ms = 10\n").await?;
    shop.projector.stop().await?;
    let program = Program::new(&shop.setup)?;
    let chain =
        Serving::start(&program, &shop.setup, "request_timeout_ms = 4000\nsources = [\"projection\", \"tables\"]").await?;
    let other = Program::new(&shop.setup)?;
    let alone =
        Serving::start(&other, &shop.setup, "request_timeout_ms = 300\nmin_lsn_wait_ms = 10\nsources = [\"projection\"]").await?;
    // Both know what the table looks like.
    assert_eq!(get(chain.address, "/api/products").await?.source(), "projection");
    assert_eq!(get(alone.address, "/api/products").await?.source(), "projection");
    let locked = connect(&url).await?;
    locked.batch_execute("BEGIN; LOCK TABLE read_model.product_search").await?;
    let late = get(alone.address, "/api/products").await?;
    assert_eq!((late.status, late.header("retry-after")), (504, Some("5")), "{}", late.body);
    let answer = get(chain.address, "/api/products").await?;
    assert_eq!((answer.status, answer.source()), (200, "tables"), "{}", answer.body);
    locked.batch_execute("ROLLBACK").await?;
    let answer = get(alone.address, "/api/products").await?;
    assert_eq!((answer.status, answer.source()), (200, "projection"), "{}", answer.body);
    // A total may be told again; the rows are of now, and with a position the total is too.
    let counting = Program::new(&shop.setup)?;
    let counting = Serving::start(&counting, &shop.setup, "total_cache_ms = 600000\nsources = [\"tables\"]").await?;
    let total =
        |path: &'static str| async move { anyhow::Ok(get(counting.address, path).await?.json()["meta"]["total"].clone()) };
    assert_eq!((total("/api/products?brand=Cozy").await?, total("/api/products?brand=Bolt").await?), (3.into(), 2.into()));
    shop.session.batch_execute("DELETE FROM custom_posts WHERE slug = 'p9'").await?;
    let again = get(counting.address, "/api/products?brand=Cozy&limit=5").await?;
    assert_eq!((again.names().len(), &again.json()["meta"]["total"]), (2, &3.into()));
    assert_eq!(total("/api/products?brand=Cozy&min_lsn=0/1").await?, 2);
    // Nothing is left inside a transaction.
    until(
        &shop.session,
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'lockstep read' AND state LIKE 'idle in transaction%'",
    )
    .await?;
    drop((chain, alone, counting));
    Ok(())
}

/// A configuration whose projection does not work is not taken over, and nothing that works is given up for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_does_not_work_changes_nothing() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = connect(&url).await?;
    session.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1)").await?;
    let mut setup = Setup::new(&url, &[("one", "SELECT t.id, t.a FROM t", "")]);
    let program = Program::new(&setup)?;
    let mut child = program.start("")?;
    until(&session, "SELECT count(*) = 1 FROM lockstep.projection WHERE state = 'live'").await?;
    let hang_up = |child: &std::process::Child| -> anyhow::Result<()> {
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        Ok(nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGHUP)?)
    };
    setup.projections.push(("two".to_owned(), "SELECT t.id, t.nope FROM t".to_owned(), String::new()));
    program.file("lockstep.toml", &setup.toml())?;
    hang_up(&child)?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !program.log().contains("is not reloaded") {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{}", program.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    session.batch_execute("UPDATE t SET a = 2").await?;
    until(&session, "SELECT a = 2 FROM read_model.one").await?;
    // Nor is one in which the query is what it was and something else does not work.
    setup.projections.pop();
    setup.projections[0].2 = "key = [\"nope\"]".to_owned();
    program.file("lockstep.toml", &setup.toml())?;
    hang_up(&child)?;
    while program.log().matches("is not reloaded").count() < 2 {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{}", program.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    setup.projections[0].2 = String::new();
    setup.projections.push(("two".to_owned(), String::new(), String::new()));
    setup.projections[1].1 = "SELECT t.id, t.a + 1 AS b FROM t".to_owned();
    program.file("lockstep.toml", &setup.toml())?;
    hang_up(&child)?;
    until(&session, "SELECT b = 3 FROM read_model.two").await?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Whoever has gone away leaves no query behind, and those who wait for what never comes do not keep others waiting.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_and_clients_that_wait() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let shop = Shop::open(&url, "", "request_timeout_ms = 600000\nmin_lsn_wait_ms = 60000\n").await?;
    assert_eq!(get(shop.address, "/api/products").await?.status, 200);
    let locked = connect(&url).await?;
    locked.batch_execute("BEGIN; LOCK TABLE read_model.product_search").await?;
    let path = "/api/read/product_search?order=name";
    let client = tokio::spawn(get(shop.address, path));
    let waiting =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'lockstep read' AND wait_event_type = 'Lock'";
    until(&shop.session, waiting).await?;
    client.abort();
    until(&shop.session, &format!("SELECT NOT ({waiting})")).await?;
    locked.batch_execute("ROLLBACK").await?;
    // More of them than there are sessions to wait with.
    let clients: Vec<_> = (0..30).map(|_| tokio::spawn(get(shop.address, "/api/products?min_lsn=FFFFFFFF/0"))).collect();
    until(
        &shop.session,
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'lockstep read' AND query LIKE '%contained%'",
    )
    .await?;
    shop.session.batch_execute("UPDATE custom_posts SET title = 'Seen' WHERE slug = 'p6'").await?;
    let lsn: String = shop.session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    let answer = get(shop.address, &format!("/api/products?brand=Cozy&min_lsn={lsn}")).await?;
    assert!(answer.names().contains(&"Seen".to_owned()), "{}", answer.body);
    assert!(clients.iter().all(|client| !client.is_finished()));
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    shop.projector.stop().await?;
    Ok(())
}
