//! A round: what it is started with, and how it ends.

use std::sync::Arc;

use lockstep_capture::StreamEnd;
use lockstep_config::Config;
use lockstep_observe::{Health, Observed};

/// How running ended, or what is to be done.
pub(super) enum RoundEnd {
    Stopped,
    CaughtUp,
    /// Set up again in place, for this reason: the stream and the groups that it does not concern run on.
    Renew(String),
    /// Set up anew, for this reason: it can go on no more.
    Again(String),
    /// Set up anew: the stream can go on no more.
    StreamEnded(StreamEnd),
    /// Set up anew with another slot: that is asked for.
    NewSlot,
    /// Set up again with another configuration.
    Reloaded(Box<Config>),
    SetUpFailed(anyhow::Error),
    Failed(anyhow::Error),
}

/// What stays the same for as long as the process runs.
pub(super) struct Started {
    pub(super) once: bool,
    pub(super) health: Health,
    pub(super) observed: Arc<Observed>,
}
