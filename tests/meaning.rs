//! Results change although no row does: types, functions, views, configurations, columns under a whole row. It is noticed while the
//! projector runs and at its next start, and `wait` and `verify` know.

use lockstep_connect::Session;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Projector, Setup, assert_equal, until};

const SCHEMA: &str = "
    CREATE TYPE st AS ENUM ('new', 'paid');
    CREATE DOMAIN code AS text;
    CREATE TYPE size AS (width integer, height integer);
    CREATE TABLE sale (id integer PRIMARY KEY, state st NOT NULL, amount numeric(12,2) NOT NULL, code code, size size, note text);
    CREATE TABLE price (id integer PRIMARY KEY, amount numeric(12,2));
    INSERT INTO price SELECT n, n FROM generate_series(1, 9) n;
    CREATE TABLE still (id integer PRIMARY KEY, t text);
    INSERT INTO sale (id, state, amount, code, size, note)
        SELECT n, (ARRAY['new', 'paid']::st[])[1 + n % 2], n, 'c' || n, ROW(n, n)::size, 'the running dogs ' || n FROM generate_series(1, 30) n;
    INSERT INTO still SELECT n, 't' FROM generate_series(1, 5) n;
    CREATE FUNCTION inner_label(integer) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 'a' || $1; END $$;
    CREATE FUNCTION label(integer) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN inner_label($1); END $$;
    CREATE FUNCTION standard(integer) RETURNS text LANGUAGE sql IMMUTABLE RETURN inner_label($1);
    CREATE VIEW cheap AS SELECT s.id, s.amount FROM sale s WHERE s.amount < 20;
    CREATE VIEW cheaper AS SELECT c.id, c.amount AS price FROM cheap c;
    CREATE VIEW least AS SELECT DISTINCT ON (s.state) s.state, s.id FROM sale s ORDER BY s.state, s.amount;
    CREATE FUNCTION near(numeric, numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 3';
    CREATE OPERATOR ~~~ (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = near);
    CREATE AGGREGATE longest (text) (SFUNC = textcat, STYPE = text, INITCOND = '');
    CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple);
    CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
    ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH words;";

/// Name, query, more TOML.
const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("as_text", "SELECT s.id, s.state::text AS state FROM sale s", ""),
    ("whole_row", "SELECT s.id, to_jsonb(s) AS row FROM sale s", ""),
    ("row_text", "SELECT s.id, (s.*)::text AS row FROM sale s", ""),
    ("by_state", "SELECT s.state, sum(s.amount) AS total FROM sale s GROUP BY s.state", ""),
    ("prices", "SELECT p.id, p.amount::text AS amount FROM price p", ""),
    ("labels", "SELECT s.id, label(s.id) AS label, standard(s.id) AS other FROM sale s", ""),
    ("cheap_sales", "SELECT c.id, c.price FROM cheaper c", ""),
    // Its order is made total, so it is written out.
    ("least_sales", "SELECT l.id FROM least l", ""),
    ("nearby", "SELECT s.id, s.amount ~~~ 10 AS near FROM sale s", ""),
    ("searched", "SELECT s.id, to_tsvector('words', s.note) AS words FROM sale s", ""),
    ("unconcerned", "SELECT s.id, s.t FROM still s", ""),
];

/// A change, and the projections whose results it changes.
const CHANGES: &[(&str, &[&str])] = &[
    ("ALTER TYPE st RENAME VALUE 'new' TO 'open'", &["as_text", "whole_row", "row_text"]),
    ("ALTER TABLE sale ADD COLUMN flag text DEFAULT 'x'", &["whole_row", "row_text"]),
    ("ALTER TABLE sale DROP COLUMN flag", &["whole_row", "row_text"]),
    ("ALTER TYPE size RENAME ATTRIBUTE height TO depth", &["whole_row"]),
    (
        "CREATE OR REPLACE FUNCTION inner_label(integer) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 'b' || $1; END $$",
        &["labels"],
    ),
    (
        "CREATE OR REPLACE FUNCTION label(integer) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 'c' || $1; END $$",
        &["labels"],
    ),
    ("CREATE OR REPLACE VIEW cheap AS SELECT s.id, s.amount FROM sale s WHERE s.amount < 10", &["cheap_sales"]),
    (
        "CREATE OR REPLACE VIEW least AS SELECT DISTINCT ON (s.state) s.state, s.id FROM sale s WHERE s.id > 5 ORDER BY s.state, s.amount",
        &["least_sales"],
    ),
    (
        "CREATE OR REPLACE FUNCTION near(numeric, numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 7'",
        &["nearby"],
    ),
    (
        "DROP OPERATOR ~~~ (numeric, numeric); CREATE OPERATOR ~~~ (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = numeric_lt)",
        &["nearby"],
    ),
    ("ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH english_stem", &["searched"]),
    (
        "ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH words; ALTER TEXT SEARCH DICTIONARY words (Accept = false)",
        &["searched"],
    ),
];

