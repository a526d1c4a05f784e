//! What to do when a round has ended by itself: the same again, a new slot, a longer pause. Decided from what has happened before, without
//! looking at anything.

use std::time::Duration;

use lockstep_capture::StreamEnd;
use lockstep_wal::Lsn;
use tokio::time::Instant;

/// First pause before another set-up.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How much longer each pause is than the one before, while slots are lost again and again, and the longest one.
const GROWTH: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_mins(5);

/// A slot that lasted so long was not lost at once.
const LASTED: Duration = Duration::from_mins(10);

/// How often a set-up may fail in the same way before its pauses grow, and the longest of them.
const FAILURES_AT_ONCE: u32 = 3;
const FAILURES_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A stream that ends so often in the same way without having delivered anything more will do so for ever: the slot stands before something
/// that cannot be decoded or sent. A new slot stands behind it.
const TRIES: u32 = 3;

/// The same where the slot itself is said to be unusable, or the publication to be missing, and a set-up has not mended it: undefined object,
/// object not in prerequisite state.
const UNUSABLE_CODES: [&str; 2] = ["42704", "55000"];
const UNUSABLE_TRIES: u32 = 2;

/// Why a round has ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setback<'a> {
    /// The server gave the slot up, or it is not there.
    SlotLost,
    /// The stream cannot go on, although there is a slot.
    StreamEnded(&'a StreamEnd),
    /// What was running could not be set up again.
    SetUpFailed(&'a str),
    /// Another instance has taken over, a session ended, and the like.
    Other,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// Whether the slot that is there is given up.
    pub(super) new_slot: bool,
    /// The pause before another set-up.
    pub(super) pause: Duration,
    /// How often it has happened now, one time after the other.
    pub(super) times: u32,
}

/// How rounds have ended so far.
#[derive(Debug, Default)]
pub(super) struct Setbacks {
    ended: Option<Ended>,
    failed: Option<(String, u32)>,
    /// Slots that were lost soon after they had been made, and when the last one was due.
    lost: u32,
    renewed_at: Option<Instant>,
}

/// Ends of the stream in the same way at the same place.
#[derive(Debug)]
struct Ended {
    reason: String,
    last_commit: Lsn,
    times: u32,
}

impl Setbacks {
    /// A round has ended.
    pub(super) fn after(&mut self, setback: Setback<'_>, now: Instant) -> Next {
        match setback {
            Setback::SlotLost => self.slot_goes(now),
            Setback::StreamEnded(end) => {
                let times = self.ends_again(end);
                let unusable = end.sqlstate.as_deref().is_some_and(|code| UNUSABLE_CODES.contains(&code));
                if times < if unusable { UNUSABLE_TRIES } else { TRIES } {
                    return Next { new_slot: false, pause: AGAIN_AFTER, times };
                }
                Next { new_slot: true, times, ..self.slot_goes(now) }
            }
            Setback::SetUpFailed(reason) => {
                let times = match self.failed.take() {
                    Some((before, times)) if before == reason => times + 1,
                    Some(_) | None => 1,
                };
                self.failed = Some((reason.to_owned(), times));
                let doublings = times.saturating_sub(FAILURES_AT_ONCE).min(16);
                let pause = (AGAIN_AFTER * 2_u32.pow(doublings)).min(FAILURES_PAUSE_MAX);
                Next { new_slot: false, pause, times }
            }
            Setback::Other => Next { new_slot: false, pause: AGAIN_AFTER, times: 1 },
        }
    }

    /// What was set up runs.
    pub(super) fn runs(&mut self) {
        self.failed = None;
    }

    /// Somebody has done something about it.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Which time it is that the stream ends like this and has delivered nothing more.
    fn ends_again(&mut self, end: &StreamEnd) -> u32 {
        let (times, last_commit) = match &self.ended {
            Some(before) if before.reason == end.reason && end.last_commit <= before.last_commit => {
                (before.times + 1, before.last_commit)
            }
            Some(_) | None => (1, end.last_commit),
        };
        self.ended = Some(Ended { reason: end.reason.clone(), last_commit, times });
        times
    }

    /// A new slot is to be made; where the last one was lost soon, later.
    fn slot_goes(&mut self, now: Instant) -> Next {
        let soon = self.renewed_at.is_some_and(|at| now.saturating_duration_since(at) < LASTED);
        self.lost = if soon { self.lost + 1 } else { 1 };
        let pause = (AGAIN_AFTER * GROWTH.pow((self.lost - 1).min(8))).min(PAUSE_MAX);
        self.renewed_at = Some(now + pause);
        self.ended = None;
        Next { new_slot: false, pause, times: self.lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(reason: &str, sqlstate: &str, last_commit: u64) -> StreamEnd {
        let (reason, sqlstate) = (reason.to_owned(), Some(sqlstate.to_owned()));
        StreamEnd { reason, sqlstate, after: Lsn(last_commit), last_commit: Lsn(last_commit) }
    }

    fn too_large(last_commit: u64) -> StreamEnd {
        end("invalid memory alloc request size 1258291201", "XX000", last_commit)
    }

    /// Whether a new slot is made after each of them.
    fn new_slots(setbacks: &mut Setbacks, ends: &[StreamEnd]) -> Vec<bool> {
        let now = Instant::now();
        ends.iter().map(|end| setbacks.after(Setback::StreamEnded(end), now).new_slot).collect()
    }

    #[test]
    fn what_ends_the_stream_at_the_same_place_gets_a_new_slot() {
        // Whatever lies before the place is delivered the first time only.
        let ends = [too_large(70), too_large(0), too_large(0), too_large(0)];
        assert_eq!(new_slots(&mut Setbacks::default(), &ends), [false, false, true, false]);
        let unusable = [end("the slot cannot be used", "55000", 70), end("the slot cannot be used", "55000", 0)];
        assert_eq!(new_slots(&mut Setbacks::default(), &unusable), [false, true]);
    }

    #[test]
    fn one_that_gets_on_is_another_matter() {
        let ends = [too_large(70), too_large(80), too_large(90), too_large(0), too_large(100)];
        assert_eq!(new_slots(&mut Setbacks::default(), &ends), [false; 5]);
        let ends = [too_large(70), end("other", "XX000", 0), too_large(0), end("other", "XX000", 0)];
        assert_eq!(new_slots(&mut Setbacks::default(), &ends), [false; 4]);
    }

    #[test]
    fn pauses_grow_while_slots_are_lost_again_and_again() {
        let mut setbacks = Setbacks::default();
        let mut now = Instant::now();
        let mut seconds = Vec::new();
        for _ in 0..8 {
            let next = setbacks.after(Setback::SlotLost, now);
            seconds.push(next.pause.as_secs());
            // It lives for two seconds.
            now += next.pause + Duration::from_secs(2);
        }
        assert_eq!(seconds, [1, 4, 16, 64, 256, 300, 300, 300]);
        let long_after = setbacks.after(Setback::SlotLost, now + LASTED);
        assert_eq!((long_after.pause, long_after.times), (AGAIN_AFTER, 1), "one that lasted");
        setbacks.after(Setback::SlotLost, now + LASTED);
        setbacks.forget();
        assert_eq!(setbacks.after(Setback::SlotLost, now + LASTED).pause, AGAIN_AFTER);
    }

    #[test]
    fn new_slots_for_what_cannot_be_carried_come_at_growing_pauses() {
        let mut setbacks = Setbacks::default();
        let now = Instant::now();
        let ends: Vec<StreamEnd> = (0..9).map(|_| too_large(7)).collect();
        let made = ends.iter().map(|end| setbacks.after(Setback::StreamEnded(end), now)).filter(|next| next.new_slot);
        let pauses: Vec<u64> = made.map(|next| next.pause.as_secs()).collect();
        assert_eq!(pauses, [1, 4, 16]);
    }

    #[test]
    fn set_ups_that_fail_in_the_same_way_are_tried_less_often() {
        let mut setbacks = Setbacks::default();
        let now = Instant::now();
        let mut pause = |reason| setbacks.after(Setback::SetUpFailed(reason), now).pause.as_secs();
        let pauses: Vec<u64> = (0..9).map(|_| pause("refused")).collect();
        assert_eq!(pauses, [1, 1, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause("another reason"), 1);
        assert_eq!(setbacks.after(Setback::Other, now).pause, AGAIN_AFTER);
    }
}
