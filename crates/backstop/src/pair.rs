//! A pair of snapshots, one on each side, at a batch's boundary. The group goes on; the pair stays.

use lockstep_connect::{ConnectError, Session, Settings};
use tokio_postgres::Client;

use crate::compare::{Comparison, Subject, compare};
use crate::rows::Sample;
use crate::verify::{Claim, Verdict, verify};

/// A pair could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A session could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("{}", lockstep_connect::describe(.0))]
    Sql(#[from] tokio_postgres::Error),
}

/// Two sessions that stand at one source snapshot and at what the target held for it.
pub struct SnapshotPair {
    source: Session,
    target: Session,
}

impl SnapshotPair {
    /// Opens the sessions; no snapshot yet.
    ///
    /// # Errors
    /// See [`PairError`].
    pub async fn open(source: &Settings, target: &Settings) -> Result<Self, PairError> {
        Ok(Self {
            source: Session::open_carrying(source, "lockstep verify").await?,
            target: Session::open_carrying(target, "lockstep verify").await?,
        })
    }

    /// Takes over the snapshot of a batch that has not committed yet, from its own source session.
    ///
    /// # Errors
    /// See [`PairError`].
    pub async fn take_source(&self, batch_source: &Client) -> Result<(), PairError> {
        let snapshot: String = batch_source.query_one("SELECT pg_export_snapshot()", &[]).await?.get(0);
        // The identifier is hexadecimal digits and dashes.
        self.source
            .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"))
            .await?;
        Ok(())
    }

    /// Opens the target's snapshot, right after the batch's commit and before the group's next one.
    ///
    /// # Errors
    /// See [`PairError`].
    pub async fn take_target(&self) -> Result<(), PairError> {
        self.target.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await?;
        Ok(())
    }

    /// Verifies a claim; see [`verify`].
    ///
    /// # Errors
    /// See [`PairError`].
    pub async fn verify(
        &self,
        claim: &Claim,
        sample: Option<&Sample>,
        differences_max: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Verdict, PairError> {
        // A definition that fails must not take the claims after it along: an error ends a transaction, but for a savepoint.
        self.on_both("SAVEPOINT lockstep_claim").await?;
        let verdict = verify(&self.source, &self.target, claim, sample, differences_max, progress).await;
        self.on_both("ROLLBACK TO SAVEPOINT lockstep_claim; RELEASE SAVEPOINT lockstep_claim").await?;
        Ok(verdict?)
    }

    /// Compares one projection.
    ///
    /// # Errors
    /// See [`PairError`].
    pub async fn compare(&self, subject: &Subject) -> Result<Comparison, PairError> {
        Ok(compare(&self.source, &self.target, subject).await?)
    }

    async fn on_both(&self, statement: &str) -> Result<(), PairError> {
        self.source.batch_execute(statement).await?;
        self.target.batch_execute(statement).await?;
        Ok(())
    }

    /// Lets the snapshots go; the pair can be used again.
    ///
    /// # Errors
    /// See [`PairError`].
    pub async fn release(&self) -> Result<(), PairError> {
        self.source.batch_execute("ROLLBACK").await?;
        self.target.batch_execute("ROLLBACK").await?;
        Ok(())
    }
}
