//! The recursion restricted to dirty owners and what is above them.
//!
//! ```text
//! lockstep_above    the owners that are dirty, and those above them: upwards along the ties
//! lockstep_anchor…  the anchors among what is above
//! t                 the recursion over these alone, its rows with their owners
//! ```

use pg_query::protobuf::{Node, SelectStmt};

use super::super::branches::{DIRTY, Part, within};
use super::form::Recursion;
use super::reach::Reach;
use crate::model::facts::Query;
use crate::model::obstacle::Outcome;
use crate::model::plan::Root;
use crate::model::quote;
use crate::syntax::{self, parse_expression, print_select_pretty};

/// The CTE of dirty owners and those above them.
const ABOVE: &str = "lockstep_above";

/// The name of the columns that hold an owner's key.
pub(super) fn owner_column(number: usize) -> String {
    format!("lockstep_k{number}")
}

/// An anchor, and how the step is reached from it.
pub(super) struct Anchor<'a> {
    pub(super) part: &'a Part,
    /// `None` where the step's own reach leads there.
    pub(super) reach: Option<&'a Reach>,
}

/// What the statements are made of.
pub(super) struct Statements<'a> {
    pub(super) query: &'a Query,
    pub(super) recursion: &'a Recursion,
    pub(super) anchors: Vec<Anchor<'a>>,
    pub(super) step: &'a Part,
    pub(super) step_reach: &'a Reach,
    /// Whether the anchors' rows have owners: roots of the same table as the step's.
    pub(super) anchors_owned: bool,
}

impl Statements<'_> {
    fn root(&self) -> Root {
        self.step.root(self.query)
    }

    fn root_values(&self) -> Vec<String> {
        self.root().values(&quote::identifier(&self.step.resolved.occurrences[self.step.paths.root].alias))
    }

    fn keys(&self) -> String {
        (1..=self.root().key.len()).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", ")
    }

    /// `main` over all rows that have an owner.
    pub(super) fn unrestricted(&self, main: &SelectStmt) -> Outcome<String> {
        let owner = format!("{}.{} IS NOT NULL", quote::identifier(&self.recursion.alias), owner_column(1));
        let rows = self.rows(false)?;
        Ok(format!("WITH RECURSIVE {rows}\n{}", filtered(main, &owner)?))
    }

    /// `main` over the rows of the owners in the CTE `dirty`.
    pub(super) fn restricted(&self, main: &SelectStmt) -> Outcome<String> {
        let keys = self.keys();
        let climb = |reach: &Reach| {
            let above: Vec<String> = (1..=self.root().key.len()).map(|n| format!("{ABOVE}.k{n}")).collect();
            format!(
                "  SELECT {}\n  FROM {ABOVE}, {}\n  WHERE ({}) = ({})",
                reach.keys.join(", "),
                reach.path,
                self.root_values().join(", "),
                above.join(", ")
            )
        };
        let dirty = format!("  SELECT {keys} FROM {DIRTY}");
        let mut tables = vec![format!("{ABOVE} ({keys}) AS (\n{dirty}\n  UNION\n{}\n)", climb(self.step_reach))];
        for (number, anchor) in self.anchors.iter().enumerate() {
            let Some(reach) = anchor.reach else { continue };
            let own = if self.anchors_owned { format!("{dirty}\n  UNION\n") } else { String::new() };
            let columns: Vec<String> = (1..=reach.keys.len()).map(|n| format!("k{n}")).collect();
            tables.push(format!("{} ({}) AS (\n{own}{}\n)", anchor_table(number), columns.join(", "), climb(reach)));
        }
        tables.push(self.rows(true)?);
        let owners: Vec<String> = (1..=self.root().key.len())
            .map(|n| format!("{}.{}", quote::identifier(&self.recursion.alias), owner_column(n)))
            .collect();
        Ok(format!("WITH RECURSIVE {}\n{}", tables.join(", "), filtered(main, &within(&owners, DIRTY))?))
    }

    /// The recursion, its rows with their owners.
    fn rows(&self, restricted: bool) -> Outcome<String> {
        let Recursion { name, columns, distinct, .. } = self.recursion;
        let root = self.root();
        let mut arms = Vec::new();
        for (number, anchor) in self.anchors.iter().enumerate() {
            let mut select = anchor.part.resolved.select.clone();
            let own = anchor.part.root(self.query);
            let keys = if self.anchors_owned {
                anchor.part.expose_key(&mut select, &own)?
            } else {
                let none = root.key.iter().map(|(_, type_name)| parse_expression(&format!("NULL::{type_name}")));
                none.collect::<Result<_, _>>()?
            };
            add_owner(&mut select, keys);
            if restricted {
                let table = if anchor.reach.is_some() { anchor_table(number) } else { ABOVE.to_owned() };
                anchor.part.restrict(&mut select, &own, &|values| looked_up(values, &table))?;
            }
            arms.push(print_select_pretty(&select)?);
        }
        let mut step = self.step.resolved.select.clone();
        let keys = self.step.expose_key(&mut step, &root)?;
        add_owner(&mut step, keys);
        if restricted {
            self.step.restrict(&mut step, &root, &|values| within(values, ABOVE))?;
        }
        let operation = if *distinct { "UNION" } else { "UNION ALL" };
        let between = format!("\n{operation}\n");
        let anchors = if arms.len() > 1 { format!("({})", arms.join(&between)) } else { arms.concat() };
        let columns: Vec<String> =
            columns.iter().cloned().chain((1..=root.key.len()).map(owner_column)).map(|name| quote::identifier(&name)).collect();
        Ok(format!(
            "{} ({}) AS (\n{anchors}{between}{}\n)",
            quote::identifier(name),
            columns.join(", "),
            print_select_pretty(&step)?
        ))
    }
}

/// Whether some values are a key of a CTE, as PostgreSQL looks them up by an index whatever it expects of the CTE, of which it knows nothing.
fn looked_up(values: &[String], keys: &str) -> String {
    match values {
        [value] => format!("{value} = ANY (ARRAY(SELECT {keys}.k1 FROM {keys}))"),
        _ => within(values, keys),
    }
}

fn filtered(main: &SelectStmt, condition: &str) -> Outcome<String> {
    let mut main = main.clone();
    main.where_clause = Some(syntax::and(main.where_clause.take(), parse_expression(condition)?));
    Ok(print_select_pretty(&main)?)
}

fn anchor_table(number: usize) -> String {
    format!("lockstep_anchor{}", number + 1)
}

fn add_owner(select: &mut SelectStmt, keys: Vec<Node>) {
    for (number, key) in (1..).zip(keys) {
        select.target_list.push(syntax::target(&owner_column(number), key));
    }
}
