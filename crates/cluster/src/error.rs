//! Errors of running a cluster.

/// A cluster could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No server binaries.
    #[error("{0}")]
    NoBinaries(String),
    /// A program failed; its output is included.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: String,
        /// What it said.
        output: String,
    },
    /// Files or users.
    #[error("{0}")]
    System(String),
}
