//! A projection's maintenance statements.

use lockstep_plan::emit;
use lockstep_plan::emit::{BuildPage, Fresh, Guard, Link, Merge, Places, TracedKeys};
use lockstep_plan::{Branch, GroupedPlan, Maintenance, Trace};

use super::state::Projection;

/// Its maintenance statements, made once.
pub(crate) enum Statements {
    Row {
        links: Links,
        bound: Merge,
        everything: Merge,
        /// The rows of bound keys go.
        removal: Merge,
        guard: Option<Box<Guard>>,
    },
    Grouped {
        branches: Vec<BranchStatements>,
        /// Fill the accumulators anew; none if there are none.
        fill: Vec<String>,
        groups: Merge,
        all_groups: Merge,
        /// The rows of bound groups go.
        removal: Merge,
        /// Where rows are found by the root's key: those without a contribution go.
        leftovers: Option<Merge>,
        /// Every group.
        group_keys: String,
        guard: Option<Box<Guard>>,
    },
    Whole {
        everything: Merge,
        guard: Option<Box<Guard>>,
    },
}

/// The links of a branch, by the index of their role.
pub(crate) type Links = Vec<Option<Link>>;

/// The statements of one branch of a grouped projection.
pub(crate) struct BranchStatements {
    pub(crate) links: Links,
    /// For bound keys, while groups are not kept: the build.
    pub(crate) contributions: String,
    /// For bound keys, moving accumulators along if there are any.
    pub(crate) live_contributions: String,
    pub(crate) all_contributions: String,
    /// The contributions of bound keys go, while groups are not kept, and while they are.
    pub(crate) removal: String,
    pub(crate) live_removal: String,
}

impl Statements {
    /// How rows that an index refuses are written around.
    pub(crate) fn guard(&self) -> Option<&Guard> {
        match self {
            Self::Row { guard, .. } | Self::Grouped { guard, .. } | Self::Whole { guard, .. } => guard.as_deref(),
        }
    }

    /// The links of a branch.
    pub(crate) fn links(&self, branch: usize) -> &[Option<Link>] {
        match self {
            Self::Row { links, .. } => links,
            Self::Grouped { branches, .. } => branches.get(branch).map_or(&[], |branch| &branch.links),
            Self::Whole { .. } => &[],
        }
    }
}

/// Rows of a relation that are read at once while its link is filled.
const LINK_PAGE_ROWS: usize = 50_000;

fn links(branch: &Branch, places: &Places) -> Links {
    let link = |trace: &Trace| match trace {
        Trace::Link(link) => Some(Link::new(link, places, LINK_PAGE_ROWS)),
        Trace::Root | Trace::Keys(_) | Trace::Whole => None,
    };
    branch.roles.iter().map(|role| link(&role.trace)).collect()
}

impl Projection {
    /// What a page of a branch's build runs; none of a branch that is not there.
    pub(crate) fn build_page(&self, branch: usize, places: &Places) -> Option<BuildPage> {
        let places = Places { schema: self.schema.clone(), ..places.clone() };
        self.plan.branches().get(branch).map(|branch| BuildPage::of(&self.plan, branch, &places))
    }

    /// Its statements, over these schemas.
    pub(crate) fn statements(&self, places: &Places) -> Statements {
        // An inner projection's table is among the hidden ones.
        let places = &Places { schema: self.schema.clone(), ..places.clone() };
        let fresh = |branch: usize| {
            let stage = self.stages.as_ref().and_then(|stages| stages.get(branch));
            stage.map_or(Fresh::Query, |stage| Fresh::Staged(stage.typed_source()))
        };
        let stage = format!("pg_temp.lockstep_guard_{}", self.node);
        let guard = emit::guard(&self.plan, places, &stage, &fresh(0)).map(Box::new);
        match &self.plan.maintenance {
            Maintenance::Row(row) => Statements::Row {
                links: links(row, places),
                bound: emit::row_merge(&self.plan, row, places, TracedKeys::Bound, &fresh(0)),
                everything: emit::row_merge(&self.plan, row, places, TracedKeys::Everything, &fresh(0)),
                removal: emit::row_merge(&self.plan, row, places, TracedKeys::Bound, &Fresh::Nothing),
                guard,
            },
            Maintenance::Grouped(grouped) => self.grouped_statements(grouped, places, &fresh, guard),
            Maintenance::Whole(_) => Statements::Whole { everything: emit::whole_merge(&self.plan, places, &fresh(0)), guard },
        }
    }

    fn grouped_statements(
        &self,
        grouped: &GroupedPlan,
        places: &Places,
        fresh: &dyn Fn(usize) -> Fresh,
        guard: Option<Box<Guard>>,
    ) -> Statements {
        let contributions = |branch: &Branch, keys, fresh: &Fresh| {
            branch.contributions.as_ref().map_or_else(String::new, |state| {
                emit::contribution_merge(branch, state, &grouped.group_columns, places, keys, fresh)
            })
        };
        let live = |branch: &Branch, fresh: &Fresh| match (&grouped.accumulators, &branch.contributions) {
            (Some(accumulators), Some(state)) => {
                emit::contribution_merge_accumulating(branch, state, grouped, accumulators, places, fresh)
            }
            _ => contributions(branch, TracedKeys::Bound, fresh),
        };
        let branch = |(number, branch): (usize, &Branch)| BranchStatements {
            links: links(branch, places),
            contributions: contributions(branch, TracedKeys::Bound, &fresh(number)),
            live_contributions: live(branch, &fresh(number)),
            all_contributions: contributions(branch, TracedKeys::Everything, &fresh(number)),
            removal: contributions(branch, TracedKeys::Bound, &Fresh::Nothing),
            live_removal: live(branch, &Fresh::Nothing),
        };
        let fill = grouped.accumulators.as_ref();
        Statements::Grouped {
            fill: fill.map(|found| emit::fill_accumulators(grouped, found, places)).unwrap_or_default(),
            branches: grouped.branches.iter().enumerate().map(branch).collect(),
            groups: emit::group_merge(&self.plan, grouped, places, TracedKeys::Bound),
            all_groups: emit::group_merge(&self.plan, grouped, places, TracedKeys::Everything),
            removal: emit::group_removal(&self.plan, grouped, places),
            leftovers: emit::group_leftovers(&self.plan, grouped, places),
            group_keys: emit::group_keys(&self.plan, grouped, places),
            guard,
        }
    }
}
