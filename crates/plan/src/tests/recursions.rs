//! What a linear WITH RECURSIVE is planned as.

use super::{plan, query, summary};

#[test]
fn a_recursion_is_followed_from_owner_to_owner() {
    let tree =
        "WITH RECURSIVE t (id, top, deep, code) AS (SELECT o.id, o.id, 0, o.status FROM s.orders o WHERE o.customer_id IS NULL
        UNION ALL SELECT o.id, t.top, t.deep + 1, o.status FROM s.orders o JOIN t ON ";
    for (tie, main, expected) in [
        ("o.customer_id = t.id)", "SELECT t.id, t.deep FROM t", "row: lookup above, root o, root o"),
        (
            "o.customer_id = t.id)",
            "SELECT t.deep, t.top FROM t WHERE t.deep > 1",
            "aggregate: root o + lookup above, lookup above, root o",
        ),
        ("o.amount::text = t.code)", "SELECT t.id FROM t", "row: kept link above, root o, root o"),
        ("o.id = t.id + 1)", "SELECT t.id FROM t", "whole: the step of its recursive WITH is not joined to its own rows"),
        ("o.customer_id = t.top)", "SELECT t.id FROM t", "whole: the step of its recursive WITH is not joined to its own rows"),
        ("o.customer_id > t.id)", "SELECT t.id FROM t", "whole: the step of its recursive WITH is not joined to its own rows"),
        ("o.customer_id = t.id)", "SELECT count(t.id) FROM t", "whole: it has a recursive WITH below what is more than a filter"),
        (
            "o.customer_id = t.id) CYCLE id SET c USING p",
            "SELECT t.id FROM t",
            "whole: it has a recursive WITH with SEARCH or CYCLE",
        ),
    ] {
        let columns = main.split(" FROM").next().unwrap_or_default().split(',').count();
        let found = summary(&plan(&query(&format!("{tree}{tie} {main}"), columns)).expect("a plan"));
        assert!(found.starts_with(expected), "{tie} {main}: {found}");
    }
}
