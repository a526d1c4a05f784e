//! The shipped projections, as configuration.

use anyhow::Context as _;

use crate::bench::configuration;

/// Nothing of a benchmark is looked at by others.
pub(crate) const QUIET: &str = "[metrics]\nlisten = \"\"\n";

/// The shipped search view alone, with its seventeen indexes.
pub(crate) fn product_search() -> String {
    shipped("product_search")
}

/// A shipped projection with its indexes.
pub(crate) fn shipped(name: &str) -> String {
    let folder = configuration().join("projections");
    let file = |ending: &str| folder.join(format!("{name}{ending}"));
    let mut text = format!("[[projection]]\nname = \"{name}\"\nquery = \"{}\"\n", file(".sql").display());
    if file(".indexes.sql").is_file() {
        text.push_str(&format!("indexes = \"{}\"\n", file(".indexes.sql").display()));
    }
    text
}

/// A shipped projection's defining query.
pub(crate) fn query(name: &str) -> anyhow::Result<String> {
    read(&format!("{name}.sql"))
}

/// The statements that create its indexes, on a table of another name.
pub(crate) fn indexes_on(name: &str, table: &str) -> anyhow::Result<String> {
    let text = read(&format!("{name}.indexes.sql"))?;
    Ok(text.replace(&format!("ON {name} "), &format!("ON {table} ")).replace(&format!("idx_{name}_"), &format!("idx_{table}_")))
}

fn read(file: &str) -> anyhow::Result<String> {
    let path = configuration().join("projections").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The thirteen projections of the demonstration: the documented example without its addresses, feed and schedule, and how many
/// they are.
pub(crate) fn demonstration() -> anyhow::Result<(String, usize)> {
    let path = configuration().join("lockstep.example.toml");
    let mut file: toml::Table = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?.parse()?;
    for section in ["source", "target", "feed", "backstop", "api", "metrics"] {
        file.remove(section);
    }
    let entries = |file: &mut toml::Table, name: &str| -> Vec<toml::Value> {
        file.get(name).and_then(toml::Value::as_array).cloned().unwrap_or_default()
    };
    // What is measured is commit to visible, so no group waits for more changes.
    let mut groups = entries(&mut file, "group");
    groups.iter_mut().filter_map(toml::Value::as_table_mut).for_each(|group| {
        group.insert("linger_ms".to_owned(), toml::Value::Integer(0));
    });
    let mut projections = entries(&mut file, "projection");
    for projection in projections.iter_mut().filter_map(toml::Value::as_table_mut) {
        for file in ["query", "indexes"] {
            if let Some(toml::Value::String(name)) = projection.get_mut(file) {
                *name = configuration().join(&*name).display().to_string();
            }
        }
    }
    let count = projections.len();
    file.insert("group".to_owned(), toml::Value::Array(groups));
    file.insert("projection".to_owned(), toml::Value::Array(projections));
    Ok((format!("{QUIET}{}", toml::to_string(&file)?), count))
}
