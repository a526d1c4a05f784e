//! Which rows changed: from the replication stream to dirty keys, and the fence that makes them complete for a snapshot.
//!
//! ```text
//!   walsender ──► stream (decode, one transaction at a time) ──Commit──► DirtySet of each group ──take(snapshot)──► refresh
//!       ▲                                                                        │
//!       └──────── feedback: the position below which every group has committed ◄─┘
//! ```
//!
//! The guarantee: after [`Capture::fence`] returned for position L, every transaction that committed before L and touched a
//! tracked relation is in the dirty sets. Why not the obvious way, comparing commit positions with L: a commit can be in the WAL
//! and still be invisible to a snapshot, so transactions are chosen by xid, not by position ([`DirtySet::take`]).
//!
//! Reading the socket waits for nothing but the socket: the dirty sets are bounded, and a relation that overflows its bound
//! collapses to "whole relation".

mod accounts;
mod capture;
mod dirty;
mod error;
mod identity;
mod keys;
mod layout;
mod loss;
mod publication;
mod repeats;
mod running;
mod shared;
mod slot;
mod snapshot;
mod standby;
mod stream;
mod tracked;

pub use accounts::Accounted;
pub use capture::{Capture, Limits, Passed};
pub use dirty::{Batch, DirtyKeys, DirtySet};
pub use error::CaptureError;
pub use identity::{Unidentified, unidentified, unidentified_in};
pub use keys::KeySet;
pub use loss::{KEEP_FOR, KeepSettings, Loss, keep_settings, keep_statements, loss, sufficient_size};
pub use publication::{Coverage, Lack, coverage, publication_statements};
pub use running::{Blocker, RunningTransactions, blockers};
pub use shared::{CaptureStatus, StreamEnd};
pub use slot::{SlotState, slot_state};
pub use snapshot::Snapshot;
pub use standby::chooses_us;
pub use stream::StreamSettings;
pub use tracked::{Interest, Signature, Tracked, signatures};
