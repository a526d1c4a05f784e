//! What is set up: what was configured, and what takes its place while new versions are in the making.

use std::sync::Arc;

use lockstep_capture::Signature;
use lockstep_config::{Config, DEFAULT_GROUP};
use lockstep_preflight::{Planned, Preflight};

use crate::schedule::{self, Backed};
use crate::setup::fingerprint::view_fingerprint;
use crate::setup::version::Making;
use crate::versions::Effective;

/// What is set up.
pub(super) struct InForce {
    configured: Config,
    checked: Preflight,
    /// Where a new version is in the making: what is set up in place of what is configured.
    effective: Option<Effective>,
    /// What the tracked relations were when it was set up.
    pub(super) signatures: Vec<Signature>,
    /// What the backstop looks after.
    pub(super) backed: Arc<Vec<Backed>>,
    /// Group, name and reason of projections that are set aside because they cannot even be planned.
    pub(super) broken: Vec<(String, String)>,
}

impl InForce {
    pub(super) fn new(configured: &Config, checked: &Preflight, effective: Option<Effective>) -> Self {
        let mut made = Self {
            configured: configured.clone(),
            checked: checked.clone(),
            effective,
            signatures: Vec::new(),
            backed: Arc::default(),
            broken: Vec::new(),
        };
        let (config, checked, _) = made.parts();
        let group = |name: &Option<String>| name.clone().unwrap_or_else(|| DEFAULT_GROUP.to_owned());
        let broken = config
            .projections
            .iter()
            .filter(|projection| checked.failure_of(&projection.name).is_some())
            .map(|projection| (group(&projection.group), projection.name.clone()))
            .collect();
        made.broken = broken;
        made
    }

    /// Configuration, plans and new versions as they are set up.
    pub(super) fn parts(&self) -> (&Config, &Preflight, &[Making]) {
        match &self.effective {
            Some(found) => (&found.config, &found.checked, &found.making),
            None => (&self.configured, &self.checked, &[]),
        }
    }

    /// What the tracked relations are now that everything is published.
    pub(super) fn signatures_are(&mut self, signatures: Vec<Signature>) {
        self.signatures = signatures;
        let (_, checked, _) = self.parts();
        let fingerprint = |planned: &Planned| view_fingerprint(planned, &checked.planned, &checked.tracked, &self.signatures);
        self.backed = Arc::new(schedule::backed(&self.configured, &checked.planned, fingerprint));
    }
}
