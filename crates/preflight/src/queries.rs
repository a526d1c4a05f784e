//! The queries: analysed, planned, and their keys checked.

use lockstep_config::{Config, Diagnostic};
use lockstep_connect::Session;
use lockstep_plan::facts::RelationKind;
use lockstep_plan::{Maintenance, Tie, WholePlan, check_indexes, unnamed_columns};
use lockstep_refresh::analysis;

use crate::remedy::Remedy;
use crate::report::{Depth, Planned, Preflight};
use crate::{chain, privileges, stand_ins};

pub(crate) async fn plan_all(config: &Config, source: &Session, preflight: &mut Preflight) {
    let (order, circular) = chain::in_dependency_order(config);
    for (projection, diagnostic) in circular {
        preflight.diagnostic(format!("projection {}", config.projections[projection].name), diagnostic, None);
    }
    for link in order {
        let projection = &config.projections[link.index];
        let subject = format!("projection {}", projection.name);
        if let Some(missing) = link.reads().iter().find(|name| !preflight.planned.iter().any(|p| &p.plan.projection == *name)) {
            let message = format!("projection {}: it reads {missing}, which cannot be planned", projection.name);
            preflight.diagnostic(subject, Diagnostic::error(message).help("correct that one first"), None);
            continue;
        }
        match chain::plan(config, &link, source, &preflight.planned).await {
            Ok(planned) => {
                if let Some(wrong) = wrong_indexes(&planned) {
                    let message = format!("projection {}: its indexes: {wrong}", projection.name);
                    let help = "indexes are CREATE INDEX statements on the projection's table, over its columns";
                    preflight.diagnostic(subject, Diagnostic::error(message).help(help), None);
                    continue;
                }
                for planned in planned {
                    report(&subject, source, &planned, preflight).await;
                    preflight.planned.push(planned);
                }
            }
            Err(diagnostic) => {
                let missing = privileges::of_query(source, &projection.sql).await.unwrap_or_default();
                if missing.is_empty() {
                    preflight.diagnostic(subject, diagnostic, None);
                } else {
                    let message = format!("{}: the role lacks {}", diagnostic.message(), missing.words.join(", "));
                    preflight.diagnostic(subject, diagnostic.titled(message), Some(&missing.remedy));
                }
            }
        }
    }
    stand_ins::mark_read(&mut preflight.planned);
}

/// What is wrong with the index statements of a projection.
fn wrong_indexes(planned: &[Planned]) -> Option<String> {
    planned.iter().find_map(|planned| {
        let columns: Vec<&str> = planned.plan.columns.iter().map(|column| column.name.as_str()).collect();
        check_indexes(planned.indexes.as_deref()?, &planned.plan.projection, &columns).err()
    })
}

async fn report(subject: &str, source: &Session, planned: &Planned, preflight: &mut Preflight) {
    preflight.ok(subject, describe(planned));
    for role in planned.plan.branches().iter().flat_map(|branch| &branch.roles) {
        if role.missing_indexes.is_empty() {
            continue;
        }
        let message = match planned.plan.relations.get(role.relation) {
            Some(changed) => format!("a change of {} ({}) is followed without an index", changed.label(), role.alias),
            None => format!("a change of {} is followed without an index", role.alias),
        };
        let mut remedy = Remedy::default();
        for index in &role.missing_indexes {
            let owner = privileges::owner(source, &index.qualified_table()).await;
            remedy = remedy.and(Remedy::sql(&owner, [index.statement()]));
        }
        preflight.warn(subject, message, remedy);
    }
    for unseen in &planned.dependencies.unseen {
        preflight.warn(subject, unseen.clone(), "after a change there: lockstep repair");
    }
    if planned.part_of.is_none() {
        for named in unnamed_columns(&planned.plan.definition) {
            preflight.warn(subject, "a column has no name: it is called \"?column?\"", format!("write {named}"));
        }
    }
    for tie in planned.ties.iter().filter(|tie| tie.between_unequal) {
        let (message, remedy) = told(tie);
        preflight.warn(subject, message, remedy);
    }
    for relation in &planned.plan.relations {
        if relation.kind == RelationKind::Partitioned {
            preflight.warn(
                subject,
                format!("{} is partitioned: TRUNCATE, ATTACH and DETACH of a single partition send no changes; they are looked for every few seconds", relation.label()),
                "nothing; after such a change all rows are compared. Deleting rows instead is followed at once",
            );
        }
    }
}

/// What is said of an order that is not total.
pub(crate) fn told(tie: &Tie) -> (String, String) {
    let open = format!("{}: rows may tie there, and their order decides values", tie.construct);
    if tie.appended.is_empty() {
        return (
            format!("{open}; nothing can be appended without another meaning, so the result may change although no row does"),
            "make its ORDER BY total, by a column that is unique".to_owned(),
        );
    }
    let appended = tie.appended.join(", ");
    (
        format!("{open}; Lockstep appends {appended}"),
        format!("append something yourself if another row is meant: ORDER BY …, {appended}"),
    )
}

fn describe(planned: &Planned) -> String {
    let roots: Vec<String> =
        planned.plan.branches().iter().map(|branch| format!("{}.{}", branch.root.schema, branch.root.name)).collect();
    let inner = planned.part_of.as_ref().map(|_| format!("inner projection {}: ", planned.plan.projection)).unwrap_or_default();
    match &planned.plan.maintenance {
        Maintenance::Row(_) => format!("{inner}row projection of {}", roots.join(" and ")),
        Maintenance::Grouped(_) => format!("{inner}grouped projection of {}", roots.join(" and ")),
        Maintenance::Whole(WholePlan { first: Some(first), .. }) => format!("{inner}the first rows of {}", first.of),
        Maintenance::Whole(plan) if planned.reads.is_empty() => format!("{inner}recomputed as a whole, because {}", plan.reason),
        Maintenance::Whole(_) => format!("{inner}recomputed from {} when that has changed", planned.reads.join(", ")),
    }
}

/// Keys whose uniqueness does not follow from the plan are looked for in the data: always by `check`, and by `run` for a projection
/// that is not built yet.
pub(crate) async fn check_keys(source: &Session, depth: Depth, registered: &[String], preflight: &mut Preflight) {
    for index in 0..preflight.planned.len() {
        let plan = &preflight.planned[index].plan;
        // The tables of projections may not exist yet; there the table's own unique index has to tell.
        if plan.relations.iter().any(|relation| relation.kind == RelationKind::Projection) {
            continue;
        }
        let needs = plan.key_needs_check && (depth == Depth::Full || !registered.contains(&plan.projection));
        let key = plan.declared_key.clone().unwrap_or_else(|| plan.key.columns().to_vec());
        if !needs || key.is_empty() {
            continue;
        }
        let subject = format!("projection {}", plan.projection);
        match analysis::duplicate_key(source, &plan.query, &key).await {
            Ok(None) => preflight.ok(subject, format!("its key ({}) is unique in the data", key.join(", "))),
            Ok(Some((rows, values))) => {
                let shown: Vec<String> =
                    values.iter().map(|(column, value)| format!("{column} = {}", value.as_deref().unwrap_or("NULL"))).collect();
                preflight.error(
                    subject,
                    format!("its key ({}) is not unique: {rows} rows have {}", key.join(", "), shown.join(", ")),
                    "add columns to key, or leave key out and the result is kept as a multiset",
                );
            }
            Err(error) => {
                preflight.error(subject, lockstep_connect::describe(&error), "correct the query, or the data it fails on");
            }
        }
    }
}
