//! Everything that must be right before anything is changed: servers, privileges, tables, queries. `lockstep check` shows it;
//! `lockstep run` insists on it.

mod chain;
mod concerned;
mod encodings;
mod finding;
mod limits;
mod neighbours;
mod privileges;
mod queries;
mod remedy;
mod servers;
mod settings;
mod slot;
mod standing;
mod types;
mod whole_rows;

use std::collections::BTreeMap;

use lockstep_capture::Tracked;
use lockstep_connect::ServerIdentity;
use lockstep_plan::facts::{Identity, RelationKind};
use lockstep_plan::{Plan, Tie};
use lockstep_refresh::OnError;
use lockstep_refresh::analysis::{Dependencies, Meaning, meanings};

pub(crate) use finding::each_once;
pub use finding::{Finding, Severity};
pub(crate) use privileges::{Missing, of_relations};
pub use remedy::{By, Remedy, Side, Statement};
pub(crate) use types::{NeededType, missing as missing_types, needed as needed_types};

use crate::config::Config;
use crate::diagnostic::Diagnostic;

/// A projection that is ready to be set up.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its plan.
    pub plan: Plan,
    /// Its query as it was written: views by their names, which are written out where their orders were made total.
    pub written: String,
    /// Where rows that tie decide values in its query, and what was appended to make that determined.
    pub ties: Vec<Tie>,
    /// The schema of its table.
    pub schema: String,
    /// The projection that it is an inner part of; then it is hidden.
    pub part_of: Option<String>,
    /// The projections whose tables it reads.
    pub reads: Vec<String>,
    /// What stands for its table's oid where other projections read it.
    pub node: u32,
    /// Its group.
    pub group: String,
    /// The time zone that its query is computed in.
    pub time_zone: String,
    /// What becomes of the row of a key that fails.
    pub on_error: OnError,
    /// Statements that create its indexes.
    pub indexes: Option<String>,
    /// Whether its changes are told.
    pub feed: bool,
    /// What its query's meaning depends on.
    pub dependencies: Dependencies,
}

impl Planned {
    /// The projection's name.
    pub(crate) fn name(&self) -> String {
        self.plan.projection.clone()
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
    /// The projections whose plan could be made.
    pub planned: Vec<Planned>,
    /// The relations to follow.
    pub tracked: Vec<Tracked>,
    /// What each of them is now; see [`lockstep_capture::signatures`].
    pub signatures: Vec<lockstep_capture::Signature>,
    /// What the query of each planned projection means now; see [`lockstep_refresh::analysis::meanings`].
    pub meanings: BTreeMap<String, Meaning>,
    /// The source's major version; 0 if it was not reached.
    pub major: u32,
    /// The source cluster's identifier.
    pub system_identifier: String,
    /// Its timeline, which grows with every failover and point-in-time recovery.
    pub timeline: u32,
    /// Up to where it has flushed its WAL.
    pub flushed_lsn: lockstep_wal::Lsn,
    /// Statements that keep tables from sending rows whole, old and new, although they have a key.
    pub whole_rows: Vec<String>,
    /// Source and target are not one database.
    pub two_databases: bool,
    /// The target is a copy of another installation's, and has a slot of its own.
    pub apart: bool,
}

impl Preflight {
    fn ok(&mut self, subject: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Ok, subject, message, None);
    }

    fn warn(&mut self, subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<Remedy>) {
        self.push(Severity::Warning, subject, message, Some(&remedy.into()));
    }

    fn error(&mut self, subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<Remedy>) {
        self.push(Severity::Error, subject, message, Some(&remedy.into()));
    }

    fn push(&mut self, severity: Severity, subject: impl Into<String>, message: impl Into<String>, remedy: Option<&Remedy>) {
        self.findings.push(Finding::new(severity, subject.into(), message.into(), remedy, self.two_databases));
    }

    fn diagnostic(&mut self, subject: impl Into<String>, diagnostic: Diagnostic, remedy: Option<&Remedy>) {
        let said = diagnostic.remedy().map(Remedy::from);
        self.push(Severity::Error, subject, diagnostic.message().to_owned(), remedy.or(said.as_ref()));
        if let Some(finding) = self.findings.last_mut() {
            finding.diagnostic = Some(diagnostic);
        }
    }

