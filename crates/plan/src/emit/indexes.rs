//! The configured indexes of a projection, for another table of the same form.

use pg_query::NodeEnum;

use crate::model::names::fitted;

/// The index statements among `sql` that are on `table`, rewritten for another table; names get a prefix. What is no such statement is left out.
///
/// # Errors
/// The statements cannot be parsed or printed again.
pub fn indexes_for(sql: &str, table: &str, other_schema: &str, other_table: &str, prefix: &str) -> Result<Vec<String>, String> {
    let parsed = pg_query::parse(sql, 0).map_err(|error| error.to_string())?;
    let mut statements = Vec::new();
    for statement in parsed.protobuf.stmts {
        let Some(NodeEnum::IndexStmt(mut index)) = statement.stmt.and_then(|node| node.node) else { continue };
        let Some(relation) = &mut index.relation else { continue };
        if relation.relname != table {
            continue;
        }
        other_table.clone_into(&mut relation.relname);
        other_schema.clone_into(&mut relation.schemaname);
        index.concurrent = false;
        if !index.idxname.is_empty() {
            index.idxname = fitted(prefix, &index.idxname, "");
        }
        let node = NodeEnum::IndexStmt(index);
        statements.push(node.deparse(pg_query::DeparseOptions::default()).map_err(|error| error.to_string())?);
    }
    Ok(statements)
}

/// The statements that make a projection's indexes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexScript {
    /// CREATE INDEX statements: they may run at the same time. Each with its number in the script.
    pub indexes: Vec<(i32, String)>,
    /// What is left, statistics mostly: after them, in order. ANALYZE is not among them: it comes after everything in any case.
    pub then: Vec<(i32, String)>,
}

impl IndexScript {
    /// Takes a script apart; as one statement if it cannot be read.
    pub fn new(sql: &str) -> Self {
        let Ok(parsed) = pg_query::parse(sql, 0) else {
            return Self { indexes: Vec::new(), then: vec![(0, sql.to_owned())] };
        };
        let mut script = Self::default();
        for (number, statement) in (0..).zip(&parsed.protobuf.stmts) {
            let start = usize::try_from(statement.stmt_location).unwrap_or(0);
            // A length of 0 is all that is left.
            let length = usize::try_from(statement.stmt_len).ok().filter(|length| *length > 0);
            let text = length.and_then(|length| sql.get(start..start + length)).or_else(|| sql.get(start..));
            let text = text.unwrap_or_default().trim().to_owned();
            match statement.stmt.as_ref().and_then(|node| node.node.as_ref()) {
                Some(NodeEnum::IndexStmt(_)) => script.indexes.push((number, text)),
                Some(NodeEnum::VacuumStmt(vacuum)) if !vacuum.is_vacuumcmd => {}
                _ => script.then.push((number, text)),
            }
        }
        script
    }
}

/// The names that index statements on `table` give. Statements that cannot be parsed give none.
pub fn index_names(sql: &str, table: &str) -> Vec<String> {
    let Ok(parsed) = pg_query::parse(sql, 0) else { return Vec::new() };
    let nodes = parsed.protobuf.stmts.into_iter().filter_map(|statement| statement.stmt.and_then(|node| node.node));
    let names = nodes.filter_map(|node| match node {
        NodeEnum::IndexStmt(index) if index.relation.as_ref().is_some_and(|relation| relation.relname == table) => {
            Some(index.idxname)
        }
        _ => None,
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Checks that statements only make indexes of a table, over columns that it has. Statistics and ANALYZE are let through.
///
/// # Errors
/// What is wrong with which statement.
pub fn check_indexes(sql: &str, table: &str, columns: &[&str]) -> Result<(), String> {
    let parsed = pg_query::parse(sql, 0).map_err(|error| error.to_string())?;
    for (number, statement) in (1..).zip(parsed.protobuf.stmts) {
        let node = statement.stmt.and_then(|node| node.node);
        let index = match node {
            Some(NodeEnum::IndexStmt(index)) => index,
            Some(NodeEnum::CreateStatsStmt(_) | NodeEnum::VacuumStmt(_)) => continue,
            _ => return Err(format!("statement {number} is no CREATE INDEX")),
        };
        let on = index.relation.as_ref().map(|relation| relation.relname.as_str()).unwrap_or_default();
        if on != table {
            return Err(format!("statement {number} is for \"{on}\", and the table is \"{table}\""));
        }
        for param in index.index_params.iter().chain(&index.index_including_params) {
            if let Some(NodeEnum::IndexElem(element)) = &param.node
                && !element.name.is_empty()
                && !columns.contains(&element.name.as_str())
            {
                return Err(format!(
                    "statement {number}: there is no column \"{}\"; there are {}",
                    element.name,
                    columns.join(", ")
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{IndexScript, check_indexes, indexes_for};

    #[test]
    fn only_indexes_of_the_table() {
        let check = |sql: &str| check_indexes(sql, "p", &["a", "b"]).err().unwrap_or_default();
        assert_eq!(
            check("CREATE INDEX ON p (a) INCLUDE (b); CREATE UNIQUE INDEX x ON p (lower(b)) WHERE a > 1; ANALYZE p; -- end"),
            ""
        );
        assert_eq!(check("CREATE INDEX ON p (a); DROP TABLE p"), "statement 2 is no CREATE INDEX");
        assert_eq!(check("CREATE INDEX ON q (a)"), "statement 1 is for \"q\", and the table is \"p\"");
        assert_eq!(check("CREATE INDEX ON p (nope)"), "statement 1: there is no column \"nope\"; there are a, b");
        assert!(check("CREATE INDEX").contains("syntax error"));
    }

    #[test]
    fn a_script_is_taken_apart() {
        let script = IndexScript::new(
            "-- first\nCREATE INDEX ON p (a);\nANALYZE p; CREATE INDEX é ON p (b); CREATE STATISTICS ON a, b FROM p",
        );
        assert_eq!(script.indexes, [(0, "CREATE INDEX ON p (a)".to_owned()), (2, "CREATE INDEX é ON p (b)".to_owned())]);
        assert_eq!(script.then, [(3, "CREATE STATISTICS ON a, b FROM p".to_owned())]);
        assert_eq!(IndexScript::new("CREATE INDEX").then, [(0, "CREATE INDEX".to_owned())]);
        assert_eq!(IndexScript::new(" ;"), IndexScript::default());
    }

    #[test]
    fn indexes_move_to_another_table() {
        let sql = "CREATE INDEX CONCURRENTLY p_brand ON product (brand) WHERE brand <> ''; ANALYZE product;
                   CREATE UNIQUE INDEX ON product USING btree (lower(sku)); CREATE INDEX ON other (id);";
        let moved = indexes_for(sql, "product", "read_model", "mv_product", "mv_").unwrap();
        assert_eq!(
            moved,
            [
                "CREATE INDEX mv_p_brand ON read_model.mv_product USING btree (brand) WHERE brand <> ''",
                "CREATE UNIQUE INDEX ON read_model.mv_product USING btree (lower(sku))"
            ]
        );
        assert!(indexes_for("CREATE INDEX", "a", "b", "c", "").is_err());
    }
}
