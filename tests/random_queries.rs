//! Random queries, maintained through random changes, each compared with itself after every batch.

use std::sync::Arc;

use lockstep_preflight::{self as preflight, Depth};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Keys, Oracle, RandomQuery, cluster, random_statement, seed_from_environment};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Projector, Setup, assert_equal, shop};

/// So few rows that most changes meet something, and joins of four tables stay small.
const KEYS: Keys = Keys { orders: 30, customers: 10, payments: 25, employees: 12, baskets: 5, truncates: true };

/// Queries maintained together.
const TOGETHER: u64 = 25;

/// Transactions that each set of queries goes through.
const TRANSACTIONS: u64 = 6;

/// Queries in an ordinary run; `LOCKSTEP_SQL_QUERIES` asks for more.
const QUERIES: u64 = 1_000;

/// Where an ordinary run begins.
const ORDINARY_SEED: u64 = 3_000;

/// Tests that share the queries, so that they run beside each other.
const SHARES: u64 = 4;

/// Building a set, each query with its blocks, may take so long beside other tests.
const BUILD_PATIENCE: std::time::Duration = std::time::Duration::from_mins(4);

/// Attempts at making a failing query smaller.
const ATTEMPTS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_stay_equal() -> anyhow::Result<()> {
    share(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_stay_equal_second_share() -> anyhow::Result<()> {
    share(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_stay_equal_third_share() -> anyhow::Result<()> {
    share(2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_stay_equal_fourth_share() -> anyhow::Result<()> {
    share(3).await
}

/// The queries of one share: the same in every ordinary run, so that a failure is the change's; new ones in a long run.
async fn share(number: u64) -> anyhow::Result<()> {
    let long_run: Option<u64> = std::env::var("LOCKSTEP_SQL_QUERIES").ok().and_then(|text| text.parse().ok());
    let named = std::env::var_os("LOCKSTEP_SEED").is_some();
    let seed = if long_run.is_some() || named { seed_from_environment() } else { ORDINARY_SEED };
    let wanted = long_run.unwrap_or(QUERIES);
    // So few are one set, for the first.
    let wanted = if wanted <= TOGETHER { wanted * u64::from(number == 0) } else { wanted.div_ceil(SHARES) };
    let seed = seed.wrapping_add(number * wanted);
    println!("LOCKSTEP_SEED={seed}");
    let (mut incremental, mut done) = (0, 0);
    while done < wanted {
        let first = seed.wrapping_add(done);
        let queries: Vec<RandomQuery> = (0..TOGETHER).map(|n| RandomQuery::new(first.wrapping_add(n))).collect();
        match maintained(first, &queries).await {
            Ok(found) => incremental += found,
            Err(error) => {
                let failing = culprit(first, &queries, &error).await;
                anyhow::bail!("LOCKSTEP_SEED={first} (run with LOCKSTEP_SQL_QUERIES={TOGETHER}): {error:#}\n{failing}");
            }
        }
        done += TOGETHER;
        if wanted > QUERIES {
            println!("{done} queries, {incremental} incremental");
        }
    }
    println!("{done} queries, {incremental} of them incremental");
    // Of few queries any share may be.
    assert!(
        done < QUERIES / SHARES || incremental * 2 >= done,
        "too few are incremental for the test to mean much: {incremental} of {done}"
    );
    Ok(())
}

/// Runs queries through random changes; returns how many are incremental.
async fn maintained(seed: u64, queries: &[RandomQuery]) -> anyhow::Result<u64> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), &[]);
    setup.projections =
        queries.iter().enumerate().map(|(n, query)| (format!("q{n}"), query.sql(), "group = \"all\"".to_owned())).collect();
    "[[group]]\nname = \"all\"\n".clone_into(&mut setup.preamble);
    let source = shop(&setup.source_url).await?;
    source
        .batch_execute(&format!(
            "DELETE FROM shop.orders WHERE id > {}; DELETE FROM shop.customer WHERE id > {}; DELETE FROM shop.payment WHERE id > {};
             DELETE FROM shop.employee WHERE id > {}; DELETE FROM shop.line WHERE order_id > {}; DELETE FROM shop.basket WHERE id > {}",
            KEYS.orders, KEYS.customers, KEYS.payments, KEYS.employees, KEYS.orders, KEYS.baskets
        ))
        .await?;
    let checked = preflight::run(&setup.config(), Depth::Plans).await;
    anyhow::ensure!(checked.passed(), "not planned: {}", checked.errors(false).join("\n"));
    let public = checked.planned.iter().filter(|planned| planned.part_of.is_none());
    let incremental = public.filter(|planned| planned.plan.is_incremental()).count();
    let oracle = Arc::new(Oracle::strict());
    // Whole projections are not to be paced here.
    let options = RefreshOptions { whole_share: 1.0, ..RefreshOptions::default() };
    let mut projector = Projector::start(&setup, Some(oracle.clone()), options).await?;
    projector.catch_up_within(BUILD_PATIENCE).await?;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..TRANSACTIONS {
        let statements: Vec<String> = (0..random.random_range(1..6)).map(|_| random_statement(&mut random, &KEYS)).collect();
        let changed = source.batch_execute(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await;
        if let Err(error) = changed {
            anyhow::ensure!(error.as_db_error().is_some(), "{error}");
            source.batch_execute("ROLLBACK").await?;
        }
        projector.catch_up().await?;
    }
    let faults = source
        .query("SELECT name || ': ' || coalesce(reason, state) FROM lockstep.projection WHERE state <> 'live'", &[])
        .await?;
    projector.stop().await?;
    let faults: Vec<String> = faults.iter().map(|row| row.get(0)).collect();
    anyhow::ensure!(faults.is_empty(), "faulted: {}", faults.join("\n"));
    anyhow::ensure!(oracle.total().compared >= TOGETHER.min(queries.len() as u64), "nothing was compared");
    assert_equal(&setup).await?;
    Ok(incremental as u64)
}

/// The query that fails by itself, made as small as it can be.
async fn culprit(seed: u64, queries: &[RandomQuery], error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let named = (0..queries.len())
        .rev()
        .find(|n| text.contains(&format!("q{n} ")) || text.contains(&format!("q{n}:")) || text.contains(&format!("q{n}__")));
    let mut smallest = None;
    for query in named.map_or(queries, |n| &queries[n..=n]) {
        if maintained(seed, std::slice::from_ref(query)).await.is_err() {
            smallest = Some(query.clone());
            break;
        }
    }
    let Some(mut smallest) = smallest else {
        return format!("no query fails alone; {}", named.map_or(String::new(), |n| format!("suspected:\n{}", queries[n].sql())));
    };
    let mut attempts = 0;
    'again: loop {
        for smaller in smallest.smaller() {
            attempts += 1;
            if attempts > ATTEMPTS {
                break 'again;
            }
            match maintained(seed, std::slice::from_ref(&smaller)).await {
                Err(error) if !format!("{error:#}").contains("not planned") => {
                    smallest = smaller;
                    continue 'again;
                }
                Ok(_) | Err(_) => {}
            }
        }
        break;
    }
    format!("smallest failing query:\n{}", smallest.sql())
}
