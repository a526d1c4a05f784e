//! The password file (`~/.pgpass` or `PGPASSFILE`), as libpq reads it.
//!
//! Format: `host:port:database:user:password`, `*` matches anything, `\` escapes `:` and `\`. libpq ignores a file that
//! group or others can read; so do we, with a warning.

use std::path::Path;

/// What an entry must match.
pub(crate) struct Wanted<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// The password of the first matching line, if the file exists and is private.
pub(crate) fn lookup(path: &Path, wanted: &Wanted<'_>) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !is_private(&metadata) {
        tracing::warn!(path = %path.display(), "password file ignored: it must not be readable by group or others (chmod 0600)");
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    find(&text, wanted)
}

fn is_private(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o077 == 0
}

fn find(text: &str, wanted: &Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    let expected = [wanted.host, port.as_str(), wanted.database, wanted.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line);
        let [patterns @ .., password] = fields.as_slice() else {
            return None;
        };
        let matches = patterns.len() == expected.len()
            && patterns.iter().zip(expected).all(|(pattern, value)| pattern == "*" || pattern == value);
        matches.then(|| password.clone())
    })
}

fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let last = fields.len() - 1;
        match character {
            '\\' => fields[last].extend(characters.next()),
            // The password is the rest of the line up to an unescaped colon, as in libpq.
            ':' => fields.push(String::new()),
            other => fields[last].push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::{Wanted, find};

    fn check(text: &str, expected: Option<&str>) {
        let wanted = Wanted { host: "db.example", port: 5432, database: "shop", user: "app" };
        assert_eq!(find(text, &wanted).as_deref(), expected, "{text}");
    }

    #[test]
    fn first_matching_line_wins() {
        check("other:*:*:*:no\ndb.example:5432:shop:app:yes\n*:*:*:*:later", Some("yes"));
        check("db.example:5433:shop:app:no", None);
        check("# *:*:*:*:comment", None);
        check("*:*:*:app:with\\:colon\\\\", Some("with:colon\\"));
        check("too:few", None);
    }
}
