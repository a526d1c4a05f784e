//! Why a query, or a part of it, cannot be maintained incrementally.

/// A reason, in words that follow "because", and where in the query it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) reason: String,
    /// The byte in the query's text, where the construct is known and stands in that text.
    pub(crate) position: Option<usize>,
    /// What to write instead, where there is a way.
    pub(crate) hint: Option<String>,
}

pub(crate) type Outcome<T> = Result<T, Obstacle>;

impl Obstacle {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), position: None, hint: None }
    }

    /// The obstacle with the place of the construct, as the parser counts: -1 is nowhere.
    pub(crate) fn at(reason: impl Into<String>, location: i32) -> Self {
        // A location of 0 is what trees made by this program carry.
        Self { position: usize::try_from(location).ok().filter(|&position| position > 0), ..Self::new(reason) }
    }

    /// The obstacle with a way around it.
    pub(crate) fn instead(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Where its place is in another text than the query's own.
    pub(crate) fn without_place(self) -> Self {
        Self { position: None, ..self }
    }
}

impl From<String> for Obstacle {
    fn from(reason: String) -> Self {
        Self::new(reason)
    }
}
