//! Putting a new version in the place of the old one, in one short transaction.

use std::time::Duration;

use anyhow::bail;
use lockstep_config::Config;
use lockstep_connect::{LockTurns, Session, is_about_locks};
use lockstep_plan::names::fitted;
use lockstep_plan::{index_names, quote};
use lockstep_preflight::Preflight;
use lockstep_refresh::{drop_views, record_that_all_changed};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Row, Transaction};

use super::hidden::replace_hidden;
use super::names::{INDEX_PREFIX, OLD_SUFFIX, SUFFIX, renamed};
use super::rename::rename_table;
use super::unit;
use crate::setup::fingerprint::fingerprint;
use crate::setup::version::Making;

/// How long a swap is tried while readers hold what it moves; then it says who they are and waits for another set-up.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same while its group stands still.
const PATIENCE_IN_PLACE: Duration = Duration::from_secs(3);

/// How long dropping an old version waits for its readers, each time it is due.
const RETIRED_MAX_MS: u32 = 100;

/// Swaps every new version that is ready and still what is configured; those that read each other in one transaction.
///
/// # Errors
/// The target cannot be asked. What stands in the way of a swap is said where `lockstep status` shows it.
pub(crate) async fn swap_ready(config: &Config, checked: &Preflight, target: &mut Session) -> anyhow::Result<()> {
    drop_retired(target).await?;
    for names in ready(config, checked, target).await? {
        swap_or_say_why(config, target, &names, PATIENCE).await?;
    }
    Ok(())
}

/// The same for one of [`ready`], whose groups stand still meanwhile.
///
/// # Errors
/// As [`swap_ready`].
pub(crate) async fn swap_in_place(config: &Config, target: &mut Session, names: &[String]) -> anyhow::Result<()> {
    swap_or_say_why(config, target, names, PATIENCE_IN_PLACE).await
}

/// The projections whose new versions are ready and still what is configured; those that read each other together.
///
/// # Errors
/// The target cannot be asked.
pub(crate) async fn ready(config: &Config, checked: &Preflight, target: &Session) -> anyhow::Result<Vec<Vec<String>>> {
    let rows = target
        .query(
            "SELECT name, replaces, becomes, ready FROM lockstep.projection WHERE part_of IS NULL AND replaces IS NOT NULL",
            &[],
        )
        .await?;
    let of_row = |row: &Row| Making { name: row.get(0), replaces: row.get(1), becomes: row.get(2), stays: false, unit: 0 };
    let mut making: Vec<Making> = rows.iter().map(of_row).collect();
    let ready: Vec<&str> = rows.iter().filter(|row| row.get(3)).map(|row| row.get(0)).collect();
    unit::number(&mut making, &checked.planned);
    let mut units = Vec::new();
    for number in 0..making.len() {
        let together: Vec<&Making> = making.iter().filter(|made| made.unit == number).collect();
        let wanted = |made: &&Making| {
            let configured = config.projections.iter().any(|projection| projection.name == made.replaces);
            let planned = checked.planned.iter().find(|planned| planned.plan.projection == made.replaces);
            configured
                && ready.contains(&made.name.as_str())
                && planned.is_some_and(|planned| fingerprint(planned, &checked.planned) == made.becomes)
        };
        if !together.is_empty() && together.iter().all(wanted) {
            units.push(together.iter().map(|made| made.replaces.clone()).collect());
        }
    }
    Ok(units)
}

/// Whether a group with these projections has a part in the swap of those.
pub(crate) fn concerns(names: &[String], projections: &[String]) -> bool {
    names.iter().any(|name| projections.contains(name) || projections.contains(&format!("{name}{SUFFIX}")))
}

/// Those of the swapped names that new versions among these projections have now.
pub(crate) fn places_taken(names: &[String], projections: &[String]) -> Vec<String> {
    names.iter().filter(|name| projections.contains(&format!("{name}{SUFFIX}"))).cloned().collect()
}

