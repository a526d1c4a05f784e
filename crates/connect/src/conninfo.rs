//! Connection strings as libpq reads them: `keyword=value …`, or a URL.
//!
//! The rules are those of `conninfo_parse` and `conninfo_uri_parse_options` (PostgreSQL's `fe-connect.c`). No error repeats what may be a
//! password.

use crate::settings_error::SettingsError;

/// Keywords and values in the order in which they stand; a later one wins.
pub(crate) type Pairs = Vec<(String, String)>;

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// How a string is to look, for messages.
pub(crate) const EXPECTED: &str =
    "expected postgres://USER@HOST:PORT/DATABASE, keywords (host=… user=…), or libpq's variables (PGHOST, …)";

/// Whether a string is a URL of PostgreSQL's.
pub fn is_url(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// Takes a connection string apart.
pub(crate) fn parse(text: &str) -> Result<Pairs, SettingsError> {
    if let Some(rest) = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        return url(rest);
    }
    // A keyword has no colon before its equals sign.
    let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| !scheme.contains(['=', ' ']));
    match scheme {
        Some(scheme) => Err(SettingsError::new(format!("\"{scheme}://\" is the URL of something else, not of PostgreSQL"))
            .help("PostgreSQL's begin with postgres:// (JDBC's without jdbc:)")),
        None => keywords(text),
    }
}

fn keywords(text: &str) -> Result<Pairs, SettingsError> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let keyword = &rest[..end];
        let Some(after) = rest[end..].trim_start().strip_prefix('=') else {
            return Err(SettingsError::new("a keyword without \"=\" in the connection string").help(
                "values with blanks stand in single quotes (password='two words'), and in them \\' is a quote and \\\\ a backslash",
            ));
        };
        let (value, remaining) = value(after.trim_start())?;
        pairs.push((keyword.to_owned(), value));
        rest = remaining.trim_start();
    }
    Ok(pairs)
}

/// A value, quoted or not, and what follows it.
fn value(text: &str) -> Result<(String, &str), SettingsError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            blank if !quoted && blank.is_ascii_whitespace() => return Ok((value, &text[at..])),
            other => value.push(other),
        }
    }
    if quoted {
        return Err(SettingsError::new("a quoted value without its closing quote in the connection string"));
    }
    Ok((value, ""))
}

fn url(rest: &str) -> Result<Pairs, SettingsError> {
    let mut pairs = Pairs::new();
    let mut rest = rest;
    // libpq looks for @ up to the first slash.
    let authority_end = rest.find('/').unwrap_or(rest.len());
    if let Some(at) = rest[..authority_end].find('@') {
        let (user, password) = rest[..at].split_once(':').map_or((&rest[..at], None), |(user, word)| (user, Some(word)));
        push(&mut pairs, "user", user)?;
        if let Some(password) = password {
            push(&mut pairs, "password", password)?;
        }
        rest = &rest[at + 1..];
    }
    let hosts_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (hosts, after) = rest.split_at(hosts_end);
    hosts_of(hosts, after, &mut pairs)?;
    let (path, query) = after.split_once('?').map_or((after, None), |(path, query)| (path, Some(query)));
    if let Some(database) = path.strip_prefix('/').filter(|database| !database.is_empty()) {
        push(&mut pairs, "dbname", database)?;
    }
    for parameter in query.unwrap_or_default().split('&').filter(|_| query.is_some_and(|query| !query.is_empty())) {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) if !value.contains('=') => (decode(name)?, decode(value)?),
            Some((name, _)) => {
                return Err(SettingsError::new(format!("a second \"=\" in the URL's parameter {name}; write it %3D")));
            }
            None => return Err(SettingsError::new("a parameter of the URL has no \"=\"")),
        };
        // As JDBC has it.
        match (name.as_str(), value.as_str()) {
            ("ssl", "true") => pairs.push(("sslmode".to_owned(), "require".to_owned())),
            _ => pairs.push((name, value)),
        }
    }
    Ok(pairs)
}

