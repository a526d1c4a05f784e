//! Settings that a role or a database has otherwise change neither what Lockstep's statements mean nor what is shown.

use lockstep_cluster::Cluster;
use lockstep_connect::{FOLLOWED_SETTINGS, PINNED_SETTINGS, Session, Settings};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};
use lockstep_wal::ReplicationConnection;
use tokio_postgres::NoTls;

use crate::harness::{Program, Projector, Setup};

/// The oddest value of each setting that a server still lets sessions begin with.
const ODDEST: &[(&str, &str)] = &[
    ("client_encoding", "'LATIN1'"),
    ("DateStyle", "'German, DMY'"),
    ("IntervalStyle", "'iso_8601'"),
    ("TimeZone", "'Asia/Kathmandu'"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "'escape'"),
    ("array_nulls", "off"),
    ("xmloption", "'document'"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("escape_string_warning", "on"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("row_security", "on"),
    ("gin_fuzzy_search_limit", "1"),
    ("default_transaction_isolation", "'serializable'"),
    ("default_transaction_deferrable", "on"),
    ("synchronous_commit", "'remote_apply'"),
    ("statement_timeout", "'30ms'"),
    ("lock_timeout", "'30ms'"),
    ("idle_session_timeout", "'100ms'"),
    ("idle_in_transaction_session_timeout", "'100ms'"),
    ("transaction_timeout", "'100ms'"),
    ("wal_sender_timeout", "'100ms'"),
    ("exit_on_error", "on"),
    ("jit", "on"),
    ("client_min_messages", "'debug1'"),
    ("default_text_search_config", "'pg_catalog.german'"),
    ("lc_monetary", "'POSIX'"),
    ("lc_numeric", "'POSIX'"),
    ("lc_time", "'POSIX'"),
    ("timezone_abbreviations", "'Australia'"),
    ("xmlbinary", "'hex'"),
];

const THINGS: &str = r"
    CREATE TABLE thing (id bigint PRIMARY KEY, bytes bytea, amount numeric, tags text, moment timestamptz, span interval,
                        ratio float8, words text, markup text, local_time text);
    CREATE TABLE listed (key text[] PRIMARY KEY, note text);
    INSERT INTO thing SELECT g, decode(md5(g::text), 'hex'), g / 7.0, '{NULL,a' || g || '}', timestamptz '2024-02-03 04:05:06Z' + g * interval '1 hour',
        g * interval '1 day 2 hours', g / 3.0, 'the houses ' || g, 'one<two/>' || g, '2024-02-03 04:05 EST' FROM generate_series(1, 200) AS g;
    INSERT INTO listed SELECT ARRAY[g::text, NULL], 'note ' || g FROM generate_series(1, 200) AS g";

/// What only expressions of the application depend on: as every other session of the database sees it.
const FOLLOWING: &str = "SELECT t.id, xmlelement(name x, t.bytes)::text AS element, to_tsvector(t.words)::text AS words,
    to_char(t.amount, 'L9G999D99') AS amount, t.local_time::timestamptz AS local_time FROM thing t";

/// What Lockstep's own statements depend on as well.
const PINNED: &str = r"SELECT t.id, t.bytes::text AS bytes, t.tags::text[] AS tags, (t.amount = NULL) AS nothing, t.markup::xml::text AS markup,
    (t.moment AT TIME ZONE 'UTC')::text AS moment, t.span::text AS span, t.ratio::text AS ratio, 'a\b' || t.words AS words, E'it\'s' AS quoted
    FROM thing t";

const CHANGES: &str = "UPDATE thing SET amount = amount + 1, tags = '{null,b}', words = 'a house' WHERE id % 3 = 0; DELETE FROM thing WHERE id % 7 = 0;
    UPDATE listed SET note = note || '!' WHERE note LIKE '%5'; DELETE FROM listed WHERE note LIKE '%7'";

fn setup(url: &str) -> Setup {
    Setup::new(
        url,
        &[
            ("following", FOLLOWING, ""),
            ("pinned", PINNED, ""),
            ("listed_row", "SELECT l.key, l.note FROM listed l", ""),
            ("summary", "SELECT l.key[2] AS second, count(*) AS n, max(l.note) AS last FROM listed l GROUP BY l.key[2]", ""),
        ],
    )
}

/// Rows of a query that the read model does not show, as an ordinary session sees them: one whose settings nobody has pinned.
async fn missing(url: &str, query: &str, projection: &str) -> anyhow::Result<i64> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let compare = format!(
        "SELECT (SELECT count(*) FROM (({query}) EXCEPT ALL SELECT * FROM read_model.{projection}) AS a)
              + (SELECT count(*) FROM (SELECT * FROM read_model.{projection} EXCEPT ALL ({query})) AS b)"
    );
    let different = client.query_one(&compare, &[]).await?.get(0);
    connection.abort();
    Ok(different)
}

/// A database whose projector's role, or which itself, has every setting at its oddest.
async fn odd(cluster: &Cluster, database: &str, whose: &str) -> anyhow::Result<(Session, String)> {
    let admin = connect(&cluster.url("postgres")).await?;
    admin.batch_execute(&format!("CREATE ROLE of_{database} LOGIN SUPERUSER")).await?;
    admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
    let url = format!("postgres://of_{database}@127.0.0.1:{}/{database}", cluster.port());
    let session = connect(&cluster.url(database)).await?;
    session.batch_execute(THINGS).await?;
    for (name, value) in ODDEST {
        if is_known(&admin, name).await? {
            admin.batch_execute(&format!("ALTER {whose} SET {name} = {value}")).await?;
        }
    }
    Ok((session, url))
}

async fn is_known(session: &Session, name: &str) -> anyhow::Result<bool> {
    Ok(session.query_one("SELECT EXISTS (SELECT FROM pg_settings WHERE name = $1)", &[&name]).await?.get(0))
}

async fn run_and_compare(url: &str, session: &Session) -> anyhow::Result<()> {
    let setup = setup(url);
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute(CHANGES).await?;
    projector.is_equal(&setup).await?;
    let program = Program::new(&setup)?;
    for command in [&["wait", "--timeout", "30s"][..], &["verify"], &["status"]] {
        let (status, output, errors) = program.run(command)?;
        assert_eq!(status, 0, "{command:?}: {output}{errors}");
    }
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_role_has_for_itself_is_of_no_consequence() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let (session, url) = odd(&cluster, "by_role", "ROLE of_by_role").await?;
    run_and_compare(&url, &session).await?;
    let ordinary = cluster.url("by_role");
    assert_eq!(missing(&ordinary, FOLLOWING, "following").await?, 0, "other sessions see what the read model shows");
    assert_eq!(missing(&ordinary, PINNED, "pinned").await?, 0, "other sessions see what the read model shows");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_has_is_shown_or_said() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let (session, url) = odd(&cluster, "by_database", "DATABASE by_database").await?;
    run_and_compare(&url, &session).await?;
    // Those that end an ordinary session would end this one.
    let patient =
        format!("{}?options=-c%20statement_timeout%3D0%20-c%20default_transaction_deferrable%3Doff", cluster.url("by_database"));
    assert_eq!(missing(&patient, FOLLOWING, "following").await?, 0, "other sessions see what the read model shows");
    let (_, output, _) = Program::new(&setup(&url))?.run(&["check"])?;
    for said in ["transform_null_equals = 'on'", "IntervalStyle = 'iso_8601'", "ALTER DATABASE \"by_database\" RESET array_nulls"]
    {
        assert!(output.contains(said), "{said}: {output}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_is_pinned_or_follows_on_sessions_of_both_kinds() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let admin = connect(&cluster.url("postgres")).await?;
    admin.batch_execute("CREATE ROLE projector LOGIN SUPERUSER").await?;
    let settings = Settings::resolve(Some(&format!("postgres://projector@127.0.0.1:{}/postgres", cluster.port())), &|_| None)?;
    let names = PINNED_SETTINGS.iter().map(|setting| setting.name).chain(FOLLOWED_SETTINGS.iter().copied());
    for name in names {
        let (_, odd) = ODDEST.iter().find(|(odd, _)| *odd == name).unwrap_or_else(|| panic!("no odd value of {name}"));
        if !is_known(&admin, name).await? {
            continue;
        }
        let usual: String = admin.query_one("SELECT current_setting($1)", &[&name]).await?.get(0);
        for whose in ["ROLE projector", "ROLE projector IN DATABASE postgres", "DATABASE postgres"] {
            admin.batch_execute(&format!("ALTER {whose} SET {name} = {odd}")).await?;
            let session = Session::open(&settings, "lockstep test").await?;
            let found: String = session.query_one("SELECT current_setting($1)", &[&name]).await?.get(0);
            // The replication connection reads back by itself, or does not open.
            ReplicationConnection::open(&settings).await?.identify_system().await?;
            admin.batch_execute(&format!("ALTER {whose} RESET {name}")).await?;
            let follows_what_is_set = FOLLOWED_SETTINGS.contains(&name) && whose.starts_with("DATABASE");
            let expected = if follows_what_is_set { odd.trim_matches('\'') } else { usual.as_str() };
            assert_eq!(found, expected, "{name} set for {whose}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_of_the_server_has_been_thought_of() -> anyhow::Result<()> {
    /// They change how a result is reached, what is logged, what is allowed, or where things are stored: not the result.
    const OF_NO_CONSEQUENCE: &[&str] = &[
        "Query Tuning",
        "Resource Usage",
        "Reporting and Logging",
        "Statistics",
        "Vacuuming",
        "Autovacuum",
        "Developer Options",
        "File Locations",
        "Lock Management",
        "Write-Ahead Log",
        "Connections and Authentication",
        "Client Connection Defaults / Shared Library Preloading",
    ];
    /// The rest that is left alone: names are found by the role's `search_path`; the others choose where things are stored, what is
    /// checked or logged, or are set for each transaction; the last are only a superuser's to set and for repairs.
    const LEFT_ALONE: &[&str] = &[
        "search_path",
        // Obeyed: tests/read_only.rs.
        "default_transaction_read_only",
        "default_tablespace",
        "temp_tablespaces",
        "default_table_access_method",
        "default_toast_compression",
        "check_function_bodies",
        "createrole_self_grant",
        "dynamic_library_path",
        "extension_control_path",
        "event_triggers",
        "gin_pending_list_limit",
        "icu_validation_level",
        "lc_messages",
        "restrict_nonsystem_relation_kind",
        "session_replication_role",
        "transaction_deferrable",
        "transaction_isolation",
        "transaction_read_only",
        "synchronize_seqscans",
        "lo_compat_privileges",
        "output_plugin_libraries",
        "ssl_renegotiation_limit",
    ];
    let cluster = cluster()?;
    let session = connect(&cluster.url("postgres")).await?;
    let rows = session
        .query("SELECT name, category FROM pg_settings WHERE context IN ('user', 'superuser') AND name !~ '[.]|^vacuum_'", &[])
        .await?;
    let known = |name: &str| {
        PINNED_SETTINGS.iter().any(|setting| setting.name == name)
            || FOLLOWED_SETTINGS.contains(&name)
            || LEFT_ALONE.contains(&name)
    };
    let unknown: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .filter(|(name, category): &(&str, &str)| {
            !known(name) && !OF_NO_CONSEQUENCE.iter().any(|harmless| category.starts_with(harmless))
        })
        .collect();
    assert!(unknown.is_empty(), "can they change a result, the meaning of SQL, or end a session? {unknown:?}");
    Ok(())
}
