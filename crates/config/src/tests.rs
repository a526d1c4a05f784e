//! Good and bad configurations.

use std::path::Path;

use crate::Config;

fn parse(text: &str) -> Result<Config, String> {
    let environment = |name: &str| match name {
        "PGUSER" => Some("app".to_owned()),
        "SECRET" => Some("hush".to_owned()),
        "LINGER" => Some("250".to_owned()),
        _ => None,
    };
    Config::parse(Path::new("lockstep.toml"), text, &environment).map_err(|diagnostic| diagnostic.render(false))
}

/// A wrong configuration's message names the fault and points at it.
fn check_error(text: &str, message: &str, pointed_at: &str) {
    let rendered = parse(text).expect_err("refused");
    assert!(rendered.contains(message), "{rendered}");
    assert!(rendered.contains(pointed_at), "{rendered}");
    assert!(rendered.contains('^'), "a caret: {rendered}");
    assert!(!rendered.contains("hush"), "the password shows: {rendered}");
}

const PROJECTION: &str = "[[projection]]\nname = \"p\"\nsql = \"SELECT 1\"\n";

#[test]
fn defaults() {
    let config = parse(&format!("[source]\nurl = \"postgres://app:${{SECRET}}@db/shop\"\n{PROJECTION}")).unwrap();
    assert_eq!(
        (config.slot.as_str(), config.publication.as_str(), config.schema.as_str()),
        ("lockstep", "lockstep", "read_model")
    );
    assert_eq!(config.source.password(), Some("hush"));
    assert!(config.target.is_none());
    assert!(config.metrics.is_some_and(|listen| listen.address.ip().is_loopback() && !listen.configured));
}

#[test]
fn every_value_may_come_from_the_environment() {
    let text = format!(
        "[source]\nurl = \"postgres://db/shop\"\n[[group]]\nname = \"g\"\nlinger_ms = \"${{LINGER}}\"\n{PROJECTION}group = \"g\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.groups[0].linger.as_millis(), 250);
    assert_eq!(config.projections[0].group.as_deref(), Some("g"));
}

#[test]
fn a_target_that_is_the_source_is_no_second_database() {
    let text =
        format!("[source]\nurl = \"postgres://db/shop\"\n[target]\nurl = \"postgres://db/shop\"\nschema = \"rm\"\n{PROJECTION}");
    let config = parse(&text).unwrap();
    assert!(config.target.is_none());
    assert_eq!(config.schema, "rm");
}

#[test]
fn wrong_configurations_are_refused_where_they_are_wrong() {
    let source = "[source]\nurl = \"postgres://db/shop\"\n";
    check_error(
        "[source]\nurl = \"postgres://app:hush@db:x/shop\"\n[[projection]]\nname=\"p\"\nsql=\"SELECT 1\"",
        "the port is not a number",
        "url",
    );
    check_error(&format!("{source}slto = \"x\"\n{PROJECTION}"), "slto", "slto = ");
    check_error(&format!("{source}slot = \"Bad-Slot\"\n{PROJECTION}"), "not a slot name", "Bad-Slot");
    check_error(&format!("{source}{PROJECTION}group = \"nope\"\n"), "no group", "nope");
    check_error(&format!("{source}{PROJECTION}{PROJECTION}"), "second projection", "\"p\"");
    check_error(&format!("{source}[[projection]]\nname = \"No Good\"\nsql = \"SELECT 1\"\n"), "not a projection name", "No Good");
    check_error(
        &format!("{source}[[projection]]\nname = \"a__part12\"\nsql = \"SELECT 1\"\n"),
        "__part and a number",
        "a__part12",
    );
    check_error(&format!("{source}[[projection]]\nname = \"p\"\n"), "no query", "\"p\"");
    check_error(&format!("{source}[[projection]]\nname = \"p\"\nquery = \"missing.sql\"\n"), "cannot read", "missing.sql");
    check_error(&format!("{source}[[projection]]\nname = \"p\"\nsql = \"${{NOPE}}\"\n"), "NOPE is not set", "${NOPE}");
    check_error(&format!("{source}{PROJECTION}[metrics]\nlisten = \"x\"\n"), "not an address", "listen");
    check_error("[source\n", "", "[source");
}
