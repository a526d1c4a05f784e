//! Writing the difference between what a table holds and what it should hold.

use crate::model::quote;
use crate::model::row_key::{RowKey, locator};

/// Two ways to write the same difference. Each statement returns one row: rows added, changed, gone, and duplicated keys; then, if the
/// keys of the rows written are asked for, one array of texts for each key column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// One statement: update in place. The usual way.
    pub in_place: String,
    /// First remove what is gone or different, then add: for the batch in which two rows swap a value that a secondary unique
    /// index guards, where updating in place must clash.
    pub delete_first: [String; 2],
}

/// `left` and `right` have the same key.
pub(crate) fn same_key(left: &str, right: &str, left_columns: &[String], right_columns: &[String], key: &RowKey) -> String {
    match key {
        RowKey::Primary(_) => left_columns
            .iter()
            .zip(right_columns)
            .map(|(a, b)| format!("{left}.{} = {right}.{}", quote::identifier(a), quote::identifier(b)))
            .collect::<Vec<_>>()
            .join(" AND "),
        RowKey::Located(_) | RowKey::Copies { .. } if !left_columns.is_empty() => format!(
            "{} = {} AND record_eq(ROW({}), ROW({}))",
            locator(&format!("{left}."), left_columns),
            locator(&format!("{right}."), right_columns),
            // A domain over an enum has no operator `=`, but an equality. NULLs are equal here.
            quote::prefixed_list(&format!("{left}."), left_columns),
            quote::prefixed_list(&format!("{right}."), right_columns),
        ),
        RowKey::SingleRow | RowKey::Located(_) | RowKey::Copies { .. } => "true".to_owned(),
    }
}

/// `left` and `right` are stored differently.
pub(crate) fn differs(left: &str, right: &str, columns: &[String]) -> String {
    format!(
        "record_image_ne(ROW({}), ROW({}))",
        quote::prefixed_list(&format!("{left}."), columns),
        quote::prefixed_list(&format!("{right}."), columns)
    )
}

/// What a merge works on.
pub(crate) struct Target<'a> {
    /// Quoted name of the table.
    pub(crate) table: &'a str,
    pub(crate) columns: &'a [String],
    pub(crate) key: &'a RowKey,
    /// Columns that a row has to agree in besides: a row of one root is never another's, though the key that is declared be the same.
    pub(crate) owner: &'a [String],
    /// Whether more than one fresh row of a key is to be looked for.
    pub(crate) check_duplicates: bool,
    /// Whether to return the keys of the rows written.
    pub(crate) report: bool,
}

