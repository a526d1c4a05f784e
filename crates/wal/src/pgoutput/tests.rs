//! The decoder on messages captured from a server, on every prefix of them, and on noise.

use proptest::prelude::*;

use super::*;

const CAPTURED: &str = include_str!("captured.txt");

fn captured() -> Vec<Vec<u8>> {
    let hex = |line: &str| {
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal")).collect()
    };
    CAPTURED.lines().filter(|line| !line.starts_with('#')).map(hex).collect()
}

/// A message in short: what the tests below look at.
fn summary(message: &Message<'_>) -> String {
    let value = |value: &Value<'_>| match value {
        Value::Null => "null".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(text) if text.len() > 20 => format!("{} bytes", text.len()),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Binary(bytes) => format!("{} binary bytes", bytes.len()),
    };
    let tuple = |tuple: &Tuple<'_>| tuple.values.iter().map(value).collect::<Vec<_>>().join(",");
    match message {
        Message::Begin { final_lsn, commit_time, xid } => format!("begin {xid} {final_lsn} {commit_time}"),
        Message::Commit { commit_lsn, end_lsn, .. } => format!("commit {commit_lsn} {end_lsn}"),
        Message::Origin { name } => format!("origin {name}"),
        Message::Relation(relation) => {
            let columns: Vec<String> = relation
                .columns
                .iter()
                .map(|column| format!("{}{}", column.name, if column.in_identity { "*" } else { "" }))
                .collect();
            let identity = relation.replica_identity as char;
            format!("relation {}.{} {identity} ({})", relation.schema, relation.name, columns.join(","))
        }
        Message::Type { schema, name, .. } => format!("type {schema}.{name}"),
        Message::Insert { new, .. } => format!("insert ({})", tuple(new)),
        Message::Update { old: None, new, .. } => format!("update ({})", tuple(new)),
        Message::Update { old: Some(old), new, .. } => format!("update ({}) to ({})", tuple(old), tuple(new)),
        Message::Delete { old, .. } => format!("delete ({})", tuple(old)),
        Message::Truncate { relations } => format!("truncate {}", relations.len()),
        Message::Logical { transactional, prefix } => format!("logical {prefix} {transactional}"),
    }
}

#[test]
fn every_message_type_as_a_server_sends_it() {
    let messages = captured();
    let decoded: Vec<String> = messages.iter().map(|bytes| summary(&decode(bytes).expect("decodes"))).collect();
    let expected = [
        "begin 1025 0/373C598 848552598525710",
        "type public.mood",
        "relation public.t d (id*,name,m,big)",
        "insert (1,one,happy,9000 bytes)",
        "insert (2,null,sad,null)",
        "commit 0/373C598 0/373C5C8",
    ];
    assert_eq!(&decoded[..6], &expected);
    for line in [
        "update (1,uno,happy,unchanged)",
        "update (2,null,null,null) to (3,null,sad,null)",
        "delete (3,null,null,null)",
        "relation public.f f (a*,b*)",
        "update (7,seven) to (7,sept)",
        "delete (7,sept)",
        "truncate 2",
        "logical prefix true",
        "logical outside false",
        "origin elsewhere",
    ] {
        assert!(decoded.iter().any(|found| found == line), "{line} is not among {decoded:#?}");
    }
}

#[test]
fn a_message_cut_short_is_an_error_and_so_is_one_too_long() {
    for message in captured() {
        for length in 0..message.len().min(200) {
            assert!(decode(&message[..length]).is_err(), "{length} bytes of {:?}", message[0] as char);
        }
        let longer = [message.as_slice(), &[0]].concat();
        assert!(matches!(decode(&longer), Err(DecodeError::TrailingBytes { bytes: 1, .. })));
    }
}

#[test]
fn unknown_tags_are_named() {
    assert_eq!(decode(b"Z"), Err(DecodeError::UnknownTag { what: "message", tag: b'Z' }));
    assert_eq!(decode(b"I\0\0\0\x01X"), Err(DecodeError::UnknownTag { what: "tuple", tag: b'X' }));
    assert_eq!(decode(b"I\0\0\0\x01N\0\x01x"), Err(DecodeError::UnknownTag { what: "column", tag: b'x' }));
}

#[test]
fn an_empty_namespace_is_pg_catalog() {
    let message = b"R\0\0\0\x01\0t\0d\0\0";
    assert!(matches!(decode(message), Ok(Message::Relation(Relation { schema: "pg_catalog", .. }))));
}

proptest! {
    /// Whatever comes, the decoder returns: no panic, no reading past the end, no huge allocation from a forged count.
    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    /// The same with real messages of which one byte is wrong.
    #[test]
    fn a_flipped_byte_never_panics(which in 0_usize..41, at in 0_usize..400, byte: u8) {
        let mut message = captured().swap_remove(which);
        let at = at % message.len();
        message[at] = byte;
        let _ = decode(&message);
    }
}
