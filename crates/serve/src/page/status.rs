//! What the page shows: what the target records, and what is observed here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_config::Config;
use lockstep_connect::{Session, Settings};
use lockstep_observe::Observed;
use serde_json::{Map, Value, json};

/// A look at the target serves all pages for so long.
const FRESH_FOR: Duration = Duration::from_millis(800);

/// A look takes no longer: a target that hangs must not hang the page.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// What is shown.
pub(crate) struct Viewed {
    pub(super) config: Config,
    pub(super) observed: Arc<Observed>,
    pub(super) looked_up: tokio::sync::Mutex<LookedUp>,
}

/// What the target said, and the session that asked it.
#[derive(Default)]
pub(super) struct LookedUp {
    session: Option<Session>,
    found: Option<(Instant, Vec<Value>, Vec<Value>)>,
}

impl Viewed {
    /// Everything, as JSON.
    pub(super) async fn status(&self) -> Value {
        let (groups, projections) = self.recorded().await;
        let groups: Vec<Value> = groups.into_iter().map(|group| self.with_observed(group)).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "now": jiff::Timestamp::now().to_string(),
            "instance": self.observed.instance(),
            "source": place(&self.config.source),
            "target": place(self.config.target_settings()),
            "groups": groups,
            "slot": self.observed.slot_value(),
            "projections": projections,
        })
    }

    fn with_observed(&self, group: Value) -> Value {
        let Value::Object(mut group) = group else { return group };
        let name = group.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let observed = self.observed.group_value(&name).unwrap_or_else(|| Value::Object(Map::new()));
        for field in ["staleness_seconds", "freshness_p50_ms", "freshness_p99_ms", "lag_bytes", "dirty_keys"] {
            let recorded = group.get(field).cloned().unwrap_or_default();
            group.insert(field.to_owned(), observed.get(field).cloned().filter(|value| !value.is_null()).unwrap_or(recorded));
        }
        Value::Object(group)
    }

    /// What the target records; what it last said, if it says nothing now.
    async fn recorded(&self) -> (Vec<Value>, Vec<Value>) {
        let mut looked_up = self.looked_up.lock().await;
        if let Some((since, groups, projections)) = &looked_up.found
            && since.elapsed() < FRESH_FOR
        {
            return (groups.clone(), projections.clone());
        }
        let looking = look(self.config.target_settings(), &mut looked_up.session);
        let found = tokio::time::timeout(LOOK_MAX, looking).await;
        match found {
            Ok(Ok((groups, projections))) => {
                looked_up.found = Some((Instant::now(), groups.clone(), projections.clone()));
                (groups, projections)
            }
            Ok(Err(_)) | Err(_) => {
                looked_up.session = None;
                let before = looked_up.found.as_ref();
                before.map(|(_, groups, projections)| (groups.clone(), projections.clone())).unwrap_or_default()
            }
        }
    }
}

async fn look(settings: &Settings, kept: &mut Option<Session>) -> anyhow::Result<(Vec<Value>, Vec<Value>)> {
    let session = match kept {
        Some(session) if !session.is_closed() => session,
        _ => kept.insert(Session::open(settings, "lockstep page").await?),
    };
    let groups = session
        .query(
            "SELECT json_build_object('name', group_name, 'lsn', lsn, 'batches', batches, 'batch_ms', batch_ms, 'fence_ms', fence_ms,
                        'set_aside', p.set_aside, 'staleness_seconds', extract(epoch FROM clock_timestamp() -
                            CASE WHEN p.set_aside THEN least(current_as_of, p.changed_at) ELSE current_as_of END))
             FROM lockstep.checkpoint AS c
             JOIN LATERAL (SELECT bool_and(p.state = 'faulted') AS set_aside, max(p.changed_at) AS changed_at
                           FROM lockstep.projection AS p WHERE p.group_name = c.group_name AND p.replaces IS NULL) AS p
                 ON p.set_aside IS NOT NULL
             ORDER BY group_name",
            &[],
        )
        .await?;
    let projections = session
        .query(
            "SELECT json_build_object('name', s.projection, 'group', s.group_name, 'kind', s.kind, 'state', s.state, 'reason', s.reason,
                        'hint', s.hint, 'rows', s.rows, 'quarantined', s.quarantined,
                        'drift_rows', (SELECT greatest(coalesce(max(v.differing + v.hidden_differing), 0),
                                                       (SELECT count(DISTINCT (d.part, d.key)) FROM lockstep.difference AS d
                                                        WHERE d.verification = ANY (array_agg(v.id))))
                                       FROM lockstep.verification AS v
                                       WHERE v.projection = s.projection AND v.started_at > clock_timestamp() - interval '1 day'),
                        'last_verification', (SELECT json_build_object('outcome', v.outcome, 'finished_at', v.finished_at,
                                                     'compared', v.compared, 'differing', v.differing + v.hidden_differing)
                                              FROM lockstep.verification AS v
                                              WHERE v.projection = s.projection AND v.finished_at IS NOT NULL ORDER BY v.id DESC LIMIT 1),
                        'view', (SELECT json_build_object('staleness_seconds', extract(epoch FROM clock_timestamp() - l.last_refresh_at),
                                        'last_duration_ms', l.duration_ms, 'success', l.success)
                                 FROM lockstep.mv_refresh_log AS l
                                 WHERE l.projection = s.projection ORDER BY l.last_refresh_at DESC LIMIT 1))
             FROM lockstep.status AS s ORDER BY s.projection",
            &[],
        )
        .await?;
    let values = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|row| row.get(0)).collect();
    Ok((values(groups), values(projections)))
}

/// Host, port and database.
fn place(settings: &Settings) -> String {
    settings.summary()
}
