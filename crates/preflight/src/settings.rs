//! Settings by which what Lockstep computes may differ from what other sessions see.

use lockstep_connect::{Session, describe, read_only_by_default};
use lockstep_plan::quote;

use crate::report::Preflight;

/// Pinned settings that show in results and that a database may have otherwise; `TimeZone` is configured for each projection.
const SHOWN: [&str; 8] = [
    "DateStyle",
    "IntervalStyle",
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "extra_float_digits",
    "standard_conforming_strings",
    "transform_null_equals",
];

/// Tells of what the database has for its sessions and ours do not, and of what our role has for itself.
pub(crate) async fn check(session: &Session, preflight: &mut Preflight) {
    let names: Vec<String> = SHOWN.iter().map(|&name| name.to_owned()).collect();
    let found = session
        .query(
            "SELECT split_part(o, '=', 1), substr(o, strpos(o, '=') + 1), current_setting(split_part(o, '=', 1)), current_database()::text
             FROM pg_db_role_setting AS s CROSS JOIN unnest(s.setconfig) AS o
             WHERE s.setrole = 0 AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
               AND split_part(o, '=', 1) = ANY ($1)
             ORDER BY 1",
            &[&names],
        )
        .await;
    let rows = match found {
        Ok(rows) => rows,
        Err(error) => return preflight.error("source", describe(&error), "make the catalogs readable"),
    };
    for row in rows {
        let (name, theirs, ours, database): (&str, &str, &str, &str) = (row.get(0), row.get(1), row.get(2), row.get(3));
        if is_same(name, theirs, ours) {
            continue;
        }
        preflight.warn(
            "source",
            format!(
                "sessions of this database have {name} = '{theirs}', Lockstep has '{ours}': expressions that depend on it differ from \
                 what those sessions see"
            ),
            format!("ALTER DATABASE {} RESET {name}, or write the queries so that they do not depend on it", quote::identifier(database)),
        );
    }
    for name in session.settings_of_the_role() {
        preflight.warn(
            "source",
            format!(
                "the role has a {name} of its own, and what the database has for other sessions is not to be seen: expressions that \
                 depend on it may differ from what those see"
            ),
            format!("ALTER ROLE … RESET {name}, or ALTER DATABASE … SET {name} = … for all"),
        );
    }
}

/// Tells of a database in which nothing may be written, by somebody's wish. Whether something may be.
pub(crate) async fn writable(side: &str, session: &Session, preflight: &mut Preflight) -> bool {
    match read_only_by_default(session).await {
        Ok(None) => return true,
        Ok(Some(found)) => preflight.error(side, found.message, found.remedy),
        Err(error) => preflight.error(side, describe(&error), "make the server's settings readable"),
    }
    false
}

/// Whether two values of a setting mean the same for what is printed.
fn is_same(name: &str, theirs: &str, ours: &str) -> bool {
    let first_word = |text: &str| text.split([',', ' ']).next().unwrap_or_default().to_ascii_lowercase();
    match name {
        // The order of day and month is for reading only.
        "DateStyle" => first_word(theirs) == first_word(ours),
        // From 1 on a float is printed with all digits that tell it from others.
        "extra_float_digits" => theirs.parse::<i32>().is_ok_and(|digits| digits >= 1),
        _ => {
            matches!(
                (theirs.to_ascii_lowercase().as_str(), ours),
                ("true" | "1" | "yes" | "on", "on") | ("false" | "0" | "no" | "off", "off")
            ) || theirs.eq_ignore_ascii_case(ours)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn what_prints_the_same_is_the_same() {
        assert!(is_same("DateStyle", "iso, dmy", "ISO, YMD") && !is_same("DateStyle", "German", "ISO, YMD"));
        assert!(is_same("array_nulls", "true", "on") && !is_same("array_nulls", "off", "on"));
        assert!(is_same("extra_float_digits", "1", "3") && !is_same("extra_float_digits", "0", "3"));
    }
}
