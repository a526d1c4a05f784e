//! Verification finds exactly what is wrong, in rows and in hidden state, and repair mends it.

use std::collections::BTreeSet;

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Workload, cluster, connect, seed_from_environment};
use serde_json::Value;

use crate::harness::{PROJECTIONS, Program, Projector, Setup, assert_equal, shop, until};

/// Every kind of table, and rows computed by the clock.
fn setup(url: &str) -> Setup {
    let mut setup = Setup::new(url, PROJECTIONS);
    for (name, sql) in [
        (
            "totals",
            "SELECT o.status, count(*) AS n, sum(o.amount) AS total, count(DISTINCT o.customer_id) AS customers FROM shop.orders o GROUP BY o.status",
        ),
        ("ranked", "SELECT o.id, rank() OVER (PARTITION BY o.status ORDER BY o.amount, o.id) AS place FROM shop.orders o"),
        (
            "shares",
            "SELECT t.status, t.n, round(t.n / sum(t.n) OVER (), 4) AS share FROM (SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status) t",
        ),
        ("neighbours", "SELECT o.id, c.id AS other FROM shop.orders o JOIN shop.customer c ON c.tier = o.id % 5"),
        ("recent", "SELECT o.id, o.placed FROM shop.orders o WHERE o.placed > CURRENT_DATE - 20000"),
        ("stamped", "SELECT o.id, date_trunc('year', now()) AS year FROM shop.orders o"),
        ("over", "SELECT s.status, s.n * 2 AS double FROM read_model.sales_by_status s"),
    ] {
        setup.projections.push((name.to_owned(), sql.to_owned(), String::new()));
    }
    setup
}

/// Runs a command that prints verifications as JSON.
fn run(program: &Program, arguments: &[&str]) -> anyhow::Result<(i32, Vec<Value>)> {
    let (status, output, errors) = program.run(arguments)?;
    let parsed =
        serde_json::from_str(&output).map_err(|error| anyhow::anyhow!("{error}: {output}{errors}\n{}", program.log()))?;
    Ok((status, parsed))
}

/// `projection part kind key` of every difference.
fn differences(verifications: &[Value]) -> BTreeSet<String> {
    let texts = |value: &Value| {
        let parts = value.as_array().into_iter().flatten().map(|part| part.as_str().unwrap_or("NULL").to_owned());
        parts.collect::<Vec<_>>().join(",")
    };
    verifications
        .iter()
        .flat_map(|verification| {
            verification["differences"].as_array().into_iter().flatten().map(move |found| (verification, found))
        })
        .map(|(of, found)| {
            let plain = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!(
                "{} | {} | {} | {}",
                plain(&of["projection"]),
                plain(&found["part"]),
                plain(&found["kind"]),
                texts(&found["key"])
            )
        })
        .collect()
}

