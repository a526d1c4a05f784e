//! Messages for people: what happened, where (a caret into SQL or TOML), what to do.

use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One error, ready to be shown.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    place: Option<Place>,
    help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Note,
}

#[derive(Debug, Clone)]
struct Place {
    path: String,
    text: String,
    span: Range<usize>,
}

impl Diagnostic {
    /// An error.
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), place: None, help: None }
    }

    /// Something to know.
    pub fn note(message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(message) }
    }

    /// Points at bytes `span` of `text`. Passwords in URLs are blotted out.
    #[must_use]
    pub fn at(mut self, path: &Path, text: &str, span: Range<usize>) -> Self {
        let text = blot_passwords(text);
        let start = span.start.min(text.len());
        let end = span.end.clamp(start, text.len());
        self.place = Some(Place { path: path.display().to_string(), text, span: start..end });
        self
    }

    /// Points at a character of a text, counted from 0; a word is underlined whole.
    #[must_use]
    pub fn at_character(self, path: &Path, text: &str, position: usize) -> Self {
        let start = text.char_indices().nth(position).map_or(text.len(), |(at, _)| at);
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.' || c == '"';
        let length: usize = text[start..].chars().take_while(|c| is_word(*c)).map(char::len_utf8).sum();
        let length = length.max(text[start..].chars().next().map_or(0, char::len_utf8));
        self.at(path, text, start..start + length)
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same without what to do.
    #[must_use]
    pub fn without_help(mut self) -> Self {
        self.help = None;
        self
    }

    /// The same under another message.
    #[must_use]
    pub fn titled(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do, if it says so.
    pub fn remedy(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The whole text, with colours or without.
    pub fn render(&self, colours: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Note => Level::NOTE,
        };
        let mut group = level.primary_title(self.message.as_str()).elements(Vec::<annotate_snippets::Element<'_>>::new());
        if let Some(place) = &self.place {
            group = group.element(
                Snippet::source(place.text.as_str())
                    .path(place.path.as_str())
                    .annotation(AnnotationKind::Primary.span(place.span.clone())),
            );
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// Replaces the password of every URL and of every `password=` by asterisks of the same length, so that positions stay.
fn blot_passwords(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let mut line = line.to_owned();
            if let Some(start) = line.find("password=").map(|at| at + "password=".len()) {
                let length = line[start..].find(['&', '"', '\n']).unwrap_or(line.len() - start);
                line.replace_range(start..start + length, &"*".repeat(length));
            }
            let Some(start) = line.find("://").map(|at| at + 3) else { return line };
            let (Some(colon), Some(at)) = (line[start..].find(':').map(|n| start + n + 1), line.rfind('@')) else {
                return line;
            };
            if colon >= at {
                return line;
            }
            format!("{}{}{}", &line[..colon], "*".repeat(at - colon), &line[at..])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_points_at_the_word() {
        let text = "SELECT id,\n       pirce FROM product";
        let rendered = Diagnostic::error("column \"pirce\" does not exist")
            .at_character(Path::new("p.sql"), text, 18)
            .help("perhaps price")
            .render(false);
        assert!(rendered.contains("p.sql:2:8") && rendered.contains("^^^^^") && rendered.contains("perhaps price"), "{rendered}");
    }

    #[test]
    fn passwords_are_blotted_out() {
        assert_eq!(blot_passwords("url = \"postgres://a:b@c@h/d\"\nx"), "url = \"postgres://a:***@h/d\"\nx");
        assert_eq!(blot_passwords("a = \"postgres://h:5/d\""), "a = \"postgres://h:5/d\"");
        assert_eq!(blot_passwords("u = \"host=h password=hush\""), "u = \"host=h password=****\"");
    }
}
