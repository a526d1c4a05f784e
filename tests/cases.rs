//! Files of cases, each a fault that some system had: tables, queries over them, and steps after which every query's table is compared
//! with the query.
//!
//! ```text
//! -- Met in …: what went wrong.        free text
//! -- @types                            what the target needs too, if it is another database
//! -- @ddl                              statements that make and fill the tables
//! -- @query name key=a,b               a projection; the key may be left out
//! -- @step                             statements; a transaction is what BEGIN and COMMIT say
//! ```

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use lockstep_plan::Maintenance;
use lockstep_preflight::{self as preflight, Depth};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Projector, Setup, assert_equal, shop, until};
use crate::locks::Locks;

/// One file.
struct Case {
    name: String,
    types: String,
    ddl: String,
    queries: Vec<(String, String, String)>,
    steps: Vec<String>,
}

impl Case {
    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut case =
            Self { name: name.to_owned(), types: String::new(), ddl: String::new(), queries: Vec::new(), steps: Vec::new() };
        let mut sections = text.split("\n-- @");
        let explanation = sections.next().unwrap_or_default();
        anyhow::ensure!(explanation.starts_with("-- "), "{name}: say first what it is about");
        for section in sections {
            let (head, body) = section.split_once('\n').unwrap_or((section, ""));
            let mut words = head.split_whitespace();
            match words.next() {
                Some("types") => case.types.push_str(body),
                Some("ddl") => case.ddl.push_str(body),
                Some("step") => case.steps.push(body.to_owned()),
                Some("query") => {
                    let query = words.next().with_context(|| format!("{name}: a query without a name"))?;
                    let key = words.next().and_then(|word| word.strip_prefix("key=")).map(|columns| {
                        let quoted: Vec<String> = columns.split(',').map(|column| format!("\"{column}\"")).collect();
                        format!("key = [{}]", quoted.join(", "))
                    });
                    case.queries.push((query.to_owned(), body.trim().to_owned(), key.unwrap_or_default()));
                }
                other => anyhow::bail!("{name}: {other:?} is not known"),
            }
        }
        anyhow::ensure!(!case.queries.is_empty() && !case.steps.is_empty(), "{name}: nothing to try");
        Ok(case)
    }

    /// Every query's table equals it at once and after each step.
    async fn run(&self, setup: &Setup) -> anyhow::Result<()> {
        let session = connect(&setup.source_url).await?;
        session.batch_execute(&self.types).await.context("its types")?;
        if setup.target_url.is_some() {
            connect(setup.target_url()).await?.batch_execute(&self.types).await.context("its types")?;
        }
        session.batch_execute(&self.ddl).await.context("its DDL")?;
        let checked = preflight::run(&setup.config(), Depth::Start).await;
        anyhow::ensure!(checked.passed(), "{}", checked.errors(false).join("\n"));
        let locks = Arc::new(Locks::default());
        let mut projector = Projector::start(setup, Some(locks.clone()), RefreshOptions::default()).await?;
        projector.catch_up().await?;
        assert_equal(setup).await.context("after the build")?;
        for (number, step) in self.steps.iter().enumerate() {
            let at = || format!("at step {}: {}", number + 1, step.trim());
            session.batch_execute(step).await.with_context(at)?;
            projector.catch_up().await.with_context(at)?;
            assert_equal(setup).await.with_context(at)?;
        }
        projector.stop().await?;
        locks.none_beyond_reading()
    }
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let mut paths: Vec<_> = std::fs::read_dir(&directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    let named = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    paths.iter().map(|path| Case::parse(&named(path), &std::fs::read_to_string(path)?)).collect()
}

