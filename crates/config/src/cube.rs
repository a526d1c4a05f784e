//! `facets` of a projection: a cube, which is a projection over it.

use lockstep_plan::quote;
use lockstep_read::CUBE_ROWS;
use toml::Spanned;

use crate::model::ProjectionConfig;
use crate::reader::{Outcome, Reader};

/// What the name of a projection's cube ends in.
pub(crate) const CUBE_SUFFIX: &str = "__cube";

/// More columns would hardly have fewer combinations than there are rows.
const COLUMNS_MAX: usize = 16;

/// Whether a projection of this name is a cube; nobody's own is called so.
pub fn is_cube(name: &str) -> bool {
    name.ends_with(CUBE_SUFFIX)
}

impl Reader<'_> {
    /// The columns that rows are counted by.
    pub(crate) fn facets(&self, facets: &Spanned<Vec<Spanned<String>>>) -> Outcome<Vec<String>> {
        let example = "for example facets = [\"status\", \"brand\"]: columns of the projection that have few values";
        let columns = self.texts(facets.get_ref())?;
        if columns.is_empty() || columns.len() > COLUMNS_MAX {
            return self.fail(facets.span(), format!("facets are 1 to {COLUMNS_MAX} columns"), example);
        }
        for (index, column) in facets.get_ref().iter().enumerate() {
            if columns[..index].contains(&columns[index]) {
                return self.fail(column.span(), "a column that is named twice", example);
            }
        }
        Ok(columns)
    }
}

impl ProjectionConfig {
    /// The cube that `facets` ask for: a projection over this one, in `schema`, of its group.
    pub(crate) fn cube(&self, schema: &str) -> Option<Self> {
        if self.facets.is_empty() {
            return None;
        }
        let columns: Vec<String> = self.facets.iter().map(|column| format!("t.{}", quote::identifier(column))).collect();
        let columns = columns.join(", ");
        let sql = format!(
            "SELECT {columns}, count(*) AS {}\nFROM {} AS t\nGROUP BY {columns}",
            quote::identifier(CUBE_ROWS),
            quote::qualified(schema, &self.name)
        );
        Some(Self {
            name: format!("{}{CUBE_SUFFIX}", self.name),
            query_path: None,
            sql,
            key: None,
            indexes: None,
            backstop: false,
            feed: false,
            facets: Vec::new(),
            sql_start: None,
            cube_of: Some(self.name.clone()),
            ..self.clone()
        })
    }
}