async fn swap_or_say_why(config: &Config, target: &mut Session, names: &[String], patience: Duration) -> anyhow::Result<()> {
    let projection = names.join(", ");
    let mut turns = LockTurns::new(format!("the new version of {projection}"), &[&config.schema], Some(patience));
    loop {
        let Err(error) = swap(config, target, names, &turns).await else {
            break tracing::info!(projection, "the new version has taken its place");
        };
        let sqlstate = error.downcast_ref::<tokio_postgres::Error>().and_then(|error| error.code()).map(SqlState::code);
        if turns.again(target, sqlstate).await {
            continue;
        }
        let error = match error.downcast::<tokio_postgres::Error>() {
            Ok(error) if is_about_locks(error.code().map(SqlState::code)) => {
                format!("somebody reads the old one all the time: {}", turns.holders(target).await)
            }
            Ok(error) => lockstep_connect::describe(&error),
            Err(error) => format!("{error:#}"),
        };
        let reason = format!("the new version waits beside it: {error}");
        tracing::error!(projection, reason);
        target.execute("UPDATE lockstep.projection SET hint = $2 WHERE name = ANY($1)", &[&names, &reason]).await?;
        break;
    }
    Ok(())
}

async fn swap(config: &Config, target: &mut Session, names: &[String], turns: &LockTurns) -> anyhow::Result<()> {
    let transaction = target.transaction().await?;
    // All at once: a reader that has one and waits for another would be in a deadlock with us.
    let tables: Vec<String> = names.iter().map(|name| quote::qualified(&config.schema, name)).collect();
    if let Err(error) = transaction.batch_execute(&turns.locking(&tables)).await {
        transaction.rollback().await?;
        return Err(error.into());
    }
    for name in names {
        if let Err(error) = swap_inside(config, &transaction, name).await {
            transaction.rollback().await?;
            return Err(error);
        }
    }
    Ok(transaction.commit().await?)
}

async fn swap_inside(config: &Config, transaction: &Transaction<'_>, name: &str) -> anyhow::Result<()> {
    let new = format!("{name}{SUFFIX}");
    let (old_table, new_table) = (quote::qualified(&config.schema, name), quote::qualified(&config.schema, &new));
    drop_views(transaction, &config.schema, name, &old_table).await?;
    keep_grants_and_comments(transaction, &old_table, &new_table).await?;
    let views = dependent_views(transaction, &old_table).await?;
    // The names change first, so that the views' texts mean the new table.
    rename_table(transaction, &config.schema, name, &format!("{name}{OLD_SUFFIX}"), |index| fitted("", index, OLD_SUFFIX))
        .await?;
    let configured = config.projections.iter().find(|projection| projection.name == name);
    let configured = index_names(configured.and_then(|found| found.indexes.as_deref()).unwrap_or_default(), name);
    rename_table(transaction, &config.schema, &new, name, |index| {
        if let Some(plain) = configured.iter().find(|plain| fitted(INDEX_PREFIX, plain, "") == index) {
            return plain.clone();
        }
        let plain = index.strip_prefix(INDEX_PREFIX).unwrap_or(index);
        renamed(plain, &new, name)
    })
    .await?;
    for (view, definition) in &views {
        let statement = format!("CREATE OR REPLACE VIEW {view} AS {definition}");
        transaction.batch_execute(&statement).await.map_err(|error| {
            if is_about_locks(error.code().map(SqlState::code)) {
                return error.into();
            }
            anyhow::anyhow!("the view {view} cannot be kept: {}; drop it, or change it", lockstep_connect::describe(&error))
        })?;
    }
    retire(config, transaction, name).await?;
    replace_hidden(transaction, name, &new).await?;
    if config.projections.iter().any(|projection| projection.name == name && projection.feed) {
        let rows: i64 =
            transaction.query_one("SELECT row_count FROM lockstep.projection WHERE name = $1", &[&name]).await?.get(0);
        record_that_all_changed(transaction.client(), name, rows).await?;
    }
    Ok(())
}

