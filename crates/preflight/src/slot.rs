//! The slot: whose it is, whether it lives, and whether the server keeps it for as long as it has to be kept.

use lockstep_capture::{KEEP_FOR, SlotState, keep_statements, loss, slot_state, sufficient_size};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_plan::quote;

use crate::remedy::{By, Remedy, Side};
use crate::report::{Depth, Preflight};

/// What the server keeps has to last for a restart at least.
const KEEP_FOR_MIN: f64 = 60.0;

const MEBIBYTE: f64 = 1_048_576.0;

pub(crate) async fn look(config: &Config, depth: Depth, session: &Session, free_slots: i64, preflight: &mut Preflight) {
    let slot = &config.slot;
    match slot_state(session, slot).await {
        Err(error) => preflight.error("slot", lockstep_connect::describe(&error), "pg_replication_slots must be readable"),
        Ok(None) if free_slots <= 0 => {
            preflight.error(
                "slot",
                "no replication slot is free",
                "raise max_replication_slots, or drop a slot that nobody uses",
            );
        }
        Ok(None) => {
            preflight.ok("slot", format!("{slot} will be created"));
            kept(depth, session, None, preflight).await;
        }
        Ok(Some(state)) if state.plugin != "pgoutput" || state.database != config.source.database() => preflight.error(
            "slot",
            format!("{slot} exists and is not a pgoutput slot of this database"),
            "choose another name with [source] slot",
        ),
        Ok(Some(state)) if state.wal_status == "lost" => lost(slot, depth, session, preflight).await,
        Ok(Some(state)) => {
            preflight.ok("slot", format!("{slot} exists"));
            kept(depth, session, Some(&state), preflight).await;
        }
    }
}

/// `run` makes a new one; what cost this one costs that, too.
async fn lost(slot: &str, depth: Depth, session: &Session, preflight: &mut Preflight) {
    match loss(session, slot, None).await {
        Ok(Some(loss)) if depth == Depth::Full => {
            let remedy = match loss.statements.as_slice() {
                [] => Remedy::from(loss.remedy),
                statements => Remedy::sql(&By::Superuser(Side::Source), statements),
            };
            preflight.error("slot", format!("{slot} is lost: {}", loss.cause), remedy);
        }
        Ok(loss) => {
            let cause = loss.map(|loss| format!(": {}", loss.cause)).unwrap_or_default();
            preflight.warn("slot", format!("{slot} is lost{cause}"), "run makes a new one and repairs every projection");
        }
        Err(error) => preflight.error("slot", lockstep_connect::describe(&error), "pg_replication_slots must be readable"),
    }
}

/// From 18 on the server may give up a slot that nobody reads for a while: during a restart that takes long, an upgrade, an outage.
async fn idle(session: &Session, preflight: &mut Preflight) {
    let setting = "SELECT current_setting('idle_replication_slot_timeout', true),
                          coalesce(extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval), 0)::float8";
    let row = match session.query_one(setting, &[]).await {
        Ok(row) => row,
        Err(error) => {
            return preflight.warn("slot", lockstep_connect::describe(&error), "the server's settings must be readable");
        }
    };
    let (shown, seconds): (Option<&str>, f64) = (row.get(0), row.get(1));
    if seconds <= 0.0 || seconds >= KEEP_FOR.as_secs_f64() {
        return;
    }
    let statements = ["ALTER SYSTEM SET idle_replication_slot_timeout = 0", "SELECT pg_reload_conf()"];
    preflight.warn(
        "slot",
        format!(
            "idle_replication_slot_timeout ({}): a slot that no projector reads for so long is lost, and everything is compared",
            shown.unwrap_or_default()
        ),
        Remedy::sql(&By::Superuser(Side::Source), statements).optional().note("or a time that is longer than any pause of yours"),
    );
}

/// `check` refuses a limit that the slot is about to exceed; what runs goes on.
async fn kept(depth: Depth, session: &Session, state: Option<&SlotState>, preflight: &mut Preflight) {
    if depth == Depth::Full {
        idle(session, preflight).await;
    }
    let room = match room(session, state).await {
        Ok(Some(room)) => room,
        Ok(None) => return,
        Err(error) => {
            return preflight.error("slot", lockstep_connect::describe(&error), "the server's settings must be readable");
        }
    };
    match room.judge() {
        Judgement::Enough => {}
        Judgement::TooSmall(message) if depth == Depth::Full => preflight.error("slot", message, room.remedy()),
        Judgement::TooSmall(message) | Judgement::Small(message) => preflight.warn("slot", message, room.remedy()),
    }
}

