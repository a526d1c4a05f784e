//! A failure that cures itself, mostly, and does not: the stream breaks at the same transaction again and again.

use lockstep_wal::Lsn;

/// So often at the same place is for ever.
const TIMES_MAX: u32 = 5;

/// Counts how often the server has given up at the same place.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    sqlstate: String,
    last_commit: Lsn,
    times: u32,
}

impl Repeats {
    /// Notes that a stream which ran has ended, and after which transaction; whether that has happened too often. What the server says of
    /// its resources and files (classes 53, out of memory or disk, and 58, system errors) is counted: a transaction may need more than
    /// there is. What ends connections (08, 57) says nothing of what is streamed.
    pub(crate) fn is_stuck(&mut self, sqlstate: Option<&str>, last_commit: Lsn) -> bool {
        let Some(sqlstate) = sqlstate.filter(|code| code.starts_with("53") || code.starts_with("58")) else { return false };
        let again = self.sqlstate == sqlstate && self.last_commit == last_commit;
        self.times = if again { self.times + 1 } else { 1 };
        sqlstate.clone_into(&mut self.sqlstate);
        self.last_commit = last_commit;
        self.times >= TIMES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fails_at_the_same_place_is_stuck() {
        let mut repeats = Repeats::default();
        let memory = Some("53200");
        assert!((1..TIMES_MAX).all(|_| !repeats.is_stuck(memory, Lsn(7))));
        assert!(!repeats.is_stuck(memory, Lsn(8)), "a transaction has been delivered");
        assert!((2..TIMES_MAX).all(|_| !repeats.is_stuck(memory, Lsn(8))));
        assert!(repeats.is_stuck(memory, Lsn(8)));
        let mut repeats = Repeats::default();
        assert!((0..TIMES_MAX * 2).all(|_| !repeats.is_stuck(Some("57P01"), Lsn(7)) && !repeats.is_stuck(None, Lsn(7))));
    }
}
