//! Cubes: how many rows of a projection have each combination of some columns' values.
//!
//! A cube is a projection over the projection, of the same group, so it is right at the same snapshot. What asks only for numbers of rows
//! by those columns is summed over it, which has few rows, instead of counted.

use lockstep_plan::quote;

use crate::query::Query;

/// The column of a cube that tells how many rows of the projection it stands for.
pub const CUBE_ROWS: &str = "lockstep:rows";

/// The cube of a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cube {
    /// Its table's name; the schema is the projection's.
    pub name: String,
    /// The columns that it counts by.
    pub columns: Vec<String>,
}

impl Cube {
    /// Whether it has what decides which rows are counted, apart from what is chosen among the values of `but`.
    pub(crate) fn decides(&self, query: &Query, but: Option<&str>) -> bool {
        let ignored = |column: &str, is_scope: bool| but == Some(column) && !is_scope;
        let has = |column: &str| self.columns.iter().any(|own| own == column);
        query.text.is_none() && query.conditions.iter().all(|found| has(&found.column) || ignored(&found.column, found.is_scope))
    }
}

/// Where rows are counted.
#[derive(Debug, Clone)]
pub(crate) enum Counted {
    /// One by one, in this item of a FROM clause.
    Rows(String),
    /// By summing over this cube.
    Cube(String),
}

impl Counted {
    pub(crate) fn from(&self) -> &str {
        match self {
            Self::Rows(from) | Self::Cube(from) => from,
        }
    }

    /// How many rows a row of it, with the alias `t`, stands for, as a column of a list; empty if it is one.
    pub(crate) fn weight(&self) -> String {
        match self {
            Self::Rows(_) => String::new(),
            Self::Cube(_) => format!(", t.{} AS weight", quote::identifier(CUBE_ROWS)),
        }
    }

    /// That column where it is carried on.
    pub(crate) fn carried(&self) -> &'static str {
        match self {
            Self::Rows(_) => "",
            Self::Cube(_) => ", weight",
        }
    }

    /// The number of rows, over that column.
    pub(crate) fn number(&self) -> &'static str {
        match self {
            Self::Rows(_) => "count(*)",
            Self::Cube(_) => "coalesce(sum(weight), 0)::bigint",
        }
    }

    /// The number of rows, over the alias `t`.
    pub(crate) fn total(&self) -> String {
        match self {
            Self::Rows(_) => "count(*)".to_owned(),
            Self::Cube(_) => format!("coalesce(sum(t.{}), 0)::bigint", quote::identifier(CUBE_ROWS)),
        }
    }
}
