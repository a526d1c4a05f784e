//! What a change costs, and what identifies a row, in words: from the plan's tree alone.

use lockstep_plan::{Branch, GroupForm, GroupedPlan, Maintenance, Plan, RelationRole, Role, RowKey};

/// What identifies a row of a projection's table.
pub(crate) fn identity(plan: &Plan) -> String {
    let listed = |columns: &[String]| columns.join(", ");
    match &plan.key {
        RowKey::Primary(columns) => format!("each known by {}", listed(columns)),
        RowKey::Located(columns) => format!("each known by the hash of {}", listed(columns)),
        RowKey::SingleRow => "one, or none".to_owned(),
        RowKey::Copies { within } if within.is_empty() => "equal ones counted".to_owned(),
        RowKey::Copies { within } if within.len() == plan.columns.len() => "equal ones counted, found by their hash".to_owned(),
        RowKey::Copies { within } => format!("equal ones counted, found by the hash of {}", listed(within)),
    }
}

/// What a change of a relation costs, where the plan follows it.
pub(crate) fn cost(plan: &Plan, branch: &Branch, role: &RelationRole) -> String {
    let refreshed = refreshed(plan, branch);
    let root = format!("{}.{}", branch.root.schema, branch.root.name);
    match role.role {
        Role::Root => format!("a changed row refreshes {refreshed}"),
        Role::Lookup => {
            format!("a changed row leads to the rows of {root} that refer to it, each of which refreshes {refreshed}")
        }
        Role::Link => {
            format!("a changed row leads to the rows of {root} that it met and meets now, each of which refreshes {refreshed}")
        }
        Role::Whole if plan.relations.get(role.relation).is_some_and(|relation| relation.single_row) => {
            "another value refreshes every row, the same value none".to_owned()
        }
        Role::Whole => of_whole().to_owned(),
    }
}

/// What a change costs that no plan follows.
pub(crate) fn of_whole() -> &'static str {
    "any change refreshes every row"
}

/// What a change of a block costs of which the first rows are read.
pub(crate) fn of_first_rows() -> &'static str {
    "a changed row lets the first rows be read again, by an index: as many as there are, however large the block is"
}

/// What one row of the root refreshes.
fn refreshed(plan: &Plan, branch: &Branch) -> &'static str {
    match &plan.maintenance {
        Maintenance::Row(_) if branch.fans_out => "its rows",
        Maintenance::Row(_) | Maintenance::Whole(_) => "its row",
        Maintenance::Grouped(grouped) => of_groups(plan, grouped),
    }
}

fn of_groups(plan: &Plan, grouped: &GroupedPlan) -> &'static str {
    let counts = matches!(grouped.form, GroupForm::Aggregate { .. } | GroupForm::Rows { .. });
    if counts && is_counted(plan, grouped) {
        return "the rows that it makes, among those that equal them";
    }
    match (&grouped.form, grouped.group_columns.is_empty(), grouped.accumulators.is_some()) {
        (GroupForm::Aggregate { .. }, true, true) => "the only row, from what is kept of it, whatever was counted",
        (GroupForm::Aggregate { .. }, true, false) => "the only row, from all that it is made of",
        (GroupForm::Aggregate { .. }, false, true) => {
            "the groups that it leaves and joins, from what is kept of them, whatever their size"
        }
        (GroupForm::Aggregate { .. }, false, false) => "the groups that it leaves and joins, from all their rows",
        (GroupForm::First { .. }, ..) => "the groups that it leaves and joins, of whose rows the first is looked for again",
        (GroupForm::Rows { .. }, true, _) => "every row",
        (GroupForm::Rows { filter: None }, false, _) => "the partitions that it leaves and joins, every row of them",
        (GroupForm::Rows { filter: Some(_) }, false, _) => {
            "the partitions that it leaves and joins, of which the rows within the limit are kept"
        }
        (GroupForm::Counted { .. }, ..) => "the rows that it makes, as often as the arms' counts say",
    }
}

/// Whether the groups are the rows, all columns of them.
fn is_counted(plan: &Plan, grouped: &GroupedPlan) -> bool {
    let is_group = |(expression, group): (&String, &String)| *expression == format!("c.{group}");
    let all = !grouped.group_columns.is_empty() && grouped.group_columns.len() == plan.columns.len();
    all && grouped.select_list.iter().zip(&grouped.group_columns).all(is_group)
}
