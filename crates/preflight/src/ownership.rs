//! Whether the target is the one that the slot belongs to, and the source not behind what has been followed.

use lockstep_config::Config;
use lockstep_connect::Session;

use crate::report::Preflight;
use crate::standing::{self, Installation, Standing, behind};

pub(crate) async fn look(config: &Config, source: &Session, target: &Session, preflight: &mut Preflight) {
    match standing::standing(config, source, target).await {
        Ok(Standing::Copy(reason)) => preflight.error("target", standing::refusal(&reason), standing::REMEDY),
        Ok(Standing::Apart) => {
            preflight.apart = true;
            preflight.ok("target", "a copy of another installation, with a slot of its own");
        }
        Ok(Standing::New | Standing::Ours) => {}
        Err(error) => preflight.error("target", format!("{error:#}"), "the catalogs of both servers must be readable"),
    }
    match older_than_followed(source, target, preflight).await {
        Ok(Some(reason)) => preflight.error(
            "source",
            format!("{} is behind what the read models contain: {reason}; it is not followed", config.source.summary()),
            "let the URL lead to the server that is in force (and rebuild this one from it); if this is the one, lockstep adopt",
        ),
        Ok(None) => {}
        Err(error) => preflight.error("target", format!("{error:#}"), "schema lockstep must be readable"),
    }
}

/// The source's position is asked after the target's: groups go on while this is looked at.
async fn older_than_followed(source: &Session, target: &Session, preflight: &Preflight) -> anyhow::Result<Option<String>> {
    let Some(installation) = Installation::load(target).await? else { return Ok(None) };
    let flushed: String = source.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
    Ok(behind(&installation, &preflight.system_identifier, preflight.timeline, flushed.parse()?))
}
