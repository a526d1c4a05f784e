//! The 22 queries of TPC-H through its refresh functions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_plan::Maintenance;
use lockstep_preflight::{self as preflight, Depth};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, cluster, connect};

use crate::harness::{Projector, Setup, assert_equal};

/// Batches of each refresh function.
const BATCHES: u32 = 6;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tpch")
}

fn file(name: &str) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(folder().join(name))?)
}

/// The queries by name: `q01` to `q22`, and those with a LIMIT once more without it.
fn queries() -> anyhow::Result<Vec<(String, String, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(query) = name.strip_suffix(".sql").filter(|query| query.starts_with('q')) {
            let sql = file(&name)?;
            if sql.contains("\nLIMIT") {
                let all = sql.rsplit_once("\nORDER BY").map_or(sql.as_str(), |(all, _)| all);
                found.push((format!("{query}_all"), all.to_owned(), String::new()));
            }
            found.push((query.to_owned(), sql, String::new()));
        }
    }
    found.sort();
    Ok(found)
}

/// What each query is maintained as. ARCHITECTURE.md tells the reasons for those that are whole.
const EXPECTED: &[(&str, &str)] = &[
    ("q01", "incremental"),
    ("q02", "over blocks"),
    ("q02_all", "incremental"),
    ("q03", "over blocks"),
    ("q03_all", "incremental"),
    ("q04", "incremental"),
    ("q05", "incremental"),
    ("q06", "incremental"),
    ("q07", "incremental"),
    ("q08", "incremental"),
    ("q09", "incremental"),
    ("q10", "over blocks"),
    ("q10_all", "incremental"),
    ("q11", "over blocks"),
    ("q12", "incremental"),
    ("q13", "over blocks"),
    ("q14", "incremental"),
    ("q15", "over blocks"),
    ("q16", "incremental"),
    ("q17", "incremental"),
    ("q18", "over blocks"),
    ("q18_all", "incremental"),
    ("q19", "incremental"),
    ("q20", "incremental"),
    ("q21", "over blocks"),
    ("q21_all", "incremental"),
    ("q22", "over blocks"),
];

#[tokio::test(flavor = "multi_thread")]
async fn all_queries_stay_equal_through_the_refresh_functions() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), &[]);
    setup.projections = queries()?;
    assert_eq!(setup.projections.len(), 27);
    let source = connect(&setup.source_url).await?;
    source.batch_execute(&file("schema.sql")?).await?;
    source.batch_execute(&file("data.sql")?).await?;
    let checked = preflight::run(&setup.config(), Depth::Plans).await;
    anyhow::ensure!(checked.passed(), "{}", checked.errors(false).join("\n"));
    let kinds: Vec<(String, String)> = checked
        .planned
        .iter()
        .filter(|planned| planned.part_of.is_none())
        .map(|planned| {
            let kind = match &planned.plan.maintenance {
                _ if !planned.reads.is_empty() => {
                    let name = format!("{}__part", planned.plan.projection);
                    let mut parts = checked.planned.iter().filter(|part| part.plan.projection.starts_with(&name));
                    let incremental = planned.plan.is_incremental() && parts.all(|part| part.plan.is_incremental());
                    if incremental { "over blocks".to_owned() } else { "over inner projections".to_owned() }
                }
                Maintenance::Whole(whole) => format!("whole: {}", whole.reason),
                Maintenance::Row(_) | Maintenance::Grouped(_) if planned.plan.is_incremental() => "incremental".to_owned(),
                Maintenance::Row(_) | Maintenance::Grouped(_) => "incremental for some relations".to_owned(),
            };
            (planned.plan.projection.clone(), kind)
        })
        .collect();
    for (name, kind) in &kinds {
        println!("{name}: {kind}");
    }
    let expected: Vec<(String, String)> = EXPECTED.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    assert_eq!(kinds, expected);
    let oracle = Arc::new(Oracle::strict());
    let options = RefreshOptions { whole_share: 1.0, ..RefreshOptions::default() };
    let mut projector = Projector::start(&setup, Some(oracle.clone()), options).await?;
    projector.catch_up().await?;
    for batch in 1..=BATCHES {
        for function in ["rf1.sql", "rf2.sql"] {
            let script = file(function)?.replace(":batch", &batch.to_string());
            source.batch_execute(&format!("BEGIN; {script} COMMIT")).await?;
            projector.catch_up().await?;
        }
    }
    projector.stop().await?;
    let total = oracle.total();
    println!("{} comparisons, {} different", total.compared, total.different);
    assert!(total.compared > 27 * u64::from(BATCHES) && total.different == 0, "{total:?}");
    assert_equal(&setup).await
}
