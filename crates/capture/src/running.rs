//! The transactions that run at a moment: what has begun before something is followed may not be delivered.
//!
//! Two moments need it. *A new slot*: a transaction whose commit record precedes the slot's consistent point is not decoded, and it
//! can be invisible to a snapshot for a while (it sits between writing its commit record and leaving the list of running
//! transactions; a synchronous standby can stretch that to seconds; meanwhile `pg_xact_status` calls it "in progress"). *A table
//! added to a publication*: what a running transaction did to it before is not decoded. Either way the first snapshot of the build
//! must see it.

use tokio_postgres::Client;

/// Named at most: the oldest ones.
const NAMED_MAX: i64 = 5;

/// Every transaction that ran at a moment, prepared ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTransactions {
    /// An id of our own: every transaction that was there before has a smaller one, also those beyond a snapshot's xmax.
    bound: String,
    /// When it was taken, by the source's clock.
    at: String,
}

/// A transaction that is waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocker {
    /// `pid 4711`, or `prepared transaction "gid"`.
    pub name: String,
    /// Its database.
    pub database: String,
    /// Its user.
    pub user: String,
    /// Its application; empty for a prepared transaction.
    pub application: String,
    /// How long it has been running, or prepared, in seconds.
    pub age_seconds: f64,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} (user {}, database {}", self.name, self.user, self.database)?;
        if !self.application.is_empty() {
            write!(formatter, ", {}", self.application)?;
        }
        write!(formatter, ", for {:.0} s)", self.age_seconds)
    }
}

impl RunningTransactions {
    /// Those that run now.
    ///
    /// # Errors
    /// The query failed.
    pub async fn of_now(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let row = client.query_one("SELECT pg_current_xact_id()::text, clock_timestamp()::text", &[]).await?;
        Ok(Self { bound: row.get(0), at: row.get(1) })
    }

    /// Whether all of them have ended. Once that is so it stays so.
    ///
    /// # Errors
    /// The query failed.
    pub async fn have_ended(&self, client: &Client) -> Result<bool, tokio_postgres::Error> {
        let row = client.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8", &[&self.bound]).await?;
        Ok(row.get(0))
    }

    /// The oldest of those that still run.
    ///
    /// # Errors
    /// The query failed.
    pub async fn blockers(&self, client: &Client) -> Result<Vec<Blocker>, tokio_postgres::Error> {
        blockers(client, Some(&self.at)).await
    }
}

/// The oldest transactions that run, or ran at a time, and write: a slot that is being made waits for them, whatever their database.
///
/// # Errors
/// The query failed.
pub async fn blockers(client: &Client, at: Option<&str>) -> Result<Vec<Blocker>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT * FROM (
                 SELECT 'pid ' || pid, coalesce(datname::text, ''), coalesce(usename::text, ''), coalesce(application_name, ''),
                        xact_start AS since
                 FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
                 UNION ALL
                 SELECT 'prepared transaction ' || quote_ident(gid), database::text, owner::text, '', prepared FROM pg_prepared_xacts
             ) AS running (name, database_name, user_name, application, since),
             LATERAL (SELECT extract(epoch FROM clock_timestamp() - since)::float8 AS age) AS aged
             WHERE $1::text IS NULL OR since <= $1::text::timestamptz
             ORDER BY since LIMIT $2",
            &[&at, &NAMED_MAX],
        )
        .await?;
    let blocker = |row: &tokio_postgres::Row| Blocker {
        name: row.get(0),
        database: row.get(1),
        user: row.get(2),
        application: row.get(3),
        age_seconds: row.get::<_, Option<f64>>(5).unwrap_or_default(),
    };
    Ok(rows.iter().map(blocker).collect())
}