/// Reads what is needed; `None` where the server keeps whatever a slot needs. The rate is the average since the server's statistics were
/// reset: a burst of the moment says little.
async fn room(session: &Session, state: Option<&SlotState>) -> Result<Option<Room>, tokio_postgres::Error> {
    let row = session
        .query_one(
            // Not from pg_settings, which is sorted whole, perhaps beyond the role's temp_file_limit.
            "SELECT CASE current_setting('max_slot_wal_keep_size') WHEN '-1' THEN -1
                         ELSE pg_size_bytes(current_setting('max_slot_wal_keep_size')) >> 20 END,
                    (SELECT (wal_bytes / extract(epoch FROM clock_timestamp() - stats_reset))::float8 FROM pg_stat_wal
                     WHERE clock_timestamp() - stats_reset > interval '10 minutes')",
            &[],
        )
        .await?;
    let limit: i64 = row.get::<_, i64>(0);
    if limit < 0 {
        return Ok(None);
    }
    let retained = state.map_or(0, |state| state.retained_bytes);
    let unreserved = state.is_some_and(|state| state.wal_status == "unreserved");
    Ok(Some(Room { limit: limit << 20, retained, unreserved, rate: row.get(1) }))
}

/// What a slot may keep, and what it needs; bytes, and bytes a second.
#[derive(Debug)]
struct Room {
    limit: i64,
    retained: i64,
    unreserved: bool,
    rate: Option<f64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Enough,
    Small(String),
    TooSmall(String),
}

impl Room {
    /// Too small is what is half used up already, or full after a minute; small what is full after [`KEEP_FOR`].
    #[allow(clippy::cast_precision_loss)]
    fn judge(&self) -> Judgement {
        let limit = format!("max_slot_wal_keep_size ({} MB)", self.limit >> 20);
        let retained = self.retained as f64 / MEBIBYTE;
        if self.unreserved {
            return Judgement::TooSmall(format!(
                "the slot is beyond {limit}, and is lost at the next checkpoint: it needs {retained:.0} MiB"
            ));
        }
        if self.retained > self.limit / 2 {
            return Judgement::TooSmall(format!("the slot needs {retained:.0} MiB, which is more than half of {limit}"));
        }
        let Some(rate) = self.rate.filter(|rate| *rate > 0.0) else { return Judgement::Enough };
        let seconds = self.limit as f64 / rate;
        let message = format!(
            "{limit} is what the server writes in {seconds:.0} s ({:.1} MiB a second on average): a slot that waits for longer is lost",
            rate / MEBIBYTE
        );
        if seconds < KEEP_FOR_MIN {
            Judgement::TooSmall(message)
        } else if seconds < KEEP_FOR.as_secs_f64() {
            Judgement::Small(message)
        } else {
            Judgement::Enough
        }
    }

    fn remedy(&self) -> Remedy {
        Remedy::sql(&By::Superuser(Side::Source), keep_statements(sufficient_size(self.retained, self.rate)))
    }
}

/// A slot that exists although this target has never made one belongs to somebody else.
pub(crate) async fn foreign(config: &Config, session: &Session, preflight: &mut Preflight) -> Result<(), tokio_postgres::Error> {
    let exists = preflight.findings.iter().any(|finding| finding.subject == "slot" && finding.message.ends_with("exists"));
    if !exists {
        return Ok(());
    }
    let installed: bool = session.query_one("SELECT to_regclass('lockstep.installation') IS NOT NULL", &[]).await?.get(0);
    let slot: Option<String> = if installed {
        session.query_opt("SELECT slot FROM lockstep.installation", &[]).await?.map(|row| row.get(0))
    } else {
        None
    };
    if slot.as_ref() != Some(&config.slot) {
        preflight.error(
            "slot",
            format!("{} exists, and this target did not create it", config.slot),
            format!(
                "choose another name with [source] slot, or drop it: SELECT pg_drop_replication_slot({})",
                quote::literal(&config.slot)
            ),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Judgement, Room};

    const MIB: i64 = 1 << 20;

    fn judged(limit: i64, retained: i64, rate: Option<f64>) -> Judgement {
        Room { limit: limit * MIB, retained: retained * MIB, unreserved: false, rate: rate.map(|rate| rate * 1_048_576.0) }
            .judge()
    }

    #[test]
    fn a_limit_holds_twice_the_distance_and_a_minute_of_writing() {
        assert_eq!(judged(1000, 400, None), Judgement::Enough);
        assert!(matches!(judged(1000, 501, None), Judgement::TooSmall(message) if message.contains("needs 501 MiB")));
        assert_eq!(judged(1000, 0, Some(1.0)), Judgement::Enough);
        assert!(matches!(judged(1000, 0, Some(2.0)), Judgement::Small(message) if message.contains("in 500 s")));
        assert!(matches!(judged(1000, 0, Some(20.0)), Judgement::TooSmall(message) if message.contains("20.0 MiB a second")));
        let room = Room { limit: 1000 * MIB, retained: 10 * MIB, unreserved: true, rate: None };
        assert!(matches!(room.judge(), Judgement::TooSmall(message) if message.contains("next checkpoint")));
        assert!(room.remedy().line(false).contains("'1GB'"));
    }
}
