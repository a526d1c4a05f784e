//! What columns need in a second database: told with statements, or made.

use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Setup, assert_equal, until};

const SOURCE: &str = "CREATE EXTENSION citext; CREATE SCHEMA app; CREATE TYPE app.st AS ENUM ('new', 'it''s paid');
    CREATE TYPE shade AS ENUM ('dark'); CREATE DOMAIN app.amount AS numeric(10,2) DEFAULT 0 NOT NULL CONSTRAINT positive CHECK (VALUE >= 0);
    CREATE DOMAIN app.shades AS shade[]; CREATE TYPE app.pair AS (a app.amount, b text);
    CREATE COLLATION app.swedish (provider = icu, locale = 'sv');
    CREATE TABLE sale (id int PRIMARY KEY, s app.st, a app.amount, h app.shades, w text COLLATE app.swedish, p app.pair, e citext);
    INSERT INTO sale VALUES (1, 'new', 1, '{dark}', 'å', '(1,x)', 'E'), (2, 'it''s paid', 2, NULL, 'z', NULL, 'e'), (3, NULL, 2, '{}', NULL, NULL, NULL);";

const ENUMS: &[(&str, &str, &str)] = &[
    ("rows", "SELECT id, s, a, h FROM sale", "key = [\"id\"]"),
    ("by_state", "SELECT s, count(*) AS n, sum(a) AS total FROM sale GROUP BY s", ""),
    ("arrays", "SELECT a, array_agg(s ORDER BY id) AS states FROM sale GROUP BY a", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_lacks_is_listed_with_statements_that_make_it() -> anyhow::Result<()> {
    let (source, target) = (cluster()?, cluster()?);
    connect(&source.url("postgres")).await?.batch_execute(SOURCE).await?;
    let all = "SELECT id, s, a, h, w, p, e FROM sale";
    let mut setup = Setup::new(&source.url("postgres"), &[("sales", all, "key = [\"id\"]")]);
    setup.target_url = Some(target.url("postgres"));
    let program = Program::new(&setup)?;
    let (status, output, _) = program.run(&["check", "--json"])?;
    assert_eq!(status, 1, "{output}");
    let findings: serde_json::Value = serde_json::from_str(&output)?;
    let remedies: Vec<String> = findings
        .as_array()
        .into_iter()
        .flatten()
        .filter(|finding| finding["severity"] == "error")
        .filter_map(|finding| finding["statements"].as_array())
        .flatten()
        .filter_map(|statement| statement["sql"].as_str().map(str::to_owned))
        .collect();
    for statement in [
        "CREATE SCHEMA IF NOT EXISTS \"app\"",
        "CREATE TYPE app.st AS ENUM ('new', 'it''s paid')",
        "CREATE TYPE public.shade AS ENUM ('dark')",
        "CREATE DOMAIN app.amount AS numeric(10,2) DEFAULT 0 NOT NULL CONSTRAINT positive CHECK ((VALUE >= (0)::numeric))",
        "CREATE DOMAIN app.shades AS public.shade[]",
        "CREATE TYPE app.pair AS (a app.amount, b text)",
        "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public",
        "CREATE COLLATION app.swedish (provider = icu, locale = 'sv', deterministic = t",
    ] {
        assert!(remedies.iter().any(|remedy| remedy.contains(statement)), "{statement}: {remedies:#?}");
    }
    // They can be run as they are, in the order in which they are told.
    let session = connect(&target.url("postgres")).await?;
    for statement in &remedies {
        session.batch_execute(statement).await.map_err(|error| anyhow::anyhow!("{statement}: {error:?}"))?;
    }
    let (status, output, errors) = program.run(&["check"])?;
    assert_eq!(status, 0, "{output}{errors}");
    // What an index needs is tried.
    connect(&source.url("postgres")).await?.batch_execute("CREATE EXTENSION pg_trgm").await?;
    let indexed = format!("key = [\"id\"]\nindexes = \"{}\"", program.directory.path().join("i.sql").display());
    program.file("i.sql", "CREATE INDEX w ON sales USING gin (w gin_trgm_ops)")?;
    let mut indexed = Setup::new(&setup.source_url, &[("sales", all, indexed.as_str())]);
    indexed.target_url.clone_from(&setup.target_url);
    let (status, _, errors) = Program::new(&indexed)?.run(&["check"])?;
    assert!(status == 1 && errors.contains("CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn enums_and_domains_are_made_and_values_added_where_that_is_wanted() -> anyhow::Result<()> {
    let (source, target) = (cluster()?, cluster()?);
    let session = connect(&source.url("postgres")).await?;
    session.batch_execute(SOURCE).await?;
    let mut setup = Setup::new(&source.url("postgres"), ENUMS);
    // The harness writes the table's head.
    setup.target_url = Some(format!("{}\"\nmake_types = true\nschema = \"read_model", target.url("postgres")));
    let plain = Setup { target_url: Some(target.url("postgres")), ..setup.clone() };
    let (status, output, errors) = Program::new(&setup)?.run(&["check"])?;
    assert!(status == 0 && output.contains("the type app.st will be made as it is in the source"), "{output}{errors}");
    let program = Program::new(&setup)?;
    let mut child = program.start("")?;
    let there = connect(&target.url("postgres")).await?;
    until(&there, "SELECT count(*) = 3 AND bool_and(state = 'live') FROM lockstep.projection").await?;
    crate::harness::catch_up(&plain).await?;
    assert_equal(&plain).await?;
    // An insertion into the middle and one at the end, and rows that have them at once.
    session.batch_execute("ALTER TYPE app.st ADD VALUE 'open' BEFORE 'it''s paid'; ALTER TYPE app.st ADD VALUE 'closed'").await?;
    session.batch_execute("UPDATE sale SET s = 'open' WHERE id = 1; INSERT INTO sale VALUES (4, 'closed', 9)").await?;
    until(&there, "SELECT count(*) FILTER (WHERE s::text IN ('open', 'closed')) = 2 FROM read_model.rows").await?;
    until(&there, "SELECT NOT EXISTS (SELECT FROM lockstep.quarantine) AND bool_and(state = 'live') FROM lockstep.projection")
        .await?;
    crate::harness::catch_up(&plain).await?;
    let labels = "SELECT ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = 'app.st'::regtype ORDER BY enumsortorder)";
    let (here, made): (Vec<String>, Vec<String>) =
        (session.query_one(labels, &[]).await?.get(0), there.query_one(labels, &[]).await?.get(0));
    assert_eq!(here, made);
    let equal = assert_equal(&plain).await;
    child.kill()?;
    child.wait()?;
    equal
}
