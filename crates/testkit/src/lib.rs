//! Development only: clusters for tests, random workloads, the oracle.
//!
//! The oracle is PostgreSQL: after every batch, inside its transaction, each live projection is compared with its defining query
//! as multisets, EXCEPT ALL both ways.

mod clusters;
mod oracle;
mod queries;
mod tables;
mod workload;

pub use clusters::{cluster, cluster_with, cluster_with_files, connect};
pub use oracle::Oracle;
pub use queries::RandomQuery;
pub use workload::{Keys, SCHEMA, Workload, random_statement, seed_from_environment};
