//! `default_transaction_read_only`: the brake of those who run the server, for example when its disk is nearly full. It is obeyed.
//!
//! Sessions that are open keep the value that was set for their role or database when they began; `ALTER SYSTEM` and a reload change all.

use tokio_postgres::Client;

/// Why sessions like this one may not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOnly {
    /// In words.
    pub message: String,
    /// The statement that ends it.
    pub remedy: String,
}

/// The sources of a setting (`GucSource_Names`, PostgreSQL's `guc_tables.c`) that somebody has to undo. `pg_settings`, which is filled
/// whole, perhaps beyond the role's `temp_file_limit`, is asked only where the setting is on: the first condition needs no row.
const QUERY: &str = "SELECT s.source, quote_ident(session_user), quote_ident(current_database())
    FROM pg_catalog.pg_settings AS s
    WHERE pg_catalog.current_setting('default_transaction_read_only') = 'on' AND s.name = 'default_transaction_read_only'";

/// Whether this session's transactions are read-only unless they ask otherwise, and by whom.
///
/// # Errors
/// The statement failed.
pub async fn read_only_by_default(client: &Client) -> Result<Option<ReadOnly>, tokio_postgres::Error> {
    let row = client.query_opt(QUERY, &[]).await?;
    Ok(row.map(|row| told(row.get(0), row.get(1), row.get(2))))
}

fn told(source: &str, role: &str, database: &str) -> ReadOnly {
    let reset = "RESET default_transaction_read_only;";
    let (whose, remedy) = match source {
        "user" => ("the role", format!("ALTER ROLE {role} {reset}")),
        "database" => ("the database", format!("ALTER DATABASE {database} {reset}")),
        "database user" => ("the role in this database", format!("ALTER ROLE {role} IN DATABASE {database} {reset}")),
        "global" => ("all roles", format!("ALTER ROLE ALL {reset}")),
        "client" | "session" => {
            ("this connection", "take default_transaction_read_only out of the connection string's options".to_owned())
        }
        _ => ("the server", format!("ALTER SYSTEM {reset} SELECT pg_reload_conf();")),
    };
    ReadOnly {
        message: format!(
            "the database is read-only by default_transaction_read_only (set for {whose}), as it is set when a disk is full; nothing is \
             written until that is undone"
        ),
        remedy: format!("when the reason is gone: {remedy} What waits for it goes on by itself"),
    }
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn who_set_it_is_told_with_what_undoes_it() {
        for (source, whose, remedy) in [
            ("user", "the role)", "ALTER ROLE r RESET default_transaction_read_only;"),
            ("database", "the database)", "ALTER DATABASE d RESET default_transaction_read_only;"),
            ("database user", "the role in this database)", "ALTER ROLE r IN DATABASE d RESET default_transaction_read_only;"),
            ("configuration file", "the server)", "ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();"),
            ("client", "this connection)", "options"),
        ] {
            let told = told(source, "r", "d");
            assert!(told.message.contains(whose) && told.remedy.contains(remedy), "{source}: {told:?}");
        }
    }
}
