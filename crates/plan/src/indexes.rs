//! The configured indexes of a projection, for another table of the same form.

use pg_query::NodeEnum;

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
            index.idxname = format!("{prefix}{}", index.idxname).chars().take(63).collect();
        }
        let node = NodeEnum::IndexStmt(index);
        statements.push(node.deparse(pg_query::DeparseOptions::default()).map_err(|error| error.to_string())?);
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::indexes_for;

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
