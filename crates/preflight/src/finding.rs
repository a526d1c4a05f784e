//! What was found, and how it is told: each once.

use lockstep_config::Diagnostic;
use serde::Serialize;

use crate::remedy::{Remedy, Statement};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works, and could work better.
    Warning,
    /// `run` will refuse.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What was looked at: `source`, `target`, `projection product_search`, …
    pub subject: String,
    /// What was found.
    pub message: String,
    /// What to do about it, in one line.
    pub remedy: Option<String>,
    /// The statements of that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<Statement>,
    /// The same as lines that can be pasted as a whole.
    #[serde(skip)]
    pub lines: Vec<String>,
    /// The message with its place in a file.
    #[serde(skip)]
    pub diagnostic: Option<Diagnostic>,
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        subject: String,
        message: String,
        remedy: Option<&Remedy>,
        two_databases: bool,
    ) -> Self {
        Self {
            severity,
            subject,
            message,
            remedy: remedy.map(|remedy| remedy.line(two_databases)),
            statements: remedy.map(|remedy| remedy.statements.clone()).unwrap_or_default(),
            lines: remedy.map(|remedy| remedy.lines(two_databases)).unwrap_or_default(),
            diagnostic: None,
        }
    }

    /// The message without the projection's name, which the subject has already.
    pub fn what(&self) -> &str {
        self.message.strip_prefix(&format!("{}: ", self.subject)).unwrap_or(&self.message)
    }

    /// As it is shown to people.
    pub fn render(&self, colours: bool) -> String {
        let title = format!("{}: {}", self.subject, self.what());
        let diagnostic = match &self.diagnostic {
            Some(diagnostic) => diagnostic.clone().titled(title),
            None => Diagnostic::error(title),
        };
        if self.lines.is_empty() {
            return diagnostic.render(colours);
        }
        if self.statements.is_empty() {
            return diagnostic.help(self.lines.join("\n")).render(colours);
        }
        // What can be pasted stands at the beginning of its lines.
        format!("{}\n{}", diagnostic.without_help().render(colours), self.lines.join("\n"))
    }
}

/// The findings with those that have one cause as one: the same of several projections is told of them together.
pub fn each_once(findings: &[Finding]) -> Vec<Finding> {
    let mut told: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = |other: &&mut Finding| {
            other.severity == finding.severity && other.what() == finding.what() && other.remedy == finding.remedy
        };
        let Some(other) = told.iter_mut().find(same) else {
            told.push(finding.clone());
            continue;
        };
        if other.subject.split(", ").any(|subject| subject == finding.subject) {
            continue;
        }
        other.message = other.what().to_owned();
        other.subject = format!("{}, {}", other.subject, finding.subject);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_told_once() {
        let finding = |subject: &str, message: &str| {
            Finding::new(Severity::Error, subject.to_owned(), message.to_owned(), Some(&Remedy::from("mend it")), false)
        };
        let findings = [
            finding("projection a", "projection a: no SELECT"),
            finding("projection b", "projection b: no SELECT"),
            finding("projection b", "another"),
            finding("projection a", "no SELECT"),
            finding("projection c", "projection c: no SELECT"),
        ];
        let told: Vec<(String, String)> =
            each_once(&findings).into_iter().map(|finding| (finding.subject.clone(), finding.what().to_owned())).collect();
        let expected = [("projection a, projection b, projection c", "no SELECT"), ("projection b", "another")];
        assert_eq!(told, expected.map(|(subject, message)| (subject.to_owned(), message.to_owned())));
    }
}
