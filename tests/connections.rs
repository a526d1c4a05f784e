//! Connection strings as libpq has them, on connections of every kind; several hosts, failover, rotated passwords.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use lockstep_cluster::{Binaries, Cluster, ClusterOptions};
use lockstep_connect::{ServerIdentity, Session, Settings};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, cluster_with_files, connect};
use lockstep_wal::ReplicationConnection;

use crate::harness::{PATIENCE, Program, Projector, Setup, assert_equal, shop, until};
use crate::interposed::{Interposed, Interposing};

/// Has everything that means something somewhere.
const ODD_PASSWORD: &str = r"it's a \ word@/?#% & =:,";

const ORDERS: &[(&str, &str, &str)] = &[("orders", "SELECT o.id, o.status FROM shop.orders o", "")];

pub(crate) fn private_file(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

/// Who is where, by psql; `None` if it refuses.
fn by_psql(conninfo: &str, environment: &HashMap<&str, String>) -> anyhow::Result<Option<String>> {
    let mut command = Command::new("psql");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment);
    let output = command.args(["-wXAt", "-F", " ", "-d", conninfo, "-c", WHO]).output()?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

const WHO: &str =
    "SELECT concat_ws(' ', session_user, current_database(), inet_server_addr(), inet_server_port(), current_setting('geqo'))";

/// The same by us; both kinds of connections have to agree.
pub(crate) async fn by_us(conninfo: &str, environment: &HashMap<&str, String>) -> Result<String, String> {
    let settings =
        Settings::resolve(Some(conninfo), &|name| environment.get(name).cloned()).map_err(|error| error.message.clone())?;
    let session = Session::open(&settings, "lockstep test").await.map_err(|error| error.to_string())?;
    let found: String = session.query_one(WHO, &[]).await.map_err(|error| error.to_string())?.get(0);
    // A standby has no timeline of its own to compare.
    let (system, _) = session.identity().await.map_err(|error| error.to_string())?;
    let mut stream = ReplicationConnection::open(&settings).await.map_err(|error| format!("stream: {error}"))?;
    let identity = stream.identify_system().await.map_err(|error| format!("stream: {error}"))?;
    if identity.system_identifier == system { Ok(found) } else { Err("two servers".to_owned()) }
}

/// Databases and roles whose names need quoting; one role has to give a password.
async fn odd_cluster() -> anyhow::Result<Cluster> {
    let cluster = cluster_with_files(
        &[],
        vec![(
            "pg_hba.conf".to_owned(),
            "local all all trust\nhost all odd all scram-sha-256\nhost all all all trust\n".to_owned(),
        )],
    )?;
    let admin = connect(&cluster.url("postgres")).await?;
    admin.batch_execute("SET password_encryption = 'scram-sha-256'").await?;
    admin.batch_execute(&format!("CREATE ROLE odd LOGIN SUPERUSER PASSWORD '{}'", ODD_PASSWORD.replace('\'', "''"))).await?;
    admin.batch_execute("CREATE ROLE \"a b\" LOGIN SUPERUSER").await?;
    admin.batch_execute("CREATE DATABASE \"sh op/x\"").await?;
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_string_means_to_us_what_it_means_to_psql() -> anyhow::Result<()> {
    if Command::new("psql").arg("--version").output().is_err() {
        eprintln!("psql is not installed; nothing to compare with");
        return Ok(());
    }
    let cluster = odd_cluster().await?;
    let (port, socket) = (cluster.port(), cluster.directory().display().to_string());
    let directory = tempfile::tempdir()?;
    let file = |name: &str| directory.path().join(name);
    private_file(&file("pgpass"), &format!("*:{port}:*:odd:{}\n", ODD_PASSWORD.replace('\\', "\\\\").replace(':', "\\:")))?;
    private_file(&file("services"), &format!("[mine]\nhost=127.0.0.1\nport={port}\nuser=a b\ndbname=postgres\n# end\n"))?;
    let (passfile, services) = (file("pgpass").display().to_string(), file("services").display().to_string());
    let quoted = ODD_PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    let encoded = lockstep_connect::encode(ODD_PASSWORD);
    // Listens, and nobody answers there.
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let none: &[(&str, &str)] = &[];
    let by_passfile = [("PGPASSFILE", passfile.as_str())];
    let with_services = [("PGSERVICEFILE", services.as_str())];
    let by_service = [("PGSERVICE", "mine"), ("PGSERVICEFILE", services.as_str())];
    let cases: Vec<(String, &[(&str, &str)])> = vec![
        (format!("postgres://postgres@127.0.0.1:{port}/postgres"), none),
        (format!("postgresql://odd:{encoded}@localhost:{port}/sh%20op%2Fx"), none),
        (format!("host=127.0.0.1 port = {port} user=odd password='{quoted}' dbname='sh op/x'"), none),
        (format!("host=127.0.0.1 port={port} user=a\\ b dbname=postgres options='-c geqo=off'"), none),
        (format!("postgres://postgres@127.0.0.1:{port}/postgres?options=-c%20geqo%3Doff"), none),
        (format!("postgres://%61%20b@127.0.0.1:{port}/postgres"), none),
        (format!("postgres://postgres@/postgres?host={socket}&port={port}"), none),
        (format!("postgres://postgres@{}:{port}/postgres?sslmode=verify-full", socket.replace('/', "%2F")), none),
        (format!("host={socket} port={port} user=postgres sslmode=require"), none),
        (format!("host=nowhere.invalid hostaddr=127.0.0.1 port={port} user=postgres"), none),
        (format!("host=nowhere.invalid port={port} user=postgres"), &[("PGHOSTADDR", "127.0.0.1")]),
        (format!("postgres://postgres@127.0.0.1:{closed},127.0.0.1:{port}/postgres"), none),
        (format!("host=127.0.0.1,127.0.0.1 port={closed},{port},{port} user=postgres"), none),
        (format!("host=127.0.0.1 port={port} user=postgres target_session_attrs=primary"), none),
        (format!("host=127.0.0.1 port={port} user=postgres target_session_attrs=read-write"), none),
        (format!("host=127.0.0.1 port={port} user=postgres target_session_attrs=standby"), none),
        (format!("host=127.0.0.1 port={port} user=postgres target_session_attrs=read-only"), none),
        (format!("host=127.0.0.1 port={port} user=postgres target_session_attrs=prefer-standby"), none),
        (format!("host=127.0.0.1 port={port} user=postgres target_session_attrs=nearest"), none),
        (format!("host=127.0.0.1 port={port} user=postgres sslmode=require"), none),
        (format!("host=127.0.0.1 port={port} user=postgres channel_binding=require"), none),
        (format!("host=127.0.0.1 port={port} user=odd dbname=postgres passfile={passfile}"), none),
        (format!("host=127.0.0.1 port={port} user=odd dbname=postgres"), &by_passfile),
        (format!("host=127.0.0.1 port={port} user=odd dbname=postgres"), &[("PGPASSWORD", ODD_PASSWORD)]),
        (format!("host=127.0.0.1 port={port} user=odd dbname=postgres"), &[("PGPASSWORD", "wrong")]),
        (format!("host=127.0.0.1 port={port} user=odd dbname=postgres"), none),
        (String::new(), &by_service),
        ("service=mine user=postgres".to_owned(), &with_services),
        ("service=other".to_owned(), &with_services),
        (format!("host=127.0.0.1 port={port} usre=postgres"), none),
        (format!("host=127.0.0.1 port={port} user='postgres"), none),
        (format!("host=127.0.0.1 port={port} user postgres"), none),
        (format!("postgres://post%zzgres@127.0.0.1:{port}/postgres"), none),
        (format!("postgres://postgres@127.0.0.1:{port}/postgres?nothing"), none),
    ];
    for (conninfo, environment) in cases {
        let environment: HashMap<&str, String> = environment.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        let theirs = by_psql(&conninfo, &environment)?;
        let ours = by_us(&conninfo, &environment).await;
        assert_eq!(ours.as_ref().ok(), theirs.as_ref(), "{conninfo} {environment:?}: {ours:?}");
        if let Err(said) = &ours {
            assert!(!said.contains("it's a") && !said.contains("wrong"), "a password is told: {said}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_password_from_a_variable_or_a_file_works_as_it_is() -> anyhow::Result<()> {
    let cluster = odd_cluster().await?;
    let through = Setup::new(
        &format!("postgres://odd:${{ODD}}@127.0.0.1:{}/postgres", cluster.port()),
        &[("databases", "SELECT d.id FROM thing d", "")],
    );
    connect(&cluster.url("postgres")).await?.batch_execute("CREATE TABLE thing (id int PRIMARY KEY)").await?;
    let program = Program::new(&through)?;
    let run = |environment: &[(&str, &str)]| -> anyhow::Result<(Option<i32>, String)> {
        let output = program.command(&["run", "--once"]).envs(environment.iter().copied()).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (status, errors) = run(&[("ODD", ODD_PASSWORD)])?;
    assert_eq!(status, Some(0), "{errors}");
    // The same as a credential of systemd's, and in a file of its own.
    program.file("ODD", &format!("{ODD_PASSWORD}\n"))?;
    let (status, errors) = run(&[("CREDENTIALS_DIRECTORY", program.directory.path().to_str().unwrap_or_default())])?;
    assert_eq!(status, Some(0), "{errors}");
    let by_file = through.toml().replace(":${ODD}@", "@").replace("[metrics]", "password_file = \"ODD\"\n[metrics]");
    program.file("lockstep.toml", &by_file)?;
    let (status, errors) = run(&[])?;
    assert_eq!(status, Some(0), "{errors}");
    program.file("ODD", "wrong")?;
    let (status, errors) = run(&[])?;
    assert!(status == Some(1) && errors.contains("password authentication failed"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_nothing_makes_way_for_the_next() -> anyhow::Result<()> {
    let cluster = cluster()?;
    shop(&cluster.url("postgres")).await?;
    let silent = Interposed::start(cluster.port(), Interposing::SayNothing).await?;
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?connect_timeout=1", silent.port(), cluster.port());
    let setup = Setup::new(&url, ORDERS);
    let (status, output, errors) = Program::new(&setup)?.run(&["check"])?;
    assert_eq!(status, 0, "{output}{errors}");
    assert!(
        output.contains(&format!("postgres@127.0.0.1:{}/postgres", cluster.port())),
        "the server that answers is named: {output}"
    );
    let (status, output, errors) = Program::new(&setup)?.run(&["run", "--once"])?;
    assert_eq!(status, 0, "{output}{errors}");
    Ok(())
}

/// A standby of a cluster, made by `pg_basebackup`, which comes with the server.
fn standby_of(primary: &Cluster) -> anyhow::Result<Cluster> {
    let binaries = Binaries::find()?;
    // The directory may hold links to some of the programs.
    let behind_link = binaries.directory.join("postgres").canonicalize()?;
    let beside = [binaries.directory.join("pg_basebackup"), behind_link.with_file_name("pg_basebackup")];
    let program = beside.into_iter().find(|program| program.exists()).unwrap_or_else(|| "pg_basebackup".into());
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("copy");
    let port = primary.port().to_string();
    let output = Command::new(program)
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-c", "fast", "-X", "stream", "-R", "-D"])
        .arg(&copy)
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let options = ClusterOptions { template: Some(copy), ..ClusterOptions::default() };
    Ok(Cluster::start(&binaries, &options)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed_by_stream_and_sessions() -> anyhow::Result<()> {
    let mut first = cluster()?;
    let session = shop(&first.url("postgres")).await?;
    let second = standby_of(&first)?;
    // The standby is named first: it has to be passed over, by the stream as by the sessions.
    let list = format!("127.0.0.1:{},127.0.0.1:{}", second.port(), first.port());
    let setup = Setup::new(&format!("postgres://postgres@{list}/postgres?target_session_attrs=read-write"), ORDERS);
    let (status, output, errors) = Program::new(&setup)?.run(&["check"])?;
    assert!(status == 0 && output.contains(&format!("postgres@127.0.0.1:{}/", first.port())), "{output}{errors}");
    let without = Setup::new(&format!("postgres://postgres@{list}/postgres"), ORDERS);
    let (status, output, errors) = Program::new(&without)?.run(&["check"])?;
    assert!(status == 1 && errors.contains(&format!("127.0.0.1:{} is a standby", second.port())), "{output}{errors}");
    assert!(errors.contains("target_session_attrs=read-write"), "{errors}");

    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute("UPDATE shop.orders SET status = 'before' WHERE id % 2 = 0").await?;
    projector.catch_up().await?;
    // What is written now reaches the standby; whether the projector has seen it is open.
    session.batch_execute("DELETE FROM shop.orders WHERE id % 5 = 0").await?;
    first.stop_server("fast")?;
    let promoted = connect(&second.url("postgres")).await?;
    promoted.batch_execute("SELECT pg_promote()").await?;
    promoted.batch_execute("UPDATE shop.orders SET status = 'after' WHERE id % 3 = 0").await?;
    until(&promoted, "SELECT active FROM pg_replication_slots WHERE slot_name = 'lockstep'").await?;
    projector.reconnect(&setup).await?;
    projector.catch_up().await?;
    until(&promoted, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_another_server_than_the_stream_are_refused() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let settings = Settings::resolve(Some(&cluster.url("postgres")), &|_| None)?;
    let identity = ReplicationConnection::open(&settings).await?.identify_system().await?.identity();
    Session::open(&settings.expecting(identity.clone()), "lockstep test").await?;
    let other = ServerIdentity { system_identifier: "1".to_owned(), ..identity.clone() };
    let later = ServerIdentity { timeline: identity.timeline + 1, ..identity };
    for expected in [other, later] {
        let refused = Session::open(&settings.expecting(expected), "lockstep test").await;
        assert!(refused.is_err_and(|error| error.to_string().contains("is another server now")));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_is_taken_up() -> anyhow::Result<()> {
    let cluster = cluster_with_files(
        &[],
        vec![(
            "pg_hba.conf".to_owned(),
            "local all all trust\nhost all projector all scram-sha-256\nhost all all all trust\n".to_owned(),
        )],
    )?;
    let admin = shop(&cluster.url("postgres")).await?;
    admin
        .batch_execute("SET password_encryption = 'scram-sha-256'; CREATE ROLE projector LOGIN SUPERUSER PASSWORD 'old'")
        .await?;
    let setup = Setup::new(&format!("postgres://projector@127.0.0.1:{}/postgres", cluster.port()), ORDERS);
    let program = Program::new(&setup)?;
    let passfile = program.directory.path().join("pgpass");
    private_file(&passfile, "*:*:*:projector:old\n")?;
    let log = std::fs::File::create(program.directory.path().join("log"))?;
    let mut running =
        program.command(&["run"]).env("PGPASSFILE", &passfile).stdout(std::process::Stdio::null()).stderr(log).spawn()?;
    until(&admin, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    let end =
        "ALTER ROLE projector PASSWORD 'new'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'projector'";
    admin.batch_execute(end).await?;
    // It is refused for a while: the one who rotates changes the server first. Attempt follows attempt, and the log tells it once.
    let refused = "password authentication failed";
    let refusals = || {
        let log = std::fs::read_to_string(cluster.directory().join("log"))?;
        anyhow::Ok(log.lines().filter(|line| line.contains("FATAL") && line.contains(refused)).count())
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while refusals()? < 6 || !program.log().contains(refused) {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{} refusals; nothing is said: {}", refusals()?, program.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let told = program.log();
    let told: Vec<&str> = told.lines().filter(|line| line.contains(refused)).collect();
    assert!(told.len() <= 3, "one line a change of state, for stream, group and set-up: {told:#?}");
    private_file(&passfile, "*:*:*:projector:new\n")?;
    admin.batch_execute("UPDATE shop.orders SET status = 'rotated' WHERE id = 1").await?;
    until(&admin, "SELECT status = 'rotated' FROM read_model.orders WHERE id = 1").await?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.id().try_into()?), nix::sys::signal::Signal::SIGTERM)?;
    running.wait()?;
    let log = program.log();
    assert!(!log.contains("'old'") && !log.contains("'new'"), "{log}");
    Ok(())
}