/// The new table gets the old one's grants, and the comments of columns that both have.
async fn keep_grants_and_comments(transaction: &Transaction<'_>, old: &str, new: &str) -> anyhow::Result<()> {
    let statements = transaction
        .query(
            "SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, $2::text,
                           CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                           CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
             FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = $1::text::regclass AND a.grantee <> c.relowner
             UNION ALL
             SELECT format('COMMENT ON COLUMN %s.%I IS %L', $2::text, o.attname, col_description(o.attrelid, o.attnum))
             FROM pg_attribute AS o JOIN pg_attribute AS n ON n.attname = o.attname AND n.attrelid = $2::text::regclass AND n.attnum > 0
             WHERE o.attrelid = $1::text::regclass AND o.attnum > 0 AND NOT o.attisdropped AND col_description(o.attrelid, o.attnum) IS NOT NULL
             UNION ALL
             SELECT format('COMMENT ON TABLE %s IS %L', $2::text, obj_description($1::text::regclass, 'pg_class'))
             WHERE obj_description($1::text::regclass, 'pg_class') NOT LIKE 'Lockstep projection (%'",
            &[&old, &new],
        )
        .await?;
    for row in &statements {
        transaction.batch_execute(row.get(0)).await?;
    }
    Ok(())
}

/// The views that read a table, with their definitions. What else depends on it stands in the way.
async fn dependent_views(transaction: &Transaction<'_>, table: &str) -> anyhow::Result<Vec<(String, String)>> {
    let rows = transaction
        .query(
            "SELECT DISTINCT c.oid::regclass::text, c.relkind::text, pg_get_viewdef(c.oid), quote_ident(n.nspname) || '.' || quote_ident(c.relname)
             FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid JOIN pg_class AS c ON c.oid = r.ev_class
             JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = $1::text::regclass AND c.oid <> $1::text::regclass",
            &[&table],
        )
        .await?;
    let mut views = Vec::new();
    for row in &rows {
        let kind: &str = row.get(1);
        if kind != "v" {
            bail!("{} depends on it, and cannot be moved to another table; drop it", row.get::<_, &str>(0));
        }
        views.push((row.get(3), row.get(2)));
    }
    Ok(views)
}

/// Drops the old version, or keeps it for a while.
async fn retire(config: &Config, transaction: &Transaction<'_>, name: &str) -> anyhow::Result<()> {
    let old = format!("{name}{OLD_SUFFIX}");
    let table = quote::qualified(&config.schema, &old);
    if config.keep_old.is_zero() {
        transaction.batch_execute(&format!("DROP TABLE {table}")).await?;
        return Ok(());
    }
    transaction
        .batch_execute(&format!("COMMENT ON TABLE {table} IS 'an old version, no longer maintained; kept for a while'"))
        .await?;
    transaction
        .execute(
            "INSERT INTO lockstep.retired VALUES ($1, $2, clock_timestamp() + $3::double precision * interval '1 second')",
            &[&config.schema, &old, &config.keep_old.as_secs_f64()],
        )
        .await?;
    Ok(())
}

/// Drops old versions whose time has come. One that somebody reads stays until the next time.
///
/// # Errors
/// The target cannot be asked.
pub(crate) async fn drop_retired(target: &Session) -> anyhow::Result<()> {
    let rows =
        target.query("SELECT table_schema, table_name FROM lockstep.retired WHERE drop_after < clock_timestamp()", &[]).await?;
    for row in &rows {
        let (schema, table): (&str, &str) = (row.get(0), row.get(1));
        let script = format!(
            "BEGIN; SET LOCAL lock_timeout = {}; DROP TABLE IF EXISTS {}; DELETE FROM lockstep.retired WHERE table_schema = {} AND table_name = {}; COMMIT",
            RETIRED_MAX_MS,
            quote::qualified(schema, table),
            quote::literal(schema),
            quote::literal(table)
        );
        if let Err(error) = target.batch_execute(&script).await {
            target.batch_execute("ROLLBACK").await?;
            tracing::warn!(table, error = %lockstep_connect::describe(&error), "an old version cannot be dropped");
        }
    }
    Ok(())
}
