//! Why the server gave a slot up, and what would keep the next one.

use std::time::Duration;

use lockstep_wal::Lsn;
use tokio_postgres::Client;

/// A gibibyte; sizes are suggested in whole ones.
const GIBIBYTE: f64 = 1_073_741_824.0;

const MEBIBYTE: f64 = 1_048_576.0;

/// What a slot must be able to wait: a restart, a new version's start, a comparison that holds the position back.
pub const KEEP_FOR: Duration = Duration::from_mins(10);

/// Why a slot is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// In words.
    pub cause: String,
    /// What keeps it from happening again, in words or as statements.
    pub remedy: String,
    /// Those statements, for a superuser; none where words have to do.
    pub statements: Vec<String>,
    /// The settings as they were then.
    pub settings: KeepSettings,
}

/// The settings that decide how long the server keeps a slot; `None` for one that this major does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeepSettings {
    /// `max_slot_wal_keep_size`.
    pub keep_size: Option<String>,
    /// `idle_replication_slot_timeout`, from PostgreSQL 18 on.
    pub idle_timeout: Option<String>,
}

/// What the server says of a slot that it gave up.
#[derive(Debug, Clone, Default)]
struct Told {
    /// `invalidation_reason`, from PostgreSQL 17 on.
    reason: Option<String>,
    /// `conflicting`, from PostgreSQL 16 on.
    conflicting: bool,
    settings: KeepSettings,
    /// WAL written since the position that was confirmed last, in bytes.
    behind: Option<i64>,
    /// WAL written in a second, in bytes, while the slot was used.
    rate: Option<f64>,
}

/// Reads the settings.
///
/// # Errors
/// The query failed.
pub async fn keep_settings(client: &Client) -> Result<KeepSettings, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT current_setting('max_slot_wal_keep_size', true), current_setting('idle_replication_slot_timeout', true)",
            &[],
        )
        .await?;
    Ok(KeepSettings { keep_size: row.get(0), idle_timeout: row.get(1) })
}

/// Why a slot is lost; `None` if it is not. `since` is a position of the source and how long ago that was, for the rate at which it writes.
///
/// # Errors
/// A query failed.
pub async fn loss(client: &Client, slot: &str, since: Option<(Lsn, Duration)>) -> Result<Option<Loss>, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT s.slot_name IS NOT NULL, coalesce(s.wal_status, 'lost') = 'lost', to_jsonb(s) ->> 'invalidation_reason',
                    coalesce((to_jsonb(s) ->> 'conflicting')::boolean, false),
                    pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn)::bigint, pg_wal_lsn_diff(now.lsn, $2::text::pg_lsn)::float8
             FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn) AS now
             LEFT JOIN pg_replication_slots AS s ON s.slot_name = $1",
            &[&slot, &since.map(|(lsn, _)| lsn.to_string())],
        )
        .await?;
    let (exists, lost): (bool, bool) = (row.get(0), row.get(1));
    if exists && !lost {
        return Ok(None);
    }
    let settings = keep_settings(client).await?;
    if !exists {
        let (cause, remedy) = ("it is not there: somebody dropped it", "find out who drops it");
        return Ok(Some(Loss { cause: cause.to_owned(), remedy: remedy.to_owned(), statements: Vec::new(), settings }));
    }
    let written: Option<f64> = row.get(5);
    let rate = since.zip(written).map(|((_, ago), bytes)| bytes.max(0.0) / ago.as_secs_f64().max(1.0));
    let (reason, conflicting, behind) = (row.get(2), row.get(3), row.get(4));
    Ok(Some(explain(&Told { reason, conflicting, settings, behind, rate })))
}

/// What `max_slot_wal_keep_size` would do for a slot that has been so far behind, on a server that writes so much in a second: twice the
/// distance, and at least [`KEEP_FOR`] of WAL; in bytes, whole gibibytes.
pub fn sufficient_size(behind: i64, rate: Option<f64>) -> u64 {
    #[allow(clippy::cast_precision_loss)]
    let bytes = (behind.max(0) as f64 * 2.0).max(rate.unwrap_or_default() * KEEP_FOR.as_secs_f64());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let gibibytes = (bytes / GIBIBYTE).ceil().max(1.0) as u64;
    gibibytes << 30
}

/// The statements that set it.
pub fn keep_statements(size: u64) -> Vec<String> {
    set("max_slot_wal_keep_size", &format!("'{}GB'", size >> 30))
}

