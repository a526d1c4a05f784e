//! A source that would choose our stream for a synchronous standby: what is said of it.

use lockstep_capture::chooses_us;
use lockstep_plan::quote;
use lockstep_wal::APPLICATION_NAME;
use tokio_postgres::Client;

/// What it means while it runs.
pub(crate) const ASIDE: &str = "synchronous_standby_names would make commits wait for this stream, which stands aside: only the real \
     standbys count. lockstep check prints the statement that names them";

/// What is wrong with `synchronous_standby_names`, and the statement that mends it.
pub(crate) struct Chosen {
    pub(crate) message: String,
    pub(crate) remedy: String,
}

/// Looks whether the source would choose us.
///
/// # Errors
/// The query failed.
pub(crate) async fn chosen(source: &Client) -> Result<Option<Chosen>, tokio_postgres::Error> {
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
    Ok(Some(Chosen {
        message: format!(
            "synchronous_standby_names is '{setting}', which chooses Lockstep's stream: no commit can wait for it, so it stands aside, \
             and commits wait for others alone"
        ),
        remedy: remedy(&setting, &standbys),
    }))
}

fn remedy(setting: &str, standbys: &[String]) -> String {
    if standbys.is_empty() {
        return "name the standbys, or, where there are none: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();"
            .to_owned();
    }
    let names: Vec<String> = standbys.iter().map(|name| quote::identifier(name)).collect();
    // How many, and how they are chosen, stays.
    let list = match setting.split_once('(') {
        Some((how, _)) => format!("{}({})", how, names.join(", ")),
        None => names.join(", "),
    };
    format!("ALTER SYSTEM SET synchronous_standby_names = {}; SELECT pg_reload_conf();", quote::literal(&list))
}

#[cfg(test)]
mod tests {
    use super::remedy;

    #[test]
    fn the_statement_names_the_standbys() {
        let standbys = ["s1".to_owned(), "walreceiver b".to_owned()];
        assert!(remedy("*", &standbys).contains("= '\"s1\", \"walreceiver b\"';"), "{}", remedy("*", &standbys));
        assert!(remedy("ANY 1 (*)", &standbys).contains("= 'ANY 1 (\"s1\", \"walreceiver b\")';"));
        assert!(remedy("*", &[]).contains("= '';"));
    }
}
