//! `lockstep teardown`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use lockstep_capture::slot_state;
use lockstep_config::Config;
use lockstep_connect::{LockTurns, Session};
use lockstep_plan::quote;
use lockstep_preflight::standing::{Installation, Standing, forget, others_of_publication, standing};
use lockstep_refresh::{drop_projection, load_registered};
use lockstep_supervise::{drop_slot, lock_out_others};
use tokio_postgres::error::SqlState;

use super::common;
use crate::Exit;

/// How long readers are waited for, for each thing that is dropped.
const PATIENCE: Duration = Duration::from_secs(30);

/// Drops slot, publication, hidden state and, unless they are kept, the read models.
///
/// # Errors
/// A database cannot be reached, or something cannot be dropped.
pub async fn teardown(config: &Config, yes: bool, keep_tables: bool, json: bool) -> anyhow::Result<Exit> {
    let source = Session::open(&config.source, "lockstep teardown").await.context("source")?;
    let mut target = Session::open(config.target_settings(), "lockstep teardown").await.context("target")?;
    let installed: bool = target.query_one("SELECT to_regclass('lockstep.projection') IS NOT NULL", &[]).await?.get(0);
    let registered = if installed { load_registered(&target).await? } else { Vec::new() };
    let public = registered.iter().filter(|registered| registered.part_of.is_none());
    let names: Vec<String> = public.map(|registered| format!("{}.{}", registered.schema, registered.name)).collect();
    if !yes && !confirmed(config, &names, keep_tables)? {
        eprintln!("nothing was changed");
        return Ok(Exit::Failure);
    }
    if !installed {
        eprintln!("nothing is set up in {}", config.target_settings().summary());
        return Ok(Exit::Good);
    }
    let dependents = if keep_tables { Vec::new() } else { dependents(&target).await? };
    if !dependents.is_empty() {
        eprintln!(
            "error: these depend on read models: {}\n = help: drop them first, or leave the tables with --keep-tables; nothing was changed",
            dependents.join(", ")
        );
        return Ok(Exit::Failure);
    }
    let writer = lock_out_others(config).await?;
    let original = match standing(config, &source, &writer).await? {
        Standing::Copy(reason) => Some(reason),
        Standing::New | Standing::Ours | Standing::Apart => None,
    };
    let publication_dropped = match &original {
        Some(_) => false,
        None => drop_on_source(config, &source, &target).await?,
    };
    for projection in &registered {
        drop_projection(&mut target, projection, keep_tables, Some(PATIENCE))
            .await
            .with_context(|| format!("dropping {}", projection.name))?;
    }
    drop_metadata(&target).await.context("dropping schema lockstep")?;
    if !keep_tables {
        drop_empty_schema(&target, &config.schema).await?;
    }
    if json {
        common::print_json(
            &serde_json::json!({ "slot": config.slot, "slot_dropped": original.is_none(), "publication": config.publication, "publication_dropped": publication_dropped, "projections": names, "kept_tables": keep_tables }),
        )?;
    } else {
        match &original {
            None => println!("dropped slot {} and lockstep's state", config.slot),
            Some(reason) => println!("dropped lockstep's state; left slot {}, for this is a copy: {reason}", config.slot),
        }
        if publication_dropped {
            println!("dropped publication {}", config.publication);
        } else {
            println!("left publication {}, which somebody else owns or uses", config.publication);
        }
        println!(
            "{} {}",
            if keep_tables { "kept" } else { "dropped" },
            if names.is_empty() { "no tables".to_owned() } else { names.join(", ") }
        );
    }
    Ok(Exit::Good)
}