fn set(setting: &str, value: &str) -> Vec<String> {
    vec![format!("ALTER SYSTEM SET {setting} = {value};"), "SELECT pg_reload_conf();".to_owned()]
}

/// What to do: in words, or by statements.
enum Way {
    Words(String),
    Statements(Vec<String>),
}

fn explain(told: &Told) -> Loss {
    let setting = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
    let conflict = || {
        // Only on a standby: what the slot needs of the catalogs was vacuumed away on the primary.
        (
            "it was in conflict with the recovery of a standby".to_owned(),
            Way::Words("follow the primary; with several hosts in the url add target_session_attrs=read-write".to_owned()),
        )
    };
    let (cause, remedy) = match told.reason.as_deref() {
        Some("idle_timeout") => (
            format!(
                "nobody read it for longer than idle_replication_slot_timeout ({}) allows",
                setting(&told.settings.idle_timeout)
            ),
            Way::Statements(set("idle_replication_slot_timeout", "0")),
        ),
        Some("wal_level_insufficient") => (
            "wal_level was below logical".to_owned(),
            Way::Words("ALTER SYSTEM SET wal_level = logical; then restart the server".to_owned()),
        ),
        Some("rows_removed") => conflict(),
        None if told.conflicting => conflict(),
        Some("wal_removed") | None => too_much_wal(told, &setting(&told.settings.keep_size)),
        Some(other) => (
            format!("the server invalidated it: {other}"),
            Way::Words("the server's manual explains pg_replication_slots.invalidation_reason".to_owned()),
        ),
    };
    let (remedy, statements) = match remedy {
        Way::Words(words) => (words, Vec::new()),
        Way::Statements(statements) => (statements.join(" "), statements),
    };
    Loss { cause, remedy, statements, settings: told.settings.clone() }
}

fn too_much_wal(told: &Told, keep_size: &str) -> (String, Way) {
    #[allow(clippy::cast_precision_loss)]
    let behind =
        told.behind.map(|bytes| format!("; {:.0} MiB were written after its position", (bytes as f64 / MEBIBYTE).ceil()));
    let rate = told.rate.map(|rate| format!(", {:.1} MiB a second", rate / MEBIBYTE));
    (
        format!(
            "the server wrote more WAL than max_slot_wal_keep_size ({keep_size}) lets a slot keep{}{}",
            behind.unwrap_or_default(),
            rate.unwrap_or_default()
        ),
        Way::Statements(keep_statements(sufficient_size(told.behind.unwrap_or_default(), told.rate))),
    )
}

#[cfg(test)]
mod tests {
    use super::{KeepSettings, Told, explain, sufficient_size};

    #[test]
    fn the_cause_comes_with_the_size_that_would_do() {
        let settings = KeepSettings { keep_size: Some("32MB".to_owned()), idle_timeout: Some("1min".to_owned()) };
        let told = Told { settings, behind: Some(40 << 20), ..Told::default() };
        let loss = explain(&told);
        assert!(loss.cause.contains("32MB") && loss.cause.contains("40 MiB were written"), "{loss:?}");
        assert!(loss.remedy.contains("max_slot_wal_keep_size = '1GB'"), "{loss:?}");
        // Ten minutes of 16 MiB a second.
        let busy = Told { rate: Some(16.0 * 1_048_576.0), ..told.clone() };
        assert!(explain(&busy).remedy.contains("'10GB'"), "{:?}", explain(&busy));
        let removed = Told { reason: Some("wal_removed".to_owned()), ..told.clone() };
        assert_eq!(explain(&removed), explain(&told), "the same with a name for it");
        let idle = Told { reason: Some("idle_timeout".to_owned()), ..told.clone() };
        assert!(explain(&idle).cause.contains("idle_replication_slot_timeout (1min)"));
        let conflicting = Told { conflicting: true, ..told.clone() };
        let named = Told { reason: Some("rows_removed".to_owned()), ..told };
        assert_eq!(explain(&conflicting), explain(&named));
    }

    #[test]
    fn a_size_is_twice_what_was_missing_or_ten_minutes() {
        assert_eq!(sufficient_size(0, None) >> 30, 1);
        assert_eq!(sufficient_size(5 << 30, None) >> 30, 10);
        assert_eq!(sufficient_size(5 << 30, Some(1_048_576.0)) >> 30, 10);
        assert_eq!(sufficient_size(1 << 30, Some(104_857_600.0)) >> 30, 59);
    }
}
