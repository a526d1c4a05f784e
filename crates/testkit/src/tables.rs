//! The tables that random queries read.

/// Kinds of value that may be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    Text,
    Date,
    Amount,
}

/// A column's name and kind.
pub(crate) type Column = (&'static str, Kind);

/// Tables with their columns; the first is (part of) the key.
pub(crate) const TABLES: &[(&str, &[Column])] = &[
    (
        "shop.orders",
        &[
            ("id", Kind::Number),
            ("customer_id", Kind::Number),
            ("status", Kind::Text),
            ("amount", Kind::Amount),
            ("placed", Kind::Date),
        ],
    ),
    ("shop.customer", &[("id", Kind::Number), ("region_code", Kind::Text), ("tier", Kind::Number)]),
    ("shop.region", &[("code", Kind::Text), ("name", Kind::Text)]),
    ("shop.line", &[("order_id", Kind::Number), ("position", Kind::Number), ("product", Kind::Text), ("quantity", Kind::Number)]),
    ("shop.payment", &[("id", Kind::Number), ("order_id", Kind::Number), ("method", Kind::Text), ("amount", Kind::Amount)]),
    ("shop.employee", &[("id", Kind::Number), ("manager_id", Kind::Number), ("region_code", Kind::Text)]),
    ("shop.paid_order", &[("id", Kind::Number), ("customer_id", Kind::Number), ("double", Kind::Amount)]),
];
