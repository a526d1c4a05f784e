//! The anchor of most scenarios: PostgreSQL's own logical replication of one table into another cluster.

use lockstep_cluster::Cluster;
use lockstep_connect::Session;

use crate::bench::{Bench, DATABASE, session, settings};
use crate::waiting::{position, until};

/// A table and its copy.
pub(crate) struct Subscription {
    pub(crate) publisher: Cluster,
    /// Kept, because dropping it stops the server.
    _subscriber: Cluster,
    pub(crate) source: Session,
    pub(crate) target: Session,
}

impl Subscription {
    /// Copies `table` of a publisher, which `definition` makes on the subscriber, and waits until the copy follows.
    pub(crate) async fn start(bench: &Bench, publisher: Cluster, table: &str, definition: &str) -> anyhow::Result<Self> {
        let subscriber = bench.empty()?;
        session(&subscriber.url("postgres")).await?.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let (source, target) = (session(&publisher.url(DATABASE)).await?, session(&subscriber.url(DATABASE)).await?);
        source.batch_execute(&format!("CREATE PUBLICATION bench FOR TABLE {table}")).await?;
        target.batch_execute(definition).await?;
        let reached = format!("host=127.0.0.1 port={} user=postgres dbname={DATABASE}", publisher.port());
        target.batch_execute(&format!("CREATE SUBSCRIPTION bench CONNECTION '{reached}' PUBLICATION bench")).await?;
        until(&target, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel").await?;
        // As after a load: what the initial copy left behind is nobody's affair.
        target.batch_execute("VACUUM ANALYZE").await?;
        let subscription = Self { publisher, _subscriber: subscriber, source, target };
        subscription.until_contained().await?;
        Ok(subscription)
    }

    /// Waits until what has been committed is applied.
    pub(crate) async fn until_contained(&self) -> anyhow::Result<()> {
        let wanted = position(&self.source).await?;
        let applied = format!(
            "SELECT replay_lsn >= '{wanted}' FROM pg_stat_replication WHERE application_name = 'bench' AND state = 'streaming'
             UNION ALL SELECT false LIMIT 1"
        );
        until(&self.source, &applied).await
    }

    /// Stops applying; changes wait in the slot.
    pub(crate) async fn disable(&self) -> anyhow::Result<()> {
        self.target.batch_execute("ALTER SUBSCRIPTION bench DISABLE").await?;
        until(&self.source, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'bench'").await
    }

    /// Goes on applying.
    pub(crate) async fn enable(&self) -> anyhow::Result<()> {
        Ok(self.target.batch_execute("ALTER SUBSCRIPTION bench ENABLE").await?)
    }

    /// For writers.
    pub(crate) fn settings(&self) -> anyhow::Result<lockstep_connect::Settings> {
        settings(&self.publisher.url(DATABASE))
    }
}
