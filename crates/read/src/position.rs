//! Reading your own writes: waiting until a projection contains a position.

use lockstep_wal::Lsn;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{ReadError, SourceFault};
use crate::pool::{Borrowed, Pool};
use crate::reader::Reader;
use crate::settings::{Miss, Model, ReadSettings, Source};

/// How long a look takes that is made because somebody waits.
const LOOK_AFTER_MS: i32 = 3;

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
        // A view is of its last refresh, whatever the projection contains.
        let may = |source: &Source| *source == Source::Tables || (*source == Source::Projection && contained);
        let kept: Vec<Source> = chain.into_iter().filter(may).collect();
        if contained {
            return Ok(kept);
        }
        match settings.min_lsn_miss {
            Miss::Tables => Ok(vec![Source::Tables]),
            Miss::Refuse => Err(ReadError::NotYet),
        }
    }

    /// Waits until the projection contains a position; false if the time runs out. Who waits for the same projection looks together.
    async fn waited_for(&self, model: &Model, settings: &ReadSettings, lsn: Lsn) -> bool {
        let waiting = async {
            loop {
                let looked = self.looks.join(model.name.clone(), || look(self.waits.clone(), model.name.clone(), LOOK_AFTER_MS));
                match looked.await {
                    Ok(contained) if contained >= Some(lsn) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        tokio::time::timeout(settings.min_lsn_wait, waiting).await.unwrap_or(false)
    }

    /// Whether the projection contains a position already.
    async fn contains(&self, model: &Model, lsn: Lsn) -> bool {
        look(self.target.clone(), model.name.clone(), 0).await.is_ok_and(|contained| contained >= Some(lsn))
    }
}

/// The position that a live projection contains; none if it is being built or set aside. Looks after so many milliseconds, in which
/// the projector sees that somebody waits: an idle group then writes its position at once.
async fn look(pool: Pool, projection: String, after_ms: i32) -> Result<Option<Lsn>, SourceFault> {
    let session = Borrowed::new(pool.get().await?);
    let client = session.session();
    let waiting = async {
        if after_ms == 0 {
            return Ok(Vec::new());
        }
        let statement = "SELECT pg_advisory_xact_lock_shared(lockstep.waiters_lock()), pg_sleep($1::int4 / 1000.0)";
        client.query_typed(statement, &[(&after_ms, Type::INT4)]).await
    };
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&projection, Type::TEXT)];
    let looking = client.query_typed("SELECT lockstep.contained($1)::text", &parameters);
    // Both are sent at once; the second begins, and takes its snapshot, when the first has ended.
    let (waited, looked) = tokio::join!(biased; waiting, looking);
    let row = waited.and(looked).map_err(|error| SourceFault::of(&error))?;
    session.give_back();
    let contained: Option<&str> = row.first().and_then(|row| row.get(0));
    Ok(contained.and_then(|lsn| lsn.parse().ok()))
}
