//! What to do about a finding: words, and statements with who may run them.

use serde::Serialize;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The one that is followed.
    Source,
    /// The one with the read models.
    Target,
}

/// Who may run a statement; a superuser always may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Roles and settings of the whole server.
    Superuser(Side),
    /// What is made in the database.
    DatabaseOwner(Side),
    /// The role that owns the table, in the source.
    Owner(String),
}

/// A statement, with its semicolon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// Who may run it.
    pub by: By,
    /// The statement.
    pub sql: String,
    /// It is one way among others, or has consequences elsewhere that somebody has to think of.
    pub optional: bool,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remedy {
    /// In words; beside statements what else there is to say.
    pub note: String,
    /// What is to be run, in this order.
    pub statements: Vec<Statement>,
}

impl By {
    /// As it is told. With one database for both it makes no difference which one is meant.
    pub fn label(&self, two_databases: bool) -> String {
        let (who, side) = match self {
            Self::Superuser(side) => ("a superuser".to_owned(), *side),
            Self::DatabaseOwner(side) => ("the database's owner".to_owned(), *side),
            Self::Owner(role) => (role.clone(), Side::Source),
        };
        match (two_databases, side) {
            (false, _) => format!("as {who}"),
            (true, Side::Source) => format!("in the source, as {who}"),
            (true, Side::Target) => format!("in the target, as {who}"),
        }
    }
}

impl Remedy {
    /// Statements for one role; semicolons are added.
    pub(crate) fn sql<S: AsRef<str>>(by: &By, statements: impl IntoIterator<Item = S>) -> Self {
        let statement = |sql: S| Statement { by: by.clone(), sql: terminated(sql.as_ref()), optional: false };
        Self { note: String::new(), statements: statements.into_iter().map(statement).collect() }
    }

    /// Says something beside the statements.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Nobody is to run them without thinking.
    pub(crate) fn optional(mut self) -> Self {
        self.statements.iter_mut().for_each(|statement| statement.optional = true);
        self
    }

    /// And these, each once, those of one role together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let new = other.statements.into_iter().filter(|statement| !self.statements.contains(statement));
        let new: Vec<Statement> = new.collect();
        self.statements.extend(new);
        self.statements.sort_by_key(|statement| statement.by.clone());
        self
    }

    /// In one line.
    pub(crate) fn line(&self, two_databases: bool) -> String {
        let parts = by_role(&self.statements, two_databases, &|statement| statement.sql.clone());
        let parts: Vec<String> = parts.into_iter().map(|(who, statements)| format!("{who}: {}", statements.join(" "))).collect();
        match (parts.is_empty(), self.note.is_empty()) {
            (true, _) => self.note.clone(),
            (false, true) => parts.join(" "),
            (false, false) => format!("{} ({})", parts.join(" "), self.note),
        }
    }

    /// With each statement on a line of its own, to be pasted as a whole; what is said is a comment there.
    pub fn lines(&self, two_databases: bool) -> Vec<String> {
        let mark = if self.statements.is_empty() { "" } else { "-- " };
        let mut lines: Vec<String> = (!self.note.is_empty()).then(|| format!("{mark}{}", self.note)).into_iter().collect();
        for (who, statements) in by_role(&self.statements, two_databases, &Statement::pasted) {
            lines.push(format!("-- {who}"));
            lines.extend(statements);
        }
        lines
    }
}

impl Statement {
    /// As it stands in what is pasted as a whole: what somebody has to think of is a comment there.
    pub fn pasted(&self) -> String {
        if self.optional { format!("-- perhaps: {}", self.sql) } else { self.sql.clone() }
    }
}

/// Statements that follow each other and are one role's.
fn by_role(statements: &[Statement], two_databases: bool, shown: &dyn Fn(&Statement) -> String) -> Vec<(String, Vec<String>)> {
    let mut parts: Vec<(String, Vec<String>)> = Vec::new();
    for statement in statements {
        let who = statement.by.label(two_databases);
        match parts.last_mut() {
            Some((last, collected)) if *last == who => collected.push(shown(statement)),
            Some(_) | None => parts.push((who, vec![shown(statement)])),
        }
    }
    parts
}

fn terminated(sql: &str) -> String {
    format!("{};", sql.trim().trim_end_matches(';'))
}

impl From<&str> for Remedy {
    fn from(note: &str) -> Self {
        note.to_owned().into()
    }
}

impl From<String> for Remedy {
    fn from(note: String) -> Self {
        Self { note, statements: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_told_by_role() {
        let owner = By::Owner("app".to_owned());
        let more = Remedy::sql(&owner, ["GRANT b", "GRANT d"]);
        let remedy =
            Remedy::sql(&owner, ["GRANT a", "GRANT b;"]).and(Remedy::sql(&By::Superuser(Side::Source), ["ALTER c"])).and(more);
        assert_eq!(remedy.line(false), "as a superuser: ALTER c; as app: GRANT a; GRANT b; GRANT d;");
        let lines = remedy.note("think").lines(true);
        assert_eq!(
            lines,
            [
                "-- think",
                "-- in the source, as a superuser",
                "ALTER c;",
                "-- in the source, as app",
                "GRANT a;",
                "GRANT b;",
                "GRANT d;"
            ]
        );
        let choice = Remedy::sql(&owner, ["DROP e"]).optional();
        assert_eq!((choice.line(false), choice.lines(false)[1].as_str()), ("as app: DROP e;".to_owned(), "-- perhaps: DROP e;"));
        let words = Remedy::from("correct the query");
        assert_eq!((words.line(true), words.lines(true)), ("correct the query".to_owned(), vec!["correct the query".to_owned()]));
    }
}
