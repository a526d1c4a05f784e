//! From dirty keys to rows: batches, builds and faults.
//!
//! ```text
//!   DirtySet ──take(snapshot)──► batch ──trace──► root keys ──row query──► merge ──┐
//!      ▲                           │  one source snapshot, fenced                  ├─ one target transaction
//!      └────── done / give back ───┴───────────────── checkpoint ──────────────────┘
//! ```
//!
//! The guarantee: after every commit the tables of a group equal their defining queries at one source snapshot, all of them
//! together. One primitive, *refresh these keys*, serves live changes and whatever a build may have left behind; pages of a build that
//! nobody has begun are loaded beside. A crash anywhere only repeats work, because recomputing a row is idempotent.

pub mod analysis;
mod batch;
mod checkpoint;
mod claims;
mod clash;
mod error;
mod feed;
mod group;
mod loaders;
mod notices;
mod observer;
mod planning;
mod projection;
mod quarantine;
mod sessions;
mod stages;
mod statements;
mod status;
mod suspects;
mod tables;
mod transfer;

pub use checkpoint::claim_group;
pub use claims::rows_refreshed;
pub use error::{BatchError, Side};
pub use feed::{forget_changes, record_that_all_changed};
pub use group::{FencePolicy, Group, GroupCommand, GroupEnd, GroupSettings, RefreshOptions};
pub use observer::{BatchObserver, BatchView, LiveClaim, LiveProjection};
pub use projection::{Configured, Progress, Projection};
pub use quarantine::{Key, OnError};
pub use sessions::Endpoints;
pub use status::{Failing, GroupStatus, ProjectionState, ProjectionStatus};
pub use suspects::{SuspectKind, Suspects};
pub use tables::{Registered, drop_projection, drop_views, empty, grant, load_registered, register};
