//! The parameters of a request: each is taken once, and what is left over is a mistake.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use lockstep_read::{Facet, Source, Total};
use lockstep_wal::Lsn;

use super::problem::Problem;

/// What the path names.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::from_request_parts(parts, state).await.map_err(|_| Problem::not_found("the path is not UTF-8"))?;
        Ok(Self(name))
    }
}

/// Values of one list.
const VALUES_MAX: usize = 1_000;

/// Parameters that have not been taken yet, in the order in which they were written.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// A parameter that may be given once. An empty value is no value.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self.take_whatever(name)?.filter(|value| !value.is_empty()))
    }

    fn take_whatever(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut found = None;
        let mut rest = Vec::with_capacity(self.0.len());
        for (key, value) in std::mem::take(&mut self.0) {
            if key != name {
                rest.push((key, value));
            } else if found.replace(value).is_some() {
                return Err(Problem::bad(name, "given more than once"));
            }
        }
        self.0 = rest;
        Ok(found)
    }

    /// Values of a parameter that may be given repeatedly, and each time as a list: `a,"b,c"`. Empty ones are no values.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let (given, rest) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key == name);
        self.0 = rest;
        let mut found = Vec::new();
        for (_, text) in given {
            let values = lockstep_read::values(&text).ok_or_else(|| Problem::bad(name, "a quote is left open"))?;
            found.extend(values.into_iter().filter(|value| !value.is_empty()));
        }
        if found.len() > VALUES_MAX {
            return Err(Problem::bad(name, format!("a list has at most {VALUES_MAX} values")));
        }
        Ok(found)
    }

    /// Any of some words.
    pub(super) fn words<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Vec<T>, Problem> {
        let one = |text: &String| {
            let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            found.map(|(_, value)| *value).ok_or_else(|| Problem::bad(name, format!("not one of {}", names.join(", "))))
        };
        self.list(name)?.iter().map(one).collect()
    }

    /// A number, as it was written.
    pub(super) fn decimal(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        // NaN and the infinities are numbers of PostgreSQL, and no prices.
        if text.parse::<f64>().is_ok_and(f64::is_finite) { Ok(Some(text)) } else { Err(Problem::bad(name, "not a number")) }
    }

    /// A parameter of some type.
    pub(super) fn parse<T: FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Problem::bad(name, format!("not {what}")))
    }

    /// A number within bounds.
    pub(super) fn number(&mut self, name: &str, default: u32, max: u32) -> Result<u32, Problem> {
        let number = self.parse::<u32>(name, &format!("a number from 1 to {max}"))?.unwrap_or(default.min(max));
        if number == 0 || number > max {
            return Err(Problem::bad(name, format!("not a number from 1 to {max}")));
        }
        Ok(number)
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text));
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found.map(|(_, value)| Some(*value)).ok_or_else(|| Problem::bad(name, format!("not one of {}", names.join(", "))))
    }

    pub(super) fn total(&mut self) -> Result<Total, Problem> {
        let words = [("exact", Total::Exact), ("estimated", Total::Estimated), ("none", Total::None)];
        Ok(self.word("total", &words)?.unwrap_or(Total::Exact))
    }

    pub(super) fn source(&mut self) -> Result<Option<Source>, Problem> {
        self.word("source", &Source::ALL.map(|source| (source.name(), source)))
    }

    /// The position that the answer must contain: a parameter, or a header.
    pub(super) fn min_lsn(&mut self, headers: &HeaderMap) -> Result<Option<Lsn>, Problem> {
        // An empty one is a mistake: who sends it wants something, and would not get it.
        let (name, text) = match (self.take_whatever("min_lsn")?, headers.get("lockstep-min-lsn")) {
            (Some(text), _) => ("min_lsn", text),
            (None, Some(header)) => ("Lockstep-Min-LSN", header.to_str().unwrap_or_default().to_owned()),
            (None, None) => return Ok(None),
        };
        text.parse().map(Some).map_err(|_| Problem::bad(name, "not a position such as 0/1A2B3C4"))
    }

    /// `facets=a,b`; `column` tells which column a name means.
    pub(super) fn facets(&mut self, column: impl Fn(&str) -> Option<String>) -> Result<Vec<Facet>, Problem> {
        let Some(text) = self.take("facets")? else { return Ok(Vec::new()) };
        let facet = |name: &str| match column(name) {
            Some(column) => Ok(Facet { name: name.to_owned(), column }),
            None => Err(Problem::bad("facets", format!("\"{name}\" is none of the facets"))),
        };
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(facet).collect()
    }

    /// What is left: filters.
    pub(super) fn rest(self) -> Vec<(String, String)> {
        self.0
    }

    /// Nothing may be left.
    pub(super) fn done(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(Problem::bad(name, "there is no such parameter")),
            None => Ok(()),
        }
    }
}
