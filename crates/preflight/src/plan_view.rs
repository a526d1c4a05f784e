//! A plan as it is shown: by `lockstep plan`, by the page.

use std::collections::BTreeMap;

use lockstep_plan::emit;
use lockstep_plan::emit::{BuildPage, Fresh, Link, Places, TracedKeys};
use lockstep_plan::facts::RelationKind;
use lockstep_plan::{Branch, GroupForm, Maintenance, Plan, Role, Tie, Trace, WantedIndex, WholePlan};
use serde::Serialize;

use crate::plan_sizes::Sizes;
use crate::plan_words;
use crate::report::{Planned, Preflight};

/// Rows a page of a link's filling has, in the statements shown.
const SHOWN_PAGE_ROWS: usize = 50_000;

/// A plan, as it is shown.
#[derive(Serialize)]
pub struct PlanView<'a> {
    /// The projection.
    pub name: &'a str,
    /// `row`, `aggregate`, `whole`, or `top`: the first rows of a block.
    pub kind: &'a str,
    /// Whether a change of any relation is followed key by key.
    pub incremental: bool,
    /// Why it is whole.
    pub reason: Option<&'a str>,
    /// Where in `query` the reason stands, in bytes from 0.
    pub position: Option<usize>,
    /// What to write instead, where there is a way.
    pub hint: Option<&'a str>,
    /// Its group.
    pub group: &'a str,
    /// The columns of its key.
    pub key: &'a [String],
    /// What identifies a row, in words.
    pub identity: String,
    /// How many rows its table has, if it is built.
    pub rows: Option<i64>,
    /// How large that is with its indexes.
    pub bytes: Option<i64>,
    /// The defining query as PostgreSQL prints it.
    pub query: &'a str,
    /// Statements that create the indexes of its table.
    pub indexes: Option<&'a str>,
    /// The projection that it is a hidden part of.
    pub part_of: Option<&'a str>,
    /// The projections that it reads.
    pub reads: &'a [String],
    /// How groups are computed.
    pub groups: Option<String>,
    /// Where rows that tie decide values, and what is appended to the ORDER BY there.
    pub ties: &'a [Tie],
    /// What its meaning depends on and no look at the catalogs shows.
    pub unseen: &'a [String],
    /// The relations that it reads.
    pub relations: Vec<RelationView<'a>>,
    /// Its hidden tables.
    pub state: Vec<StateView<'a>>,
    /// The statements that run, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statements: Option<Vec<StatementView>>,
}

/// A relation's role in a plan.
#[derive(Serialize)]
pub struct RelationView<'a> {
    /// Schema and name.
    pub relation: String,
    /// What the query calls it.
    pub alias: &'a str,
    /// Which of several branches (UNION, full joins) it belongs to, from 1.
    pub branch: usize,
    /// What a change of it means.
    pub role: Role,
    /// Why it has that role.
    pub reason: &'a str,
    /// What a change of it refreshes, in words.
    pub cost: String,
    /// Statements for indexes that its changes are followed by.
    pub missing_indexes: Vec<String>,
}

/// A hidden table of a plan.
#[derive(Serialize)]
pub struct StateView<'a> {
    /// Schema and name.
    pub table: String,
    /// What it is for.
    pub purpose: &'a str,
    /// Names and types.
    pub columns: Vec<String>,
    /// How many rows it has, if it is built, by PostgreSQL's estimate.
    pub rows: Option<i64>,
    /// How large it is with its indexes.
    pub bytes: Option<i64>,
}

/// A statement that runs for a change.
#[derive(Serialize)]
pub struct StatementView {
    /// What it does.
    pub purpose: String,
    /// Its text.
    pub sql: String,
}

/// Each projection's plan with its parts, as JSON.
pub fn plans(checked: &Preflight) -> BTreeMap<String, serde_json::Value> {
    let outer = checked.planned.iter().filter(|planned| planned.part_of.is_none());
    let one = |planned: &Planned| {
        let name = &planned.plan.projection;
        let of_it = |other: &&Planned| checked.is_of(other, name);
        let views: Vec<PlanView<'_>> =
            checked.planned.iter().filter(of_it).map(|planned| view(planned, false, &Sizes::default())).collect();
        (name.clone(), serde_json::to_value(views).unwrap_or_default())
    };
    outer.map(one).collect()
}

