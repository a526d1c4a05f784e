//! The syntax tree: parsing, printing and walking it, and what can be told from the tree alone.

mod calls;
mod locking;
mod named;
mod references;
mod tables;
mod text;
mod unnamed;
mod walk;
mod windows;

pub(crate) use calls::{
    aggregates_outer_rows, contains_aggregate, contains_set, is_aggregate, is_aggregate_call, place_of_set, reads_columns,
    returns_set,
};
pub use locking::{locking_clauses, place_of_call, place_of_table};
pub use named::tables_named;
pub(crate) use references::{After, for_each_reference, is_self_contained, names_of, whole_rows};
pub(crate) use tables::for_each_table;
pub(crate) use text::{
    and, change_references, change_subquery_with_alias, column_reference, conjuncts, is_false, is_set_operation, name_parts, not,
    parse_expression, parse_select, print_expression, print_from_item, print_select_pretty, print_sort, select_with_alias,
    string, string_of, subselect_named, target, target_expression, with_alias, with_large_stack, without_alias, wrap,
};
pub use unnamed::unnamed_columns;
pub(crate) use walk::{Tally, any, children, clauses, for_each_item, for_each_select_inside, for_each_subquery, tally};
pub(crate) use windows::{common_partition, has_window, place_of_window, written_out};