/// Hosts and ports, each with commas between.
fn hosts_of(text: &str, after: &str, pairs: &mut Pairs) -> Result<(), SettingsError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for entry in text.split(',') {
        let (host, port) = match entry.strip_prefix('[') {
            Some(bracketed) => {
                let Some((address, port)) = bracketed.split_once(']') else {
                    return Err(SettingsError::new("\"[\" without \"]\" around an IPv6 address in the URL"));
                };
                (address, port.strip_prefix(':').or((port.is_empty()).then_some("")))
            }
            None => entry.split_once(':').map_or((entry, Some("")), |(host, port)| (host, Some(port))),
        };
        // What comes before an @ that libpq does not see, or after one that it takes for the end of the password.
        if after.contains('@') && port.is_some_and(|port| port.parse::<u16>().is_err() && !port.is_empty()) {
            return Err(
                SettingsError::new("the password in the URL contains a \"/\"").help("write it %2F, or give it as ${NAME}")
            );
        }
        if host.contains('@') {
            return Err(
                SettingsError::new("user or password in the URL contain an \"@\"").help("write it %40, or give it as ${NAME}")
            );
        }
        if host.contains('#') || port.is_none_or(|port| port.contains('#')) {
            return Err(SettingsError::new("there is a \"#\" where the URL has its host").help("in a password write it %23"));
        }
        hosts.push(decode(host)?);
        ports.push(port.unwrap_or_default());
    }
    if hosts.iter().any(|host| !host.is_empty()) || hosts.len() > 1 {
        pairs.push(("host".to_owned(), hosts.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn push(pairs: &mut Pairs, keyword: &str, encoded: &str) -> Result<(), SettingsError> {
    pairs.push((keyword.to_owned(), decode(encoded)?));
    Ok(())
}

/// Percent-decoding; a sequence that is none is an error, as in libpq.
fn decode(text: &str) -> Result<String, SettingsError> {
    let wrong = || {
        SettingsError::new("a \"%\" in the URL that is not followed by two hexadecimal digits").help("write a percent sign %25")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = tail.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit)).ok_or_else(wrong)?;
        let byte = std::str::from_utf8(hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or_else(wrong)?;
        if byte == 0 {
            return Err(SettingsError::new("%00 has no place in a URL"));
        }
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| SettingsError::new("the URL is not UTF-8 where it is percent-encoded"))
}

/// Percent-encodes everything that could mean something in a URL.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A URL of the same meaning without the password. Hosts that are not in the pairs are given.
pub(crate) fn url_without_password(pairs: &Pairs, hosts: &[(String, u16)], user: &str, database: &str) -> String {
    let host = |(name, port): &(String, u16)| match name.as_str() {
        address if address.contains(':') => format!("[{address}]:{port}"),
        name => format!("{}:{port}", encode(name)),
    };
    let hosts: Vec<String> = hosts.iter().map(host).collect();
    let others: Vec<String> = pairs
        .iter()
        .filter(|(name, _)| !["user", "host", "port", "dbname", "password", "sslpassword"].contains(&name.as_str()))
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    let parameters = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    format!("postgres://{}@{}/{}{parameters}", encode(user), hosts.join(","), encode(database))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected: Pairs = expected.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(parse(text).unwrap_or_else(|error| panic!("{text}: {}", error.message)), expected, "{text}");
    }

    #[test]
    fn keywords_with_quotes_and_backslashes() {
        check("host = h user=u", &[("host", "h"), ("user", "u")]);
        check(r"password='it\'s a \\ word' dbname=x", &[("password", r"it's a \ word"), ("dbname", "x")]);
        check(r"password=two\ words user=''", &[("password", "two words"), ("user", "")]);
        check("  ", &[]);
        assert!(parse("host").is_err() && parse("password='open").is_err());
    }

    #[test]
    fn urls() {
        check("postgresql://", &[]);
        check(
            "postgres://u:p%40%2F@h:1/d?a=b%20c",
            &[("user", "u"), ("password", "p@/"), ("host", "h"), ("port", "1"), ("dbname", "d"), ("a", "b c")],
        );
        check("postgres://u:a?b#c@h", &[("user", "u"), ("password", "a?b#c"), ("host", "h")]);
        check("postgres://a,b:5,[::1]:6/d", &[("host", "a,b,::1"), ("port", ",5,6"), ("dbname", "d")]);
        check("postgres://%2Ftmp/d", &[("host", "/tmp"), ("dbname", "d")]);
        check("postgres:///d?ssl=true", &[("dbname", "d"), ("sslmode", "require")]);
        check(&format!("postgres://u:{}@h", encode("@/?#% ü")), &[("user", "u"), ("password", "@/?#% ü"), ("host", "h")]);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_repeated() {
        for (text, said) in [
            ("postgres://u:hush/hush@h/d", "contains a \"/\""),
            ("postgres://u:hush@hush@h/d", "contain an \"@\""),
            ("postgres://u:hush%zz@h/d", "hexadecimal"),
            ("mysql://u:hush@h/d", "\"mysql://\" is the URL of something else"),
            ("jdbc:postgresql://u:hush@h/d", "something else"),
            ("postgres://u:hush@h/d?x", "no \"=\""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(said) && !error.message.contains("hush"), "{text}: {}", error.message);
        }
    }
}
