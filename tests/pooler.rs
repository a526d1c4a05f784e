//! Something between us and the server that takes the session settings away.

use lockstep_testkit::cluster;

use crate::harness::{Program, Setup, shop};
use crate::interposed::{Interposed, Interposing};

const ORDERS: &[(&str, &str, &str)] = &[("orders", "SELECT o.id, o.status FROM shop.orders o", "")];

#[tokio::test(flavor = "multi_thread")]
async fn sessions_without_their_settings_are_refused_and_the_pooler_is_named() -> anyhow::Result<()> {
    let cluster = cluster()?;
    shop(&cluster.url("postgres")).await?;
    shop(&cluster.url("template1")).await?;
    // As PgBouncer does with ignore_startup_parameters = options.
    let pooler = Interposed::start(cluster.port(), Interposing::DropOptions).await?;
    let through = |database: &str| format!("postgres://postgres@127.0.0.1:{}/{database}", pooler.port());

    let as_source = Setup::new(&through("postgres"), ORDERS);
    let mut as_target = Setup::new(&cluster.url("postgres"), ORDERS);
    as_target.target_url = Some(through("template1"));
    let mut as_api = Setup::new(&cluster.url("postgres"), ORDERS);
    as_api.preamble = format!("[api]\nlisten = \"127.0.0.1:0\"\nurl = \"{}\"\n", through("postgres"));

    for (setup, command) in
        [(&as_source, "check"), (&as_source, "run"), (&as_target, "check"), (&as_target, "run"), (&as_api, "serve")]
    {
        let (status, output, errors) = Program::new(setup)?.run(&[command])?;
        let said = format!("{output}{errors}");
        assert_eq!(status, 1, "{command}: {said}");
        assert!(said.contains("PgBouncer") && said.contains("DateStyle is 'ISO, MDY' and not 'ISO, YMD'"), "{command}: {said}");
    }
    let source = lockstep_testkit::connect(&cluster.url("postgres")).await?;
    let nothing: bool = source.query_one("SELECT to_regnamespace('lockstep') IS NULL", &[]).await?.get(0);
    assert!(nothing, "nothing has been made");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_refuses_the_start_is_named_too() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let pooler = Interposed::start(cluster.port(), Interposing::Refuse("unsupported startup parameter: options")).await?;
    let setup = Setup::new(&format!("postgres://postgres@127.0.0.1:{}/postgres", pooler.port()), ORDERS);
    let (status, output, errors) = Program::new(&setup)?.run(&["check"])?;
    let said = format!("{output}{errors}");
    assert!(status == 1 && said.contains("PgBouncer") && said.contains("unsupported startup parameter: options"), "{said}");
    Ok(())
}