    /// The server that was found as the source.
    pub(crate) fn identity(&self) -> ServerIdentity {
        ServerIdentity { system_identifier: self.system_identifier.clone(), timeline: self.timeline }
    }

    /// Whether nothing stands in the way.
    pub fn passed(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    /// Whether the servers are as they should be and only projections' queries are not.
    pub fn only_queries_fail(&self) -> bool {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .all(|finding| finding.subject.starts_with("projection "))
    }

    /// What a projection's query fails with, in words, and what to do about it.
    pub(crate) fn failure_of(&self, projection: &str) -> Option<(String, Option<String>)> {
        let subject = format!("projection {projection}");
        let failure = |finding: &&Finding| finding.severity == Severity::Error && finding.subject == subject;
        self.findings.iter().find(failure).map(|finding| (finding.message.clone(), finding.remedy.clone()))
    }

    /// The errors, each as it is shown to people.
    pub fn errors(&self, colours: bool) -> Vec<String> {
        let told = each_once(&self.findings);
        told.iter().filter(|finding| finding.severity == Severity::Error).map(|finding| finding.render(colours)).collect()
    }

    fn track(&mut self) {
        for relation in self.planned.iter().flat_map(|planned| &planned.plan.relations) {
            if relation.kind == RelationKind::Projection {
                continue;
            }
            if self.tracked.iter().any(|tracked| tracked.oid == relation.oid) {
                continue;
            }
            let (identity, full) = match &relation.identity {
                Identity::Columns { columns, full } => (columns.clone(), *full),
                Identity::FullRow => (Vec::new(), true),
                Identity::None => (Vec::new(), false),
            };
            self.tracked.push(Tracked {
                oid: relation.oid,
                schema: relation.schema.clone(),
                name: relation.name.clone(),
                identity,
                full,
                partitioned: relation.kind == RelationKind::Partitioned,
            });
        }
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The queries alone: enough for a plan.
    Plans,
    /// Everything that does not read whole tables.
    Start,
    /// Everything, key uniqueness in the data too.
    Full,
}

/// Looks at everything; changes nothing.
pub async fn run(config: &Config, depth: Depth) -> Preflight {
    let mut preflight = Preflight { two_databases: config.target.is_some(), ..Preflight::default() };
    let Some(source) = servers::source(config, depth, &mut preflight).await else { return preflight };
    // Types are found by temporary views; slot, publication and the mark of whose they are may have to be written, too.
    if !settings::writable("source", &source, &mut preflight).await {
        return preflight;
    }
    queries::plan_all(config, &source, &mut preflight).await;
    preflight.track();
    match lockstep_capture::signatures(&source, &config.publication, &preflight.tracked, preflight.major).await {
        Ok(signatures) => preflight.signatures = signatures,
        Err(error) => preflight.error("source", lockstep_connect::describe(&error), "make the catalogs readable"),
    }
    let dependencies: Vec<&Dependencies> = preflight.planned.iter().map(|planned| &planned.dependencies).collect();
    match meanings(&source, &dependencies, preflight.major).await {
        Ok(found) => preflight.meanings = preflight.planned.iter().map(Planned::name).zip(found).collect(),
        Err(error) => preflight.error("source", lockstep_connect::describe(&error), "make the catalogs readable"),
    }
    if depth == Depth::Plans {
        return preflight;
    }
    settings::check(&source, &mut preflight).await;
    servers::relations(&source, &mut preflight).await;
    servers::identities(config, depth, &source, &mut preflight).await;
    whole_rows::look(depth, &source, &mut preflight).await;
    servers::publication(config, &source, &mut preflight).await;
    servers::reading(config, &mut preflight).await;
    let registered = servers::target(config, &source, &mut preflight).await;
    if depth == Depth::Start {
        preflight.set_aside_what_cannot_be_followed(config);
    }
    queries::check_keys(&source, depth, &registered, &mut preflight).await;
    preflight
}
