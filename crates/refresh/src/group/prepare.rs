//! What a group's sessions need before the first batch: stages, and links that an earlier run gave up.

use lockstep_plan::{Trace, quote};

use super::Group;
use crate::error::{BatchError, Remedy, Side, Untried};
use crate::projection::Tracing;
use crate::sessions::Sessions;
use crate::stages::stages_of;
use crate::transfer::Stage;

impl Group {
    /// Looks for links that an earlier run gave up, because reading them failed on some row: their tables are empty.
    pub(super) async fn find_missing_links(&mut self, sessions: &Sessions) -> Result<(), BatchError> {
        for projection in &mut self.settings.projections {
            if !projection.is_live() || projection.tracing == Tracing::GivenUp {
                continue;
            }
            for branch in projection.plan.branches() {
                for role in &branch.roles {
                    let Trace::Link(link) = &role.trace else { continue };
                    let table = quote::qualified(&self.settings.places.state_schema, &link.state.name);
                    let found = sessions.target().query_opt(&format!("SELECT FROM {table} LIMIT 1"), &[]).await;
                    let found = found.map_err(|error| BatchError::Sql { side: Side::Target, error, projection: None })?;
                    if found.is_none() {
                        projection.tracing = Tracing::LinksMissing;
                    }
                }
            }
        }
        Ok(())
    }

    /// Describes the stages that are missing and creates their temporary tables. A projection whose stage cannot be made is set
    /// aside alone.
    pub(super) async fn make_stages(&mut self, sessions: &Sessions, new_session: bool) -> Result<(), BatchError> {
        for index in 0..self.settings.projections.len() {
            let projection = &self.settings.projections[index];
            let known = projection.stages.is_some();
            if !projection.takes_part() || (known && !new_session) || projection.plan.reads_projections_only() {
                continue;
            }
            let made = match &projection.stages {
                Some(stages) => Ok(stages.clone()),
                None => stages_of(projection, index, &self.settings.places, sessions).await,
            };
            match made {
                Ok(stages) => {
                    let create: Vec<String> = stages.iter().map(Stage::create_statement).collect();
                    let create = create.join("; ");
                    self.settings.projections[index].stages = Some(stages);
                    sessions.target().batch_execute(&create).await.map_err(|error| BatchError::Sql {
                        side: Side::Target,
                        error,
                        projection: None,
                    })?;
                }
                Err(error) => match error.remedy(|_| Untried { delete_first: false, one_by_one: false }) {
                    Remedy::Fault(index) => self.fault(index, &error, None).await,
                    Remedy::Again
                    | Remedy::Retry
                    | Remedy::DeleteFirst(_)
                    | Remedy::OneByOne(_)
                    | Remedy::SkipTraces(_)
                    | Remedy::Stop => {
                        return Err(error);
                    }
                },
            }
        }
        self.sql = self.settings.projections.iter().map(|projection| projection.statements(&self.settings.places)).collect();
        Ok(())
    }
}
