//! What the planner decides.

use serde::Serialize;

use crate::facts::{OutputColumn, Relation};
use crate::sql::{RowKey, StateTable};

/// How a projection is maintained.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The projection's name.
    pub projection: String,
    /// The defining query, names qualified.
    pub query: String,
    /// The result's columns.
    pub columns: Vec<OutputColumn>,
    /// Every table it reads, with its part in the maintenance.
    pub relations: Vec<RelationPlan>,
    /// What identifies a row of the projection's table.
    pub key: RowKey,
    /// Columns that the configuration declares unique although rows are found by other ones.
    pub declared_key: Option<Vec<String>>,
    /// Whether uniqueness of the key must be checked against the data (it does not follow from the plan).
    pub key_needs_check: bool,
    /// The maintenance itself.
    pub maintenance: Maintenance,
}

/// The three ways to maintain a projection.
#[derive(Debug, Clone)]
pub enum Maintenance {
    /// One root row makes at most one row.
    Row(RowPlan),
    /// Groups recomputed from contributions.
    Aggregate(Box<AggregatePlan>),
    /// Recomputed in full when one of its relations changed.
    Whole(WholePlan),
}

/// A row projection.
#[derive(Debug, Clone)]
pub struct RowPlan {
    /// The root.
    pub root: Root,
    /// The row query without restriction.
    pub row_query: String,
    /// The row query restricted to the root keys of the CTE `dirty`.
    pub dirty_row_query: String,
}

/// An aggregate projection.
#[derive(Debug, Clone)]
pub struct AggregatePlan {
    /// The root.
    pub root: Root,
    /// The contributions of all roots.
    pub contribution_query: String,
    /// The contributions of the root keys of the CTE `dirty`.
    pub dirty_contribution_query: String,
    /// The table of contributions.
    pub contributions: StateTable,
    /// The group columns of the contributions (empty for a global aggregate).
    pub group_columns: Vec<String>,
    /// Columns of the contributions that the group determines; they must be comparable.
    pub dependent_columns: Vec<String>,
    /// The user's select list over the contributions, one expression an output column.
    pub select_list: Vec<String>,
    /// HAVING over the contributions.
    pub having: Option<String>,
}

/// A projection recomputed in full.
#[derive(Debug, Clone)]
pub struct WholePlan {
    /// Why it is not incremental; follows "because".
    pub reason: String,
    /// Whether its result depends on the time, so that it is recomputed on a schedule too.
    pub on_schedule: bool,
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
}

/// A relation and its part in the maintenance.
#[derive(Debug, Clone)]
pub struct RelationPlan {
    /// The facts.
    pub relation: Relation,
    /// Its roles, one for each place where the query reads it.
    pub roles: Vec<RelationRole>,
}

/// One place where the query reads a relation.
#[derive(Debug, Clone)]
pub struct RelationRole {
    /// The alias there.
    pub alias: String,
    /// The role.
    pub role: Role,
    /// Why; one clause for the reader.
    pub reason: String,
    /// From dirty keys (`$1::text[]`, one array an identity column) to root keys as text. `None` where the dirty keys are the
    /// root keys, or for whole.
    pub trace: Option<String>,
    /// The CREATE INDEX that the trace needs and the source lacks.
    pub missing_index: Option<String>,
}

/// What a change of a relation's row leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its key is the root key.
    Root,
    /// A query leads from its key to root keys.
    Lookup,
    /// Everything is recomputed.
    Whole,
}

impl std::fmt::Display for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Root => "root",
            Self::Lookup => "lookup",
            Self::Whole => "whole",
        })
    }
}

impl Plan {
    /// `row`, `aggregate` or `whole`.
    pub fn kind(&self) -> &'static str {
        match &self.maintenance {
            Maintenance::Row(_) => "row",
            Maintenance::Aggregate(_) => "aggregate",
            Maintenance::Whole(_) => "whole",
        }
    }

    /// Whether a change costs what the affected rows cost.
    pub fn is_incremental(&self) -> bool {
        match &self.maintenance {
            Maintenance::Row(_) | Maintenance::Aggregate(_) => true,
            Maintenance::Whole(_) => false,
        }
    }

    /// The root of an incremental projection.
    pub fn root(&self) -> Option<&Root> {
        match &self.maintenance {
            Maintenance::Row(plan) => Some(&plan.root),
            Maintenance::Aggregate(plan) => Some(&plan.root),
            Maintenance::Whole(_) => None,
        }
    }

    /// The tables of hidden state.
    pub fn state_tables(&self) -> Vec<&StateTable> {
        match &self.maintenance {
            Maintenance::Aggregate(plan) => vec![&plan.contributions],
            Maintenance::Row(_) | Maintenance::Whole(_) => Vec::new(),
        }
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
