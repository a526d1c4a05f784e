//! Encodings of source and target that cannot hold each other's texts.

use lockstep_connect::{SQL_ASCII, Session, is_about_encoding};

use crate::report::Preflight;

/// Tells of them; `target` is the source's session where both are one database.
///
/// # Errors
/// A statement fails for another reason than what it is about.
pub(crate) async fn look(source: &Session, target: &Session, preflight: &mut Preflight) -> Result<(), tokio_postgres::Error> {
    if let Some((message, remedy)) = finding(source.server_encoding(), target.server_encoding()) {
        preflight.warn("encodings", message, remedy);
    }
    let mut unwritable = Vec::new();
    for planned in preflight.planned.iter().filter(|planned| !planned.plan.definition.is_ascii()) {
        match target.query_one("SELECT $1::text IS NULL", &[&planned.plan.definition]).await {
            Ok(_) => {}
            Err(error) if error.code().is_some_and(|state| is_about_encoding(state.code())) => {
                unwritable.push(planned.part_of.clone().unwrap_or_else(|| planned.name()));
            }
            Err(error) => return Err(error),
        }
    }
    for projection in unwritable {
        preflight.error(
            format!("projection {projection}"),
            format!("its query has a character that has no place in the target's encoding {}", target.server_encoding()),
            "leave the character out, or make the target's database with ENCODING 'UTF8' TEMPLATE template0",
        );
    }
    Ok(())
}

fn finding(source: &str, target: &str) -> Option<(String, String)> {
    match (source, target) {
        (SQL_ASCII, SQL_ASCII) => Some((
            "SQL_ASCII is no encoding, PostgreSQL looks at no text: bytes that are not UTF-8 are carried as they are, and the read API \
             cannot show them"
                .to_owned(),
            "nothing, if nobody minds; otherwise keep such bytes as bytea, or move to a database with ENCODING 'UTF8'".to_owned(),
        )),
        (SQL_ASCII, _) => Some((
            format!(
                "the source's SQL_ASCII is no encoding: rows with bytes that are not UTF-8, or have no place in the target's {target}, go to \
                 quarantine, each by its key"
            ),
            "mend the texts (lockstep quarantine lists the keys), or make the target's database with ENCODING 'SQL_ASCII'".to_owned(),
        )),
        // What is not UTF-8 itself is converted on the way.
        (_, "UTF8" | SQL_ASCII) => None,
        (source, target) if source == target => None,
        (source, target) => Some((
            format!(
                "the source's encoding is {source}, the target's {target}: rows with a character that has no place there go to quarantine, \
                 each by its key"
            ),
            "make the target's database with ENCODING 'UTF8' TEMPLATE template0".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::finding;

    #[test]
    fn only_what_may_not_fit_is_told() {
        for (source, target) in [("UTF8", "UTF8"), ("LATIN1", "UTF8"), ("LATIN1", "LATIN1"), ("UTF8", "SQL_ASCII")] {
            assert_eq!(finding(source, target), None, "{source} {target}");
        }
        for (source, target) in [("UTF8", "LATIN1"), ("SQL_ASCII", "UTF8"), ("SQL_ASCII", "LATIN1"), ("LATIN2", "LATIN1")] {
            let (message, _) = finding(source, target).expect("told");
            assert!(
                message.contains(source) && message.contains(target.trim_start_matches("UTF8")) && message.contains("quarantine")
            );
        }
        assert!(finding("SQL_ASCII", "SQL_ASCII").is_some_and(|(message, _)| message.contains("as they are")));
    }
}
