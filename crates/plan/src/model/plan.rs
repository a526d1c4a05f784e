//! What the planner decides.

use std::collections::BTreeMap;

use super::accumulators::Accumulators;
use super::facts::{OutputColumn, Relation, RelationKind, TypeFacts};
use super::index::WantedIndex;
use super::quote;
use super::row_key::{RowKey, locator};
use super::state::StateTable;
use super::trace::{RelationRole, Role, Trace};

/// How a projection is maintained.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The projection's name.
    pub projection: String,
    /// The query that is run, names qualified: over the tables of inner projections where it was taken apart.
    pub query: String,
    /// The defining query, names qualified.
    pub definition: String,
    /// The defining query with the time as the parameter `$1`, where it asks for the time.
    pub definition_at: Option<String>,
    /// The result's columns.
    pub columns: Vec<OutputColumn>,
    /// Every table it reads.
    pub relations: Vec<Relation>,
    /// What identifies a row of the projection's table.
    pub key: RowKey,
    /// Columns by which the rows of a root are found, where the key is not the way.
    pub owner: Vec<String>,
    /// Columns that the configuration declares unique although rows are found by other ones.
    pub declared_key: Option<Vec<String>>,
    /// Whether uniqueness of the key must be checked against the data (it does not follow from the plan).
    pub key_needs_check: bool,
    /// Whether a refresh has to tell the keys of the rows that it wrote, for the projections that read this one.
    pub reports_keys: bool,
    /// The maintenance itself.
    pub maintenance: Maintenance,
}

/// The three ways to maintain a projection.
#[derive(Debug, Clone)]
pub enum Maintenance {
    /// The rows of a root are found in the table by the root's key.
    Row(Box<Branch>),
    /// Groups recomputed from contributions.
    Grouped(Box<GroupedPlan>),
    /// Recomputed in full when one of its relations changed.
    Whole(WholePlan),
}

/// One root, the query that its rows come from, and how changes of other relations lead to it.
#[derive(Debug, Clone)]
pub struct Branch {
    /// The root.
    pub root: Root,
    /// The row query, or the query of the contributions, without restriction.
    pub query: String,
    /// The same restricted to the root keys of the CTE `dirty`.
    pub dirty_query: String,
    /// The same restricted to a range of root keys, as [`Root::in_range`] has it; none where that cannot be said of the root's rows alone.
    pub page_query: Option<String>,
    /// The places where the query reads tables.
    pub roles: Vec<RelationRole>,
    /// What makes rows of these tables dirty as the time goes by.
    pub clocks: Vec<Clock>,
    /// The table of contributions; none for a row projection.
    pub contributions: Option<StateTable>,
    /// Whether one root row can make several rows.
    pub fans_out: bool,
}

/// A comparison with the time: rows whose answer changes between two times are dirty without a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// Index into [`Branch::roles`].
    pub role: usize,
    /// On the source: the identity, as text, of the rows whose answer may differ between the time `$1::text` and the transaction's.
    pub flipped: String,
}

/// A projection made of groups: aggregates, DISTINCT, windows by partition, and rows that no root key in the result identifies.
#[derive(Debug, Clone)]
pub struct GroupedPlan {
    /// Where contributions come from: several for UNION and for full joins.
    pub branches: Vec<Branch>,
    /// The group columns of the contributions (empty for a global aggregate).
    pub group_columns: Vec<String>,
    /// For each branch the number of its arm in a set operation, from 1.
    pub arms: Vec<usize>,
    /// Columns of the contributions that the group determines; they must be comparable.
    pub dependent_columns: Vec<String>,
    /// The user's select list over the contributions, one expression an output column.
    pub select_list: Vec<String>,
    /// What becomes of a group's contributions.
    pub form: GroupForm,
    /// Rows are found by the root's key, because the group columns are not among the result's.
    pub found_by_root: bool,
    /// What is kept for each group so that its contributions need not be read.
    pub accumulators: Option<Box<Accumulators>>,
    /// Why there are none.
    pub recomputed_because: Option<String>,
}

