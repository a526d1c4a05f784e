//! `facets`: totals and facets are summed over a cube, which is right whenever the rows are.

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, Workload, cluster, seed_from_environment};
use serde_json::Value;

use crate::harness::{Program, Progress, Projector, Setup, assert_equal, shop, until};
use crate::http::get;

const ORDERS: &str = "SELECT o.id, o.status, o.amount, o.placed, c.tier, c.region_code FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id";
const FACETS: &str = "key = [\"id\"]\nfacets = [\"status\", \"tier\", \"region_code\"]";
const API: &str = "[api]\nlisten = \"127.0.0.1:0\"\n";

/// What the cube must be.
const CUBE: &str = "SELECT status, tier, region_code, count(*) FROM read_model.orders GROUP BY 1, 2, 3";

async fn cube_is_right(target: &Session) -> anyhow::Result<()> {
    let cube = "SELECT status, tier, region_code, \"lockstep:rows\" FROM read_model.orders__cube";
    let different = format!("SELECT count(*) FROM (({cube} EXCEPT ALL {CUBE}) UNION ALL ({CUBE} EXCEPT ALL {cube})) AS d");
    assert_eq!(target.query_one(&different, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

fn setup(url: &str, extra: &str) -> Setup {
    let mut setup = Setup::new(url, &[("orders", ORDERS, extra)]);
    API.clone_into(&mut setup.preamble);
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_and_facets_come_from_the_cube() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = setup(&cluster.url("postgres"), FACETS);
    let session = shop(&setup.source_url).await?;
    // NULLs are values like others.
    session.batch_execute("UPDATE shop.orders SET customer_id = NULL WHERE id % 7 = 0").await?;
    let (mut projector, at) = Projector::start_with_api(&setup, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    cube_is_right(&session).await?;
    let filters = [
        "",
        "status=eq.paid",
        "tier=gte.2",
        "tier=is.null",
        "status=in.(new,paid)&tier=lt.3&region_code=ne.r1",
        "status=eq.nothing",
        "region_code=like.r*",
        // Not in the cube: counted.
        "amount=gte.50",
        "status=eq.paid&amount=lt.50",
    ];
    let facets = "facets=status,tier,region_code,placed";
    let mut first = Vec::new();
    for filter in filters {
        first.push(get(at, &format!("/api/read/orders?{filter}&{facets}&limit=1")).await?.json());
    }
    // The same, counted: without a cube that is live nothing else is there.
    let hidden = "UPDATE lockstep.projection SET state = 'degraded' WHERE name = 'orders__cube'";
    session.batch_execute(hidden).await?;
    for (filter, summed) in filters.iter().zip(&first) {
        let counted = get(at, &format!("/api/read/orders?{filter}&{facets}&limit=1")).await?.json();
        assert!(counted["meta"]["total"].is_i64() && counted["facets"]["tier"]["missing"].is_i64(), "{filter}: {counted}");
        assert_eq!((&counted["meta"]["total"], &counted["facets"]), (&summed["meta"]["total"], &summed["facets"]), "{filter}");
    }
    session.batch_execute("UPDATE lockstep.projection SET state = 'live' WHERE name = 'orders__cube'").await?;
    let total = |json: &Value| json["meta"]["total"].as_i64();
    // A wrong cube shows which requests are answered by it, and is found and mended as everything is.
    session.batch_execute("UPDATE read_model.orders__cube SET \"lockstep:rows\" = \"lockstep:rows\" + 1000").await?;
    for (index, (filter, right)) in filters.iter().zip(&first).enumerate() {
        // Equal requests share an answer as long as nothing has changed.
        let answer = get(at, &format!("/api/read/orders?{filter}&limit={}", index + 2)).await?.json();
        let is_summed = !filter.contains("amount") && total(right) != Some(0);
        assert_eq!(total(&answer) > total(right), is_summed, "{filter}: {answer}");
    }
    let program = Program::new(&setup)?;
    let (status, output, _) = program.run(&["verify", "--json"])?;
    assert!(status == 1 && output.contains("orders__cube"), "{output}");
    let (status, output, errors) = program.run(&["repair"])?;
    assert_eq!(status, 0, "{output}{errors}");
    cube_is_right(&session).await?;
    let plan = program.run(&["plan"])?.1;
    assert!(plan.contains("orders__cube"), "{plan}");
    projector.ends_equal(&setup).await
}

async fn right_after_every_batch(two_databases: bool) -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let (source, target) = (cluster()?, two_databases.then(cluster).transpose()?);
    let mut setup = setup(&source.url("postgres"), FACETS);
    setup.preamble = String::new();
    setup.target_url = target.as_ref().map(|target| target.url("postgres"));
    shop(&setup.source_url).await?;
    let oracle = std::sync::Arc::new(Oracle::strict());
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    let mut progress = Progress::default();
    while workload.commits() < 300 || oracle.of("orders__cube").compared < 20 {
        workload.reach(workload.commits() + 20).await?;
        anyhow::ensure!(!projector.ended(), "the projector ended: {:?}", projector.end().await);
        progress.reached(oracle.total().compared)?;
    }
    workload.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    assert_eq!(oracle.total().different, 0);
    cube_is_right(&lockstep_testkit::connect(setup.target_url()).await?).await?;
    assert_equal(&setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cube_is_right_after_every_batch() -> anyhow::Result<()> {
    right_after_every_batch(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cube_is_right_after_every_batch_in_two_databases() -> anyhow::Result<()> {
    right_after_every_batch(true).await
}

/// Facets come, change and go with the configuration, and so does the projection's definition.
#[tokio::test(flavor = "multi_thread")]
async fn facets_change() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = setup(&cluster.url("postgres"), "key = [\"id\"]");
    let session = shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let mut child = program.start("")?;
    let states = |wanted: &str| {
        format!(
            "SELECT coalesce((SELECT string_agg(name || ' ' || state, ',' ORDER BY name) FROM lockstep.projection), '') = '{wanted}'"
        )
    };
    until(&session, &states("orders live")).await?;
    let steps = [
        (ORDERS, FACETS, "orders live,orders__cube live", Some("status, tier, region_code")),
        (ORDERS, "key = [\"id\"]\nfacets = [\"tier\"]", "orders live,orders__cube live", Some("tier")),
        (
            "SELECT o.id, o.status AS tier, o.amount FROM shop.orders o WHERE o.amount > 20",
            "key = [\"id\"]\nfacets = [\"tier\"]",
            "orders live,orders__cube live",
            Some("tier"),
        ),
        (ORDERS, "key = [\"id\"]", "orders live", None),
    ];
    for (sql, extra, wanted, columns) in steps {
        setup.projections = vec![("orders".to_owned(), sql.to_owned(), extra.to_owned())];
        program.file("lockstep.toml", &setup.toml())?;
        crate::harness::signal(&child, nix::sys::signal::Signal::SIGHUP)?;
        let right = match columns {
            Some(columns) => format!(
                "SELECT NOT EXISTS ((SELECT {columns}, count(*) FROM ({sql}) AS o GROUP BY {columns})
                                    EXCEPT ALL SELECT {columns}, \"lockstep:rows\" FROM read_model.orders__cube)
                    AND (SELECT count(*) FROM read_model.orders__cube) = (SELECT count(*) FROM (SELECT DISTINCT {columns} FROM ({sql}) AS o) AS d)"
            ),
            None => "SELECT to_regclass('read_model.orders__cube') IS NULL".to_owned(),
        };
        until(&session, &right).await.map_err(|error| anyhow::anyhow!("{error}\n{}", program.log()))?;
        until(&session, &states(wanted)).await.map_err(|error| anyhow::anyhow!("{error}\n{}", program.log()))?;
    }
    crate::harness::signal(&child, nix::sys::signal::Signal::SIGTERM)?;
    child.wait()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_facets_is_told() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = setup(&cluster.url("postgres"), FACETS);
    shop(&setup.source_url).await?;
    let wrong = [
        ("facets = [\"nothing\"]", "facets of orders: column nothing does not exist", "facets = [\"nothing\"]"),
        ("facets = []", "facets are 1 to 16 columns", "facets = []"),
        ("facets = [\"tier\", \"tier\"]", "a column that is named twice", "\"tier\", \"tier\""),
    ];
    for (extra, message, place) in wrong {
        setup.projections[0].2 = format!("key = [\"id\"]\n{extra}");
        let program = Program::new(&setup)?;
        let (status, output, errors) = program.run(&["check"])?;
        let said = format!("{output}{errors}");
        assert!(status != 0 && said.contains(message) && said.contains(place), "{said}");
    }
    // As many groups as rows are no cube.
    setup.projections[0].2 = "key = [\"id\"]\nfacets = [\"id\", \"status\"]".to_owned();
    let session = lockstep_testkit::connect(&setup.source_url).await?;
    session
        .batch_execute("INSERT INTO shop.orders (id, status) SELECT n, 'new' FROM generate_series(100000, 130000) AS n; ANALYZE")
        .await?;
    let (_, output, errors) = Program::new(&setup)?.run(&["check"])?;
    let said = format!("{output}{errors}");
    assert!(said.contains("its facets have about") && said.contains("projection orders"), "{said}");
    Ok(())
}
