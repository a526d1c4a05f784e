//! A source that would choose our stream for a synchronous standby: what is said of it.

use lockstep_capture::chooses_us;
use lockstep_plan::quote;
use lockstep_wal::APPLICATION_NAME;
use tokio_postgres::Client;

/// What is wrong with `synchronous_standby_names`, and the statement that mends it.
pub struct Chosen {
    /// What is wrong.
    pub message: String,
    /// What mends it, without semicolons.
    pub statements: Vec<String>,
    /// What is to be thought of before.
    pub note: &'static str,
}

impl Chosen {
    /// What to do, in one line.
    pub fn remedy(&self) -> String {
        [self.note, &self.statements.join("; ")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ") + ";"
    }
}

/// Looks whether the source would choose us.
///
/// # Errors
/// The query failed.
pub async fn chosen(source: &Client) -> Result<Option<Chosen>, tokio_postgres::Error> {
    let setting: String = source.query_one("SELECT current_setting('synchronous_standby_names')", &[]).await?.get(0);
    if !chooses_us(&setting) {
        return Ok(None);
    }
    let rows = source
        .query(
            "SELECT DISTINCT application_name FROM pg_stat_replication
             WHERE application_name <> '' AND lower(application_name) <> $1 ORDER BY 1",
            &[&APPLICATION_NAME],
        )
        .await?;
    let standbys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let message = format!(
        "synchronous_standby_names is '{setting}', which chooses Lockstep's stream: no commit can wait for it, so it stands aside, \
         and commits wait for others alone"
    );
    let note = if standbys.is_empty() { "name the standbys, or, where there are none" } else { "" };
    let statements = vec![statement(&setting, &standbys), "SELECT pg_reload_conf()".to_owned()];
    Ok(Some(Chosen { message, statements, note }))
}

fn statement(setting: &str, standbys: &[String]) -> String {
    let names: Vec<String> = standbys.iter().map(|name| quote::identifier(name)).collect();
    // How many, and how they are chosen, stays.
    let list = match setting.split_once('(') {
        _ if names.is_empty() => String::new(),
        Some((how, _)) => format!("{}({})", how, names.join(", ")),
        None => names.join(", "),
    };
    format!("ALTER SYSTEM SET synchronous_standby_names = {}", quote::literal(&list))
}

#[cfg(test)]
mod tests {
    use super::statement;

    #[test]
    fn the_statement_names_the_standbys() {
        let standbys = ["s1".to_owned(), "walreceiver b".to_owned()];
        assert!(statement("*", &standbys).contains("= '\"s1\", \"walreceiver b\"'"), "{}", statement("*", &standbys));
        assert!(statement("ANY 1 (*)", &standbys).contains("= 'ANY 1 (\"s1\", \"walreceiver b\")'"));
        assert!(statement("*", &[]).contains("= ''"));
    }
}