/// One projection's plan; `with_sql` with the statements that run.
pub fn view<'a>(planned: &'a Planned, with_sql: bool, sizes: &Sizes) -> PlanView<'a> {
    let plan = &planned.plan;
    let whole = match &plan.maintenance {
        Maintenance::Whole(whole) if whole.first.is_none() => Some(whole),
        Maintenance::Whole(_) | Maintenance::Row(_) | Maintenance::Grouped(_) => None,
    };
    let state = plan
        .state_tables()
        .into_iter()
        .map(|state| {
            let size = sizes.of("lockstep", &state.name);
            StateView {
                table: format!("lockstep.{}", state.name),
                purpose: &state.purpose,
                columns: state.columns.iter().zip(&state.types).map(|(name, type_name)| format!("{name} {type_name}")).collect(),
                rows: size.and_then(|size| size.rows),
                bytes: size.map(|size| size.bytes),
            }
        })
        .collect();
    let size = sizes.of(&planned.schema, &plan.projection);
    PlanView {
        name: &plan.projection,
        kind: match &plan.maintenance {
            Maintenance::Whole(whole) if whole.first.is_some() => "top",
            Maintenance::Row(_) | Maintenance::Grouped(_) | Maintenance::Whole(_) => plan.kind(),
        },
        incremental: plan.is_incremental(),
        reason: whole.map(|whole| whole.reason.as_str()),
        position: whole.and_then(|whole| whole.position),
        hint: whole.and_then(|whole| whole.hint.as_deref()),
        group: &planned.group,
        key: plan.key.columns(),
        identity: plan_words::identity(plan),
        rows: size.and_then(|size| size.rows),
        bytes: size.map(|size| size.bytes),
        query: &plan.definition,
        indexes: planned.indexes.as_deref(),
        part_of: planned.part_of.as_deref(),
        reads: &planned.reads,
        groups: groups(plan),
        ties: &planned.ties,
        unseen: &planned.dependencies.unseen,
        relations: relations(plan, whole),
        state,
        statements: with_sql.then(|| statements(planned)),
    }
}

/// How a projection's groups are computed; `None` if it has none.
fn groups(plan: &Plan) -> Option<String> {
    if let Maintenance::Whole(WholePlan { first: Some(first), .. }) = &plan.maintenance {
        return Some(format!("the first rows of {}, read again by an index when a batch wrote there", first.of));
    }
    let Maintenance::Grouped(grouped) = &plan.maintenance else { return None };
    Some(match (&grouped.form, &grouped.recomputed_because) {
        (GroupForm::Aggregate { .. }, None) => "accumulated: a change costs the same whatever a group's size".to_owned(),
        (GroupForm::Aggregate { .. }, Some(reason)) => format!("recomputed from all their contributions, because {reason}"),
        (GroupForm::First { .. }, _) => "recomputed from all their contributions, of which the first counts".to_owned(),
        (GroupForm::Rows { filter: Some(_) }, _) => "computed again, of which the rows within the limit are kept".to_owned(),
        (GroupForm::Rows { filter: None }, _) => "written again, each contribution a row".to_owned(),
        (GroupForm::Counted { .. }, _) => "counted arm by arm, and written as often as the set operation says".to_owned(),
    })
}

