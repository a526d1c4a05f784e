//! Errors of capture.

/// An error of the SQL that sets capture up.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The replication connection's error.
    #[error(transparent)]
    Replication(#[from] lockstep_wal::ReplicationError),
    /// An error of an ordinary SQL session.
    #[error("{}", lockstep_connect::describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// The wait for a condition took longer than its bound.
    #[error("{0}")]
    TimedOut(String),
    /// Capture has ended and will not come back by itself.
    #[error("the replication stream ended: {0}")]
    Ended(String),
}
