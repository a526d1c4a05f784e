//! Blocks that a new version of a projection has in common with the old one: it reads the old one's, and takes them over with its place.
//!
//! The rule: a block is its defining query, its columns, what identifies its rows, and its state; its name and its number are nothing. What
//! is planned from one query over one catalog is one plan, but for names. A block is taken once: it will have one name.

use lockstep_plan::{Plan, StateTable};

use crate::report::{Planned, Shared};

/// The old version's blocks.
#[derive(Default)]
pub(crate) struct Former<'a> {
    blocks: Vec<&'a Planned>,
    version: String,
    of: String,
    taken: Vec<Shared>,
}

impl<'a> Former<'a> {
    /// The blocks of `of` that `version` may share.
    pub(crate) fn new(blocks: Vec<&'a Planned>, version: &str, of: &str) -> Self {
        Self { blocks, version: version.to_owned(), of: of.to_owned(), taken: Vec::new() }
    }

    /// The block that is what `wanted` would be, if there is one that is not taken. It is then.
    pub(crate) fn take(&mut self, wanted: &Planned) -> Option<&'a Planned> {
        let name = &wanted.plan.projection;
        // Rather the one of that number than another that is the same.
        let numbered = name.strip_prefix(&self.version).map(|number| format!("{}{number}", self.of));
        let free = |block: &&&Planned| !self.taken.iter().any(|shared| shared.block == block.plan.projection);
        let mut same: Vec<&'a Planned> =
            self.blocks.iter().filter(free).filter(|block| is_same(block, wanted)).copied().collect();
        same.sort_by_key(|block| numbered.as_ref() != Some(&block.plan.projection));
        let found = *same.first()?;
        self.taken.push(Shared { block: found.plan.projection.clone(), instead_of: name.clone() });
        Some(found)
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.len()
    }

    /// Gives back what was taken since.
    pub(crate) fn give_back(&mut self, taken: usize) {
        self.taken.truncate(taken);
    }

    /// What was taken, and that is all.
    pub(crate) fn finish(&mut self) -> Vec<Shared> {
        std::mem::take(&mut self.taken)
    }

    /// A block and its own at any depth.
    pub(crate) fn with_parts(&self, block: &'a Planned) -> Vec<&'a Planned> {
        let parts = self.blocks.iter().filter(|part| part.part_of.as_ref() == Some(&block.plan.projection));
        std::iter::once(block).chain(parts.flat_map(|part| self.with_parts(part))).collect()
    }
}

fn is_same(block: &Planned, wanted: &Planned) -> bool {
    let (one, other) = (&block.plan, &wanted.plan);
    one.definition == other.definition
        && one.columns == other.columns
        && (&one.key, &one.owner, &one.declared_key) == (&other.key, &other.owner, &other.declared_key)
        && one.kind() == other.kind()
        && block.time_zone == wanted.time_zone
        // Its own blocks are looked at first, and are the old version's then.
        && block.reads == wanted.reads
        && states(one) == states(other)
}

/// What its tables of state are, but for the projection's name.
fn states(plan: &Plan) -> Vec<(String, StateTable)> {
    let unnamed = |state: &StateTable| {
        let name = state.name.strip_prefix(&plan.projection).unwrap_or(&state.name).to_owned();
        let of_nothing = StateTable { name: String::new(), purpose: String::new(), ..state.clone() };
        (name, of_nothing)
    };
    plan.state_tables().into_iter().map(unnamed).collect()
}
