//! What reads a file's values: names, numbers, and the place to point at when one is wrong.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use crate::diagnostic::Diagnostic;
use crate::raw;

/// Reads variables; tests pass their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(crate) struct Reader<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
    pub(crate) environment: Environment<'a>,
}

pub(crate) type Outcome<T> = Result<T, Box<Diagnostic>>;

impl Reader<'_> {
    pub(crate) fn fail<T>(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Outcome<T> {
        Err(Box::new(Diagnostic::error(message).at(self.path, self.text, span).help(help)))
    }

    pub(crate) fn name_or(&self, value: Option<&Spanned<String>>, default: &str) -> Outcome<String> {
        let Some(value) = value else { return Ok(default.to_owned()) };
        let name = self.expand(value)?;
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return self.fail(value.span(), "not a name that PostgreSQL accepts", "use 1 to 63 bytes");
        }
        Ok(name)
    }

    pub(crate) fn slot_name(&self, value: Option<&Spanned<String>>) -> Outcome<String> {
        let name = self.name_or(value, "lockstep")?;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        match value {
            Some(value) if !name.bytes().all(allowed) => {
                self.fail(value.span(), "not a slot name", "slot names have lower-case letters, digits and underscores only")
            }
            Some(_) | None => Ok(name),
        }
    }

    /// A number of units of so many milliseconds.
    pub(crate) fn duration(
        &self,
        value: Option<&Spanned<raw::Number>>,
        unit_ms: u64,
        allowed: std::ops::RangeInclusive<u64>,
        name: &str,
    ) -> Outcome<Option<Duration>> {
        let Some(value) = value else { return Ok(None) };
        let number = match value.get_ref() {
            raw::Number::Literal(number) => Some(*number),
            raw::Number::Text(text) => self.expand(&Spanned::new(value.span(), text.clone()))?.parse().ok(),
        };
        match number.filter(|number| allowed.contains(number)) {
            Some(number) => Ok(Some(Duration::from_millis(number * unit_ms))),
            None => self.fail(
                value.span(),
                format!("{name} is not a number from {} to {}", allowed.start(), allowed.end()),
                format!("for example {name} = {}", if unit_ms == 1 { 1000.min(*allowed.end()) } else { 60 }),
            ),
        }
    }
}
