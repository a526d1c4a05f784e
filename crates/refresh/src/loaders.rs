//! Sessions beside a group's own that load the pages of a build and make indexes, several at a time.
//!
//! Each page is a transaction of its own, at the snapshot of the batch that it belongs to. The batch commits after all of them and says that
//! they are there; what a batch that fails has left is known by `build_until`, which was written before.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use lockstep_plan::emit::BuildPage;
use lockstep_plan::quote;
use tokio_postgres::types::ToSql;

use crate::checkpoint;
use crate::error::{BatchError, Side};
use crate::planning::Planning;
use crate::projection::Load;
use crate::sessions::{Endpoints, Sessions};
use crate::transfer::Stage;

/// How long a page waits for a lock: the batch that waits for the page holds locks that whoever is in its way may wait for.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";

/// Sessions that load.
#[derive(Default)]
pub(crate) struct Loaders {
    sessions: Vec<Sessions>,
}

/// The pages that are loaded for a projection in one batch.
pub(crate) struct Loading<'a> {
    pub(crate) group: &'a str,
    pub(crate) leader_epoch: i64,
    /// The projection, by index.
    pub(crate) projection: usize,
    /// The batch's snapshot, exported.
    pub(crate) snapshot: &'a str,
    pub(crate) time_zone: &'a str,
    pub(crate) page: &'a BuildPage,
    /// With two databases: how rows travel.
    pub(crate) stage: Option<&'a Stage>,
    pub(crate) load: &'a Load,
}

impl Loaders {
    /// Opens sessions until there are so many, or no more are to be had; returns how many there are.
    pub(crate) async fn open(&mut self, endpoints: &Endpoints, application_name: &str, wanted: usize) -> usize {
        self.sessions.retain(|sessions| !sessions.closed());
        while self.sessions.len() < wanted {
            match Sessions::open(endpoints, application_name).await {
                Ok(sessions) => self.sessions.push(sessions),
                Err(error) => {
                    tracing::debug!(error = %error, sessions = self.sessions.len(), "no more sessions to load with");
                    break;
                }
            }
        }
        self.sessions.len()
    }

    /// Ends them: there is nothing left to load.
    pub(crate) fn close(&mut self) {
        self.sessions.clear();
    }

    /// One of them, for what is to be known before.
    pub(crate) fn first(&self) -> Option<&Sessions> {
        self.sessions.first()
    }

    /// Does numbered pieces of work, as many at a time as there are sessions. None is at work any more when this returns; after an error
    /// no other is begun. Without a session nothing is done, which is an error.
    pub(crate) async fn share<'a, F, Done>(&'a self, pieces: usize, work: F) -> Result<(), BatchError>
    where
        F: Fn(&'a Sessions, usize) -> Done,
        Done: Future<Output = Result<(), BatchError>>,
    {
        if self.sessions.is_empty() && pieces > 0 {
            return Err(BatchError::LoadGaveWay);
        }
        let next = AtomicUsize::new(0);
        let work = &work;
        let one = async |sessions: &'a Sessions| {
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    return Ok(());
                }
                if let Err(error) = work(sessions, piece).await {
                    next.store(pieces, Ordering::Relaxed);
                    return Err(error);
                }
            }
        };
        join_all(self.sessions.iter().map(one)).await.into_iter().collect()
    }
}

impl Loading<'_> {
    /// Loads one page and commits it; returns its rows. After an error nothing of it is there, unless the commit's answer was lost.
    pub(crate) async fn page(&self, sessions: &Sessions, number: usize) -> Result<u64, BatchError> {
        let loaded = self.load(sessions, number).await;
        if loaded.is_err() {
            sessions.rollback().await;
        }
        loaded.map_err(|error| if error.is_about_a_lock() { BatchError::LoadGaveWay } else { error })
    }

    async fn load(&self, sessions: &Sessions, number: usize) -> Result<u64, BatchError> {
        let begin = if number == 0 { self.load.from.key.as_ref() } else { self.load.ends[number - 1].as_ref() };
        let end = self.load.ends[number].as_ref();
        let range = self.page.range(begin.map(Vec::as_slice), end.map(Vec::as_slice));
        let bound: Vec<&(dyn ToSql + Sync)> = range.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.begin(sessions).await?;
        fail::fail_point!("load_page", |_| std::process::abort());
        let rows = match self.stage {
            None => self.insert(sessions, &bound).await?,
            Some(stage) => self.forward(sessions, stage, &bound).await?,
        };
        sessions.target().batch_execute("COMMIT").await.map_err(self.at(Side::Target))?;
        if !sessions.is_one() {
            sessions.source().batch_execute("COMMIT").await.map_err(self.at(Side::Source))?;
        }
        Ok(rows)
    }

    async fn begin(&self, sessions: &Sessions) -> Result<(), BatchError> {
        let mode = if sessions.is_one() { "" } else { ", READ ONLY" };
        let settings =
            format!("{LOCK_TIMEOUT}; {}; SET LOCAL TimeZone = {}", Planning::FOR_VALUES, quote::literal(self.time_zone));
        let snapshot = quote::literal(self.snapshot);
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ{mode}; SET TRANSACTION SNAPSHOT {snapshot}; {settings}");
        // A snapshot that is gone is gone with the batch's session; nothing is wrong with the projection.
        let gave_way = |error: tokio_postgres::Error| {
            tracing::debug!(error = %lockstep_connect::describe(&error), "no page can begin");
            BatchError::LoadGaveWay
        };
        sessions.source().batch_execute(&begin).await.map_err(gave_way)?;
        if !sessions.is_one() {
            sessions.target().batch_execute(&format!("BEGIN; {settings}")).await.map_err(gave_way)?;
        }
        match checkpoint::still_leads(sessions.target(), self.group, self.leader_epoch).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(BatchError::Fenced),
            Err(error) => Err(self.at(Side::Target)(error)),
        }
    }

    async fn insert(&self, sessions: &Sessions, bound: &[&(dyn ToSql + Sync)]) -> Result<u64, BatchError> {
        sessions.target().execute(&self.page.insert(), bound).await.map_err(self.at(Side::Target))
    }

    /// From one database to the other: straight into the table where PostgreSQL's encoding of all values is the same there.
    async fn forward(&self, sessions: &Sessions, stage: &Stage, bound: &[&(dyn ToSql + Sync)]) -> Result<u64, BatchError> {
        let (source, target) = (sessions.source(), sessions.target());
        let query = stage.source_query(None, &self.page.query);
        let statement = source.prepare(&query).await.map_err(self.at(Side::Source))?;
        if stage.is_plain() {
            return stage.forward(source, (&statement, bound), target, &self.page.table, self.projection).await;
        }
        target.batch_execute(&stage.create_if_missing_statement()).await.map_err(self.at(Side::Target))?;
        stage.fill(source, &statement, bound, target, self.projection).await?;
        target.execute(&self.page.insert_from(&stage.typed_source()), &[]).await.map_err(self.at(Side::Target))
    }

    fn at(&self, side: Side) -> impl Fn(tokio_postgres::Error) -> BatchError {
        let projection = Some(self.projection);
        move |error| BatchError::Sql { side, error, projection }
    }
}