/// Runs files one after the other in databases of one cluster. `CASE` picks one.
async fn run(two_databases: bool, of: impl Fn(usize) -> bool) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let administrator = connect(&cluster.url("postgres")).await?;
    let only = std::env::var("CASE").ok();
    for (number, case) in cases()?.iter().enumerate() {
        if only.as_ref().map_or(!of(number), |only| *only != case.name) {
            continue;
        }
        let target = format!("{}_target", case.name);
        administrator.batch_execute(&format!("CREATE DATABASE \"{}\"", case.name)).await?;
        let mut setup = Setup::new(&cluster.url(&case.name), &[]);
        setup.projections.clone_from(&case.queries);
        if two_databases {
            administrator.batch_execute(&format!("CREATE DATABASE \"{target}\"")).await?;
            setup.target_url = Some(cluster.url(&target));
        }
        case.run(&setup).await.with_context(|| format!("tests/cases/{}.sql", case.name))?;
        // The next file's projector makes a slot of the same name.
        until(&administrator, "SELECT NOT bool_or(active) FROM pg_replication_slots").await?;
        administrator.batch_execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_cases() -> anyhow::Result<()> {
    run(false, |_| true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_third_case_with_two_databases() -> anyhow::Result<()> {
    run(true, |number| number % 3 == 2).await
}

/// How many of the queries in this repository's tests are maintained incrementally, hidden parts included; those that are not, with the
/// reason. `cargo test … cases::how_many -- --nocapture` prints it.
#[tokio::test(flavor = "multi_thread")]
async fn how_many_are_incremental() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let administrator = connect(&cluster.url("postgres")).await?;
    let mut tally = Tally::default();
    for case in cases()? {
        administrator.batch_execute(&format!("CREATE DATABASE \"{}\"", case.name)).await?;
        let session = connect(&cluster.url(&case.name)).await?;
        session.batch_execute(&case.types).await?;
        session.batch_execute(&case.ddl).await?;
        let mut setup = Setup::new(&cluster.url(&case.name), &[]);
        setup.projections.clone_from(&case.queries);
        tally.add(&format!("cases/{}", case.name), &setup).await?;
    }
    administrator.batch_execute("CREATE DATABASE shop").await?;
    shop(&cluster.url("shop")).await?;
    let mut setup = Setup::new(&cluster.url("shop"), &crate::conformance::all());
    setup.preamble = "[[group]]\nname = \"methods\"\n".to_owned();
    tally.add("conformance", &setup).await?;
    println!("{} of {} queries are incremental; the others:\n{}", tally.incremental, tally.all, tally.others.join("\n"));
    // Whoever makes this number smaller has lost something.
    assert!(tally.all - tally.incremental <= WHOLE_AT_MOST, "{} of {} are whole", tally.all - tally.incremental, tally.all);
    Ok(())
}

/// So many queries are of all rows by their nature, or nobody has found a rule for them.
const WHOLE_AT_MOST: usize = 25;

#[derive(Default)]
struct Tally {
    all: usize,
    incremental: usize,
    others: Vec<String>,
}

impl Tally {
    async fn add(&mut self, label: &str, setup: &Setup) -> anyhow::Result<()> {
        let found = preflight::run(&setup.config(), Depth::Plans).await;
        anyhow::ensure!(found.passed(), "{label}: {}", found.errors(false).join("\n"));
        for planned in found.planned.iter().filter(|planned| planned.part_of.is_none()) {
            self.all += 1;
            let parts = || {
                found
                    .planned
                    .iter()
                    .filter(|part| part.plan.projection.starts_with(&format!("{}__part", planned.plan.projection)))
            };
            if planned.plan.is_incremental() && parts().all(|part| part.plan.is_incremental()) {
                self.incremental += 1;
                continue;
            }
            let whole = std::iter::once(planned).chain(parts()).find_map(|one| match &one.plan.maintenance {
                Maintenance::Whole(whole) => Some(whole.reason.clone()),
                Maintenance::Row(_) | Maintenance::Grouped(_) => None,
            });
            let how = if planned.plan.is_incremental() || parts().count() > 1 { "over parts" } else { "whole" };
            self.others.push(format!(
                "  {label}: {} ({how}): {}",
                planned.plan.projection,
                whole.unwrap_or_else(|| "for some relations".to_owned())
            ));
        }
        Ok(())
    }
}
