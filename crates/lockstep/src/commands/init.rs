//! `lockstep init`: a commented configuration from a database that is there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use lockstep_connect::{Session, Settings};
use lockstep_plan::indexes_for;
use tokio_postgres::Client;

use crate::Exit;
use crate::config::Config;
use crate::preflight::{self, Depth};

/// Names are kept so short that the configuration takes them.
const NAME_BYTES_MAX: usize = 38;

/// PostgreSQL's names have at most 63 bytes.
const SLOT_BYTES_MAX: usize = 63;

/// The directory of queries and indexes, beside the configuration.
const DIRECTORY: &str = "projections";

/// A materialized view as a projection.
struct Offered {
    /// The view, `schema.name`.
    view: String,
    name: String,
    sql: String,
    key: Vec<String>,
    indexes: Vec<String>,
    /// As last analysed.
    rows: Option<i64>,
    /// How it would be maintained, or why it cannot be.
    remark: String,
}

/// Writes a configuration that offers each materialized view of a database as a projection.
///
/// # Errors
/// The database cannot be reached, or a file cannot be written.
pub async fn init(path: &Path, url: Option<&str>) -> anyhow::Result<Exit> {
    if path.exists() {
        eprintln!("error: {} is there already; name another file with -c FILE", path.display());
        return Ok(Exit::Usage);
    }
    let settings = match Settings::resolve(url, &|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            let usual = "lockstep init --url postgres://USER@HOST:PORT/DATABASE".to_owned();
            eprintln!("error: {}\n  help: {}", error.message, error.help.unwrap_or(usual));
            return Ok(Exit::Usage);
        }
    };
    let session = match Session::open(&settings, "lockstep init").await {
        Ok(session) => session,
        Err(error) => {
            eprintln!("error: {error}\n  help: {}", error.remedy());
            return Ok(Exit::Failure);
        }
    };
    let mut offered = views(&session).await.context("looking for materialized views")?;
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    for one in &offered {
        write_new(&base.join(DIRECTORY).join(format!("{}.sql", one.name)), &query_file(one))?;
        if !one.indexes.is_empty() {
            write_new(&base.join(DIRECTORY).join(format!("{}.indexes.sql", one.name)), &index_file(one))?;
        }
    }
    let (url_shown, slot) = (settings.url_without_password(), slot_name(settings.database()));
    // Planned as `lockstep plan` would, so that the file says what to expect.
    if !offered.is_empty() {
        let preliminary = text(&url_shown, &slot, &offered);
        // The password that was given is not in the text.
        let given = |name: &str| settings.password().filter(|_| name == "PGPASSWORD").map(str::to_owned);
        match Config::parse(path, &preliminary, &|name| given(name).or_else(|| std::env::var(name).ok())) {
            Ok(config) => remark(&config, &mut offered).await,
            Err(diagnostic) => bail!("the configuration that was made is wrong: {}", diagnostic.render(false)),
        }
    }
    write_new(path, &text(&url_shown, &slot, &offered))?;
    println!("wrote {}", path.display());
    for one in &offered {
        println!("  {} from {} ({}): {}", one.name, one.view, rows(one.rows), one.remark);
    }
    if offered.is_empty() {
        println!("  there is no materialized view; the file has an example to fill in");
    }
    if settings.names_password() {
        println!(
            "the password is not written down: export PGPASSWORD=…, or add a line HOST:PORT:DATABASE:{}:PASSWORD to ~/.pgpass (chmod 0600), \
             or name a file with [source] password_file",
            settings.user()
        );
    }
    println!("next: lockstep -c {} check, then plan, then run", path.display());
    Ok(Exit::Good)
}

/// A slot of this database: those of a cluster share one list of names.
fn slot_name(database: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let mut name: String = format!("lockstep_{}", database.chars().map(plain).collect::<String>());
    name.truncate(SLOT_BYTES_MAX);
    name
}

fn rows(rows: Option<i64>) -> String {
    rows.map_or("never analysed".to_owned(), |rows| format!("{rows} rows"))
}

async fn views(client: &Client) -> Result<Vec<Offered>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT n.nspname::text, c.relname::text, pg_get_viewdef(c.oid, true), nullif(c.reltuples, -1)::bigint,
                    (SELECT array_agg(a.attname::text ORDER BY k.n)
                     FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
                     JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
                     WHERE i.indexrelid = u.indexrelid),
                    ARRAY(SELECT pg_get_indexdef(i.indexrelid) FROM pg_index AS i
                          WHERE i.indrelid = c.oid AND i.indexrelid IS DISTINCT FROM u.indexrelid ORDER BY i.indexrelid::regclass::text)
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             LEFT JOIN LATERAL (
                 -- The narrowest unique index of plain columns: what CONCURRENTLY needs is a key.
                 SELECT i.indexrelid FROM pg_index AS i
                 WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
                 ORDER BY i.indnkeyatts, i.indexrelid LIMIT 1
             ) AS u ON true
             WHERE c.relkind = 'm' AND coalesce(obj_description(c.oid, 'pg_class'), '') NOT LIKE 'lockstep backstop %'
             ORDER BY 1, 2",
            &[],
        )
        .await?;
    let mut offered: Vec<Offered> = Vec::new();
    for row in &rows {
        let (schema, view): (&str, &str) = (row.get(0), row.get(1));
        let name = free_name(view, &offered);
        let definitions: Vec<String> = row.get(5);
        // The name only serves to find the statements; the table's schema is on the search path when they run.
        let indexes = indexes_for(&definitions.join(";\n"), view, "", &name, "").unwrap_or_default();
        offered.push(Offered {
            view: format!("{schema}.{view}"),
            name,
            sql: row.get::<_, &str>(2).trim().trim_end_matches(';').to_owned(),
            key: row.get::<_, Option<Vec<String>>>(4).unwrap_or_default(),
            indexes,
            rows: row.get(3),
            remark: String::new(),
        });
    }
    Ok(offered)
}

