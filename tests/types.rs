//! Every type of column through the read API: ordered, counted, filtered and documented, or refused by name.

use std::net::SocketAddr;

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};
use serde_json::Value;

use crate::harness::{Program, Projector, Setup};
use crate::http::get;
use crate::serving::Serving;

/// Type, two values, whether it has an order that the API offers, and what JSON it is printed as.
const TYPES: &[(&str, &str, &str, bool, &str)] = &[
    ("bool", "false", "true", true, "boolean"),
    ("\"char\"", "a", "b", true, "string"),
    ("name", "a", "b", true, "string"),
    ("text", "a", "", true, "string"),
    ("varchar(5)", "a", "b c", true, "string"),
    ("char(5)", "a", "b", true, "string"),
    ("citext", "A", "b", true, "string"),
    ("int2", "-1", "2", true, "integer"),
    ("int4", "-1", "2", true, "integer"),
    ("int8", "-1", "2", true, "integer"),
    ("float4", "0.1", "NaN", true, "number"),
    ("float8", "0.1", "-Infinity", true, "number"),
    ("numeric", "0.10", "NaN", true, "number"),
    ("money", "1", "-2.5", true, "string"),
    ("date", "2024-02-29", "infinity", true, "string"),
    ("time", "10:00", "24:00", true, "string"),
    ("timetz", "10:00+02", "10:00-02", true, "string"),
    ("timestamp", "2024-02-29 10:00", "-infinity", true, "string"),
    ("timestamptz", "2024-02-29 10:00+01", "infinity", true, "string"),
    ("interval", "1 month", "-1 day", true, "string"),
    ("uuid", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002", true, "string"),
    ("bytea", "\\x00", "\\xff", true, "string"),
    ("bit(3)", "101", "111", true, "string"),
    ("varbit", "1", "", true, "string"),
    ("inet", "10.0.0.1", "::1", true, "string"),
    ("cidr", "10.0.0.0/8", "::/0", true, "string"),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:04", true, "string"),
    ("json", "1", "{\"a\": [1]}", false, ""),
    ("jsonb", "1", "{\"a\": [1]}", true, ""),
    ("jsonpath", "$.a", "$.b", false, "string"),
    ("point", "(1,2)", "(3,4)", false, "string"),
    ("oid", "1", "4294967295", true, "string"),
    ("regclass", "pg_class", "pg_type", true, "string"),
    ("xid", "1", "2", false, "string"),
    ("pg_lsn", "0/1", "F/2", true, "string"),
    ("int4range", "[1,3)", "empty", true, "string"),
    ("datemultirange", "{[2024-01-01,2024-02-01)}", "{}", true, "string"),
    ("tsquery", "'a'", "'b'", true, "string"),
    ("int4[]", "{1,NULL}", "{}", true, "array"),
    ("text[]", "{a,\"b,c\"}", "{}", true, "array"),
    ("json[]", "{1}", "{}", false, "array"),
    ("mood", "happy", "sad", true, "string"),
    ("mood[]", "{happy}", "{}", true, "array"),
    ("pair", "(1,a)", "(2,)", false, "object"),
    ("document", "1", "{\"a\": 1}", false, ""),
    ("whole", "1", "2", true, "integer"),
    ("words", "{a}", "{}", true, "array"),
    ("short", "abc", "b", true, "string"),
    ("feeling", "happy", "sad", true, "string"),
    ("feeling[]", "{happy}", "{}", true, "array"),
    ("hstore", "a=>1", "b=>2", false, ""),
];

const KINDS: &str = "CREATE EXTENSION citext; CREATE EXTENSION hstore;
    CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN document AS json; CREATE DOMAIN whole AS int CHECK (VALUE >= 0); CREATE DOMAIN words AS text[];
    CREATE DOMAIN code AS varchar(3) CHECK (VALUE <> ''); CREATE DOMAIN short AS code; CREATE DOMAIN feeling AS mood;";

fn column(n: usize) -> String {
    format!("c{n}")
}

/// Asks everything of every column.
async fn ask(address: SocketAddr, texts: &[Vec<Option<String>>]) -> anyhow::Result<()> {
    let document = get(address, "/openapi.json").await?.json();
    let rows = get(address, "/api/read/kinds?order=id").await?.json();
    for (n, (type_name, _, _, sortable, json_type)) in TYPES.iter().enumerate() {
        let column = column(n);
        // Values that the domain would cut or refuse are values that no row has.
        for value in if *type_name == "short" { vec!["abcd", ""] } else { Vec::new() } {
            let answer = get(address, &format!("/api/read/kinds?{column}=eq.{value}")).await?;
            assert_eq!((answer.status, answer.json()["data"].as_array().map(Vec::len)), (200, Some(0)), "{type_name} {value}");
        }
        for (path, parameter) in [
            (format!("order={column}"), "order"),
            (format!("order={column}.desc"), "order"),
            (format!("facets={column}"), "facets"),
            (format!("{column}=eq.{}", encoded(texts[0][n].as_deref())), column.as_str()),
            (format!("{column}=in.(\"{}\")", encoded(texts[0][n].as_deref().map(escaped).as_deref())), column.as_str()),
        ] {
            let answer = get(address, &format!("/api/read/kinds?{}", path.replace('"', "%22"))).await?;
            let json = answer.json();
            if !sortable {
                assert_eq!((answer.status, &json["parameter"]), (400, &parameter.into()), "{type_name} {path}: {json}");
                continue;
            }
            assert_eq!(answer.status, 200, "{type_name} {path}: {json}");
            let expected = if parameter == column { 1 } else { 3 };
            assert_eq!(json["data"].as_array().map(Vec::len), Some(expected), "{type_name} {path}: {json}");
        }
        if *sortable {
            page(address, &column).await?;
        }
        let missing = get(address, &format!("/api/read/kinds?{column}=is.null")).await?.json();
        assert_eq!(missing["data"].as_array().map(Vec::len), Some(1), "{type_name}: {missing}");
        // What is documented is what comes.
        let documented = &document["components"]["schemas"]["kinds"]["properties"][&column]["type"];
        let names: Vec<&str> =
            documented.as_array().map_or_else(Vec::new, |names| names.iter().filter_map(Value::as_str).collect());
        assert_eq!(names.first().copied().unwrap_or_default(), *json_type, "{type_name}: {documented}");
        for row in rows["data"].as_array().into_iter().flatten() {
            let came = match &row[&column] {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(number) if number.is_i64() && names.contains(&"integer") => "integer",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            assert!(names.is_empty() || names.contains(&came), "{type_name}: {came} is not of {documented}");
        }
    }
    Ok(())
}

/// One row a page, each once.
async fn page(address: SocketAddr, column: &str) -> anyhow::Result<()> {
    let (mut found, mut after) = (Vec::new(), String::new());
    while found.len() < 4 {
        let page = get(address, &format!("/api/read/kinds?select=id&limit=1&order={column}&after={after}")).await?.json();
        found.push(page["data"][0]["id"].as_i64().ok_or_else(|| anyhow::anyhow!("{column}: {page}"))?);
        match page["meta"]["next"].as_str() {
            Some(cursor) => cursor.clone_into(&mut after),
            None => break,
        }
    }
    found.sort_unstable();
    anyhow::ensure!(found == [1, 2, 3], "{column}: {found:?}");
    Ok(())
}

fn encoded(text: Option<&str>) -> String {
    form_urlencoded::byte_serialize(text.unwrap_or_default().as_bytes()).collect()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_ordered_counted_and_documented_or_refused() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = connect(&url).await?;
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(n, found)| format!("{} {}", column(n), found.0)).collect();
    let row = |n: usize| {
        let values: Vec<String> =
            TYPES.iter().map(|found| format!("'{}'", if n == 1 { found.1 } else { found.2 }.replace('\'', "''"))).collect();
        format!("INSERT INTO kinds VALUES ({n}, {});", values.join(", "))
    };
    session
        .batch_execute(&format!(
            "{KINDS} CREATE TABLE kinds (id int PRIMARY KEY, {}); {} {} INSERT INTO kinds VALUES (3)",
            columns.join(", "),
            row(1),
            row(2)
        ))
        .await?;
    let mut setup = Setup::new(&url, &[("kinds", "SELECT k.* FROM kinds k", "key = [\"id\"]")]);
    setup.preamble = "[api]\nlisten = \"127.0.0.1:0\"\n".to_owned();
    let (mut projector, address) = Projector::start_with_api(&setup, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let shown: Vec<String> = (0..TYPES.len()).map(|n| format!("{}::text", column(n))).collect();
    let texts = session.query(&format!("SELECT ARRAY[{}] FROM kinds ORDER BY id", shown.join(", ")), &[]).await?;
    let texts: Vec<Vec<Option<String>>> = texts.iter().map(|row| row.get(0)).collect();
    ask(address, &texts).await?;
    projector.stop().await?;
    // Without the table it is the query that says what its columns are.
    session.batch_execute("ALTER TABLE read_model.kinds RENAME TO hidden").await?;
    let program = Program::new(&setup)?;
    let serving = Serving::start(&program, &setup, "").await?;
    assert_eq!(get(serving.address, "/api/read/kinds").await?.source(), "tables");
    ask(serving.address, &texts).await
}
