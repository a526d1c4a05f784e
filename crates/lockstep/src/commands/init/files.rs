//! The files that are written.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lockstep_preflight::materialized_views::{Offered, Readers, SCHEMA};

/// The directory of queries and indexes, beside the configuration.
pub(super) const DIRECTORY: &str = "projections";

/// What the configuration is made of.
pub(super) struct Configuration<'a> {
    pub(super) url: &'a str,
    pub(super) slot: &'a str,
    pub(super) readers: &'a Readers,
    pub(super) offered: &'a [Offered],
    /// Statements that the role needs, as lines.
    pub(super) grants: &'a [String],
}

pub(super) fn rows(rows: Option<i64>) -> String {
    rows.map_or("never analysed".to_owned(), |rows| format!("{rows} rows"))
}

pub(super) fn query_file(one: &Offered) -> String {
    format!("-- From the materialized view {}.\n{}\n", one.view, one.sql)
}

pub(super) fn index_file(one: &Offered) -> String {
    format!("-- The indexes of {}, apart from the key's.\n{};\n", one.view, one.indexes.join(";\n"))
}

pub(super) fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
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

impl Configuration<'_> {
    /// The configuration's text.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "# Made by `lockstep init`. Every value may contain ${{NAME}}, which is replaced by the environment variable.\n\
             # Next: lockstep check, lockstep plan, lockstep run.\n\n\
             [source]\n\
             # The database to follow. A password comes from PGPASSWORD, ~/.pgpass, or password_file = \"FILE\".\n\
             url = {}\n\
             slot = {}   # slots of all databases of a server share their names\n\n\
             [target]\n\
             # url = \"postgres://…\"     # left out: the source's database\n\
             schema = \"{SCHEMA}\"      # where the read models are\n{}",
            quoted(self.url),
            quoted(self.slot),
            self.readers()
        );
        if !self.grants.is_empty() {
            text.push_str("\n# The role may not read yet what these views read:\n");
            for grant in self.grants {
                text.push_str(&format!("#   {grant}\n"));
            }
        }
        for one in self.offered {
            text.push_str(&projection(one));
        }
        if self.offered.is_empty() {
            text.push_str(
                "\n# [[projection]]\n# name = \"product_search\"      # the table in that schema\n\
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

    fn readers(&self) -> String {
        let roles: Vec<String> = self.readers.roles.iter().map(|role| quoted(role)).collect();
        let mut text = format!("readers = [{}]", roles.join(", "));
        text.push_str(match roles.as_slice() {
            [] => "               # roles that get SELECT on them\n",
            _ => "   # roles that get SELECT on them: those that may read one of the materialized views\n",
        });
        if !self.readers.public.is_empty() {
            text.push_str(&format!("# Everybody may read {}: add the roles that do.\n", self.readers.public.join(", ")));
        }
        text
    }
}

fn projection(one: &Offered) -> String {
    let path = PathBuf::from(DIRECTORY);
    let file = |suffix: &str| quoted(&path.join(format!("{}{suffix}", one.name)).display().to_string());
    let comment = if one.left_out { "# " } else { "" };
    let mut text = format!("\n# {}, {}: {}\n", one.view, rows(one.rows), one.remark);
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
    text
}
