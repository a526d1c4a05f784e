//! One instance writes: the advisory lock says who, the lease says whether it still lives.
//!
//! ```text
//!   leader    ──renews the lease every second, with its epoch──►  lockstep.installation
//!   standby   ──tries the lock; when the lease has run out, ends the leader's sessions──► has the lock, takes a new epoch
//!   stalled former leader ──its commits name an epoch that is no longer the checkpoint's──► refused, in the same transaction
//! ```
//!
//! A leader whose process dies loses its sessions and with them the lock, at once. One that is stopped, or cut off, keeps both until
//! the lease runs out.

use std::time::Duration;

use anyhow::{Context as _, bail};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_observe::{Instance, Observed};
use lockstep_preflight::standing::WRITER_LOCK;

/// How often a standby tries.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long a command that needs the lock waits for a projector to go.
const COMMAND_MAX: Duration = Duration::from_secs(10);

/// The application name of the session that holds the lock.
const LEADER: &str = "lockstep";

/// What became of waiting for the lock.
pub(crate) struct Leadership {
    /// Holds the lock; keep it open.
    pub(crate) target: Session,
    /// Whether another instance had it first: what was looked at before may be out of date.
    pub(crate) waited: bool,
}

/// Waits, for ever, until this instance is the one that writes.
pub(crate) async fn become_leader(config: &Config, observed: &Observed) -> anyhow::Result<Leadership> {
    // A standby's session has another name, so that it is not mistaken for the leader's.
    let target = Session::open(config.target_settings(), "lockstep standby").await.context("target")?;
    let mut waited = false;
    while !try_lock(&target).await? {
        if !waited {
            tracing::info!("another instance writes to this target; standing by");
            observed.becomes(Instance::Standby, None);
            waited = true;
        }
        if lease_has_run_out(&target).await? {
            tracing::warn!("the leader's lease has run out; ending its sessions");
            end_sessions(&target, config).await?;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    // A lease of an earlier life must not make others think that we are silent.
    renew(&target, config.lease).await;
    target.batch_execute(&format!("SET application_name = '{LEADER}'")).await?;
    if waited {
        tracing::info!("this instance writes now");
        // The other's sessions may still be open, with a batch half done.
        end_sessions(&target, config).await?;
    }
    Ok(Leadership { target, waited })
}

/// Takes the lock for a command that needs the target to itself.
///
/// # Errors
/// A projector runs.
pub async fn lock_out_others(config: &Config) -> anyhow::Result<Session> {
    let target = Session::open(config.target_settings(), LEADER).await.context("target")?;
    let deadline = tokio::time::Instant::now() + COMMAND_MAX;
    while !try_lock(&target).await? {
        if tokio::time::Instant::now() >= deadline {
            bail!("another lockstep writes to this target; stop it first (it holds an advisory lock, see pg_locks)");
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(target)
}

async fn try_lock(target: &Session) -> Result<bool, tokio_postgres::Error> {
    Ok(target.query_one("SELECT pg_try_advisory_lock($1)", &[&WRITER_LOCK]).await?.get(0))
}

/// Whether the target knows of leases: before the first set-up it does not.
async fn leases_are_known(target: &Session) -> Result<bool, tokio_postgres::Error> {
    let known = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('lockstep.installation')
                                AND attname = 'lease_until' AND NOT attisdropped)";
    Ok(target.query_one(known, &[]).await?.get(0))
}

/// Whether a leader has been heard of, and not lately.
async fn lease_has_run_out(target: &Session) -> anyhow::Result<bool> {
    if !leases_are_known(target).await? {
        return Ok(false);
    }
    // Where nobody may write, nobody renews a lease, and who took it over could not write either.
    let run_out = "SELECT lease_until < clock_timestamp() AND current_setting('default_transaction_read_only') = 'off'
                   FROM lockstep.installation";
    let row = target.query_opt(run_out, &[]).await?;
    Ok(row.and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or(false))
}

/// Ends the sessions of another leader, who is gone or stalled: a batch that it left half done holds locks.
async fn end_sessions(target: &Session, config: &Config) -> anyhow::Result<()> {
    let mut names: Vec<String> = vec![LEADER.to_owned(), "lockstep nudge".to_owned(), "lockstep verify".to_owned()];
    let groups: Vec<String> = match target.query("SELECT group_name FROM lockstep.checkpoint", &[]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        // Nothing is set up yet.
        Err(_) => Vec::new(),
    };
    // PostgreSQL cuts application names at 63 bytes.
    names.extend(groups.iter().map(|group| format!("lockstep {group}").chars().take(63).collect()));
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid() AND application_name = ANY ($1)";
    if target.execute(end, &[&names]).await? == 0 {
        // Whoever streams is no leader of this target: this may be a copy of another, which has a lock of its own.
        return Ok(());
    }
    let source = Session::open(&config.source, "lockstep standby").await.context("source")?;
    let end_stream = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active";
    source.execute(end_stream, &[&config.slot]).await?;
    Ok(())
}

/// Renews the lease, if there is anything yet to renew. That it failed shows elsewhere: what it ran on is gone.
async fn renew(session: &Session, lease: Duration) {
    let statement =
        "UPDATE lockstep.installation SET lease_until = clock_timestamp() + $1::double precision * interval '1 second'";
    let renewed = match leases_are_known(session).await {
        Ok(true) => session.execute(statement, &[&lease.as_secs_f64()]).await.map(drop),
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = renewed {
        tracing::debug!(error = %lockstep_connect::describe(&error), "renewing the lease");
    }
}

/// Leaves no lease behind: who stops in good order is not missed.
pub(crate) async fn release(target: &Session, leader_epoch: i64) {
    let statement = "UPDATE lockstep.installation SET lease_until = NULL WHERE leader_epoch = $1";
    if let Err(error) = target.execute(statement, &[&leader_epoch]).await {
        tracing::debug!(error = %lockstep_connect::describe(&error), "releasing the lease");
    }
}

/// Renews the lease while something takes long, whoever's epoch it is: only the instance that has the lock gets here.
pub(crate) async fn kept_during<T>(config: &Config, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let session = Session::open(config.target_settings(), "lockstep lease").await.context("target")?;
    let renewing = async {
        loop {
            renew(&session, config.lease).await;
            tokio::time::sleep(config.lease / 4).await;
        }
    };
    tokio::select! {
        result = work => result,
        () = renewing => bail!("the lease is renewed no more"),
    }
}

/// Renews the lease until another instance has taken over, or the session is gone; returns what happened.
pub(crate) async fn keep(target: &Session, leader_epoch: i64, lease: Duration) -> String {
    let seconds = lease.as_secs_f64();
    let mut told = String::new();
    loop {
        let renewed = target
            .execute(
                "UPDATE lockstep.installation SET lease_until = clock_timestamp() + $2::double precision * interval '1 second'
                 WHERE leader_epoch = $1",
                &[&leader_epoch, &seconds],
            )
            .await;
        match renewed {
            Ok(1) => told.clear(),
            Ok(_) => return "another instance has taken over".to_owned(),
            Err(error) if target.is_closed() => {
                return format!("the session that holds the writer's lock ended: {}", lockstep_connect::describe(&error));
            }
            // One line for each change of state.
            Err(error) => {
                let error = lockstep_connect::describe(&error);
                if error != told {
                    tracing::warn!(error, "renewing the lease");
                    told = error;
                }
            }
        }
        tokio::time::sleep(lease / 4).await;
    }
}
