//! Texts as their database has them: bytes. They are UTF-8 but for a database of encoding `SQL_ASCII`, which holds whatever it was given.
//!
//! A session of such a database that carries texts asks for `client_encoding` `SQL_ASCII` ([`Session::open_carrying`](crate::Session)): then
//! PostgreSQL neither converts nor refuses (`pg_server_to_any` and `pg_any_to_server`, PostgreSQL's `mbutils.c`).

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{Debug, Display, Formatter, Write as _};

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// The encoding that is none: PostgreSQL looks at no byte.
pub const SQL_ASCII: &str = "SQL_ASCII";

/// A text that is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextRef<'a>(pub &'a [u8]);

/// A text.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Box<[u8]>);

/// Which texts a database can hold, as far as that is known without asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repertoire {
    /// Every text that is UTF-8.
    Unicode,
    /// Those of ASCII for sure.
    Ascii,
}

impl Repertoire {
    /// Of a database with this encoding, for sessions that speak UTF-8.
    pub fn of(server_encoding: &str) -> Self {
        match server_encoding {
            "UTF8" | SQL_ASCII => Self::Unicode,
            _ => Self::Ascii,
        }
    }

    /// Of the database that a session is with.
    ///
    /// # Errors
    /// The statement failed.
    pub async fn of_session(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let row = client.query_one("SELECT pg_catalog.getdatabaseencoding()::text", &[]).await?;
        Ok(Self::of(row.get(0)))
    }

    fn has(self, text: &str) -> bool {
        self == Self::Unicode || text.is_ascii()
    }

    /// A message for people, with question marks for what the database may not hold.
    pub fn message(self, text: &str) -> Cow<'_, str> {
        if self.has(text) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect())
    }
}

/// What a text that is written otherwise than it is begins with: PostgreSQL's escape string syntax, so that it can be pasted.
const ESCAPED: &str = "E'";

impl Text {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As UTF-8, if it is.
    pub fn as_utf8(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// As it is written down where only such texts can be: as it is, or as an escape string (`E'caf\xe9'`).
    pub fn recorded(&self, repertoire: Repertoire) -> Cow<'_, str> {
        match self.as_utf8() {
            Some(text) if repertoire.has(text) && !text.starts_with(ESCAPED) => Cow::Borrowed(text),
            Some(_) | None => Cow::Owned(self.escaped()),
        }
    }

    fn escaped(&self) -> String {
        let mut escaped = String::from(ESCAPED);
        for &byte in &self.0 {
            match byte {
                b'\\' | b'\'' => escaped.extend(['\\', char::from(byte)]),
                b' '..=b'~' => escaped.push(char::from(byte)),
                _ => drop(write!(escaped, "\\x{byte:02x}")),
            }
        }
        escaped.push('\'');
        escaped
    }

    /// The text that was written down so.
    pub fn from_recorded(recorded: &str) -> Self {
        let Some(mut rest) = recorded.strip_prefix(ESCAPED).and_then(|rest| rest.strip_suffix('\'')).map(str::as_bytes) else {
            return recorded.into();
        };
        let mut bytes = Vec::with_capacity(rest.len());
        loop {
            match rest {
                [b'\\', b'x', high, low, tail @ ..] => {
                    let hex = [*high, *low];
                    let byte = std::str::from_utf8(&hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                    // Somebody has written it by hand: then it is what it is.
                    let Some(byte) = byte else { return recorded.into() };
                    bytes.push(byte);
                    rest = tail;
                }
                [b'\\', byte, tail @ ..] | [byte, tail @ ..] => {
                    bytes.push(*byte);
                    rest = tail;
                }
                [] => return Self(bytes.into()),
            }
        }
    }

    /// An expression that is this text, in a session that carries texts.
    pub fn sql_literal(&self) -> String {
        match self.as_utf8() {
            Some(text) if text.contains('\\') => format!("E'{}'", text.replace('\'', "''").replace('\\', "\\\\")),
            Some(text) => format!("'{}'", text.replace('\'', "''")),
            None => self.escaped(),
        }
    }
}

impl Display for Text {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.recorded(Repertoire::Unicode))
    }
}

impl Debug for Text {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.recorded(Repertoire::Unicode), formatter)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl From<TextRef<'_>> for Text {
    fn from(text: TextRef<'_>) -> Self {
        Self(text.0.into())
    }
}

impl<'a> FromSql<'a> for TextRef<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(of: &Type) -> bool {
        <&str as FromSql>::accepts(of)
    }
}

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.into()))
    }

    fn accepts(of: &Type) -> bool {
        <&str as FromSql>::accepts(of)
    }
}

impl ToSql for TextRef<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        <&str as ToSql>::accepts(of)
    }

    to_sql_checked!();
}

impl ToSql for Text {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        TextRef(&self.0).to_sql(of, out)
    }

    fn accepts(of: &Type) -> bool {
        <&str as ToSql>::accepts(of)
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::{Repertoire, Text, TextRef};

    #[test]
    fn what_is_written_down_is_read_again() {
        let texts: [&[u8]; 9] = [
            b"",
            b"plain",
            b"caf\xe9",
            "caf\u{e9}".as_bytes(),
            b"E'",
            b"E'a'",
            b"\\x41\xff'",
            b"a\n\xc3",
            "\u{6f22}\\".as_bytes(),
        ];
        for bytes in texts {
            let text = Text::from(TextRef(bytes));
            for repertoire in [Repertoire::Unicode, Repertoire::Ascii] {
                let recorded = text.recorded(repertoire);
                assert!(repertoire.has(&recorded), "{recorded}");
                assert_eq!(Text::from_recorded(&recorded), text, "{recorded}");
            }
        }
        let text = Text::from(TextRef(b"caf\xe9"));
        assert_eq!((text.to_string().as_str(), text.sql_literal().as_str()), (r"E'caf\xe9'", r"E'caf\xe9'"));
        assert_eq!(Text::from("caf\u{e9}").recorded(Repertoire::Unicode), "caf\u{e9}");
        assert_eq!(Text::from("caf\u{e9}").recorded(Repertoire::Ascii), r"E'caf\xc3\xa9'");
        assert_eq!(Text::from(r"it's \n").sql_literal(), r"E'it''s \\n'");
        assert_eq!(Text::from_recorded(r"E'\xzz'"), Text::from(r"E'\xzz'"));
    }

    #[test]
    fn messages_can_be_stored() {
        assert_eq!(Repertoire::of("LATIN1").message("no \u{6f22}"), "no ?");
        assert_eq!(Repertoire::of("UTF8").message("no \u{6f22}"), "no \u{6f22}");
    }
}