/// Schema lockstep goes in one short turn, so that those who wait in it or look at it are not kept.
async fn drop_metadata(target: &Session) -> anyhow::Result<()> {
    let mut turns = LockTurns::new("dropping schema lockstep", &["lockstep"], Some(PATIENCE));
    loop {
        let tables = target
            .query("SELECT format('lockstep.%I', tablename) FROM pg_tables WHERE schemaname = 'lockstep' ORDER BY 1", &[])
            .await?;
        let tables: Vec<String> = tables.iter().map(|row| row.get(0)).collect();
        let script = format!("BEGIN; {}; DROP SCHEMA IF EXISTS lockstep CASCADE; COMMIT", turns.locking(&tables));
        let Err(error) = target.batch_execute(&script).await else { return Ok(()) };
        target.batch_execute("ROLLBACK").await?;
        if !turns.again(target, error.code().map(SqlState::code)).await {
            let holders = turns.holders(target).await;
            let holders = if holders.is_empty() { holders } else { format!("; open there: {holders}") };
            anyhow::bail!("{}{holders}", lockstep_connect::describe(&error));
        }
    }
}

/// Views of others over read models.
async fn dependents(target: &Session) -> anyhow::Result<Vec<String>> {
    let rows = target
        .query(
            "SELECT DISTINCT format('%I.%I', n.nspname, v.relname)
             FROM lockstep.projection AS p
             JOIN pg_namespace AS s ON s.nspname = p.table_schema
             JOIN pg_class AS t ON t.relnamespace = s.oid AND t.relname = p.name
             JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.classid = 'pg_rewrite'::regclass
             JOIN pg_rewrite AS r ON r.oid = d.objid
             JOIN pg_class AS v ON v.oid = r.ev_class
             JOIN pg_namespace AS n ON n.oid = v.relnamespace
             WHERE coalesce(obj_description(v.oid, 'pg_class'), '') NOT LIKE 'lockstep backstop %' ORDER BY 1",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Drops slot and publication; true if the publication is gone, which others may own or use.
async fn drop_on_source(config: &Config, source: &Session, target: &Session) -> anyhow::Result<bool> {
    if slot_state(source, &config.slot).await?.is_some() {
        drop_slot(source, &config.slot).await.context("dropping the slot")?;
    }
    let id = Installation::load(target).await?.map(|installation| installation.id).unwrap_or_default();
    let shared = others_of_publication(source, &config.publication, &id).await?;
    let dropped = !shared && drop_publication(config, source).await.context("dropping the publication")?;
    if let Err(error) = forget(source, &config.slot).await {
        tracing::warn!(error = %lockstep_connect::describe(&error), "what the source has noted about the slot stays");
    }
    Ok(dropped)
}

/// Drops the publication unless it is somebody else's; true if it is gone.
async fn drop_publication(config: &Config, source: &Session) -> anyhow::Result<bool> {
    let ours = source
        .query_opt("SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $1", &[&config.publication])
        .await?
        .is_none_or(|row| row.get(0));
    if ours {
        source.batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", quote::identifier(&config.publication))).await?;
    }
    Ok(ours)
}

/// The read models' schema goes if nothing is left in it and it is ours to drop.
async fn drop_empty_schema(target: &Session, schema: &str) -> anyhow::Result<()> {
    let droppable: Option<bool> = target
        .query_opt(
            "SELECT pg_has_role(n.nspowner, 'USAGE') AND n.nspname <> 'public'
                    AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid)
             FROM pg_namespace n WHERE n.nspname = $1",
            &[&schema],
        )
        .await?
        .map(|row| row.get(0));
    if droppable == Some(true)
        && let Err(error) = target.batch_execute(&format!("DROP SCHEMA {}", quote::identifier(schema))).await
    {
        tracing::info!(schema, error = %lockstep_connect::describe(&error), "the schema stays");
    }
    Ok(())
}

fn confirmed(config: &Config, names: &[String], keep_tables: bool) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        eprintln!("teardown needs --yes where nobody can be asked");
        return Ok(false);
    }
    let tables = if keep_tables { "(tables are kept)".to_owned() } else { names.join(", ") };
    print!(
        "Drop slot {} and publication {} on {}, and in {} schema lockstep and {tables}? [y/N] ",
        config.slot,
        config.publication,
        config.source.summary(),
        config.target_settings().summary()
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
