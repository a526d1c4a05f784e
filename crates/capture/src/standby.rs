//! Standing aside: our stream must never be what the application's commits wait for.
//!
//! `synchronous_standby_names` chooses among all walsenders by their application's name, ours too. Chosen, it would confirm only what a
//! batch has committed, and a batch sees a row only when it is confirmed: a circle. So while the setting would choose us, status updates
//! report no position at all. A walsender without a flush position is no candidate for a synchronous standby
//! (`SyncRepGetCandidateStandbys`), releases nobody (`SyncRepReleaseWaiters`, PostgreSQL's `syncrep.c`) and leaves its slot where it is
//! (`ProcessStandbyReplyMessage`, `walsender.c`); `pg_basebackup`'s second connection does the same. The slot is moved between two streams
//! instead ([`advance`]).

use std::time::Duration;

use lockstep_connect::{Session, Settings};
use lockstep_wal::{APPLICATION_NAME, Lsn};
use tokio::time::Instant;

/// While we stand aside the slot is moved this often …
pub(crate) const ADVANCE_EVERY: Duration = Duration::from_secs(30);

/// … or when so much could be let go: it is WAL that the server keeps for us.
pub(crate) const ADVANCE_BYTES: u64 = 64 * 1024 * 1024;

/// How long to wait for our own former walsender to let go of the slot.
const RELEASE_MAX: Duration = Duration::from_secs(10);

/// Whether `synchronous_standby_names` chooses our stream, alone or among others: its name or `*` stands in the list.
pub fn chooses_us(setting: &str) -> bool {
    names(setting).iter().any(|name| name == "*" || name.eq_ignore_ascii_case(APPLICATION_NAME))
}

/// The names in the list: `a, "b c"`, `2 (a, b)`, `FIRST 2 (a, *)` or `ANY 2 (a, b)`, as `syncrep_scanner.l` reads it.
fn names(setting: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = setting.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            // What stood before it says how many.
            '(' => names.clear(),
            '"' => {
                let mut name = String::new();
                while let Some(next) = rest.next() {
                    if next != '"' {
                        name.push(next);
                    } else if rest.next_if_eq(&'"').is_some() {
                        name.push('"');
                    } else {
                        break;
                    }
                }
                names.push(name);
            }
            next if next == ',' || next == ')' || next.is_whitespace() => {}
            next => {
                let mut name = String::from(next);
                while let Some(next) = rest.next_if(|next| !matches!(next, ',' | '(' | ')' | '"') && !next.is_whitespace()) {
                    name.push(next);
                }
                names.push(name);
            }
        }
    }
    names
}

/// Moves the slot, which nobody streams from, to where every group has committed. Returns where it is.
///
/// # Errors
/// The source cannot be reached, or the slot cannot be moved.
pub(crate) async fn advance(source: &Settings, slot: &str, to: Lsn) -> Result<Lsn, String> {
    let session = Session::open(source, "lockstep").await.map_err(|error| error.to_string())?;
    let deadline = Instant::now() + RELEASE_MAX;
    loop {
        let moved = session
            .query_one(
                "SELECT end_lsn::text FROM pg_replication_slot_advance($1::text::name, $2::text::pg_lsn)",
                &[&slot, &to.to_string()],
            )
            .await;
        match moved {
            Ok(row) => return row.get::<_, String>(0).parse().map_err(|_| "the slot's position is unreadable".to_owned()),
            // 55006: our former walsender has not ended yet.
            Err(error) if error.code().is_some_and(|code| code.code() == "55006") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(lockstep_connect::describe(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{chooses_us, names};

    #[test]
    fn the_list_is_read_as_the_server_reads_it() {
        for (setting, expected) in [
            ("", &[][..]),
            ("s1", &["s1"]),
            ("s1, s2", &["s1", "s2"]),
            ("*", &["*"]),
            ("2 (s1, s2)", &["s1", "s2"]),
            ("FIRST 1 (s1,*)", &["s1", "*"]),
            ("any 2(\"a \"\"b\"\", (c\", s2)", &["a \"b\", (c", "s2"]),
        ] {
            assert_eq!(names(setting), expected, "{setting}");
        }
    }

    #[test]
    fn names_that_mean_us() {
        for setting in ["*", "FIRST 1 (s1, *)", "ANY 1 (\"Lockstep Replication\", s1)", "\"lockstep replication\"", "\"*\""] {
            assert!(chooses_us(setting), "{setting}");
        }
        for setting in ["", "s1", "FIRST 1 (lockstep, replication)", "\"lockstep replication 2\""] {
            assert!(!chooses_us(setting), "{setting}");
        }
    }
}
