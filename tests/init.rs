//! `lockstep init`: a configuration from what is there, for who has all privileges and for who has none.

use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Setup, shop};

/// A database with materialized views becomes a configuration that works as it is.
#[tokio::test(flavor = "multi_thread")]
async fn init_offers_materialized_views() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = shop(&url).await?;
    session
        .batch_execute(
            "CREATE MATERIALIZED VIEW public.mv_order_row AS SELECT o.id, o.status, o.amount FROM shop.orders o;
             CREATE UNIQUE INDEX ON public.mv_order_row (id);
             CREATE INDEX mv_order_status ON public.mv_order_row (status) WHERE status <> 'new';
             CREATE MATERIALIZED VIEW shop.\"Sales by status\" AS SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status;
             CREATE MATERIALIZED VIEW public.dice AS SELECT o.id, random() AS r FROM shop.orders o",
        )
        .await?;
    let program = Program::new(&Setup::new(&url, &[("one", "SELECT 1", "")]))?;
    let (status, _, errors) = program.run(&["init", "--url", &url])?;
    assert!(status == 2 && errors.contains("is there already"), "{status} {errors}");
    std::fs::remove_file(program.directory.path().join("lockstep.toml"))?;
    let (status, output, errors) = program.run(&["init", "--url", &url])?;
    assert_eq!(status, 0, "{output}{errors}");
    assert!(output.contains("order_row from public.mv_order_row") && output.contains(": incremental"), "{output}");
    assert!(output.contains("dice from public.dice") && output.contains("cannot be maintained"), "{output}");
    let written = std::fs::read_to_string(program.directory.path().join("lockstep.toml"))?;
    assert!(written.contains("key = [\"id\"]") && written.contains("# name = \"dice\""), "{written}");
    // As it is, but for a listener that others may have.
    program.file("lockstep.toml", &written.replace("127.0.0.1:9187", ""))?;
    let (status, output, errors) = program.run(&["run", "--once"])?;
    assert_eq!(status, 0, "{output}{errors}");
    let equal: bool = session
        .query_one(
            "SELECT (SELECT count(*) FROM read_model.order_row) = (SELECT count(*) FROM shop.orders)
                AND EXISTS (SELECT FROM pg_indexes WHERE schemaname = 'read_model' AND tablename = 'order_row' AND indexname = 'mv_order_status')
                AND (SELECT sum(n) FROM read_model.sales_by_status) = (SELECT count(*) FROM shop.orders)",
            &[],
        )
        .await?
        .get(0);
    assert!(equal);
    let (status, _, errors) = program.run(&["init", "-c", "other.toml", "--url", "postgres://nobody@127.0.0.1:1/x"])?;
    assert!(status == 1 && errors.contains("cannot reach"), "{status} {errors}");
    for shell in ["bash", "zsh", "fish"] {
        let (status, output, _) = program.run(&["completions", shell])?;
        assert!(status == 0 && output.contains("quarantine"), "{shell}");
    }
    Ok(())
}

/// Roles, schemas and views as an application has them.
const VIEWS: &str = "CREATE ROLE projector LOGIN REPLICATION; CREATE ROLE api; CREATE ROLE dashboard;
    CREATE TABLE public.customer (id int PRIMARY KEY, name text);
    CREATE VIEW shop.large AS SELECT * FROM shop.orders WHERE amount > 50;
    CREATE MATERIALIZED VIEW public.mv_totals AS SELECT c.id, c.name, sum(o.amount) AS total
        FROM public.customer c JOIN shop.orders o ON o.customer_id = c.id GROUP BY c.id;
    CREATE UNIQUE INDEX ON public.mv_totals (id);
    CREATE MATERIALIZED VIEW public.mv_large AS SELECT b.id, b.amount FROM shop.large b;
    CREATE MATERIALIZED VIEW shop.top AS SELECT mv_totals.id, mv_totals.total FROM public.mv_totals WHERE mv_totals.total > 500;
    GRANT SELECT ON public.mv_totals TO api, dashboard; GRANT SELECT ON public.mv_large TO PUBLIC; GRANT SELECT ON shop.top TO api;
    GRANT INSERT ON public.mv_totals TO projector;
    GRANT CREATE ON DATABASE postgres TO projector";

/// A role that may read nothing is told what to grant, once, and the configuration is the one that it needs after that.
#[tokio::test(flavor = "multi_thread")]
async fn init_says_what_a_role_may_not_read_and_takes_readers_over() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let session = shop(&cluster.url("postgres")).await?;
    session.batch_execute(VIEWS).await?;
    let program = Program::new(&Setup::new("postgres://x@h/d", &[("one", "SELECT 1", "")]))?;
    std::fs::remove_file(program.directory.path().join("lockstep.toml"))?;
    let url = format!("postgres://projector@127.0.0.1:{}/postgres", cluster.port());
    let (status, output, errors) = program.run(&["init", "--url", &url])?;
    assert_eq!(status, 0, "{output}{errors}");
    assert!(output.contains("the role lacks USAGE on schema shop, SELECT on public.customer, SELECT on shop.orders"), "{output}");
    assert!(
        output.contains("; it reads the views shop.large") && output.contains("everybody may read public.mv_large"),
        "{output}"
    );
    assert!(output.contains("it reads the projection totals instead of public.mv_totals"), "{output}");
    assert!(!output.contains("not looked at"), "{output}");
    let written = std::fs::read_to_string(program.directory.path().join("lockstep.toml"))?;
    assert!(written.contains("readers = [\"api\", \"dashboard\"]"), "{written}");
    let query = std::fs::read_to_string(program.directory.path().join("projections/totals.sql"))?;
    assert!(query.contains("FROM public.customer c"), "{query}");

    // What it prints is what it takes.
    let grants: Vec<&str> = output.lines().map(str::trim).filter(|line| line.starts_with("GRANT ")).collect();
    assert_eq!(grants.len(), 4, "{output}");
    session.batch_execute(&grants.join("\n")).await?;
    session
        .batch_execute(
            "CREATE PUBLICATION lockstep FOR TABLE public.customer (id), shop.orders (id) WITH (publish_via_partition_root)",
        )
        .await?;
    program.file("lockstep.toml", &written.replace("127.0.0.1:9187", ""))?;
    let (status, output, errors) = program.run(&["run", "--once"])?;
    assert_eq!(status, 0, "{output}{errors}");
    let owner = connect(&cluster.url("postgres")).await?;
    let equal: bool = owner
        .query_one(
            "SELECT (SELECT count(*) FROM read_model.large) = (SELECT count(*) FROM shop.large)
                AND (SELECT count(*) FROM read_model.top) = (SELECT count(*) FROM read_model.totals WHERE total > 500)
                AND has_table_privilege('dashboard', 'read_model.top', 'SELECT')",
            &[],
        )
        .await?
        .get(0);
    assert!(equal);
    Ok(())
}
