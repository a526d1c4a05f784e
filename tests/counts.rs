//! What a change and a request cost in statements, round trips and bytes: counts that no clock moves.

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::cluster;

use crate::counting::{Asked, Counting};
use crate::harness::{Projector, Setup, shop, until};
use crate::http::get;

/// Changes that are counted together.
const CHANGES: u64 = 20;

const PAYMENT: (&str, &str, &str) = ("payments", "SELECT p.id, p.method, p.amount FROM shop.payment p", "");

/// Of tables that a payment does not concern.
const OTHERS: &[(&str, &str, &str)] = &[
    ("o1", "SELECT o.id, o.status FROM shop.orders o", ""),
    ("o2", "SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status", ""),
    ("o3", "SELECT c.id, c.tier FROM shop.customer c", ""),
    ("o4", "SELECT c.tier, count(*) AS n FROM shop.customer c GROUP BY c.tier", ""),
    ("o5", "SELECT o.id, c.tier FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id", ""),
    ("o6", "SELECT l.order_id, l.position, l.product FROM shop.line l", ""),
    ("o7", "SELECT l.product, sum(l.quantity) AS n FROM shop.line l GROUP BY l.product", ""),
    ("o8", "SELECT r.code, r.name FROM shop.region r", ""),
    ("o9", "SELECT e.id, e.manager_id FROM shop.employee e", ""),
    ("o10", "SELECT c.id, r.name FROM shop.customer c JOIN shop.region r ON r.code = c.region_code", ""),
    ("o11", "SELECT DISTINCT o.customer_id FROM shop.orders o", ""),
    ("o12", "SELECT o.id FROM shop.orders o WHERE EXISTS (SELECT 1 FROM shop.line l WHERE l.order_id = o.id)", ""),
];

/// What a group does besides batches, whenever it looks.
fn is_aside(sql: &str) -> bool {
    let starts = [
        "SELECT EXISTS ( SELECT FROM pg_locks",
        "SELECT pg_current_wal_flush_lsn()",
        "DISCARD PLANS",
        "BEGIN",
        "ROLLBACK",
        "SELECT pg_current_snapshot()",
    ];
    starts.iter().any(|start| sql.starts_with(start))
}

/// What changes of one row each cost, for each batch.
struct Cost {
    statements: f64,
    trips: f64,
    bytes: f64,
    asked: Asked,
}

async fn cost_of_a_payment(projections: &[(&str, &str, &str)]) -> anyhow::Result<Cost> {
    let cluster = cluster()?;
    let counting = Counting::start(cluster.port()).await?;
    let direct = cluster.url("postgres");
    let through = direct.replace(&format!(":{}/", cluster.port()), &format!(":{}/", counting.port));
    anyhow::ensure!(through != direct, "not the port that is in {direct}");
    let session = shop(&direct).await?;
    let setup = Setup::new(&through, projections);
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let change = async |n: u64| -> anyhow::Result<()> {
        session.batch_execute(&format!("UPDATE shop.payment SET amount = {n} WHERE id = 5")).await?;
        until(&session, &format!("SELECT amount = {n} FROM read_model.payments WHERE id = 5")).await
    };
    for n in 0..5 {
        change(n).await?;
    }
    let (before, batches) = (counting.of("lockstep default"), batches(&session).await?);
    for n in 10..10 + CHANGES {
        change(n).await?;
    }
    let asked = counting.of("lockstep default").since(&before);
    let batches = self::batches(&session).await? - batches;
    projector.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let each = |counts: u64| counts as f64 / batches as f64;
    let of_batches = |counts: &std::collections::BTreeMap<String, u64>| -> u64 {
        counts.iter().filter(|(sql, _)| !is_aside(sql)).map(|(_, count)| count).sum()
    };
    Ok(Cost { statements: each(of_batches(&asked.run)), trips: each(of_batches(&asked.trips)), bytes: each(asked.bytes), asked })
}

async fn batches(session: &Session) -> anyhow::Result<i64> {
    Ok(session.query_one("SELECT batches FROM lockstep.checkpoint WHERE group_name = 'default'", &[]).await?.get(0))
}

/// Merge, record, COMMIT, position: whatever else there is, and nothing is parsed again.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_what_it_concerns() -> anyhow::Result<()> {
    let alone = cost_of_a_payment(&[PAYMENT]).await?;
    let among = cost_of_a_payment(&[&[PAYMENT], OTHERS].concat()).await?;
    for cost in [&alone, &among] {
        println!("{} statements, {} round trips, {} bytes a batch", cost.statements, cost.trips, cost.bytes);
        let parsed: Vec<&String> = cost.asked.parsed.keys().filter(|sql| !is_aside(sql)).collect();
        assert!(parsed.is_empty(), "parsed again: {parsed:#?}");
        // A last batch may be counted whose position is asked for a moment later.
        assert!((3.8..=4.2).contains(&cost.statements), "{} statements: {:#?}", cost.statements, cost.asked.run);
        // The merge, and what follows it at once: rarely something is answered before the next has been sent.
        assert!(cost.trips <= 3.2, "{} round trips: {:#?}", cost.trips, cost.asked.trips);
        assert!(cost.bytes < 2_000.0, "{} bytes a batch", cost.bytes);
    }
    Ok(())
}

/// A further projection of the same table is a further statement.
#[tokio::test(flavor = "multi_thread")]
async fn each_projection_that_a_change_concerns_is_a_statement() -> anyhow::Result<()> {
    let more: Vec<(String, String)> =
        (2..=4).map(|n| (format!("payments{n}"), format!("SELECT p.id, p.amount * {n} AS times FROM shop.payment p"))).collect();
    let mut all = vec![PAYMENT];
    all.extend(more.iter().map(|(name, sql)| (name.as_str(), sql.as_str(), "")));
    let cost = cost_of_a_payment(&all).await?;
    assert!((6.7..=7.3).contains(&cost.statements), "{} statements: {:#?}", cost.statements, cost.asked.run);
    Ok(())
}

/// A list: begin and version, then rows, total, facets and the end, in two round trips.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_two_round_trips() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let counting = Counting::start(cluster.port()).await?;
    let direct = cluster.url("postgres");
    shop(&direct).await?;
    let orders = "SELECT o.id, o.status, o.customer_id, o.amount FROM shop.orders o";
    let through = direct.replace(&format!(":{}/", cluster.port()), &format!(":{}/", counting.port));
    let mut setup = Setup::new(&through, &[("orders", orders, "facets = [\"status\", \"customer_id\"]")]);
    "[api]\nlisten = \"127.0.0.1:0\"\n".clone_into(&mut setup.preamble);
    let (mut projector, at) = Projector::start_with_api(&setup, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    // What the columns are is known from here on.
    let warm = get(at, "/api/read/orders?status=eq.paid&limit=1").await?;
    assert_eq!(warm.status, 200, "{}", warm.body);
    for (request, statements) in [("limit=2", 5), ("limit=3&facets=status,customer_id", 7), ("limit=4&total=none", 4)] {
        let before = counting.of("lockstep read");
        let answer = get(at, &format!("/api/read/orders?status=eq.paid&{request}")).await?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let asked = counting.of("lockstep read").since(&before);
        assert_eq!(asked.run.values().sum::<u64>(), statements, "{request}: {:#?}", asked.run);
        let counted = asked.run.keys().any(|sql| sql.contains("count(*)"));
        assert!(!counted, "{request} is counted row by row: {:#?}", asked.run);
        assert!(asked.trips.values().sum::<u64>() < statements, "{request}: {:#?}", asked.trips);
    }
    projector.stop().await.map(drop)
}