/// What the projection may be called: as the view, without `mv_`, in letters that the configuration takes.
fn free_name(view: &str, taken: &[Offered]) -> String {
    let plain = view.strip_prefix("mv_").unwrap_or(view).to_ascii_lowercase();
    let mut name: String = plain.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') {
        name.insert(0, '_');
    }
    name.truncate(NAME_BYTES_MAX - 3);
    if name.ends_with("__2") || name.ends_with("__old") {
        name.push('_');
    }
    let is_free = |name: &str| taken.iter().all(|other| other.name != name);
    let mut free = name.clone();
    let mut number = 2;
    while !is_free(&free) {
        free = format!("{name}_{number}");
        number += 1;
    }
    free
}

async fn remark(config: &Config, offered: &mut [Offered]) {
    let checked = preflight::run(config, Depth::Plans).await;
    for one in offered {
        let planned = checked.planned.iter().find(|planned| planned.plan.projection == one.name);
        one.remark = match (planned, checked.failure_of(&one.name)) {
            (_, Some((message, _))) => format!("cannot be maintained: {}", message.replace('\n', " ")),
            (Some(planned), None) if planned.plan.is_incremental() => "incremental".to_owned(),
            (Some(_), None) => "recomputed as a whole; lockstep plan says why".to_owned(),
            (None, None) => "not looked at; see lockstep check".to_owned(),
        };
    }
}

fn query_file(one: &Offered) -> String {
    format!("-- From the materialized view {}.\n{}\n", one.view, one.sql)
}

fn index_file(one: &Offered) -> String {
    format!("-- The indexes of {}, apart from the key's.\n{};\n", one.view, one.indexes.join(";\n"))
}

fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("{} (nothing that is there is overwritten)", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn text(url: &str, slot: &str, offered: &[Offered]) -> String {
    let mut text = format!(
        "# Made by `lockstep init`. Every value may contain ${{NAME}}, which is replaced by the environment variable.\n\
         # Next: lockstep check, lockstep plan, lockstep run.\n\n\
         [source]\n\
         # The database to follow. A password comes from PGPASSWORD, ~/.pgpass, or password_file = \"FILE\".\n\
         url = {}\n\
         slot = {}   # slots of all databases of a server share their names\n\n\
         [target]\n\
         # url = \"postgres://…\"     # left out: the source's database\n\
         schema = \"read_model\"      # where the read models are\n\
         readers = []               # roles that get SELECT on them\n",
        quoted(url),
        quoted(slot)
    );
    for one in offered {
        let path = PathBuf::from(DIRECTORY);
        let file = |suffix: &str| quoted(&path.join(format!("{}{suffix}", one.name)).display().to_string());
        let comment = if one.remark.starts_with("cannot") { "# " } else { "" };
        text.push_str(&format!("\n# {}, {}: {}\n", one.view, rows(one.rows), one.remark));
        text.push_str(&format!(
            "{comment}[[projection]]\n{comment}name = {}\n{comment}query = {}\n",
            quoted(&one.name),
            file(".sql")
        ));
        if !one.key.is_empty() {
            let key: Vec<String> = one.key.iter().map(|column| quoted(column)).collect();
            text.push_str(&format!("{comment}key = [{}]\n", key.join(", ")));
        }
        if !one.indexes.is_empty() {
            text.push_str(&format!("{comment}indexes = {}\n", file(".indexes.sql")));
        }
    }
    if offered.is_empty() {
        text.push_str(
            "\n# [[projection]]\n# name = \"product_search\"      # the table read_model.product_search\n\
             # query = \"projections/product_search.sql\"\n# key = [\"id\"]               # left out: the GROUP BY columns or the root's primary key\n",
        );
    }
    text.push_str(
        "\n# What stands behind it: materialized views refreshed and compared, and everything verified at night.\n\
         # [backstop]\n# schedule = \"*/10 * * * *\"\n# verify = \"0 3 * * *\"\n\n\
         # What each batch changed, for caches: server-sent events, and NOTIFY lockstep_<projection>.\n# [feed]\n# history_s = 3600\n\n\
         # The read API.\n# [api]\n# listen = \"127.0.0.1:8080\"\n\n\
         # Metrics, readiness, and a page to look at.\n[metrics]\nlisten = \"127.0.0.1:9187\"\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_a_slot_of_its_own() {
        assert_eq!(slot_name("shop"), "lockstep_shop");
        assert_eq!(slot_name("Shop-2 ü"), "lockstep_shop_2__");
        assert_eq!(slot_name(&"x".repeat(63)).len(), SLOT_BYTES_MAX);
    }

    #[test]
    fn names_that_the_configuration_takes() {
        let named = |view: &str, taken: &[Offered]| free_name(view, taken);
        assert_eq!(named("mv_product_search", &[]), "product_search");
        assert_eq!(named("Daily Sales!", &[]), "daily_sales_");
        assert_eq!(named("2024", &[]), "_2024");
        assert_eq!(named("x__2", &[]), "x__2_");
        assert!(named(&"x".repeat(63), &[]).len() <= NAME_BYTES_MAX);
        let taken = [Offered {
            view: "a.x".to_owned(),
            name: "x".to_owned(),
            sql: String::new(),
            key: Vec::new(),
            indexes: Vec::new(),
            rows: Some(0),
            remark: String::new(),
        }];
        assert_eq!(named("x", &taken), "x_2");
    }
}
