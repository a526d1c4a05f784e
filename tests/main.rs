//! Scenarios against real clusters, one file each.

mod api;
mod backstop;
mod commands;
mod conformance;
mod cost;
mod crash;
mod edges;
mod faults;
mod harness;
mod http;
mod large;
mod leaders;
mod lost;
mod operating;
mod oracle;
mod pace;
mod quarantine;
mod random_queries;
mod schema;
mod shipped;
mod time;
mod tls;
mod tpch;
mod verify;
mod versions;
