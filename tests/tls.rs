//! TLS, SCRAM with channel binding, and the password file, on SQL and replication connections alike.

use std::os::unix::fs::PermissionsExt as _;

use lockstep_cluster::Cluster;
use lockstep_testkit::{cluster_with_files, connect};

use crate::harness::{Program, Setup};

const PASSWORD: &str = "correct horse";

/// A server that speaks TLS and SCRAM over TCP; the test's own sessions come over the Unix socket.
async fn guarded_cluster() -> anyhow::Result<(Cluster, String)> {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let certificate = certified.cert.pem();
    let cluster = cluster_with_files(
        &["ssl=on", "listen_addresses=localhost"],
        vec![
            ("server.crt".to_owned(), certificate.clone()),
            ("server.key".to_owned(), certified.signing_key.serialize_pem()),
            ("pg_hba.conf".to_owned(), "local all all trust\nhostssl all all all scram-sha-256\n".to_owned()),
        ],
    )?;
    let admin =
        connect(&format!("host={} port={} user=postgres dbname=postgres", cluster.directory().display(), cluster.port())).await?;
    admin
        .batch_execute(&format!(
            "SET password_encryption = 'scram-sha-256';
             CREATE ROLE projector LOGIN SUPERUSER PASSWORD '{PASSWORD}';
             CREATE TABLE item (id bigint PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'one'), (2, 'two')"
        ))
        .await?;
    Ok((cluster, certificate))
}

fn setup(cluster: &Cluster, parameters: &str) -> Setup {
    let url = format!("postgres://projector@localhost:{}/postgres?{parameters}", cluster.port());
    Setup::new(&url, &[("items", "SELECT i.id, i.name FROM item i", "")])
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_scram_and_the_password_file() -> anyhow::Result<()> {
    let (cluster, certificate) = guarded_cluster().await?;
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("root.crt");
    std::fs::write(&root, certificate)?;
    let passwords = directory.path().join("pgpass");
    std::fs::write(&passwords, format!("localhost:{}:*:projector:{PASSWORD}\n", cluster.port()))?;
    std::fs::set_permissions(&passwords, std::fs::Permissions::from_mode(0o600))?;
    let run = |setup: &Setup, environment: &[(&str, &str)]| -> anyhow::Result<(Option<i32>, String)> {
        let program = Program::new(setup)?;
        let mut command = program.command(&["run", "--once"]);
        command.envs(environment.iter().copied());
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let passfile = [("PGPASSFILE", passwords.to_str().unwrap_or_default())];

    // Certificate and host name are verified, the password comes from the file, the channel is bound.
    let verified = setup(&cluster, &format!("sslmode=verify-full&sslrootcert={}", root.display()));
    let (status, errors) = run(&verified, &passfile)?;
    assert_eq!(status, Some(0), "{errors}");
    let admin =
        connect(&format!("host={} port={} user=postgres dbname=postgres", cluster.directory().display(), cluster.port())).await?;
    let rows: i64 = admin.query_one("SELECT count(*) FROM read_model.items", &[]).await?.get(0);
    assert_eq!(rows, 2);

    // sslmode and password from libpq's variables.
    let (status, errors) = run(&setup(&cluster, ""), &[("PGSSLMODE", "require"), ("PGPASSWORD", PASSWORD)])?;
    assert_eq!(status, Some(0), "{errors}");

    // An authority that did not sign it, a missing password, a wrong one, TLS refused: each says so.
    let (status, errors) = run(&setup(&cluster, "sslmode=verify-full&sslrootcert=system"), &passfile)?;
    assert!(status == Some(1) && errors.contains("TLS with localhost"), "{errors}");
    let (status, errors) = run(&setup(&cluster, "sslmode=require"), &[("PGPASSFILE", "/nonexistent")])?;
    assert!(status == Some(1) && errors.contains("password"), "{errors}");
    let (status, errors) = run(&setup(&cluster, "sslmode=require"), &[("PGPASSWORD", "wrong")])?;
    assert!(status == Some(1) && errors.contains("password authentication failed") && !errors.contains("wrong"), "{errors}");
    let (status, errors) = run(&setup(&cluster, "sslmode=disable"), &passfile)?;
    assert!(status == Some(1) && errors.contains("no encryption"), "{errors}");
    Ok(())
}
