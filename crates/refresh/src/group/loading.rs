//! Planning the pages that the next batch loads.

use lockstep_connect::Text;
use lockstep_plan::emit::BuildPage;
use tokio_postgres::types::ToSql;

use super::{Connected, Group};
use crate::checkpoint;
use crate::error::{BatchError, Side};
use crate::projection::{BuildPosition, Load};
use crate::sessions::Sessions;

impl Group {
    /// Plans pages for projections that are being built, and notes in the target how far they will go before any is loaded.
    pub(super) async fn plan_loads(&mut self, connected: &mut Connected) -> Result<(), BatchError> {
        self.settings.projections.iter_mut().for_each(|projection| projection.load = None);
        if !self.building() {
            connected.loaders.close();
            return Ok(());
        }
        for index in 0..self.settings.projections.len() {
            self.settings.projections[index].load = self.next_load(index, connected).await?;
        }
        Ok(())
    }

    async fn next_load(&mut self, index: usize, connected: &mut Connected) -> Result<Option<Load>, BatchError> {
        let projection = &self.settings.projections[index];
        if let (Some(position), Some(until)) = (projection.build_position(), &projection.loaded_until) {
            return Ok(Some(Load::again(position.clone(), until.clone())));
        }
        let Some(from) = projection.loads_from().cloned() else { return Ok(None) };
        let Some(page) = projection.build_page(from.branch, &self.settings.places) else { return Ok(None) };
        let wanted = self.settings.options.load_sessions;
        let name = format!("lockstep {} loading", self.settings.name);
        let pages = connected.loaders.open(&self.settings.endpoints, &name, wanted).await;
        let Some(sessions) = connected.loaders.first() else { return Ok(None) };
        let ends = self.page_ends(index, &from, (&page, pages), sessions).await?;
        let load = Load { from, ends, again: false };
        self.announce(index, &load.until(), sessions).await?;
        self.settings.projections[index].loaded_until = Some(load.until());
        Ok(Some(load))
    }

    /// The last root key of each of the next pages.
    async fn page_ends(
        &self,
        index: usize,
        from: &BuildPosition,
        (page, pages): (&BuildPage, usize),
        sessions: &Sessions,
    ) -> Result<Vec<Option<Vec<Text>>>, BatchError> {
        let at = |error| BatchError::Sql { side: Side::Source, error, projection: Some(index) };
        let bound: Vec<&(dyn ToSql + Sync)> = from.key.iter().flatten().map(|value| value as &(dyn ToSql + Sync)).collect();
        let sql = page.ends(from.key.is_some(), self.page_rows, pages);
        let rows = sessions.source().query(&sql, &bound).await.map_err(at)?;
        let mut ends: Vec<Option<Vec<Text>>> =
            rows.iter().map(|row| Some((0..row.len()).map(|column| row.get(column)).collect())).collect();
        if ends.len() < pages {
            ends.push(None);
        }
        Ok(ends)
    }

    async fn announce(&self, index: usize, until: &BuildPosition, sessions: &Sessions) -> Result<(), BatchError> {
        let name = self.settings.projections[index].name();
        let (group, epoch) = (&self.settings.name, self.settings.leader_epoch);
        let announced = checkpoint::announce_load(sessions.target(), (group, epoch), name, &until.to_texts()).await;
        let announced = announced.map_err(|error| BatchError::Sql { side: Side::Target, error, projection: None })?;
        if announced { Ok(()) } else { Err(BatchError::Fenced) }
    }
}