/// Undone before anybody looks, with rows that were computed meanwhile.
const UNDONE: &[(&str, &str, &str)] = &[
    (
        "CREATE OR REPLACE FUNCTION near(numeric, numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false'",
        "CREATE OR REPLACE FUNCTION near(numeric, numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 3'",
        "nearby",
    ),
    ("ALTER TYPE st RENAME VALUE 'new' TO 'open'", "ALTER TYPE st RENAME VALUE 'open' TO 'new'", "as_text"),
    // The same type again, other values.
    ("ALTER TABLE price ALTER amount TYPE numeric(12,2) USING amount * 2", "SELECT 1", "prices"),
];

/// What changes nothing that anybody reads.
const HARMLESS: &str = "GRANT SELECT ON sale TO PUBLIC; GRANT UPDATE (note) ON sale TO PUBLIC; GRANT EXECUTE ON FUNCTION label(integer) TO PUBLIC;
    COMMENT ON COLUMN sale.amount IS 'x'; ALTER TYPE st ADD VALUE 'returned'; ANALYZE; ALTER TABLE sale ALTER note SET STATISTICS 50;
    ALTER TABLE still ADD COLUMN u text; CREATE FUNCTION unread() RETURNS integer LANGUAGE sql AS 'SELECT 1'";

async fn database(url: &str) -> anyhow::Result<Session> {
    let session = connect(url).await?;
    session.batch_execute(SCHEMA).await?;
    Ok(session)
}

async fn changed_at(session: &Session, name: &str) -> anyhow::Result<String> {
    Ok(session.query_one("SELECT changed_at::text FROM lockstep.projection WHERE name = $1", &[&name]).await?.get(0))
}

async fn live(session: &Session) -> anyhow::Result<()> {
    until(session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_runs_and_what_waits_knows() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = database(&setup.source_url).await?;
    let mut projector = Projector::start_as_usual(&setup).await?;
    projector.catch_up().await?;
    let program = Program::new(&setup)?;
    let before = changed_at(&session, "unconcerned").await?;
    for (number, (change, concerned)) in CHANGES.iter().enumerate() {
        session.batch_execute(change).await.map_err(|error| anyhow::anyhow!("{change}: {error:?}"))?;
        // Either alone must be enough.
        let command = if number % 2 == 0 { &["wait", "--timeout", "60s"][..] } else { &["verify"] };
        let (status, output, errors) = program.run(command)?;
        assert!(status == 0, "{change}: {command:?}: {status} {output} {errors}");
        assert_equal(&setup).await.map_err(|error| error.context(*change))?;
        live(&session).await?;
        assert!(!concerned.is_empty());
    }
    assert_eq!(changed_at(&session, "unconcerned").await?, before, "it reads none of what changed");
    let epoch = "SELECT leader_epoch::text FROM lockstep.installation";
    let turn: String = session.query_one(epoch, &[]).await?.get(0);
    session.batch_execute(HARMLESS).await?;
    let (status, output, errors) = program.run(&["wait", "--timeout", "60s"])?;
    assert!(status == 0, "{output} {errors}");
    assert_eq!(session.query_one(epoch, &[]).await?.get::<_, String>(0), turn, "nothing of it is a reason to set up again");
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_undone_and_what_happens_while_it_stands_still() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = database(&setup.source_url).await?;
    for (there, back, concerned) in UNDONE {
        let mut projector = Projector::start_as_usual(&setup).await?;
        projector.catch_up().await?;
        let before = changed_at(&session, concerned).await?;
        session
            .batch_execute(&format!("BEGIN; {there}; {back}; COMMIT"))
            .await
            .map_err(|error| anyhow::anyhow!("{there}: {error:?}"))?;
        until(
            &session,
            &format!("SELECT changed_at > '{before}' AND state = 'live' FROM lockstep.projection WHERE name = '{concerned}'"),
        )
        .await
        .map_err(|error| error.context(*there))?;
        projector.catch_up().await?;
        assert_equal(&setup).await.map_err(|error| error.context(*there))?;
        projector.stop().await?;
    }
    for (change, concerned) in CHANGES {
        session.batch_execute(change).await.map_err(|error| anyhow::anyhow!("{change}: {error:?}"))?;
        let before = changed_at(&session, "unconcerned").await?;
        let mut projector = Projector::start_as_usual(&setup).await?;
        projector.catch_up().await?;
        live(&session).await?;
        projector.catch_up().await?;
        assert_equal(&setup).await.map_err(|error| error.context(format!("{change}: {concerned:?}")))?;
        assert_eq!(changed_at(&session, "unconcerned").await?, before, "{change}");
        projector.stop().await?;
    }
    Ok(())
}