impl GroupedPlan {
    /// Whether the group columns are domains, in order.
    pub(crate) fn group_domains(&self) -> Vec<bool> {
        let state = self.branches.first().and_then(|branch| branch.contributions.as_ref());
        let is_domain = |group: &String| {
            let state = state?;
            state.domains.get(state.columns.iter().position(|column| column == group)?).copied()
        };
        self.group_columns.iter().map(|group| is_domain(group).unwrap_or(false)).collect()
    }

    /// The types of the group columns, in order, once they are known.
    pub fn group_types(&self) -> Vec<&str> {
        let state = self.branches.first().and_then(|branch| branch.contributions.as_ref());
        let type_of = |group: &String| {
            let state = state?;
            let position = state.columns.iter().position(|column| column == group)?;
            state.types.get(position).map(String::as_str)
        };
        self.group_columns.iter().map(|group| type_of(group).unwrap_or("text")).collect()
    }
}

/// What becomes of a group's contributions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupForm {
    /// One row (none if HAVING says so).
    Aggregate {
        /// HAVING over the contributions.
        having: Option<String>,
    },
    /// The first, by ORDER BY over the contributions.
    First {
        /// The sort keys, printed.
        order: Vec<String>,
    },
    /// Each is a row; windows look at the others of its group.
    Rows {
        /// Which of them the result has: a condition on the rows as they are then.
        filter: Option<String>,
    },
    /// As many equal rows as the arms of a set operation make of theirs.
    Counted {
        /// How many, over the contributions and the number of their arm.
        count: String,
        /// Whether there is never more than one.
        once: bool,
    },
}

/// A projection recomputed in full.
#[derive(Debug, Clone)]
pub struct WholePlan {
    /// Why it is not incremental; follows "because".
    pub reason: String,
    /// Where in the query the construct stands that is the reason, counted in bytes from 0, if that is known.
    pub position: Option<usize>,
    /// What to write instead, where there is a way.
    pub hint: Option<String>,
    /// Whether its result depends on the time, so that it is recomputed on a schedule too.
    pub on_schedule: bool,
    /// Where all of it is the first rows of a block.
    pub first: Option<FirstRows>,
}

/// The first rows of a block or a table, in an order that an index has: to recompute them costs what they are, not what there is.
#[derive(Debug, Clone)]
pub struct FirstRows {
    /// The block or the table.
    pub of: String,
    /// The index on the order, to be made with the block; none of a table, which has one.
    pub index: Option<WantedIndex>,
}

/// The relation whose rows own the projection's rows.
#[derive(Debug, Clone)]
pub struct Root {
    /// Index into [`Plan::relations`].
    pub relation: usize,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// The identity's columns and their types, in order.
    pub key: Vec<(String, String)>,
    /// The columns of which the identity is the hash, where it is one.
    pub located_by: Vec<String>,
}

impl Root {
    /// Whether values are in a range of keys: after the values bound as text to `$1`…, up to those bound next; NULL is no bound.
    pub(crate) fn in_range(&self, values: &[String]) -> String {
        let columns = self.key.len();
        let bound = |first: usize| {
            let typed = self.key.iter().enumerate().map(|(n, (_, type_name))| format!("${}::text::{type_name}", first + n));
            typed.collect::<Vec<_>>().join(", ")
        };
        let values = values.join(", ");
        format!(
            "($1::text IS NULL OR ({values}) > ({})) AND (${}::text IS NULL OR ({values}) <= ({}))",
            bound(1),
            columns + 1,
            bound(columns + 1)
        )
    }

    /// The columns of the key, as expressions over an alias (quoted).
    pub fn values(&self, alias: &str) -> Vec<String> {
        if !self.located_by.is_empty() {
            return vec![locator(&format!("{alias}."), &self.located_by)];
        }
        self.key.iter().map(|(column, _)| format!("{alias}.{}", quote::identifier(column))).collect()
    }
}