fn relations<'a>(plan: &'a Plan, whole: Option<&'a WholePlan>) -> Vec<RelationView<'a>> {
    if let Some(whole) = whole {
        let view = |relation: &'a lockstep_plan::facts::Relation| RelationView {
            relation: relation.label(),
            alias: &relation.name,
            branch: 1,
            role: Role::Whole,
            reason: &whole.reason,
            cost: plan_words::of_whole().to_owned(),
            missing_indexes: Vec::new(),
        };
        return plan.relations.iter().map(view).collect();
    }
    if let Maintenance::Whole(_) = &plan.maintenance {
        let view = |relation: &'a lockstep_plan::facts::Relation| RelationView {
            relation: relation.label(),
            alias: &relation.name,
            branch: 1,
            role: Role::Whole,
            reason: "its first rows are all that is read",
            cost: plan_words::of_first_rows().to_owned(),
            missing_indexes: Vec::new(),
        };
        return plan.relations.iter().map(view).collect();
    }
    let of_branch = |(number, branch): (usize, &'a Branch)| {
        branch.roles.iter().map(move |role| RelationView {
            relation: plan.relations[role.relation].label(),
            alias: &role.alias,
            branch: number + 1,
            role: role.role,
            reason: &role.reason,
            cost: plan_words::cost(plan, branch, role),
            missing_indexes: role.missing_indexes.iter().map(WantedIndex::statement).collect(),
        })
    };
    plan.branches().iter().enumerate().flat_map(of_branch).collect()
}

/// The statements that run for a change, in the order in which they run.
fn statements(planned: &Planned) -> Vec<StatementView> {
    let plan = &planned.plan;
    let places = Places { schema: planned.schema.clone(), state_schema: "lockstep".to_owned() };
    let mut all = Vec::new();
    let mut add = |purpose: String, sql: String| all.push(StatementView { purpose, sql });
    for branch in plan.branches() {
        for role in &branch.roles {
            let relation = &plan.relations[role.relation];
            let name = format!("{} as {}", relation.label(), role.alias);
            if relation.is_keyless() && role.role != Role::Whole {
                add(
                    format!("dirty keys: the hashes of rows of {} that came, went or changed", relation.label()),
                    emit::hashes(relation),
                );
            }
            match &role.trace {
                Trace::Keys(sql) => add(format!("trace: from dirty keys of {name} to root keys"), sql.clone()),
                Trace::Link(link) => {
                    let link = Link::new(link, &places, SHOWN_PAGE_ROWS);
                    add(format!("link: what the dirty rows of {name} are joined by now"), link.fetch);
                    add("link: keep that; returns what they were and are joined by".to_owned(), link.merge);
                    add("trace: from those values to root keys".to_owned(), link.trace);
                }
                Trace::Root | Trace::Whole => {}
            }
        }
    }
    for branch in plan.branches().iter().filter(|_| !plan.relations.iter().any(|read| read.kind == RelationKind::Projection)) {
        let root = format!("{}.{}", branch.root.schema, branch.root.name);
        let page = BuildPage::of(plan, branch, &places).insert();
        add(format!("build: what follows from a range of root keys of {root}"), page);
    }
    match &plan.maintenance {
        Maintenance::Row(row) => {
            let merge = emit::row_merge(plan, row, &places, TracedKeys::Bound, &Fresh::Query);
            add("refresh: the rows of bound root keys".to_owned(), merge.in_place);
        }
        Maintenance::Grouped(grouped) => {
            for branch in &grouped.branches {
                let Some(state) = &branch.contributions else { continue };
                let (what, sql) = match &grouped.accumulators {
                    Some(accumulators) => (
                        "contributions, and with them the accumulators,",
                        emit::contribution_merge_accumulating(branch, state, grouped, accumulators, &places, &Fresh::Query),
                    ),
                    None => (
                        "contributions",
                        emit::contribution_merge(
                            branch,
                            state,
                            &grouped.group_columns,
                            &places,
                            TracedKeys::Bound,
                            &Fresh::Query,
                        ),
                    ),
                };
                let root = format!("{}.{}", branch.root.schema, branch.root.name);
                add(format!("refresh: the {what} of bound root keys of {root}; returns the groups touched"), sql);
            }
            let from = if grouped.accumulators.is_some() { "accumulators" } else { "contributions" };
            add(
                format!("refresh: the bound groups, from their {from}"),
                emit::group_merge(plan, grouped, &places, TracedKeys::Bound).in_place,
            );
        }
        Maintenance::Whole(_) => {
            add("refresh: everything".to_owned(), emit::whole_merge(plan, &places, &Fresh::Query).in_place);
        }
    }
    all
}