/// Wrong on purpose: a statement, and what is to be found. What is computed anew by the clock (`stamped`) is mended by the boundary itself.
const CORRUPTIONS: &[(&str, &[&str])] = &[
    ("UPDATE read_model.order_row SET status = 'wrong' WHERE id = 3", &["order_row | rows | changed | 3"]),
    ("DELETE FROM read_model.order_row WHERE id = 5", &["order_row | rows | missing | 5"]),
    ("INSERT INTO read_model.order_row (id, status) VALUES (999999, 'made up')", &["order_row | rows | unexpected | 999999"]),
    // Nothing identifies a row: its key is not told.
    ("INSERT INTO read_model.statuses VALUES ('made up', '2020-01-01')", &["statuses | rows | unexpected | "]),
    (
        "UPDATE read_model.sales_by_status SET n = n + 1 WHERE status = 'new'",
        &[
            "sales_by_status | rows | changed | new",
            "over | rows | missing | ",
            "over | rows | unexpected | ",
            "over | over_contribution | missing | ",
            "over | over_contribution | unexpected | ",
        ],
    ),
    // Nothing in the table keeps a group from having two rows.
    (
        "INSERT INTO read_model.totals SELECT * FROM read_model.totals WHERE status = 'paid'",
        &["totals | rows | unexpected | paid"],
    ),
    ("UPDATE read_model.everything SET quantity = -1", &["everything | rows | changed | "]),
    ("UPDATE read_model.ranked SET place = -1 WHERE id = 9", &["ranked | rows | changed | 9"]),
    // Without values a row that nothing identifies is not told.
    ("DELETE FROM read_model.over WHERE status = 'paid'", &["over | rows | missing | "]),
    ("UPDATE read_model.recent SET placed = '2020-01-01' WHERE id = 11", &["recent | rows | changed | 11"]),
    ("UPDATE read_model.totals SET total = 0 WHERE status = 'new'", &["totals | rows | changed | new"]),
    (
        "UPDATE lockstep.sales_by_status_contribution SET a1 = a1 + 1 WHERE k1 = 13",
        &["sales_by_status | sales_by_status_contribution | changed | 13"],
    ),
    // The roots that a wrong link value concerns are refreshed as well.
    ("UPDATE lockstep.neighbours_link2 SET l1 = -1 WHERE k1 = 3", &["neighbours | neighbours_link2 | changed | 3"]),
    ("DELETE FROM lockstep.ranked_contribution WHERE k1 = 14", &["ranked | ranked_contribution | missing | 14"]),
    ("UPDATE lockstep.totals_group SET s1 = s1 + 5 WHERE g1 = 'sent'", &["totals | accumulators | changed | sent"]),
    ("UPDATE lockstep.shares__part1 SET n = 7 WHERE status = 'paid'", &["shares | shares__part1 rows | changed | paid"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_found_and_nothing_else() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = setup(&cluster.url("postgres"));
    let session = shop(&setup.source_url).await?;
    session
        .batch_execute("UPDATE shop.orders SET status = (ARRAY['new', 'paid', 'sent'])[1 + id % 3], extra = '{\"a\": 1}'")
        .await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let (status, verified) = run(&program, &["verify", "--json"])?;
    assert_eq!((status, differences(&verified)), (0, BTreeSet::new()));
    assert_eq!(verified.len(), setup.projections.len());
    for (corruption, expected) in CORRUPTIONS {
        let rows = session.execute(*corruption, &[]).await?;
        anyhow::ensure!(rows == 1, "{corruption}: {rows} rows");
        let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        let names: BTreeSet<String> = expected.iter().filter_map(|text| text.split(' ').next()).map(str::to_owned).collect();
        let with_names = |command: &'static str| {
            let mut arguments = vec![command, "--json"];
            arguments.extend(names.iter().map(String::as_str));
            run(&program, &arguments)
        };
        let (status, verified) = with_names("verify")?;
        let found = differences(&verified);
        // What is only verified stays: the next look finds the same.
        anyhow::ensure!((status, &found) == (1, &expected), "{corruption}: {status} {found:#?}");
        let (status, repaired) = with_names("repair")?;
        anyhow::ensure!((status, differences(&repaired)) == (0, expected), "{corruption}: {repaired:#?}");
        let (status, verified) = with_names("verify")?;
        anyhow::ensure!(status == 0 && differences(&verified).is_empty(), "{corruption}: {verified:#?}");
    }
    assert_values(&session, &program).await?;
    let (status, verified) = run(&program, &["verify", "--json"])?;
    assert_eq!((status, differences(&verified)), (0, BTreeSet::new()));
    projector.stop().await?;
    // Standing still, with changes that it has not seen.
    session.batch_execute("UPDATE shop.orders SET amount = amount + 1 WHERE id < 20; UPDATE read_model.order_row SET status = 'x' WHERE id = 30").await?;
    let (status, verified) = run(&program, &["verify", "--json", "order_row", "totals"])?;
    assert_eq!((status, differences(&verified)), (1, BTreeSet::from(["order_row | rows | changed | 30".to_owned()])));
    let (status, _) = run(&program, &["repair", "--json"])?;
    assert_eq!(status, 0);
    Ok(())
}

/// Values are told only to those who ask.
async fn assert_values(session: &Session, program: &Program) -> anyhow::Result<()> {
    session.batch_execute("UPDATE read_model.order_row SET status = 'secret' WHERE id = 3").await?;
    let (_, output, errors) = program.run(&["verify", "order_row"])?;
    assert!(output.contains("key 3: status") && !output.contains("secret"), "{output}{errors}");
    let (_, output, errors) = program.run(&["verify", "order_row", "--show-values"])?;
    assert!(output.contains("secret"), "{output}{errors}");
    let (status, output, errors) = program.run(&["verify", "nothing"])?;
    assert!(status == 2 && errors.contains("no projection \"nothing\""), "{output}{errors}");
    let (status, _, errors) = program.run(&["verify", "--sample", "7"])?;
    assert!(status == 2 && errors.contains("for example 1%"), "{errors}");
    let (status, output, errors) = program.run(&["repair", "order_row"])?;
    assert!(status == 0 && output.contains("repaired"), "{output}{errors}");
    let (status, output, errors) = program.run(&["verify", "order_row", "--sample", "20%"])?;
    assert!(status == 0 && output.contains("(20%)"), "{output}{errors}");
    Ok(())
}

/// Writers at full speed: nothing is ever reported that was not made wrong by hand, and what was is mended.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_only_what_is_wrong_is_found() -> anyhow::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("LOCKSTEP_ROUNDS").unwrap_or(4).min(2000);
    let lasting = std::time::Duration::from_secs(60 * number("LOCKSTEP_MINUTES").unwrap_or(0));
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let other = cluster.url("postgres");
    connect(&other).await?.batch_execute("CREATE DATABASE models").await?;
    let mut setup = setup(&cluster.url("postgres"));
    setup.target_url = Some(cluster.url("models"));
    let session = shop(&setup.source_url).await?;
    let target = connect(setup.target_url()).await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    // Rows that the writers leave alone, in a table that they write to.
    session.batch_execute("INSERT INTO shop.orders (id, customer_id, status, amount, placed) SELECT n, NULL, 'quiet', n, '2024-01-01' FROM generate_series(900001, 902000) n").await?;
    projector.catch_up().await?;
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    let began = std::time::Instant::now();
    for round in 0..2000 {
        if round >= rounds && began.elapsed() >= lasting {
            println!("{round} rounds in {:?}, {} commits", began.elapsed(), workload.commits());
            break;
        }
        workload.reach(workload.commits() + 50).await?;
        let (status, verified) = run(&program, &["verify", "--json"])?;
        anyhow::ensure!((status, differences(&verified)) == (0, BTreeSet::new()), "seed {seed}, round {round}: {verified:#?}");
        let id = 900_001 + round;
        target
            .batch_execute(&format!(
                "UPDATE read_model.order_row SET amount = -1 WHERE id = {id}; DELETE FROM lockstep.sales_by_status_contribution WHERE k1 = {id}"
            ))
            .await?;
        let (status, repaired) = run(&program, &["repair", "--json"])?;
        let expected = BTreeSet::from([
            format!("order_row | rows | changed | {id}"),
            format!("sales_by_status | sales_by_status_contribution | missing | {id}"),
        ]);
        anyhow::ensure!((status, differences(&repaired)) == (0, expected), "seed {seed}, round {round}: {repaired:#?}");
    }
    workload.finish().await?;
    projector.catch_up().await?;
    let (status, verified) = run(&program, &["verify", "--json"])?;
    anyhow::ensure!(status == 0, "seed {seed}: {verified:#?}");
    setup.projections.retain(|(name, ..)| name != "stamped");
    assert_equal(&setup).await?;
    until(&target, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.stop().await?;
    Ok(())
}

/// A table is truncated after the snapshots were taken: the older one shows it empty, which is nobody's fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_truncated_meanwhile() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup =
        Setup::new(&cluster.url("postgres"), &[("lines", "SELECT l.order_id, l.position, l.quantity FROM shop.line l", "")]);
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let program = Program::new(&setup)?;
    session.batch_execute("BEGIN; TRUNCATE shop.line").await?;
    let verifying = std::thread::spawn(move || program.run(&["verify"]));
    // It has its snapshots and waits for the table.
    until(&session, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'shop.line'::regclass").await?;
    session.batch_execute("COMMIT").await?;
    let joined = verifying.join().map_err(|_| anyhow::anyhow!("the command panicked"))?;
    let (status, output, errors) = joined?;
    assert!(status == 0, "{status} {output} {errors}");
    projector.ends_equal(&setup).await?;
    Ok(())
}
