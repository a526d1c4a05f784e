//! WITH queries and views become subqueries in FROM.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    Alias, CommonTableExpr, LimitOption, Node, RangeSubselect, RangeVar, SelectStmt, SetOperation, WithClause,
};

use crate::model::facts::View;
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, clauses, for_each_subquery, wrap};

/// Views of views nest; a cycle is impossible, a bomb is not.
const SELECTS_MAX: usize = 2_000;

/// Inlines what a SELECT reads by name and is not a table. Whether views were among it: then the places in the tree are no longer all
/// of one text.
pub(crate) fn inline(select: &mut SelectStmt, views: &[View]) -> Outcome<bool> {
    let mut inliner = Inliner { views, selects: 0, views_used: false };
    inliner.select(select, &[])?;
    Ok(inliner.views_used)
}

/// A WITH query in sight, itself inlined already.
#[derive(Clone)]
struct Named {
    name: String,
    columns: Vec<Node>,
    query: SelectStmt,
}

struct Inliner<'a> {
    views: &'a [View],
    selects: usize,
    views_used: bool,
}

impl Inliner<'_> {
    fn select(&mut self, select: &mut SelectStmt, outer: &[Named]) -> Outcome<()> {
        self.selects += 1;
        if self.selects > SELECTS_MAX {
            return Err(Obstacle::new(format!(
                "it has more than {SELECTS_MAX} nested queries once WITH and views are written out"
            )));
        }
        let mut names = outer.to_vec();
        if let Some(with) = select.with_clause.take() {
            for expression in with.ctes {
                let Some(NodeEnum::CommonTableExpr(expression)) = expression.node else {
                    return Err(Obstacle::at("its WITH clause has a construct that is not known", with.location));
                };
                let named = self.named(*expression, with.recursive, &names)?;
                names.push(named);
            }
        }
        for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
            self.select(side, &names)?;
        }
        for item in &mut select.from_clause {
            self.item(item, &names)?;
        }
        for clause in clauses(select) {
            self.expression(clause, &names)?;
        }
        Ok(())
    }

    fn named(&mut self, expression: CommonTableExpr, recursive: bool, names: &[Named]) -> Outcome<Named> {
        let CommonTableExpr { ctename, aliascolnames, ctequery, location, search_clause, cycle_clause, .. } = expression;
        let Some(NodeEnum::SelectStmt(query)) = ctequery.and_then(|query| query.node) else {
            return Err(Obstacle::at("its WITH clause changes data", location));
        };
        if search_clause.is_some() || cycle_clause.is_some() {
            return Err(Obstacle::at("it has a recursive WITH with SEARCH or CYCLE", location));
        }
        let mut query = *query;
        if recursive && reads(&mut query, &ctename)? {
            // Its own name means its own rows, whatever else is called so.
            let around: Vec<Named> = names.iter().filter(|named| named.name != ctename).cloned().collect();
            self.select(&mut query, &around)?;
            let query = rows_of(&ctename, &aliascolnames, query, location)?;
            return Ok(Named { name: ctename, columns: Vec::new(), query });
        }
        self.select(&mut query, names)?;
        Ok(Named { name: ctename, columns: aliascolnames, query })
    }

    fn item(&mut self, item: &mut Node, names: &[Named]) -> Outcome<()> {
        match item.node.as_mut() {
            Some(NodeEnum::RangeVar(table)) => {
                if let Some(subselect) = self.written_out(table, names)? {
                    *item = subselect;
                }
                Ok(())
            }
            Some(NodeEnum::JoinExpr(join)) => {
                for side in [&mut join.larg, &mut join.rarg].into_iter().flatten() {
                    self.item(side, names)?;
                }
                join.quals.as_deref_mut().map_or(Ok(()), |condition| self.expression(condition, names))
            }
            Some(NodeEnum::RangeSubselect(subselect)) => match subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) {
                Some(NodeEnum::SelectStmt(select)) => self.select(select, names),
                Some(_) | None => Err(Obstacle::new("a subquery in FROM is not a SELECT")),
            },
            Some(NodeEnum::RangeFunction(function)) => {
                function.functions.iter_mut().try_for_each(|call| self.expression(call, names))
            }
            // The resolver says what it does not know.
            Some(_) | None => Ok(()),
        }
    }

    /// The subquery that a name stands for; `None` for a table.
    fn written_out(&mut self, table: &RangeVar, names: &[Named]) -> Outcome<Option<Node>> {
        let (query, columns) = if table.schemaname.is_empty() {
            let Some(named) = names.iter().rev().find(|named| named.name == table.relname) else { return Ok(None) };
            (named.query.clone(), named.columns.clone())
        } else {
            let same = |view: &&View| view.schema == table.schemaname && view.name == table.relname;
            let Some(view) = self.views.iter().find(same) else { return Ok(None) };
            let mut query = syntax::parse_select(&view.sql)?;
            self.views_used = true;
            // Places in a view's text are none in the query's.
            self.select(&mut query, &[]).map_err(Obstacle::without_place)?;
            (query, Vec::new())
        };
        let mut alias = table.alias.clone().unwrap_or_else(|| Alias { aliasname: table.relname.clone(), colnames: Vec::new() });
        // Column names at the place of use come first; those of the WITH clause name the rest.
        let given = alias.colnames.len();
        alias.colnames.extend(columns.into_iter().skip(given));
        let subquery = Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(query)))));
        Ok(Some(wrap(NodeEnum::RangeSubselect(Box::new(RangeSubselect { lateral: false, subquery, alias: Some(alias) })))))
    }

    fn expression(&mut self, node: &mut Node, names: &[Named]) -> Outcome<()> {
        let mut failed = None;
        for_each_subquery(node, &mut |select| {
            if failed.is_none() {
                failed = self.select(select, names).err();
            }
            Ok(())
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// `WITH RECURSIVE t (a, b) AS (…) SELECT t.a, t.b FROM t`: where the rows of a recursion are read, it stands as this.
fn rows_of(name: &str, given: &[Node], query: SelectStmt, location: i32) -> Outcome<SelectStmt> {
    let mut columns = output_names(&query);
    for (column, given) in columns.iter_mut().zip(given) {
        *column = syntax::string_of(given).map(str::to_owned);
    }
    let Some(columns) = columns.into_iter().collect::<Option<Vec<String>>>() else {
        return Err(Obstacle::at("it has a recursive WITH with a column without a name", location));
    };
    let expression = CommonTableExpr {
        ctename: name.to_owned(),
        aliascolnames: columns.iter().map(|column| syntax::string(column)).collect(),
        ctequery: Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(query))))),
        ctematerialized: pg_query::protobuf::CteMaterialize::Default as i32,
        location,
        ..CommonTableExpr::default()
    };
    let table = RangeVar { relname: name.to_owned(), inh: true, relpersistence: "p".to_owned(), location, ..RangeVar::default() };
    let column = |column: &String| syntax::target("", syntax::column_reference(name, column));
    Ok(SelectStmt {
        with_clause: Some(WithClause {
            ctes: vec![wrap(NodeEnum::CommonTableExpr(Box::new(expression)))],
            recursive: true,
            location,
        }),
        target_list: columns.iter().map(column).collect(),
        from_clause: vec![wrap(NodeEnum::RangeVar(table))],
        limit_option: LimitOption::Default as i32,
        op: SetOperation::SetopNone as i32,
        ..SelectStmt::default()
    })
}