impl Plan {
    /// `row`, `aggregate` or `whole`: how its rows are written.
    pub fn kind(&self) -> &'static str {
        match &self.maintenance {
            Maintenance::Row(_) => "row",
            Maintenance::Grouped(_) => "aggregate",
            Maintenance::Whole(_) => "whole",
        }
    }

    /// Whether a change of any relation costs what the affected rows cost.
    pub fn is_incremental(&self) -> bool {
        !matches!(&self.maintenance, Maintenance::Whole(whole) if whole.first.is_none())
            && !self.branches().iter().flat_map(|branch| &branch.roles).any(|role| {
                // Another value of a single row may change every row.
                role.role == Role::Whole && !self.relations.get(role.relation).is_some_and(|relation| relation.single_row)
            })
    }

    /// The branches of an incremental projection.
    pub fn branches(&self) -> &[Branch] {
        match &self.maintenance {
            Maintenance::Row(branch) => std::slice::from_ref(branch),
            Maintenance::Grouped(plan) => &plan.branches,
            Maintenance::Whole(_) => &[],
        }
    }

    /// The defining query as it was at a time: whoever compares with it later need not have the same `now()`.
    pub fn definition_at(&self, time: &str) -> String {
        match &self.definition_at {
            Some(template) => template.replace("$1", &quote::literal(time)),
            None => self.definition.clone(),
        }
    }

    /// Whether it reads tables of projections and nothing else: then everything that maintains it runs on the target.
    pub fn reads_projections_only(&self) -> bool {
        self.relations.iter().all(|relation| relation.kind == RelationKind::Projection)
    }

    /// Whether its rows change with the time alone.
    pub fn follows_clock(&self) -> bool {
        self.branches().iter().any(|branch| !branch.clocks.is_empty())
    }

    /// The tables of hidden state: contributions, links, accumulators.
    pub fn state_tables(&self) -> Vec<&StateTable> {
        let accumulators = match &self.maintenance {
            Maintenance::Grouped(grouped) => grouped.accumulators.as_deref(),
            Maintenance::Row(_) | Maintenance::Whole(_) => None,
        };
        let accumulators = accumulators
            .into_iter()
            .flat_map(|found| std::iter::once(&found.groups).chain(found.values.iter().map(|values| &values.state)));
        self.branches()
            .iter()
            .flat_map(|branch| {
                let links = branch.roles.iter().filter_map(|role| match &role.trace {
                    Trace::Link(link) => Some(&link.state),
                    Trace::Root | Trace::Keys(_) | Trace::Whole => None,
                });
                branch.contributions.iter().chain(links)
            })
            .chain(accumulators)
            .collect()
    }

    /// The same, to be changed.
    pub fn branches_mut(&mut self) -> &mut [Branch] {
        match &mut self.maintenance {
            Maintenance::Row(branch) => std::slice::from_mut(branch),
            Maintenance::Grouped(plan) => &mut plan.branches,
            Maintenance::Whole(_) => &mut [],
        }
    }

    /// Notes where values are of domains; what is kept for comparing only is kept as what the domain is over.
    pub fn look_through_domains(&mut self, facts: &BTreeMap<String, TypeFacts>) {
        let base = |type_name: &String| facts.get(type_name).map_or_else(|| type_name.clone(), |facts| facts.base.clone());
        for branch in self.branches_mut() {
            if let Some(state) = &mut branch.contributions {
                // The select list reads them, and may call functions of the domain.
                state.domains = state.types.iter().map(|type_name| base(type_name) != *type_name).collect();
            }
            for role in &mut branch.roles {
                if let Trace::Link(link) = &mut role.trace {
                    link.state.types = link.state.types.iter().map(base).collect();
                }
            }
        }
    }

    /// Contributions and links, to fill in their columns' types.
    pub fn state_tables_mut(&mut self) -> Vec<&mut StateTable> {
        self.branches_mut()
            .iter_mut()
            .flat_map(|branch| {
                let links = branch.roles.iter_mut().filter_map(|role| match &mut role.trace {
                    Trace::Link(link) => Some(&mut link.state),
                    Trace::Root | Trace::Keys(_) | Trace::Whole => None,
                });
                branch.contributions.iter_mut().chain(links)
            })
            .collect()
    }
}

/// Why no plan can be made. Always definite: the query or the configuration must change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}
