//! What `lockstep check` finds is told once, and what it prints can be pasted.

use std::process::Stdio;

use lockstep_cluster::Cluster;
use lockstep_testkit::{cluster_with_files, connect};

use crate::harness::{Program, Setup};

/// A server on which several roles own what is needed.
const HBA: &str = "local all all trust\nhost all all all trust\n";

const OWNED: &str = "CREATE ROLE app LOGIN; CREATE ROLE \"Sales\" LOGIN; CREATE ROLE projector LOGIN CONNECTION LIMIT 3;
    CREATE SCHEMA sales AUTHORIZATION \"Sales\";
    CREATE TABLE public.customer (id int PRIMARY KEY, name text); ALTER TABLE public.customer OWNER TO app;
    CREATE TABLE sales.orders (id int PRIMARY KEY, customer_id int); ALTER TABLE sales.orders OWNER TO \"Sales\";
    ALTER TABLE sales.orders REPLICA IDENTITY FULL;
    CREATE VIEW sales.mine AS SELECT * FROM sales.orders; ALTER VIEW sales.mine OWNER TO \"Sales\"";

const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("orders", "SELECT o.id, c.name FROM sales.orders o LEFT JOIN public.customer c ON c.id = o.customer_id", ""),
    ("order_again", "SELECT o.id, c.name FROM sales.orders o LEFT JOIN public.customer c ON c.id = o.customer_id", ""),
    ("mine", "SELECT m.id FROM sales.mine m", ""),
];

/// Runs a script with psql as somebody, stopping at the first error.
fn paste(cluster: &Cluster, role: &str, script: &str) -> anyhow::Result<()> {
    let psql = cluster.url("postgres").replace("postgres://postgres", &format!("postgres://{role}"));
    let mut child = std::process::Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &psql])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "as {role}: {}\n{script}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The parts of a script, by the role that is to run them.
fn parts(script: &str) -> Vec<(String, String)> {
    let mut parts = script.split("\n-- === as ");
    parts.next();
    parts.filter_map(|part| part.split_once(" ===\n")).map(|(role, text)| (role.to_owned(), text.to_owned())).collect()
}

/// Each part is run by its role alone, as it is, until nothing is left to do.
#[tokio::test(flavor = "multi_thread")]
async fn the_script_does_what_is_missing() -> anyhow::Result<()> {
    let cluster = cluster_with_files(&[], vec![("pg_hba.conf".to_owned(), HBA.to_owned())])?;
    connect(&cluster.url("postgres")).await?.batch_execute(OWNED).await?;
    let url = cluster.url("postgres").replace("postgres://postgres", "postgres://projector");
    let program = Program::new(&Setup::new(&url, PROJECTIONS))?;
    let mut roles = std::collections::BTreeSet::new();
    let mut rounds = 0;
    loop {
        let (status, script, errors) = program.run(&["check", "--sql"])?;
        let statements: Vec<&str> = script.lines().filter(|line| !line.starts_with("--") && !line.is_empty()).collect();
        let distinct: std::collections::BTreeSet<&str> = statements.iter().copied().collect();
        assert_eq!(distinct.len(), statements.len(), "each once: {script}");
        if status == 0 && statements.is_empty() {
            break;
        }
        // What is granted shows what else is missing.
        rounds += 1;
        assert!(rounds <= 4 && !statements.is_empty(), "{script}{errors}");
        for (role, text) in parts(&script) {
            paste(&cluster, if role == "a superuser" { "postgres" } else { &role }, &text)?;
            roles.insert(role);
        }
    }
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
    assert_eq!(roles, ["Sales", "a superuser", "app"]);
    let (status, script, _) = program.run(&["check", "--sql"])?;
    assert!(status == 0 && script.contains("-- perhaps: ALTER TABLE sales.orders REPLICA IDENTITY DEFAULT;"), "{script}");
    let (status, output, errors) = program.run(&["run", "--once"])?;
    assert_eq!(status, 0, "{output}{errors}");
    Ok(())
}

/// The same cause for two projections is one line, an error is not told twice, and the lines below it can be pasted.
#[tokio::test(flavor = "multi_thread")]
async fn each_finding_is_told_once() -> anyhow::Result<()> {
    let cluster = cluster_with_files(&[], vec![("pg_hba.conf".to_owned(), HBA.to_owned())])?;
    connect(&cluster.url("postgres")).await?.batch_execute(OWNED).await?;
    let url = cluster.url("postgres").replace("postgres://postgres", "postgres://projector");
    let program = Program::new(&Setup::new(&url, PROJECTIONS))?;
    let (status, output, errors) = program.run(&["check"])?;
    assert_eq!(status, 1);
    let all = format!("{output}{errors}");
    assert_eq!(all.matches("no CREATE privilege for schema read_model").count(), 1, "{all}");
    assert_eq!(all.matches("CONNECTION LIMIT 3").count(), 1, "{all}");
    let lacks = "projection orders, projection order_again: permission denied for schema sales: the role lacks USAGE on schema sales, \
                 SELECT on public.customer, SELECT on sales.orders";
    assert_eq!(all.matches("SELECT on public.customer").count(), 1, "{all}");
    assert!(all.contains(lacks) && all.contains("projection mine: permission denied"), "{all}");
    let statements: Vec<&str> = errors.lines().filter(|line| line.starts_with("GRANT ")).collect();
    assert!(statements.contains(&"GRANT SELECT ON sales.mine TO \"projector\";"), "{errors}");
    paste(&cluster, "postgres", &statements.join("\n"))?;
    Ok(())
}
