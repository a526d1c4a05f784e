//! Which windows may get a further ORDER BY item without another meaning.
//!
//! Of a window with ties every order of the tied rows is right, but not every function sees one: `rank()` and frames in RANGE and GROUPS
//! mode see *peers*, rows that tie, as one. A further item takes the ties away, so it may be added only where what is seen of the peers
//! stays what it was: to functions that number and look at rows, to frames in ROWS mode, and where the frame's edge that the
//! function looks at is the partition's.

use pg_query::protobuf::WindowDef;

// PostgreSQL's FRAMEOPTION_… (parsenodes.h).
const NONDEFAULT: i32 = 0x1;
const RANGE: i32 = 0x2;
const ROWS: i32 = 0x4;
const BETWEEN: i32 = 0x10;
const START_UNBOUNDED_PRECEDING: i32 = 0x20;
const END_UNBOUNDED_FOLLOWING: i32 = 0x100;
const START_CURRENT_ROW: i32 = 0x200;
const END_CURRENT_ROW: i32 = 0x400;
const EXCLUDE_PEERS: i32 = 0x1_0000 | 0x2_0000;
const DEFAULT: i32 = RANGE | START_UNBOUNDED_PRECEDING | END_CURRENT_ROW;
const WHOLE_PARTITION: i32 = NONDEFAULT | ROWS | BETWEEN | START_UNBOUNDED_PRECEDING | END_UNBOUNDED_FOLLOWING;

/// What a function over a window looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// At rows and their numbers.
    AtRows,
    /// At peers: the same for all that tie.
    AtPeers,
    /// At the first row of the frame.
    AtFirst,
    /// At the last row of the frame.
    AtLast,
    /// At rows of the frame in their order.
    InOrder,
    /// At all rows of the frame, in whatever order.
    AtAll,
}

/// What can be done about ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ties {
    /// They decide nothing.
    DoNotMatter,
    /// A further item is right; the frame becomes this one.
    Append(i32),
    /// They decide, and a further item would mean something else.
    Stay,
}

pub(super) fn looks(name: &str, is_built_in: bool, in_order: bool) -> Looks {
    match (name, is_built_in) {
        ("row_number" | "ntile" | "lag" | "lead", true) => Looks::AtRows,
        ("rank" | "dense_rank" | "percent_rank" | "cume_dist", true) => Looks::AtPeers,
        ("first_value", true) => Looks::AtFirst,
        ("last_value", true) => Looks::AtLast,
        ("nth_value", true) => Looks::InOrder,
        _ if in_order => Looks::InOrder,
        _ => Looks::AtAll,
    }
}

/// The rule. The definition must be written out.
pub(super) fn ties(window: &WindowDef, looks: Looks) -> Ties {
    let frame = window.frame_options;
    let has = |option: i32| frame & option != 0;
    match looks {
        Looks::AtPeers => return Ties::DoNotMatter,
        // They do not look at the frame, which with an offset would allow one item only.
        Looks::AtRows => return Ties::Append(DEFAULT),
        Looks::AtFirst | Looks::AtLast | Looks::InOrder | Looks::AtAll => {}
    }
    if has(EXCLUDE_PEERS) {
        return Ties::Stay;
    }
    let unordered = window.order_clause.is_empty();
    let from_start = has(START_UNBOUNDED_PRECEDING) || (unordered && !has(ROWS));
    let to_end = has(END_UNBOUNDED_FOLLOWING) || (unordered && !has(ROWS));
    if from_start && to_end {
        let in_order = looks != Looks::AtAll;
        return match (in_order, unordered && !has(ROWS)) {
            (false, _) => Ties::DoNotMatter,
            // Without an order all rows are peers; with one the frame would end at the current row.
            (true, true) => Ties::Append(WHOLE_PARTITION | (frame & 0x8000)),
            (true, false) => Ties::Append(frame),
        };
    }
    if has(ROWS) {
        return Ties::Append(frame);
    }
    match looks {
        Looks::AtAll => Ties::DoNotMatter,
        Looks::AtFirst if from_start && has(END_CURRENT_ROW) && frame & 0x8000 == 0 => Ties::Append(frame),
        Looks::AtLast if to_end && has(START_CURRENT_ROW) && frame & 0x8000 == 0 => Ties::Append(frame),
        Looks::AtFirst | Looks::AtLast | Looks::InOrder | Looks::AtRows | Looks::AtPeers => Ties::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::{Looks, Ties, ties};
    use crate::syntax;
    use crate::syntax::written_out;
    use pg_query::NodeEnum;

    fn of(over: &str, looks: Looks) -> Ties {
        let select = syntax::parse_select(&format!("SELECT f(x) OVER ({over}) FROM t")).expect("a query");
        let call = syntax::target_expression(&select.target_list[0]).and_then(|node| node.node.clone());
        let Some(NodeEnum::FuncCall(call)) = call else { panic!("no call") };
        ties(&written_out(call.over.as_deref().expect("a window"), &select), looks)
    }

    #[test]
    fn a_further_item_is_added_only_where_peers_are_not_seen() {
        let appends = |over: &str, looks| matches!(of(over, looks), Ties::Append(_));
        assert!(appends("ORDER BY a", Looks::AtRows) && appends("", Looks::AtRows));
        assert!(appends("ORDER BY a RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING", Looks::AtRows));
        assert_eq!(of("ORDER BY a", Looks::AtPeers), Ties::DoNotMatter);
        assert_eq!(of("ORDER BY a", Looks::AtAll), Ties::DoNotMatter);
        assert_eq!(of("PARTITION BY b", Looks::AtAll), Ties::DoNotMatter);
        assert!(appends("ORDER BY a ROWS UNBOUNDED PRECEDING", Looks::AtAll));
        assert!(appends("ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW", Looks::AtLast));
        assert!(appends("ORDER BY a", Looks::AtFirst) && appends("", Looks::AtLast) && appends("", Looks::InOrder));
        assert_eq!(of("ORDER BY a", Looks::AtLast), Ties::Stay);
        assert_eq!(of("ORDER BY a", Looks::InOrder), Ties::Stay);
        assert_eq!(of("ORDER BY a RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING", Looks::AtFirst), Ties::Stay);
        assert!(appends("ORDER BY a RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING", Looks::AtLast));
        assert_eq!(of("ORDER BY a GROUPS 1 PRECEDING", Looks::InOrder), Ties::Stay);
        assert_eq!(of("ORDER BY a ROWS UNBOUNDED PRECEDING EXCLUDE TIES", Looks::AtAll), Ties::Stay);
        assert_eq!(of("ORDER BY a RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING", Looks::AtFirst), Ties::Stay);
    }
}