/// The names of a SELECT's columns, those of its first arm.
fn output_names(select: &SelectStmt) -> Vec<Option<String>> {
    if let Some(first) = select.larg.as_deref().filter(|_| syntax::is_set_operation(select)) {
        return output_names(first);
    }
    let name = |target: &Node| match &target.node {
        Some(NodeEnum::ResTarget(target)) if !target.name.is_empty() => Some(target.name.clone()),
        Some(NodeEnum::ResTarget(target)) => match target.val.as_ref()?.node.as_ref()? {
            NodeEnum::ColumnRef(reference) => reference.fields.last().and_then(syntax::string_of).map(str::to_owned),
            _ => None,
        },
        Some(_) | None => None,
    };
    select.target_list.iter().map(name).collect()
}

/// Whether a query reads a name that no schema qualifies.
fn reads(select: &mut SelectStmt, name: &str) -> Outcome<bool> {
    let serialized = serde_json::to_value(&*select).map_err(|error| Obstacle::new(error.to_string()))?;
    Ok(mentions(&serialized, name))
}

fn mentions(value: &serde_json::Value, name: &str) -> bool {
    match value {
        serde_json::Value::Object(fields) => {
            let names_it = fields.get("relname").is_some_and(|relation| relation == name)
                && fields.get("schemaname").is_none_or(|schema| schema == "");
            names_it || fields.values().any(|field| mentions(field, name))
        }
        serde_json::Value::Array(items) => items.iter().any(|item| mentions(item, name)),
        _ => false,
    }
}
