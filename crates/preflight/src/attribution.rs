//! Whom a finding concerns: what is wrong with a table is the fault of the projections that read it, and of no other.

use lockstep_config::Config;

use crate::finding::{Finding, Severity};
use crate::report::{Planned, Preflight};

/// What findings about a table are about.
pub(crate) fn relation_subject(label: &str) -> String {
    format!("relation {label}")
}

impl Preflight {
    /// Turns errors of tables into errors of the projections that read them, which are not planned then; the others can be set up.
    pub(crate) fn set_aside_what_cannot_be_followed(&mut self, config: &Config) {
        let mut failing: Vec<(String, Finding)> = Vec::new();
        for finding in self.findings.iter_mut().filter(|finding| finding.severity == Severity::Error) {
            let Some(label) = finding.subject.strip_prefix("relation ") else { continue };
            failing.push((label.to_owned(), finding.clone()));
            // It is said of the projections now.
            finding.severity = Severity::Warning;
        }
        for projection in &config.projections {
            let owned = |planned: &&Planned| self.is_of(planned, &projection.name);
            let read = |label: &str| self.planned.iter().filter(owned).any(|planned| reads(planned, label));
            let Some((label, found)) = failing.iter().find(|(label, _)| read(label)) else { continue };
            let (subject, message) = (format!("projection {}", projection.name), format!("{label}: {}", found.message));
            self.findings.push(Finding { subject, message, ..found.clone() });
        }
        self.set_aside_readers(config);
        let followed: Vec<bool> =
            self.tracked.iter().map(|tracked| self.planned.iter().any(|planned| reads(planned, &tracked.label()))).collect();
        let mut keep = followed.iter();
        self.tracked.retain(|_| keep.next().copied().unwrap_or(false));
        let mut keep = followed.iter();
        self.signatures.retain(|_| keep.next().copied().unwrap_or(false));
    }

    /// What reads a projection that fails cannot be maintained either.
    fn set_aside_readers(&mut self, config: &Config) {
        loop {
            // A new version may read blocks of the old one.
            let fails = |name: &str| self.failure_of(self.whole_of(name)).is_some();
            let owner = |planned: &Planned| self.whole_of(&planned.plan.projection).to_owned();
            let reader = self.planned.iter().find_map(|planned| {
                let read = planned.reads.iter().find(|read| fails(read))?;
                (!fails(&owner(planned))).then(|| (owner(planned), read.clone()))
            });
            let Some((name, read)) = reader else { break };
            let message = format!("it reads {read}, which is set aside");
            self.error(format!("projection {name}"), message, format!("it comes back by itself when {read} does"));
        }
        let failing: Vec<String> = config
            .projections
            .iter()
            .map(|projection| projection.name.clone())
            .filter(|name| self.failure_of(name).is_some())
            .collect();
        let of_failing = |planned: &Planned| failing.iter().any(|name| self.is_of(planned, name));
        let kept: Vec<Planned> = self.planned.iter().filter(|planned| !of_failing(planned)).cloned().collect();
        self.planned = kept;
    }
}

fn reads(planned: &Planned, label: &str) -> bool {
    planned.plan.relations.iter().any(|relation| relation.label() == label)
}
