//! What a projection's hidden state would take, by PostgreSQL's own estimates, beside the tables that it is made from.
//!
//! Compared are heaps: rows times their estimated width and header there, the size of the main forks here. Indexes, TOAST and the
//! projection's own table are on neither side.

use lockstep_connect::Session;
use lockstep_plan::chains::with_parts_before;
use lockstep_plan::facts::RelationKind;
use lockstep_plan::{Maintenance, quote};

use crate::bytes::shown;
use crate::report::{Planned, Preflight};

/// A row's header and its pointer in the page.
const HEADER_BYTES: f64 = 28.0;

/// A count or a sum in an accumulator.
const COUNTER_BYTES: f64 = 8.0;

/// What is smaller is nobody's concern, and its estimate is a guess.
const LEAST_BYTES: f64 = 1024.0 * 1024.0;

/// A hidden table to be: its name, the query of its rows, and columns that are added to that.
struct Hidden {
    table: String,
    query: String,
    counters: usize,
}

struct Estimate {
    table: String,
    rows: f64,
    bytes: f64,
}

/// Warns of projections whose hidden state would be larger than all tables together that they read.
pub(crate) async fn look(source: &Session, preflight: &mut Preflight) {
    let public: Vec<String> = preflight
        .planned
        .iter()
        .filter(|planned| planned.part_of.is_none())
        .map(|planned| planned.plan.projection.clone())
        .collect();
    for name in public {
        let of_it: Vec<&Planned> = preflight.planned.iter().filter(|planned| preflight.is_of(planned, &name)).collect();
        match warning(source, &of_it).await {
            Ok(Some(message)) => preflight.warn(
                format!("projection {name}"),
                message,
                "filter and select only what is needed inside its windows and groupings, and join what multiplies rows after them; lockstep \
                 plan shows the tables",
            ),
            Ok(None) => {}
            // A hint, and no more.
            Err(error) => tracing::debug!(projection = name, error = lockstep_connect::describe(&error), "estimating its state"),
        }
    }
}

async fn warning(source: &Session, planned: &[&Planned]) -> Result<Option<String>, tokio_postgres::Error> {
    let hidden: Vec<Hidden> = planned.iter().flat_map(|one| hidden(one, planned)).collect();
    // Without statistics PostgreSQL takes every table for ten pages.
    let Some((tables, read)) = sources(source, planned).await?.filter(|_| !hidden.is_empty()) else { return Ok(None) };
    let mut estimates = Vec::with_capacity(hidden.len());
    for hidden in hidden {
        estimates.push(estimate(source, hidden).await?);
    }
    let kept: f64 = estimates.iter().map(|estimate| estimate.bytes).sum();
    if kept < LEAST_BYTES || kept <= read {
        return Ok(None);
    }
    let largest = estimates.iter().max_by(|one, other| one.bytes.total_cmp(&other.bytes));
    let most = largest.map(|most| format!(", most of it in {} ({:.0} rows)", most.table, most.rows)).unwrap_or_default();
    Ok(Some(format!(
        "its hidden state would take about {}{most}, and {} together {}: heaps, by PostgreSQL's estimates",
        shown(kept),
        tables.join(", "),
        shown(read)
    )))
}

/// What is kept for a projection beside the table that is read.
fn hidden(one: &Planned, of_it: &[&Planned]) -> Vec<Hidden> {
    let plan = &one.plan;
    let over_tables = |query: &str| {
        let read = of_it.iter().filter(|part| part.part_of.is_some());
        let parts: Vec<(&str, &str, &str)> =
            read.map(|part| (part.schema.as_str(), part.plan.projection.as_str(), part.plan.definition.as_str())).collect();
        with_parts_before(query, &parts).unwrap_or_else(|_| query.to_owned())
    };
    let block = one.part_of.is_some().then(|| Hidden {
        table: format!("{}.{}", one.schema, plan.projection),
        query: plan.definition.clone(),
        counters: 0,
    });
    let kept = plan.state_tables().into_iter().filter(|state| !state.definition.is_empty());
    let kept = kept.map(|state| Hidden {
        table: format!("lockstep.{}", state.name),
        query: over_tables(&state.definition),
        counters: 0,
    });
    let mut all: Vec<Hidden> = block.into_iter().chain(kept).collect();
    if let Maintenance::Grouped(grouped) = &plan.maintenance
        && let Some(accumulators) = &grouped.accumulators
        && let Some(contributions) = grouped.branches.first().and_then(|branch| branch.contributions.as_ref())
    {
        let groups = |others: &[&str]| {
            let columns: Vec<String> = grouped.group_columns.iter().map(|column| quote::identifier(column)).collect();
            let all: Vec<&str> = columns.iter().map(String::as_str).chain(others.iter().copied()).collect();
            over_tables(&format!("SELECT DISTINCT {} FROM ({}) AS c", all.join(", "), contributions.definition))
        };
        let counters = |columns: usize| columns.saturating_sub(grouped.group_columns.len());
        all.push(Hidden {
            table: format!("lockstep.{}", accumulators.groups.name),
            query: groups(&[]),
            counters: counters(accumulators.groups.columns.len()),
        });
        all.extend(accumulators.values.iter().map(|values| Hidden {
            table: format!("lockstep.{}", values.state.name),
            query: groups(&[&values.expression]),
            counters: 1,
        }));
    }
    all
}

/// The tables that are read, and the sizes of their heaps; `None` where PostgreSQL has no statistics of one.
async fn sources(source: &Session, planned: &[&Planned]) -> Result<Option<(Vec<String>, f64)>, tokio_postgres::Error> {
    let relations = planned.iter().flat_map(|one| &one.plan.relations);
    let mut tables: Vec<(String, u32)> = relations
        .filter(|relation| relation.kind != RelationKind::Projection)
        .map(|relation| (relation.label(), relation.oid))
        .collect();
    tables.sort_unstable();
    tables.dedup();
    let oids: Vec<u32> = tables.iter().map(|(_, oid)| *oid).collect();
    let row = source
        .query_one(
            "WITH tables AS (
                 SELECT t.oid FROM unnest($1::oid[]) AS t (oid)
                 UNION SELECT i.relid::oid FROM unnest($1::oid[]) AS t (oid), pg_partition_tree(t.oid) AS i WHERE i.isleaf
             )
             SELECT coalesce(sum(pg_relation_size(c.oid)), 0)::float8, coalesce(bool_and(c.reltuples >= 0), false)
             FROM tables JOIN pg_class AS c USING (oid) WHERE c.relkind = 'r'",
            &[&oids],
        )
        .await?;
    let labels = tables.into_iter().map(|(label, _)| label).collect();
    Ok(row.get::<_, bool>(1).then(|| (labels, row.get(0))))
}

async fn estimate(source: &Session, hidden: Hidden) -> Result<Estimate, tokio_postgres::Error> {
    let row = source.query_one(&format!("EXPLAIN (FORMAT JSON) {}", hidden.query), &[]).await?;
    let plan: serde_json::Value = row.get(0);
    let number = |name: &str| plan[0]["Plan"][name].as_f64().unwrap_or_default();
    let rows = number("Plan Rows");
    #[expect(clippy::cast_precision_loss, reason = "columns are few")]
    let counters = hidden.counters as f64 * COUNTER_BYTES;
    Ok(Estimate { table: hidden.table, rows, bytes: rows * (number("Plan Width") + counters + HEADER_BYTES) })
}
