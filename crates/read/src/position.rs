//! Reading your own writes: waiting until a projection contains a position.

use std::time::{Duration, Instant};

use lockstep_wal::Lsn;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{ReadError, SourceFault};
use crate::pool::{Borrowed, Pool};
use crate::reader::Reader;
use crate::settings::{Miss, Model, ReadSettings, Source};
use crate::version::version;

/// How long one look waits in the server, where the projector sees that somebody waits: longer than an idle group takes to notice.
const LOOK_FOR: Duration = Duration::from_millis(150);

/// Pause after a look that failed.
const AFTER_A_FAULT: Duration = Duration::from_millis(50);

impl Reader {
    /// The sources for a request that must contain a position; waits for it.
    pub(crate) async fn chain_with(
        &self,
        model: &Model,
        settings: &ReadSettings,
        lsn: Lsn,
        chain: Vec<Source>,
    ) -> Result<Vec<Source>, ReadError> {
        // First without waiting: those that wait must not keep those waiting that need not.
        let contained = self.contains(model, lsn).await || self.waited_for(model, settings, lsn).await;
        // A view is of its last refresh, whatever the projection contains; and what reads projections contains what they do.
        let may = |source: &Source| match source {
            Source::Tables => contained || !model.on_target,
            Source::Projection => contained,
            Source::View => false,
        };
        let kept: Vec<Source> = chain.into_iter().filter(may).collect();
        if contained {
            return Ok(kept);
        }
        match settings.min_lsn_miss {
            Miss::Tables if !model.on_target => Ok(vec![Source::Tables]),
            // It will not contain it by itself.
            Miss::Tables | Miss::Refuse if self.is_set_aside(model).await => Err(ReadError::SetAside),
            Miss::Tables | Miss::Refuse => Err(ReadError::NotYet),
        }
    }

    /// Waits until the projection contains a position; false if the time runs out. Who waits for the same projection waits together.
    async fn waited_for(&self, model: &Model, settings: &ReadSettings, lsn: Lsn) -> bool {
        let deadline = Instant::now() + settings.min_lsn_wait;
        let mut seen = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let wait = left.min(LOOK_FOR);
            let look = || look(self.waits.clone(), model.name.clone(), seen, wait);
            match self.looks.join(model.name.clone(), look).await {
                Ok(contained) if contained >= Some(lsn) => return true,
                Ok(contained) => seen = contained,
                Err(fault) => {
                    tracing::debug!(fault = fault.label(), "waiting for a position");
                    tokio::time::sleep(AFTER_A_FAULT.min(left)).await;
                }
            }
        }
    }

    /// Whether the projection is set aside, as far as that can be found out.
    async fn is_set_aside(&self, model: &Model) -> bool {
        let Ok(session) = self.sources.target.get().await.map(Borrowed::new) else { return false };
        let Ok(found) = version(session.session(), model).await else { return false };
        session.give_back();
        found.is_faulted
    }

    /// Whether the projection contains a position already.
    async fn contains(&self, model: &Model, lsn: Lsn) -> bool {
        look(self.sources.target.clone(), model.name.clone(), None, Duration::ZERO)
            .await
            .is_ok_and(|contained| contained >= Some(lsn))
    }
}

/// The position that a live projection contains, as soon as it is beyond `seen`, or after the wait; none if it is being built or set aside.
async fn look(pool: Pool, projection: String, seen: Option<Lsn>, wait: Duration) -> Result<Option<Lsn>, SourceFault> {
    let session = Borrowed::new(pool.get().await?);
    let (seen, seconds) = (seen.map(|lsn| lsn.to_string()), wait.as_secs_f64());
    let parameters: [(&(dyn ToSql + Sync), Type); 3] = [(&projection, Type::TEXT), (&seen, Type::TEXT), (&seconds, Type::FLOAT8)];
    let statement = "SELECT lockstep.contained_beyond($2::pg_lsn, $3 * interval '1 second', $1)::text";
    let rows = session.session().query_typed(statement, &parameters).await.map_err(|error| SourceFault::of(&error))?;
    session.give_back();
    let contained: Option<&str> = rows.first().and_then(|row| row.get(0));
    Ok(contained.and_then(|lsn| lsn.parse().ok()))
}