/// Merges the CTE `fresh` into a table. `gone_among` restricts the rows that may go: a FROM item and a condition on `t` and it;
/// `None` means any row.
pub(crate) fn merge(ctes: &[String], target: &Target<'_>, gone_among: Option<(&str, &str)>) -> Merge {
    if let RowKey::Copies { .. } = target.key {
        return copies(ctes, target, gone_among);
    }
    let Target { table, columns, key, .. } = target;
    let single = target.report && matches!(key, RowKey::SingleRow);
    let returning = match target.report {
        true if single => format!("{} AS \"lockstep:row\"", locator("t.", columns)),
        true => quote::prefixed_list("t.", key.columns()),
        false => "1".to_owned(),
    };
    // A single row is known by all that it has, and that changes with it.
    let was = single.then(|| format!("was AS MATERIALIZED (\n  SELECT {returning} FROM {table} AS t\n)"));
    let ctes: Vec<String> = ctes.iter().cloned().chain(was).collect();
    let matches = |other: &str| {
        let owned = same_key(other, "t", target.owner, target.owner, &RowKey::Primary(Vec::new()));
        let same = same_key(other, "t", key.columns(), key.columns(), key);
        if target.owner.is_empty() { same } else { format!("{same} AND {owned}") }
    };
    let (using, restriction) = match gone_among {
        Some((item, condition)) => (format!(" USING {item}"), format!("{condition} AND ")),
        None => (String::new(), String::new()),
    };
    let gone = format!(
        "gone AS (\n  DELETE FROM {table} AS t{using}\n  WHERE {restriction}NOT EXISTS (SELECT FROM fresh WHERE {})\n  RETURNING {returning}\n)",
        matches("fresh")
    );
    let different = format!(
        "different AS (\n  DELETE FROM {table} AS t USING fresh\n  WHERE {} AND {}\n  RETURNING {returning}\n)",
        matches("fresh"),
        differs("t", "fresh", columns)
    );
    let assignments: Vec<String> = columns.iter().map(|column| format!("{0} = fresh.{0}", quote::identifier(column))).collect();
    let changed = format!(
        "changed AS (\n  UPDATE {table} AS t SET {}\n  FROM fresh\n  WHERE {} AND {}\n  RETURNING {returning}\n)",
        assignments.join(", "),
        matches("fresh"),
        differs("t", "fresh", columns)
    );
    let added = format!(
        "added AS (\n  INSERT INTO {table} AS t ({})\n  SELECT {} FROM fresh\n  WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE {})\n  RETURNING {returning}\n)",
        quote::list(columns),
        quote::prefixed_list("fresh.", columns),
        matches("fresh")
    );
    let duplicates = duplicates_count(target);
    let zero = "0::bigint";
    let reported = |parts: &[&str]| match target.report {
        true if single => whole_rows(&[&["was"], parts].concat()),
        true => reported(key, parts),
        false => Vec::new(),
    };
    Merge {
        in_place: statement(
            &ctes,
            &[gone.clone(), changed, added.clone()],
            [count("added"), count("changed"), count("gone"), duplicates.clone()],
            &reported(&["gone", "changed", "added"]),
        ),
        delete_first: [
            statement(
                &ctes,
                &[gone, different],
                [zero.to_owned(), zero.to_owned(), format!("{} + {}", count("gone"), count("different")), zero.to_owned()],
                &reported(&["gone", "different"]),
            ),
            statement(&ctes, &[added], [count("added"), zero.to_owned(), zero.to_owned(), duplicates], &reported(&["added"])),
        ],
    }
}

/// The keys of the rows written, one array of texts for each column of the identity that readers know; where that is a hash, the columns
/// that it is made of follow.
fn reported(key: &RowKey, parts: &[&str]) -> Vec<String> {
    let columns = key.columns();
    let selects: Vec<String> = parts.iter().map(|part| format!("SELECT {} FROM {part}", quote::list(columns))).collect();
    let written = format!("({}) AS written", selects.join(" UNION ALL "));
    let array = |(n, value): (usize, String)| format!("ARRAY(SELECT {value}::text FROM {written}) AS k{}", n + 1);
    let values: Vec<String> = match key {
        RowKey::Located(_) => vec![locator("written.", columns)],
        RowKey::Primary(_) | RowKey::SingleRow | RowKey::Copies { .. } => Vec::new(),
    };
    let values = values.into_iter().chain(columns.iter().map(|column| format!("written.{}", quote::identifier(column))));
    values.enumerate().map(array).collect()
}

/// The hashes of the rows written, whole, as one array.
fn whole_rows(parts: &[&str]) -> Vec<String> {
    let selects: Vec<String> = parts.iter().map(|part| format!("SELECT \"lockstep:row\" FROM {part}")).collect();
    vec![format!("ARRAY(SELECT \"lockstep:row\"::text FROM ({}) AS written) AS k1", selects.join(" UNION ALL "))]
}

/// The text of a row, which tells apart whatever can be told apart by looking.
fn image(prefix: &str, columns: &[String]) -> String {
    format!("ROW({})::text", quote::prefixed_list(prefix, columns))
}

/// `"lockstep:image"` and `"lockstep:copy"`: the row, and the how manieth of its kind it is.
pub(crate) fn numbered(prefix: &str, columns: &[String]) -> String {
    let image = image(prefix, columns);
    format!("{image} AS \"lockstep:image\", row_number() OVER (PARTITION BY {image}) AS \"lockstep:copy\"")
}

