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

/// Hidden state that would be larger than the tables that it is made from is told before it is there, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn state_larger_than_its_tables_is_told() -> anyhow::Result<()> {
    let cluster = cluster_with_files(&[], Vec::new())?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            (
                "pairs",
                "SELECT p.id, p.other, p.place FROM (SELECT a.id, b.id AS other, lag(b.id) OVER (PARTITION BY a.id ORDER BY b.id) AS place
                     FROM public.item a JOIN public.item b ON b.shelf = a.shelf) p WHERE p.place > 3",
                "",
            ),
            (
                "ranked",
                "SELECT p.id, p.place FROM (SELECT a.id, lag(a.id) OVER (PARTITION BY a.shelf ORDER BY a.id) AS place
                     FROM public.item a) p WHERE p.place > 3",
                "",
            ),
            ("counted", "SELECT a.shelf, count(*) AS n, count(DISTINCT a.id) AS ids FROM public.item a GROUP BY a.shelf", ""),
            ("all_counted", "SELECT a.shelf, b.id, count(*) AS n FROM public.item a JOIN public.item b ON b.shelf = a.shelf GROUP BY a.shelf, b.id", ""),
        ],
    );
    let session = connect(&setup.source_url).await?;
    session
        .batch_execute(
            "CREATE TABLE item (id int PRIMARY KEY, shelf int NOT NULL, note text);
             INSERT INTO item SELECT i, i % 100, repeat('note ', 60) || i FROM generate_series(1, 20000) AS i",
        )
        .await?;
    let program = Program::new(&setup)?;
    let told = |output: &str| -> Vec<String> {
        output.lines().filter(|line| line.contains("hidden state would take")).map(str::to_owned).collect()
    };
    // Nothing is guessed without statistics.
    let (status, output, errors) = program.run(&["check"])?;
    assert!(status == 0 && told(&output).is_empty(), "{output}{errors}");
    session.batch_execute("ANALYZE item").await?;
    let (status, output, errors) = program.run(&["check"])?;
    assert_eq!(status, 0, "{output}{errors}");
    let told = told(&output);
    assert_eq!(told.len(), 2, "{output}");
    // 20,000 rows with 200 on a shelf make 4,000,000, kept before and after the window.
    let expected = "warning  projection pairs: its hidden state would take about ";
    assert!(told[0].starts_with(expected) && told[0].contains("MiB, most of it in lockstep.pairs__part1"), "{output}");
    assert!(
        told[0].contains("(4000000 rows), and public.item together 6.") && told[0].ends_with("by PostgreSQL's estimates"),
        "{output}"
    );
    assert!(told[1].contains("projection all_counted") && told[1].contains("lockstep.all_counted_contribution"), "{output}");
    let (_, output, _) = program.run(&["check", "--json"])?;
    let findings: serde_json::Value = serde_json::from_str(&output)?;
    let found = findings.as_array().into_iter().flatten().find(|finding| finding["message"].to_string().contains("hidden state"));
    assert!(found.is_some_and(|found| found["remedy"].to_string().contains("join what multiplies rows after")), "{output}");
    Ok(())
}
