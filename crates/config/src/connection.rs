//! Variables in texts, and what becomes a connection.

use std::path::{Path, PathBuf};

use lockstep_connect::{Settings, encode, is_url};
use toml::Spanned;

use crate::reader::{Outcome, Reader};

/// Where a variable stands, and with it how its value has to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Anywhere that its value means what it says.
    Plain,
    /// In a URL where a name, a password or a value stands.
    OfUrl,
    /// The same for the user, whose name may come with a password.
    UserOfUrl,
    /// The whole value of a keyword.
    Keyword,
    /// Within quotes.
    Quoted,
}

impl Position {
    /// Judged by what stands before and after it in the text as it is written.
    fn of(before: &str, after: &str) -> Self {
        if is_url(before) {
            return Self::in_url(before, after);
        }
        if before.contains("://") || !before.contains('=') {
            return Self::Plain;
        }
        let quotes = before.matches('\'').count() - before.matches("\\'").count();
        match before.chars().next_back() {
            _ if quotes % 2 == 1 => Self::Quoted,
            Some('=') if after.is_empty() || after.starts_with(' ') => Self::Keyword,
            Some(_) | None => Self::Plain,
        }
    }

    fn in_url(before: &str, after: &str) -> Self {
        let authority = before.split_once("://").map_or("", |(_, rest)| rest);
        let ends_authority = |text: &str| text.find(['/', '?']).unwrap_or(text.len());
        if authority.contains('?') {
            // `?${PARAMETERS}` is a text of parameters.
            return if before.ends_with(['?', '&']) { Self::Plain } else { Self::OfUrl };
        }
        if authority.contains('/') {
            return Self::OfUrl;
        }
        // An @ behind it makes it user or password; hosts and ports stay as they are.
        let is_before_at = !authority.contains('@') && after[..ends_authority(after)].contains('@');
        match (is_before_at, authority.contains(':')) {
            (true, true) => Self::OfUrl,
            (true, false) => Self::UserOfUrl,
            (false, _) => Self::Plain,
        }
    }

    fn written(self, value: &str) -> String {
        let quoted = || value.replace('\\', "\\\\").replace('\'', "\\'");
        match self {
            Self::Plain => value.to_owned(),
            Self::OfUrl => encode(value),
            Self::UserOfUrl => value.split(':').map(encode).collect::<Vec<_>>().join(":"),
            Self::Keyword => format!("'{}'", quoted()),
            Self::Quoted => quoted(),
        }
    }
}

impl Reader<'_> {
    /// Replaces `${NAME}` by the variable's value; `$${` stands for `${`.
    pub(crate) fn expand(&self, value: &Spanned<String>) -> Outcome<String> {
        self.expand_as(value, |_, _| Position::Plain)
    }

    /// The same for a connection string: a value is written so that it means what it is.
    fn expand_connection(&self, value: &Spanned<String>) -> Outcome<String> {
        self.expand_as(value, Position::of)
    }

    fn expand_as(&self, value: &Spanned<String>, position: impl Fn(&str, &str) -> Position) -> Outcome<String> {
        let text = value.get_ref();
        let mut result = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                result.push_str(&rest[..at]);
                result.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            result.push_str(&rest[..at]);
            let Some(length) = rest[at..].find('}') else {
                return self.fail(value.span(), "\"${\" without \"}\"", "write ${NAME}, or $${ for a literal ${");
            };
            let name = &rest[at + 2..at + length];
            let found = self.variable(value, name)?;
            let before = &text[..text.len() - rest.len() + at];
            rest = &rest[at + length + 1..];
            result.push_str(&position(before, rest).written(&found));
        }
        result.push_str(rest);
        Ok(result)
    }

    /// A variable of the environment, or a credential of systemd's of that name (`LoadCredential=`, `$CREDENTIALS_DIRECTORY`).
    fn variable(&self, value: &Spanned<String>, name: &str) -> Outcome<String> {
        if let Some(found) = (self.environment)(name) {
            return Ok(found);
        }
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        if let Some(directory) = (self.environment)("CREDENTIALS_DIRECTORY").filter(|_| is_name) {
            match std::fs::read_to_string(Path::new(&directory).join(name)) {
                Ok(text) => return Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return self.fail(value.span(), format!("cannot read the credential {name}: {error}"), "see LoadCredential=");
                }
            }
        }
        self.fail(
            value.span(),
            format!("the environment variable {name} is not set"),
            format!("export {name}=…, or give it as a credential of systemd's (LoadCredential={name}:FILE)"),
        )
    }

    pub(crate) fn texts(&self, values: &[Spanned<String>]) -> Outcome<Vec<String>> {
        values.iter().map(|value| self.expand(value)).collect()
    }

    /// Connection settings of a URL and a file with the password, either of which may be left out.
    pub(crate) fn settings(&self, url: Option<&Spanned<String>>, password_file: Option<&Spanned<String>>) -> Outcome<Settings> {
        let text = url.map(|url| self.expand_connection(url)).transpose()?;
        let file = password_file.map(|path| self.expand(path)).transpose()?;
        let file: Option<PathBuf> = file.map(|path| self.path.parent().unwrap_or(Path::new("")).join(path));
        let names_file = file.is_some();
        Settings::resolve_with_password_file(text.as_deref(), file, self.environment).or_else(|error| {
            let of_file = names_file && error.message.contains("password file");
            let span = password_file.filter(|_| of_file).or(url).map_or(0..0, Spanned::span);
            let usual = "expected postgres://USER@HOST:PORT/DATABASE, or libpq's variables (PGHOST, PGUSER, …)";
            self.fail(span, error.message, error.help.unwrap_or_else(|| usual.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Position;

    fn check(text: &str, value: &str, expected: &str) {
        let (before, after) = text.split_once("${X}").unwrap();
        assert_eq!(format!("{before}{}{after}", Position::of(before, after).written(value)), expected, "{text}");
    }

    #[test]
    fn a_value_means_what_it_is_wherever_it_stands() {
        check("postgres://u:${X}@h/d", "@/?#% :", "postgres://u:%40%2F%3F%23%25%20%3A@h/d");
        check("postgres://u:p${X}@h/d", "@", "postgres://u:p%40@h/d");
        check("postgres://${X}@h/d", "u:p@ss", "postgres://u:p%40ss@h/d");
        check("postgres://u@${X}/d", "a:5432,b:5433", "postgres://u@a:5432,b:5433/d");
        check("postgres://${X}/d", "u:p@h", "postgres://u:p@h/d");
        check("postgres://u@h/${X}", "a/b?c", "postgres://u@h/a%2Fb%3Fc");
        check("postgres://h/d?user=${X}", "a&b=c", "postgres://h/d?user=a%26b%3Dc");
        check("postgres://h/d?${X}", "user=a&sslmode=require", "postgres://h/d?user=a&sslmode=require");
        check("${X}", "postgres://u:p%40@h/d", "postgres://u:p%40@h/d");
        check("host=h password=${X} user=u", r"it's \", r"host=h password='it\'s \\' user=u");
        check("password='${X}'", r"it's", r"password='it\'s'");
        check("${X} user=u", "host=h", "host=h user=u");
    }
}
