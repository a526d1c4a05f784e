//! What is said to somebody who begins, or who has mistyped something.

use lockstep_testkit::{cluster_with_files, connect};

use crate::harness::{PATIENCE, Program, Setup, shop};

const ORDERS: &[(&str, &str, &str)] = &[("orders", "SELECT o.id, o.status FROM shop.orders o", "")];

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_no_password_and_says_where_it_belongs() -> anyhow::Result<()> {
    let cluster = cluster_with_files(
        &[],
        vec![(
            "pg_hba.conf".to_owned(),
            "local all all trust\nhost all projector all scram-sha-256\nhost all all all trust\n".to_owned(),
        )],
    )?;
    let admin = connect(&cluster.url("postgres")).await?;
    admin
        .batch_execute("SET password_encryption = 'scram-sha-256'; CREATE ROLE projector LOGIN SUPERUSER PASSWORD 'hu@sh'")
        .await?;
    admin.batch_execute("CREATE DATABASE \"Shop-2\"").await?;
    let shop = connect(&cluster.url("Shop-2")).await?;
    shop.batch_execute("CREATE TABLE item (id int PRIMARY KEY); CREATE MATERIALIZED VIEW items AS SELECT i.id FROM item i")
        .await?;
    let program = Program::new(&Setup::new("postgres://x@h/d", ORDERS))?;
    std::fs::remove_file(program.directory.path().join("lockstep.toml"))?;
    let url = format!("postgres://projector:hu%40sh@127.0.0.1:{}/Shop-2?sslmode=prefer", cluster.port());
    let (status, output, errors) = program.run(&["init", "--url", &url])?;
    assert_eq!(status, 0, "{output}{errors}");
    assert!(output.contains("PGPASSWORD") && output.contains("~/.pgpass"), "{output}");
    assert!(output.contains("items from public.items") && output.contains(": incremental"), "{output}");
    let written = std::fs::read_to_string(program.directory.path().join("lockstep.toml"))?;
    let expected = format!("url = \"postgres://projector@127.0.0.1:{}/Shop-2?sslmode=prefer\"", cluster.port());
    assert!(written.contains(&expected) && !written.contains("hu"), "{written}");
    assert!(written.contains("slot = \"lockstep_shop_2\""), "{written}");
    // The command that it suggests.
    let (status, _, errors) = program.run(&["check"])?;
    assert!(status == 1 && errors.contains("PGPASSWORD") && errors.contains("~/.pgpass"), "{errors}");
    let output = program.command(&["check"]).env("PGPASSWORD", "hu@sh").output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mistyped_is_guessed() -> anyhow::Result<()> {
    let cluster = lockstep_testkit::cluster()?;
    shop(&cluster.url("postgres")).await?;
    let setup = |preamble: &str, extra: &str| Setup {
        preamble: preamble.to_owned(),
        ..Setup::new(&cluster.url("postgres"), &[("order_search", "SELECT o.id, o.status FROM shop.orders o", extra)])
    };
    for (setup, arguments, meant) in [
        (setup("[target]\nschma = \"x\"\n", ""), &["check"][..], "did you mean \"schema\"?"),
        (setup("[taregt]\n", ""), &["check"], "did you mean \"target\"?"),
        (setup("[[group]]\nname = \"analytics\"\n", "group = \"anlytics\"\n"), &["check"], "did you mean \"analytics\"?"),
        (setup("", "on_error = \"kep\"\n"), &["check"], "did you mean \"keep\"?"),
        (setup("[api]\nproducts = \"ordersearch\"\n", ""), &["check"], "did you mean \"order_search\"?"),
        (setup("[api]\nsources = [\"projektion\"]\n", ""), &["check"], "did you mean \"projection\"?"),
        (setup("", ""), &["plan", "order_serach"], "did you mean \"order_search\"?"),
    ] {
        let (status, output, errors) = Program::new(&setup)?.run(arguments)?;
        assert!(status == 2 && errors.contains(meant), "{meant}: {status} {output}{errors}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_in_the_configuration_is_pointed_at_there() -> anyhow::Result<()> {
    let cluster = lockstep_testkit::cluster()?;
    shop(&cluster.url("postgres")).await?;
    let setup = Setup::new(&cluster.url("postgres"), &[("orders", "SELECT o.id,\n       o.sttaus\nFROM shop.orders o", "")]);
    let line = setup.toml().lines().position(|line| line.contains("sttaus")).map_or(0, |line| line + 1);
    let (status, _, errors) = Program::new(&setup)?.run(&["check"])?;
    assert!(status == 1 && errors.contains(&format!("lockstep.toml:{line}:8")), "line {line}: {errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_to_listen_on_wants_a_restart() -> anyhow::Result<()> {
    let cluster = lockstep_testkit::cluster()?;
    shop(&cluster.url("postgres")).await?;
    let setup = Setup::new(&cluster.url("postgres"), ORDERS);
    let program = Program::new(&setup)?;
    let mut running = program.start("")?;
    let said = async |text: &str| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !program.log().contains(text) {
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "{text} is not said: {}", program.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(())
    };
    said("streaming").await?;
    program.file("lockstep.toml", &setup.toml().replace("listen = \"\"", "listen = \"127.0.0.1:1\""))?;
    let process = nix::unistd::Pid::from_raw(running.id().try_into()?);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGHUP)?;
    said("[metrics] listen has changed, and takes effect at the next start").await?;
    said("the configuration has been read again").await?;
    assert!(!program.log().contains("setting up again"), "{}", program.log());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM)?;
    running.wait()?;
    Ok(())
}