/// The n-th copy of a row in the table is the n-th copy in the result.
pub(crate) const SAME_COPY: &str =
    "want.\"lockstep:image\" = have.\"lockstep:image\" AND want.\"lockstep:copy\" = have.\"lockstep:copy\"";

/// Without a key, the n-th copy of a row in the table stands for the n-th copy in the result.
fn copies(ctes: &[String], target: &Target<'_>, among: Option<(&str, &str)>) -> Merge {
    let Target { table, columns, report, .. } = target;
    let same = SAME_COPY;
    // Whoever reads them knows a row by the hash of all that it has.
    let whole_row = |prefix: &str| if *report { locator(prefix, columns) } else { "1".to_owned() };
    let reported = |parts: &[&str]| if *report { whole_rows(parts) } else { Vec::new() };
    let among = among.map(|(item, condition)| format!(" JOIN {item} ON {condition}")).unwrap_or_default();
    let have = format!(
        "have AS MATERIALIZED (\n  SELECT t.ctid AS \"lockstep:row\", {} FROM {table} AS t{among}\n)",
        numbered("t.", columns)
    );
    // By their position, because a column may have any name, also one of ours.
    let positions: Vec<String> = (1..=columns.len()).map(|n| format!("c{n}")).collect();
    let want = format!(
        "want ({}, \"lockstep:image\", \"lockstep:copy\") AS MATERIALIZED (\n  SELECT {}, {} FROM fresh\n)",
        positions.join(", "),
        quote::prefixed_list("fresh.", columns),
        numbered("fresh.", columns)
    );
    let gone = format!(
        "gone AS (\n  DELETE FROM {table} AS t USING have\n  WHERE t.ctid = have.\"lockstep:row\" AND NOT EXISTS (SELECT FROM want WHERE {same})\n  RETURNING {} AS \"lockstep:row\"\n)",
        whole_row("t.")
    );
    let added = format!(
        "added AS (\n  INSERT INTO {table} AS t ({})\n  SELECT {} FROM want WHERE NOT EXISTS (SELECT FROM have WHERE {same})\n  RETURNING {} AS \"lockstep:row\"\n)",
        quote::list(columns),
        quote::prefixed_list("want.", &positions),
        whole_row("t.")
    );
    let zero = || "0::bigint".to_owned();
    Merge {
        in_place: statement(
            ctes,
            &[have.clone(), want.clone(), gone.clone(), added.clone()],
            [count("added"), zero(), count("gone"), zero()],
            &reported(&["gone", "added"]),
        ),
        delete_first: [
            statement(ctes, &[have.clone(), want.clone(), gone], [zero(), zero(), count("gone"), zero()], &reported(&["gone"])),
            statement(ctes, &[have, want, added], [count("added"), zero(), zero(), zero()], &reported(&["added"])),
        ],
    }
}

fn duplicates_count(target: &Target<'_>) -> String {
    let columns = target.key.columns();
    if !target.check_duplicates || columns.is_empty() {
        return "0::bigint".to_owned();
    }
    format!(
        "(SELECT count(*) FROM (SELECT FROM fresh GROUP BY {} HAVING count(*) > 1) AS duplicated)",
        quote::prefixed_list("fresh.", columns)
    )
}

fn count(cte: &str) -> String {
    format!("(SELECT count(*) FROM {cte})")
}

fn statement(ctes: &[String], writes: &[String], [added, changed, gone, duplicates]: [String; 4], reported: &[String]) -> String {
    let all: Vec<&str> = ctes.iter().chain(writes).map(String::as_str).collect();
    let reported: String = reported.iter().map(|column| format!(",\n  {column}")).collect();
    format!(
        "WITH {}\nSELECT {added} AS added, {changed} AS changed, {gone} AS gone, {duplicates} AS duplicates{reported}",
        all.join(", ")
    )
}
