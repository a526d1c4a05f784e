//! Whether PostgreSQL plans a statement once, or each time for the keys that it is given.
//!
//! It takes an array of one key for one row and an unknown array for ten (`estimate_array_length` in `src/backend/utils/adt/selfuncs.c`).
//! The plan for any keys therefore always looks dearer than the one for these (`choose_custom_plan` in
//! `src/backend/utils/cache/plancache.c`), and left alone a batch of one row plans each of its statements again, which takes longer than
//! to run them. For few keys both plans are the same; for many a join in bulk is better, and planning does not matter.

/// How the sessions plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planning {
    /// Once, for any keys: as the sessions of a group begin.
    Once,
    /// As PostgreSQL chooses, which knows how many keys there are.
    EachTime,
}

impl Planning {
    /// How the sessions of a group plan until a batch has many keys.
    pub(crate) const AT_FIRST: &'static str = "SET plan_cache_mode = force_generic_plan";

    /// Each time, for values that tell how much there is: a page of a build.
    pub(crate) const FOR_VALUES: &'static str = "SET LOCAL plan_cache_mode = force_custom_plan";

    pub(crate) fn statement(self) -> &'static str {
        match self {
            Self::Once => "SET LOCAL plan_cache_mode = force_generic_plan",
            Self::EachTime => "SET LOCAL plan_cache_mode = auto",
        }
    }
}
