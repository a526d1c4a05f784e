//! `synchronous_standby_names` that would choose our stream: commits never wait for it, and are never acknowledged because of it.

use std::time::Duration;

use lockstep_cluster::Cluster;
use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster_with, cluster_with_files, connect};

use crate::harness::{Program, Projector, Setup, shop, until};

const ONE: &[(&str, &str, &str)] = &[("orders", "SELECT o.id, o.status FROM shop.orders o", "")];

/// A commit that waits for nobody who is there takes no longer.
const COMMIT_MAX: Duration = Duration::from_secs(20);

/// A real standby: both start from the same data directory, and this one follows the other.
async fn standby(primary: &Cluster, session: &Session) -> anyhow::Result<Cluster> {
    let follow = format!("primary_conninfo=host=127.0.0.1 port={} user=postgres application_name=archive", primary.port());
    let standby = cluster_with_files(&[&follow], vec![("standby.signal".to_owned(), String::new())])?;
    until(session, "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'archive' AND state = 'streaming'")
        .await?;
    Ok(standby)
}

async fn choose(session: &Session, names: &str) -> anyhow::Result<()> {
    session.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await?;
    session.batch_execute("SELECT pg_reload_conf()").await?;
    until(session, &format!("SELECT current_setting('synchronous_standby_names') = '{names}'")).await
}

/// A commit of the application's.
async fn commit(url: &str, status: &str) -> anyhow::Result<()> {
    let session = connect(url).await?;
    session.batch_execute("SET synchronous_commit = on").await?;
    let statement = format!("UPDATE shop.orders SET status = '{status}' WHERE id % 3 = 0");
    tokio::time::timeout(COMMIT_MAX, session.batch_execute(&statement))
        .await
        .map_err(|_| anyhow::anyhow!("the commit of {status} hangs"))??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_real_standbys_alone() -> anyhow::Result<()> {
    let cluster = cluster_with(&["wal_keep_size=2GB"])?;
    let setup = Setup::new(&cluster.url("postgres"), ONE);
    let session = shop(&setup.source_url).await?;
    session.batch_execute("SET synchronous_commit = local").await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let archive = standby(&cluster, &session).await?;
    for names in ["*", "FIRST 1 (\"lockstep replication\", archive)", "ANY 1 (*)", "\"lockstep replication\", *"] {
        choose(&session, names).await?;
        commit(&setup.source_url, &format!("under {}", names.replace('"', ""))).await.map_err(|error| error.context(names))?;
        projector.is_equal(&setup).await?;
        until(
            &session,
            "SELECT count(*) = 2 AND bool_and(application_name = 'archive' AND sync_state IN ('sync', 'quorum')
                                              OR application_name <> 'archive' AND sync_state = 'async' AND flush_lsn IS NULL)
             FROM pg_stat_replication",
        )
        .await
        .map_err(|error| error.context(names))?;
    }
    // The slot moves on all the same, when there is much to let go.
    for round in 0..6 {
        commit(&setup.source_url, &format!("round {round}")).await?;
        session.batch_execute("SELECT pg_switch_wal()").await?;
    }
    let position: String = session.query_one("SELECT confirmed_flush_lsn::text FROM pg_replication_slots", &[]).await?.get(0);
    until(&session, &format!("SELECT pg_wal_lsn_diff(confirmed_flush_lsn, '{position}') > 50000000 FROM pg_replication_slots"))
        .await?;
    commit(&setup.source_url, "after the slot has moved").await?;
    projector.is_equal(&setup).await?;

    // `check` refuses it, with the statement; the projector says it, too.
    let (status, _, errors) = program.run(&["check"])?;
    let statement =
        errors.split("ALTER SYSTEM SET synchronous_standby_names = '").nth(1).and_then(|rest| rest.split('\'').next());
    assert!(status == 1 && statement == Some("\"archive\""), "{status} {errors}");
    let (_, told, _) = program.run(&["status"])?;
    assert!(told.contains("stands aside"), "{told}");

    // With no standby at all a commit waits as it would without us, and is not acknowledged because of us.
    drop(archive);
    until(&session, "SELECT count(*) = 1 FROM pg_stat_replication").await?;
    let url = setup.source_url.clone();
    let waiting = tokio::spawn(async move { commit(&url, "waits").await });
    until(&session, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await?;
    let replied: String = session.query_one("SELECT reply_time::text FROM pg_stat_replication", &[]).await?.get(0);
    until(&session, &format!("SELECT reply_time > '{replied}'::timestamptz + interval '2 seconds' FROM pg_stat_replication"))
        .await?;
    assert!(!waiting.is_finished(), "nobody is there to acknowledge it");
    choose(&session, "").await?;
    waiting.await??;
    until(&session, "SELECT flush_lsn IS NOT NULL FROM pg_stat_replication").await?;
    projector.ends_equal(&setup).await?;

    // A projector that starts under such a setting stands aside from the beginning.
    choose(&session, "*").await?;
    let archive = standby(&cluster, &session).await?;
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    commit(&setup.source_url, "from the beginning").await?;
    projector.ends_equal(&setup).await?;
    choose(&session, "").await?;
    drop(archive);
    Ok(())
}
