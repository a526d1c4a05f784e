//! Planning for as many keys as there are.

use super::BatchRun;
use crate::error::{BatchError, Side};
use crate::planning::Planning;

/// Keys of one statement up to which its plan does not depend on them.
const FEW_KEYS: usize = 100;

impl BatchRun<'_> {
    /// Lets the sessions plan for so many keys, until the transaction ends.
    pub(super) async fn plan_for(&mut self, index: usize, keys: usize) -> Result<(), BatchError> {
        let wanted = if keys <= FEW_KEYS { Planning::Once } else { Planning::EachTime };
        if wanted == self.planning {
            return Ok(());
        }
        let sql_error = |side| move |error| BatchError::Sql { side, error, projection: Some(index) };
        self.sessions.source().batch_execute(wanted.statement()).await.map_err(sql_error(Side::Source))?;
        if !self.sessions.is_one() {
            self.sessions.target().batch_execute(wanted.statement()).await.map_err(sql_error(Side::Target))?;
        }
        self.planning = wanted;
        Ok(())
    }
}
