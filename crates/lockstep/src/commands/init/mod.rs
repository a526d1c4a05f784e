//! `lockstep init`: a commented configuration from a database that is there.

mod files;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, bail};
use lockstep_config::Config;
use lockstep_connect::{Session, Settings};
use lockstep_preflight::materialized_views::{Offered, grants, readers, views};
use lockstep_preflight::{self as preflight, Depth};

use crate::Exit;
use files::{Configuration, DIRECTORY, index_file, query_file, rows, write_new};

/// PostgreSQL's names have at most 63 bytes.
const SLOT_BYTES_MAX: usize = 63;

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
    let readers = readers(&session).await.context("looking for readers")?;
    let grants = grants(&offered).lines(false);
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    for one in &offered {
        write_new(&base.join(DIRECTORY).join(format!("{}.sql", one.name)), &query_file(one))?;
        if !one.indexes.is_empty() {
            write_new(&base.join(DIRECTORY).join(format!("{}.indexes.sql", one.name)), &index_file(one))?;
        }
    }
    let (url_shown, slot) = (settings.url_without_password(), slot_name(settings.database()));
    let text =
        |offered: &[Offered]| Configuration { url: &url_shown, slot: &slot, readers: &readers, offered, grants: &grants }.text();
    // Planned as `lockstep plan` would, so that the file says what to expect.
    if !offered.is_empty() {
        let preliminary = text(&offered);
        // The password that was given is not in the text.
        let given = |name: &str| settings.password().filter(|_| name == "PGPASSWORD").map(str::to_owned);
        match Config::parse(path, &preliminary, &|name| given(name).or_else(|| std::env::var(name).ok())) {
            Ok(config) => remark(&config, &mut offered).await,
            Err(diagnostic) => bail!("the configuration that was made is wrong: {}", diagnostic.render(false)),
        }
    }
    write_new(path, &text(&offered))?;
    println!("wrote {}", path.display());
    for one in &offered {
        println!("  {} from {} ({}): {}", one.name, one.view, rows(one.rows), one.remark);
    }
    if offered.is_empty() {
        println!("  there is no materialized view; the file has an example to fill in");
    }
    if !readers.roles.is_empty() {
        println!("readers, taken over from the views: {}", readers.roles.join(", "));
    }
    if !readers.public.is_empty() {
        println!("everybody may read {}: name the roles that do in [target] readers", readers.public.join(", "));
    }
    if !grants.is_empty() {
        println!("what the role may not read yet:");
        for grant in &grants {
            println!("  {grant}");
        }
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

/// Says of each how it would be maintained. What only lacks a privilege is wanted all the same: `lockstep check` says what is missing.
async fn remark(config: &Config, offered: &mut [Offered]) {
    let checked = preflight::run(config, Depth::Plans).await;
    let lacking = lacking(offered);
    for one in offered {
        let planned = checked.planned.iter().find(|planned| planned.plan.projection == one.name);
        let failure = checked.failure_of(&one.name).map(|(message, _)| message.replace('\n', " "));
        let remark = match (planned, failure) {
            _ if !one.reads_materialized.is_empty() => {
                one.left_out = true;
                format!("cannot be maintained: it reads the materialized view {}", one.reads_materialized.join(", "))
            }
            _ if !one.lacks.is_empty() => format!("the role lacks {}", one.lacks.words.join(", ")),
            (None, _) if lacking.contains(&one.name) => "as soon as what it reads can be read".to_owned(),
            (_, Some(message)) => {
                one.left_out = true;
                format!("cannot be maintained: {message}")
            }
            (Some(planned), None) if planned.plan.is_incremental() => "incremental".to_owned(),
            (Some(_), None) => "recomputed as a whole; lockstep plan says why".to_owned(),
            (None, None) => {
                let reasons = checked.errors(false);
                format!("not looked at: {}", reasons.first().map_or("see lockstep check", String::as_str).replace('\n', " "))
            }
        };
        let views = (!one.reads_views.is_empty()).then(|| format!("; it reads the views {}", one.reads_views.join(", ")));
        let instead = one.reads_instead.iter().map(|(view, name)| format!("; it reads the projection {name} instead of {view}"));
        one.remark = std::iter::once(remark).chain(views).chain(instead).collect();
    }
}

/// The projections that lack a privilege, or read one that does.
fn lacking(offered: &[Offered]) -> BTreeSet<String> {
    let mut lacking: BTreeSet<String> = offered.iter().filter(|one| !one.lacks.is_empty()).map(|one| one.name.clone()).collect();
    loop {
        let reads = |one: &&Offered| one.reads_instead.iter().any(|(_, name)| lacking.contains(name));
        let more: Vec<String> =
            offered.iter().filter(reads).map(|one| one.name.clone()).filter(|name| !lacking.contains(name)).collect();
        if more.is_empty() {
            return lacking;
        }
        lacking.extend(more);
    }
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
}
