//! Two instances on one configuration: one writes, the other waits; whatever happens to the one, the other takes over, and never do both write.

use lockstep_testkit::{Workload, cluster, connect, seed_from_environment};
use nix::sys::signal::Signal;

use crate::harness::{Followed, PATIENCE, PROJECTIONS, Program, Setup, assert_equal, catch_up, shop, signal, until};

/// Rounds in an ordinary run; `LOCKSTEP_ROUNDS` asks for more.
const ROUNDS: u32 = 6;

/// Notes every batch, with the epoch that it was written in.
const NOTE: &str = "CREATE TABLE public.written (n bigserial, epoch bigint);
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
       'BEGIN INSERT INTO public.written (epoch) VALUES (NEW.leader_epoch); RETURN NULL; END';
    CREATE TRIGGER note AFTER UPDATE ON lockstep.checkpoint FOR EACH ROW
       WHEN (NEW.batches > OLD.batches) EXECUTE FUNCTION public.note()";

#[tokio::test(flavor = "multi_thread")]
async fn one_writes_and_the_other_takes_over() -> anyhow::Result<()> {
    let rounds = std::env::var("LOCKSTEP_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let admin = connect(&cluster.url("postgres")).await?;
    admin.batch_execute("CREATE DATABASE models").await?;
    let mut setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    setup.target_url = Some(cluster.url("models"));
    setup.preamble = "lease_ms = 2000\n".to_owned();
    shop(&setup.source_url).await?;
    let target = connect(setup.target_url()).await?;
    let programs = [Program::new(&setup)?, Program::new(&setup)?];
    let mut children = [programs[0].start("")?, programs[1].start("")?];
    until(&target, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    target.batch_execute(NOTE).await?;
    let mut workload = Workload::start(&setup.source_url, 2, seed);
    for round in 0..rounds {
        workload.reach(workload.commits() + 20).await?;
        let leads: bool = target
            .query_one(
                "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'lockstep' AND datname = current_database()",
                &[],
            )
            .await?
            .get(0);
        anyhow::ensure!(leads, "round {round}: one leads");
        let epoch: i64 = target.query_one("SELECT leader_epoch FROM lockstep.installation", &[]).await?.get(0);
        let leader = usize::from(!programs[0].log_ends_with_leadership());
        let stop = (seed >> round) & 1 == 0;
        signal(&children[leader], if stop { Signal::SIGSTOP } else { Signal::SIGKILL })?;
        let taken_over = format!("SELECT EXISTS (SELECT FROM public.written WHERE epoch > {epoch})");
        let result = until(&target, &taken_over).await;
        result.map_err(|error| {
            error.context(format!("seed {seed}, round {round}: {}\n---\n{}", programs[0].log(), programs[1].log()))
        })?;
        if stop {
            // The former leader wakes up and must find its place taken.
            signal(&children[leader], Signal::SIGCONT)?;
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while programs[leader].log_ends_with_leadership() {
                anyhow::ensure!(tokio::time::Instant::now() < deadline, "round {round}: {}", programs[leader].log());
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        } else {
            children[leader].wait()?;
            children[leader] = programs[leader].start("")?;
        }
        let now: i64 = target.query_one("SELECT leader_epoch FROM lockstep.installation", &[]).await?.get(0);
        anyhow::ensure!(now == epoch + 1, "seed {seed}, round {round}: the epoch went from {epoch} to {now}");
    }
    workload.finish().await?;
    catch_up(&setup).await?;
    let result = assert_equal(&setup).await;
    // Epochs never go back: at no time did an earlier leader write after a later one.
    let interleaved: i64 = target
        .query_one(
            "SELECT count(*) FROM (SELECT epoch < max(epoch) OVER (ORDER BY n) AS late FROM public.written) w WHERE late",
            &[],
        )
        .await?
        .get(0);
    let epochs: i64 = target.query_one("SELECT count(DISTINCT epoch) FROM public.written", &[]).await?.get(0);
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    result?;
    assert_eq!(interleaved, 0, "seed {seed}");
    assert!(epochs >= i64::from(rounds), "{epochs} leaders wrote in {rounds} rounds");
    Ok(())
}

/// An instance that looks at the target while another makes its first tables there takes them for neither a stranger's nor its own
/// to make: it stands by.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_starts_while_another_sets_up() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = shop(&setup.source_url).await?;
    let programs = [Program::new(&setup)?, Program::new(&setup)?];
    // The late one stays between its two looks at the target until the other has set up.
    let release = programs[0].directory.path().join("release");
    let late = programs[0].start(&format!("preflight_strangers=return({})", release.display()))?;
    let mut children = [late, programs[1].start("")?];
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    assert_eq!(programs[0].log(), "", "it has not looked yet");
    std::fs::write(&release, "")?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !programs[0].log().contains("standing by") {
        let ended = children[0].try_wait()?;
        anyhow::ensure!(ended.is_none(), "it ended: {ended:?}\n{}", programs[0].log());
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{}", programs[0].log());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

/// A leader that finds another's epoch in its checkpoint commits nothing more before it has taken its place again.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_epoch_is_gone_writes_nothing() -> anyhow::Result<()> {
    let Followed { cluster: _cluster, setup, session, projector } = Followed::shop(PROJECTIONS).await?;
    session.batch_execute(NOTE).await?;
    session
        .batch_execute(
            "UPDATE lockstep.checkpoint SET leader_epoch = 1000000; UPDATE shop.orders SET status = 'late' WHERE id = 5",
        )
        .await?;
    until(&session, "SELECT status = 'late' FROM read_model.order_row WHERE id = 5").await?;
    let of_nobody: i64 = session.query_one("SELECT count(*) FROM public.written WHERE epoch = 1000000", &[]).await?.get(0);
    assert_eq!(of_nobody, 0);
    projector.ends_equal(&setup).await?;
    Ok(())
}
