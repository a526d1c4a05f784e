//! The sessions of a group: one where source and target are one database, two otherwise.

use lockstep_connect::{Session, Settings, read_only_by_default};
use tokio_postgres::Client;

use crate::error::{BatchError, Side};
use crate::planning::Planning;

/// Where source and target are.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The source.
    pub source: Settings,
    /// The target, unless it is the source's database.
    pub target: Option<Settings>,
}

impl Endpoints {
    /// The target's settings.
    pub fn target(&self) -> &Settings {
        self.target.as_ref().unwrap_or(&self.source)
    }

    /// Whether source and target are one database.
    pub fn one_database(&self) -> bool {
        self.target.is_none()
    }
}

pub(crate) enum Sessions {
    One(Session),
    Two { source: Session, target: Session },
}

impl Sessions {
    pub(crate) async fn open(endpoints: &Endpoints, application_name: &str) -> Result<Self, BatchError> {
        let source = Session::open_carrying(&endpoints.source, application_name)
            .await
            .map_err(|error| BatchError::Connect { side: Side::Source, error })?;
        let sessions = match &endpoints.target {
            None => Self::One(source),
            Some(settings) => {
                let target = Session::open_carrying(settings, application_name)
                    .await
                    .map_err(|error| BatchError::Connect { side: Side::Target, error })?;
                Self::Two { source, target }
            }
        };
        let sql_error = |error| BatchError::Sql { side: Side::Target, error, projection: None };
        if let Some(found) = read_only_by_default(sessions.target()).await.map_err(sql_error)? {
            return Err(BatchError::ReadOnly { side: Side::Target, reason: found.message });
        }
        // A batch is visible as soon as it is committed and durable a moment later, when the WAL writer gets to it. That costs
        // the application's disk no extra flush, and nothing can be lost: the slot is confirmed only up to what is durable.
        sessions.target().batch_execute("SET synchronous_commit = off").await.map_err(sql_error)?;
        sessions.target().batch_execute(Planning::AT_FIRST).await.map_err(sql_error)?;
        if !sessions.is_one() {
            let on_source = |error| BatchError::Sql { side: Side::Source, error, projection: None };
            sessions.source().batch_execute(Planning::AT_FIRST).await.map_err(on_source)?;
        }
        Ok(sessions)
    }

    pub(crate) fn source(&self) -> &Client {
        match self {
            Self::One(session) => session,
            Self::Two { source, .. } => source,
        }
    }

    pub(crate) fn target(&self) -> &Client {
        match self {
            Self::One(session) => session,
            Self::Two { target, .. } => target,
        }
    }

    pub(crate) fn is_one(&self) -> bool {
        match self {
            Self::One(_) => true,
            Self::Two { .. } => false,
        }
    }

    pub(crate) fn closed(&self) -> bool {
        self.source().is_closed() || self.target().is_closed()
    }

    /// Lets every statement be planned anew.
    pub(crate) async fn forget_plans(&self) -> Result<(), BatchError> {
        let sql_error = |side| move |error| BatchError::Sql { side, error, projection: None };
        self.target().batch_execute("DISCARD PLANS").await.map_err(sql_error(Side::Target))?;
        if !self.is_one() {
            self.source().batch_execute("DISCARD PLANS").await.map_err(sql_error(Side::Source))?;
        }
        Ok(())
    }

    /// Ends whatever transaction is open on either side.
    pub(crate) async fn rollback(&self) {
        self.roll_back(Some(self.target())).await;
    }

    /// The same when the target has been told to commit: whatever became of that, no transaction is open there.
    pub(crate) async fn rollback_source(&self) {
        self.roll_back(None).await;
    }

    async fn roll_back(&self, target: Option<&Client>) {
        // Once only: outside of a transaction the server writes a warning into its log.
        let other = (!self.is_one()).then(|| self.source());
        for client in other.into_iter().chain(target) {
            // A failure means that the connection is gone, and the transaction with it.
            if let Err(error) = client.batch_execute("ROLLBACK").await {
                tracing::debug!(error = %lockstep_connect::describe(&error), "rollback");
            }
        }
    }
}
