//! Telling listeners that there are changes to read: a courtesy, after the commit, that never fails a batch.
//!
//! The truth is the table. PostgreSQL's queue of notifications is one for the whole cluster and is held by any listener that stays in a
//! transaction; when it is full, whoever notifies fails at its commit. So changes are notified in a statement of their own, which is left
//! out while the queue is half full (what is left of it belongs to others), and made good when there is room again.

use std::collections::BTreeMap;

use tokio_postgres::Client;

/// The share of the queue above which nothing is added: as PostgreSQL, which begins to warn there
/// (`asyncQueueFillWarning` in `src/backend/commands/async.c`).
const FULL: f64 = 0.5;

/// What is to be said on a channel.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) channel: String,
    pub(crate) text: String,
    /// The same without the keys: whoever hears it must read, or drop, everything.
    pub(crate) without_keys: String,
}

/// What has not been said yet.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    owed: BTreeMap<String, String>,
    withheld: bool,
}

impl Notices {
    /// Something is to be said. What has not been said on its channel is covered by it.
    pub(crate) fn owe(&mut self, notice: Notice) {
        let text = if self.owed.contains_key(&notice.channel) { notice.without_keys } else { notice.text };
        self.owed.insert(notice.channel, text);
    }

    /// What was told last of the projections, whose listeners a predecessor may have left without a notice.
    pub(crate) async fn owe_last(&mut self, target: &Client, projections: &[&str]) -> Result<(), tokio_postgres::Error> {
        let rows = target
            .query(
                "SELECT 'lockstep_' || p.name, lockstep.change_notice(c.id, c.lsn, c.rows, NULL) FROM unnest($1::text[]) AS p (name)
                 CROSS JOIN LATERAL (SELECT id, lsn, rows FROM lockstep.change WHERE projection = p.name ORDER BY id DESC LIMIT 1) AS c",
                &[&projections],
            )
            .await?;
        self.owed.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
        Ok(())
    }

    pub(crate) fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Says what is owed, outside of any transaction. What cannot be said stays owed.
    pub(crate) async fn send(&mut self, target: &Client) {
        if self.owed.is_empty() {
            return;
        }
        match notify(target, &self.owed).await {
            Ok(true) => {
                self.owed.clear();
                if self.withheld {
                    self.withheld = false;
                    tracing::info!("listeners are notified again");
                }
            }
            Ok(false) => self.withhold(target, "PostgreSQL's queue of notifications is half full").await,
            Err(error) => self.withhold(target, &lockstep_connect::describe(&error)).await,
        }
        metrics::gauge!("lockstep_feed_notices_withheld").set(if self.withheld { 1.0 } else { 0.0 });
    }

    async fn withhold(&mut self, target: &Client, reason: &str) {
        if !self.withheld {
            self.withheld = true;
            let holder = holder(target).await.unwrap_or_else(|| "nobody that is in a transaction now".to_owned());
            tracing::warn!(
                reason,
                holder,
                "listeners are not notified for now; lockstep.change has everything. A listener that stays in a transaction holds the queue"
            );
        }
    }
}

/// False if the queue is too full. Asking for its usage also frees what everybody has read, which nothing else does while it is full.
async fn notify(target: &Client, owed: &BTreeMap<String, String>) -> Result<bool, tokio_postgres::Error> {
    fail::fail_point!("feed_queue", |_| Ok(false));
    let (channels, texts): (Vec<&String>, Vec<&String>) = owed.iter().unzip();
    let rows = target
        .query(
            "SELECT pg_notify(n.channel, n.text) FROM unnest($1::text[], $2::text[]) AS n (channel, text)
             WHERE (SELECT pg_notification_queue_usage()) < $3",
            &[&channels, &texts, &FULL],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// The session that most likely holds the queue: the oldest transaction. Which sessions listen, PostgreSQL tells nobody else.
async fn holder(target: &Client) -> Option<String> {
    let query = "SELECT format('pid %s (%s, user %s, database %s, %s for %s s)', pid, coalesce(nullif(application_name, ''), 'no application name'),
                        usename, datname, state, round(extract(epoch FROM clock_timestamp() - state_change)))
                 FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
                 ORDER BY (state LIKE 'idle in transaction%') DESC, xact_start LIMIT 1";
    target.query_opt(query, &[]).await.ok().flatten().and_then(|row| row.get(0))
}
