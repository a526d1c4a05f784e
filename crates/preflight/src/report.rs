//! What a look finds, and what is planned.

use std::collections::BTreeMap;

use lockstep_capture::Tracked;
use lockstep_config::Diagnostic;
use lockstep_connect::ServerIdentity;
use lockstep_plan::facts::{Identity, RelationKind};
use lockstep_plan::{Plan, Tie};
use lockstep_refresh::OnError;
use lockstep_refresh::analysis::{Dependencies, Meaning};

use crate::finding::{Finding, Severity, each_once};
use crate::remedy::Remedy;

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
    /// The blocks of the old version that it reads in place of its own, while it is built beside it.
    pub shared: Vec<Shared>,
    /// Statements that create the indexes that those lack.
    pub shared_indexes: Option<String>,
}

/// A block of the old version that the new one reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Its name, by the old version's count.
    pub block: String,
    /// What the new version's own would be called.
    pub instead_of: String,
}

impl Planned {
    /// The projection's name.
    pub fn name(&self) -> String {
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
    pub(crate) fn ok(&mut self, subject: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Ok, subject, message, None);
    }

    pub(crate) fn warn(&mut self, subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<Remedy>) {
        self.push(Severity::Warning, subject, message, Some(&remedy.into()));
    }

    pub(crate) fn error(&mut self, subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<Remedy>) {
        self.push(Severity::Error, subject, message, Some(&remedy.into()));
    }

    pub(crate) fn push(
        &mut self,
        severity: Severity,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: Option<&Remedy>,
    ) {
        self.findings.push(Finding::new(severity, subject.into(), message.into(), remedy, self.two_databases));
    }

    pub(crate) fn diagnostic(&mut self, subject: impl Into<String>, diagnostic: Diagnostic, remedy: Option<&Remedy>) {
        let said = diagnostic.remedy().map(Remedy::from);
        self.push(Severity::Error, subject, diagnostic.message().to_owned(), remedy.or(said.as_ref()));
        if let Some(finding) = self.findings.last_mut() {
            finding.diagnostic = Some(diagnostic);
        }
    }

    /// The server that was found as the source.
    pub fn identity(&self) -> ServerIdentity {
        ServerIdentity { system_identifier: self.system_identifier.clone(), timeline: self.timeline }
    }

    /// Whether a planned projection is that of this name, or a hidden part of it at any depth.
    pub fn is_of(&self, planned: &Planned, name: &str) -> bool {
        if planned.plan.projection == name {
            return true;
        }
        let whole = planned.part_of.as_ref().and_then(|whole| self.planned.iter().find(|other| &other.plan.projection == whole));
        whole.is_some_and(|whole| self.is_of(whole, name))
    }

    /// The projection that one is, or is a hidden part of at any depth.
    pub fn whole_of<'a>(&'a self, name: &'a str) -> &'a str {
        let found = self.planned.iter().find(|planned| planned.plan.projection == name);
        found.and_then(|planned| planned.part_of.as_deref()).map_or(name, |whole| self.whole_of(whole))
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
    pub fn failure_of(&self, projection: &str) -> Option<(String, Option<String>)> {
        let subject = format!("projection {projection}");
        let failure = |finding: &&Finding| finding.severity == Severity::Error && finding.subject == subject;
        self.findings.iter().find(failure).map(|finding| (finding.message.clone(), finding.remedy.clone()))
    }

    /// The errors, each as it is shown to people.
    pub fn errors(&self, colours: bool) -> Vec<String> {
        let told = each_once(&self.findings);
        told.iter().filter(|finding| finding.severity == Severity::Error).map(|finding| finding.render(colours)).collect()
    }

    pub(crate) fn track(&mut self) {
        for relation in self.planned.iter().flat_map(|planned| &planned.plan.relations) {
            if relation.kind == RelationKind::Projection {
                continue;
            }
            if self.tracked.iter().any(|tracked| tracked.oid == relation.oid) {
                continue;
            }
            let (identity, full) = match &relation.identity {
                Identity::Columns { .. } if relation.is_keyless() => (relation.located_by.clone(), true),
                Identity::Columns { columns, full } => (columns.clone(), *full),
                Identity::FullRow { .. } => (Vec::new(), true),
                Identity::None => (Vec::new(), false),
            };
            let row_type = relation.columns.iter().map(|column| column.name.clone());
            self.tracked.push(Tracked {
                oid: relation.oid,
                schema: relation.schema.clone(),
                name: relation.name.clone(),
                identity,
                row_type: relation.is_keyless().then(|| row_type.collect()),
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
