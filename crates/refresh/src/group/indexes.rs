//! The configured indexes of a projection that has been built: making an index beats maintaining it through the build.

use lockstep_plan::emit::IndexScript;
use lockstep_plan::quote;
use tokio_postgres::Client;

use super::{Connected, Group};
use crate::checkpoint;
use crate::error::{BatchError, Side};
use crate::projection::{Projection, Writing};
use crate::sessions::Sessions;

impl Group {
    /// Makes the indexes, several at a time, each in a transaction that notes it: what was made is not made again after a failure.
    pub(super) async fn build_indexes(&mut self, index: usize, connected: &mut Connected) -> Result<(), BatchError> {
        let projection = &self.settings.projections[index];
        let target = connected.sessions.target();
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: None };
        let row = target
            .query_one("SELECT indexes_built, indexes_done FROM lockstep.projection WHERE name = $1", &[&projection.name()])
            .await
            .map_err(at)?;
        let done: Vec<i32> = row.get(1);
        // A predecessor that was cut off may have finished them.
        if row.get(0) {
            self.settings.projections[index].indexes_built = true;
            return Ok(());
        }
        // The rows that are there clash: with the indexes in place the build finds which, and sets them aside.
        let anew = projection.writing == Writing::DeleteFirst && !projection.plan.branches().is_empty();
        if anew {
            self.settings.projections[index].loaded_until = None;
            self.empty_again(index, target).await?;
        }
        let script = self.settings.projections[index].indexes.as_deref().map(IndexScript::new).unwrap_or_default();
        let missing = |statements: Vec<(i32, String)>| -> Vec<(i32, String)> {
            statements.into_iter().filter(|(number, _)| !done.contains(number)).collect()
        };
        let (indexes, then) = (missing(script.indexes), missing(script.then));
        let wanted = indexes.len().min(self.settings.options.load_sessions);
        let name = format!("lockstep {} loading", self.settings.name);
        if wanted > 1 && connected.loaders.open(&self.settings.endpoints, &name, wanted).await > 1 {
            let one = async |sessions, number: usize| self.make_index(index, sessions, &indexes[number]).await;
            connected.loaders.share(indexes.len(), one).await?;
        } else {
            self.make_in_order(index, &connected.sessions, &indexes).await?;
        }
        self.make_in_order(index, &connected.sessions, &then).await?;
        self.note_indexes_built(index, connected.sessions.target()).await?;
        let projection = &mut self.settings.projections[index];
        projection.indexes_built = true;
        if anew {
            projection.begin_anew();
            return Ok(());
        }
        self.analyse(index, connected).await
    }

    async fn note_indexes_built(&self, index: usize, target: &Client) -> Result<(), BatchError> {
        self.begin_leading(target).await?;
        let name = quote::literal(self.settings.projections[index].name());
        let noted = format!("UPDATE lockstep.projection SET indexes_built = true WHERE name = {name}; COMMIT");
        if let Err(error) = target.batch_execute(&noted).await {
            roll_back(target).await;
            return Err(BatchError::Sql { side: Side::Target, error, projection: None });
        }
        Ok(())
    }

    async fn make_in_order(&self, index: usize, sessions: &Sessions, statements: &[(i32, String)]) -> Result<(), BatchError> {
        for statement in statements {
            self.make_index(index, sessions, statement).await?;
        }
        Ok(())
    }

    /// Runs one statement of the script and notes that, in one transaction. Sessions may choose one name for two indexes that have none:
    /// whoever comes later is refused, and then chooses another.
    async fn make_index(&self, index: usize, sessions: &Sessions, statement: &(i32, String)) -> Result<(), BatchError> {
        let target = sessions.target();
        for attempt in 1.. {
            self.begin_leading(target).await?;
            let Err(error) = self.make_and_note(index, target, statement).await else { break };
            roll_back(target).await;
            if !error.is_about_a_name() || attempt > self.settings.options.load_sessions {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Commits the transaction that is open.
    async fn make_and_note(&self, index: usize, target: &Client, (number, sql): &(i32, String)) -> Result<(), BatchError> {
        let projection = &self.settings.projections[index];
        let at = |projection| move |error| BatchError::Sql { side: Side::Target, error, projection };
        let schema = quote::literal(&quote::identifier(&projection.schema));
        let found = format!("SELECT set_config('search_path', {schema} || ', ' || current_setting('search_path'), true)");
        target.batch_execute(&found).await.map_err(at(None))?;
        target.batch_execute(sql).await.map_err(at(Some(index)))?;
        let noted = format!(
            "UPDATE lockstep.projection SET indexes_done = indexes_done || {number} WHERE name = {}; COMMIT",
            quote::literal(projection.name())
        );
        target.batch_execute(&noted).await.map_err(at(None))?;
        fail::fail_point!("index_made", |_| std::process::abort());
        Ok(())
    }

    /// Empties the tables of a projection, which is to be built from the start.
    async fn empty_again(&self, index: usize, target: &Client) -> Result<(), BatchError> {
        let projection: &Projection = &self.settings.projections[index];
        self.begin_leading(target).await?;
        let name = quote::literal(projection.name());
        let script = format!(
            "TRUNCATE {};\nDELETE FROM lockstep.quarantine WHERE projection = {name};\n\
             UPDATE lockstep.projection SET row_count = 0, build_position = NULL, build_until = NULL WHERE name = {name};\nCOMMIT",
            projection.tables().join(", "),
        );
        if let Err(error) = target.batch_execute(&script).await {
            roll_back(target).await;
            return Err(BatchError::Sql { side: Side::Target, error, projection: Some(index) });
        }
        Ok(())
    }

    /// Begins a transaction in which nobody takes the group over. After an error none is open.
    async fn begin_leading(&self, target: &Client) -> Result<(), BatchError> {
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: None };
        target.batch_execute("BEGIN").await.map_err(at)?;
        let leads = checkpoint::still_leads(target, &self.settings.name, self.settings.leader_epoch).await;
        if !matches!(leads, Ok(true)) {
            roll_back(target).await;
        }
        if leads.map_err(at)? { Ok(()) } else { Err(BatchError::Fenced) }
    }
}

/// Ends the transaction that is open; one that is gone with its connection has ended.
async fn roll_back(client: &Client) {
    if let Err(error) = client.batch_execute("ROLLBACK").await {
        tracing::debug!(error = %lockstep_connect::describe(&error), "rollback");
    }
}
