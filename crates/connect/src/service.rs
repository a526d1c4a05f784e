//! The service file (`~/.pg_service.conf`, `PGSERVICEFILE`, `pg_service.conf` in `PGSYSCONFDIR`), as libpq reads it.
//!
//! Format: `[name]`, then `keyword=value` lines. libpq looks in the user's file first and in the system's if the service is not there.

use std::path::PathBuf;

use crate::conninfo::Pairs;
use crate::settings_error::SettingsError;

/// Where to look, in this order. A file that is named must be there.
pub(crate) fn files(named: Option<PathBuf>, of_user: Option<PathBuf>, system: Option<PathBuf>) -> Vec<PathBuf> {
    let system = system.unwrap_or_else(|| PathBuf::from("/etc/postgresql-common")).join("pg_service.conf");
    named.or(of_user).into_iter().chain([system]).collect()
}

/// What a service is made of.
pub(crate) fn lookup(files: &[PathBuf], service: &str) -> Result<Pairs, SettingsError> {
    for path in files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(SettingsError::new(format!("cannot read the service file {}: {error}", path.display()))),
        };
        let found = find(&text, service).map_err(|line| {
            SettingsError::new(format!("line {line} of the service file {} is not keyword=value", path.display()))
        })?;
        if let Some(pairs) = found {
            return Ok(pairs);
        }
    }
    let places: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    Err(SettingsError::new(format!("there is no service \"{service}\" in {}", places.join(" or "))))
}

/// The service's pairs, or the number of the line that is wrong.
fn find(text: &str, service: &str) -> Result<Option<Pairs>, usize> {
    let mut found: Option<Pairs> = None;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            // The next section ends ours.
            if found.is_some() {
                break;
            }
            if name.strip_suffix(']') == Some(service) {
                found = Some(Pairs::new());
            }
            continue;
        }
        if let Some(pairs) = &mut found {
            // Services within services are none.
            let (name, value) = line.split_once('=').filter(|(name, _)| *name != "service").ok_or(number + 1)?;
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn sections_and_comments() {
        let text = "# all\n[other]\nhost=no\n\n[mine]\nhost=h\n# port\nport=6000\n[mine]\nhost=late\n";
        let found = find(text, "mine").unwrap().unwrap();
        assert_eq!(found, [("host".to_owned(), "h".to_owned()), ("port".to_owned(), "6000".to_owned())]);
        assert_eq!(find(text, "none"), Ok(None));
        assert_eq!(find("[mine]\nhost h", "mine"), Err(2));
        assert_eq!(find("[mine]\nservice=other", "mine"), Err(2));
    }
}
