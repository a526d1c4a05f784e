//! Decisions of the planner, one line each: a query in, the roles out.

mod recursions;

use crate::model::facts::{
    Column, Function, FunctionKind, Identity, OutputColumn, Query, Relation, RelationKind, View, Volatility,
};
use crate::{GroupForm, Maintenance, Plan, PlanError, RelationRole, RowKey, Trace, WantedIndex, plan};

fn relation(oid: u32, name: &str, identity: Identity, columns: &[(&str, &str, bool)]) -> Relation {
    Relation {
        oid,
        schema: "s".to_owned(),
        name: name.to_owned(),
        kind: RelationKind::Table,
        columns: columns
            .iter()
            .map(|(name, type_name, not_null)| Column {
                name: (*name).to_owned(),
                type_name: (*type_name).to_owned(),
                not_null: *not_null,
                own_collation: false,
            })
            .collect(),
        identity,
        children: Vec::new(),
        located_by: Vec::new(),
        single_row: false,
        indexes: vec![vec!["id".to_owned()]],
        orders: Vec::new(),
        searchable: Vec::new(),
    }
}

fn key(columns: &[&str]) -> Identity {
    Identity::Columns { columns: columns.iter().map(|&column| column.to_owned()).collect(), full: false }
}

fn catalog() -> Vec<Relation> {
    vec![
        relation(
            1,
            "orders",
            key(&["id"]),
            &[
                ("id", "bigint", true),
                ("customer_id", "bigint", false),
                ("amount", "numeric", false),
                ("status", "text", true),
                ("placed", "timestamptz", false),
            ],
        ),
        relation(2, "customer", key(&["id"]), &[("id", "bigint", true), ("region", "text", false), ("name", "text", false)]),
        relation(3, "region", key(&["code"]), &[("code", "text", true), ("title", "text", false)]),
        relation(
            4,
            "line",
            key(&["order_id", "n"]),
            &[("order_id", "bigint", true), ("n", "integer", true), ("quantity", "integer", false)],
        ),
        relation(5, "keyless", Identity::FullRow { because: None }, &[("a", "integer", false)]),
    ]
}

fn function(name: &str, kind: FunctionKind, volatility: Volatility) -> Function {
    Function {
        oid: 1,
        schema: "pg_catalog".to_owned(),
        name: name.to_owned(),
        volatility,
        kind,
        returns_set: name == "unnest",
        strict: name != "coalesce",
        arguments: 1,
        interpreted: false,
    }
}

/// A query whose output columns are named `c1`, `c2`, …
fn query(sql: &str, columns: usize) -> Query {
    let relations = catalog().into_iter().filter(|relation| sql.contains(&format!("s.{}", relation.name))).collect();
    let aggregate = |name: &&str| sql.contains(&format!("{name}("));
    Query {
        projection: "p".to_owned(),
        sql: sql.to_owned(),
        columns: (1..=columns)
            .map(|n| OutputColumn {
                name: format!("c{n}"),
                type_name: "text".to_owned(),
                base_type: "text".to_owned(),
                collation: None,
                hashable: true,
                comparable: true,
            })
            .collect(),
        relations,
        views: Vec::new(),
        functions: ["sum", "count", "string_agg"]
            .into_iter()
            .map(|name| (name, FunctionKind::Aggregate))
            .chain([("row_number", FunctionKind::Window), ("unnest", FunctionKind::Function), ("lower", FunctionKind::Function)])
            .filter(|(name, _)| aggregate(name))
            .map(|(name, kind)| function(name, kind, Volatility::Immutable))
            .collect(),
        reads_clock: sql.contains("CURRENT_DATE"),
        declared_key: None,
    }
}

fn summary(plan: &Plan) -> String {
    let branches: Vec<String> = plan
        .branches()
        .iter()
        .map(|branch| {
            let kept = |role: &RelationRole| if matches!(role.trace, Trace::Link(_)) { "kept " } else { "" };
            let mut roles: Vec<String> =
                branch.roles.iter().map(|role| format!("{}{} {}", kept(role), role.role, role.alias)).collect();
            roles.sort();
            roles.join(", ")
        })
        .collect();
    match &plan.maintenance {
        Maintenance::Row(_) | Maintenance::Grouped(_) => format!("{}: {}", plan.kind(), branches.join(" + ")),
        Maintenance::Whole(whole) => format!("whole: {}", whole.reason),
    }
}

fn check(sql: &str, columns: usize, expected: &str) {
    let plan = plan(&query(sql, columns)).expect("a plan");
    assert_eq!(summary(&plan), expected, "{sql}");
}

#[test]
fn roots_and_lookups() {
    check("SELECT o.id FROM s.orders o WHERE o.amount > 3", 1, "row: root o");
    check("SELECT o.id, c.name FROM s.orders o LEFT JOIN s.customer c ON c.id = o.customer_id", 2, "row: lookup c, root o");
    check("SELECT o.id, c.name FROM s.customer c JOIN s.orders o ON c.id = o.customer_id", 2, "row: lookup c, root o");
    check("SELECT o.id FROM s.orders o, s.customer c WHERE c.id = o.customer_id", 1, "row: lookup c, root o");
    check(
        "SELECT o.id FROM s.orders o JOIN s.customer c ON c.id = o.customer_id JOIN s.region r ON r.code = c.region",
        1,
        "row: lookup c, lookup r, root o",
    );
    check("SELECT o.id, c.name FROM s.customer c RIGHT JOIN s.orders o ON c.id = o.customer_id", 2, "row: lookup c, root o");
    check("SELECT l.order_id, l.n FROM s.line l JOIN s.orders o ON o.id = l.order_id", 2, "row: lookup o, root l");
    check("SELECT a.id, b.id FROM s.orders a JOIN s.orders b ON b.id = a.customer_id", 2, "row: lookup b, root a");
}

#[test]
fn subqueries_on_keys_are_lookups() {
    check(
        "SELECT o.id FROM s.orders o WHERE o.customer_id IN (SELECT c.id FROM s.customer c WHERE c.name = 'x')",
        1,
        "row: lookup c, root o",
    );
    check(
        "SELECT o.id FROM s.orders o WHERE NOT EXISTS (SELECT 1 FROM s.customer c WHERE c.id = o.customer_id)",
        1,
        "row: lookup c, root o",
    );
    check(
        "SELECT o.id, (SELECT c.name FROM s.customer c WHERE c.id = o.customer_id) FROM s.orders o",
        2,
        "row: lookup c, root o",
    );
}

#[test]
fn many_rows_are_links() {
    // The key of the many side tells whom it met; nothing is kept.
    check("SELECT o.id, l.n FROM s.orders o JOIN s.line l ON l.order_id = o.id", 2, "row: lookup o, root l");
    check("SELECT o.id, l.n FROM s.orders o LEFT JOIN s.line l ON l.order_id = o.id", 2, "row: link l, root o");
    check("SELECT o.id FROM s.orders o WHERE EXISTS (SELECT 1 FROM s.line l WHERE l.order_id = o.id)", 1, "row: link l, root o");
    check("SELECT c.id FROM s.customer c LEFT JOIN s.orders o ON c.id = o.customer_id", 1, "row: kept link o, root c");
    check(
        "SELECT c.id, (SELECT sum(o.amount) FROM s.orders o WHERE o.customer_id = c.id) FROM s.customer c",
        2,
        "row: kept link o, root c",
    );
    check(
        "SELECT o.id FROM s.orders o WHERE EXISTS (SELECT 1 FROM s.customer c WHERE c.name = o.status) OR o.amount > 3",
        1,
        "row: kept link c, root o",
    );
    // Through a link to what only it knows.
    check(
        "SELECT c.id FROM s.customer c WHERE EXISTS (SELECT 1 FROM s.orders o JOIN s.line l ON l.order_id = o.id WHERE o.customer_id = c.id)",
        1,
        "row: kept link o, link l, root c",
    );
    // An expression over one table is as good as a column.
    check(
        "SELECT c.id FROM s.customer c LEFT JOIN s.region r ON lower(r.title) = lower(c.region)",
        1,
        "row: kept link r, root c",
    );
}

#[test]
fn a_self_join_has_two_parts() {
    check("SELECT a.id, b.id FROM s.orders a LEFT JOIN s.orders b ON b.customer_id = a.id", 2, "row: kept link b, root a");
}

#[test]
fn null_and_false_differ_under_not() {
    let sql = "SELECT o.id FROM s.orders o WHERE NOT (o.customer_id IN (SELECT c.id FROM s.customer c WHERE c.name = 'x'))";
    let plan = plan(&query(sql, 1)).expect("a plan");
    assert_eq!(summary(&plan), "row: lookup c, root o");
    let trace = plan.branches()[0].roles.iter().find_map(|role| match &role.trace {
        Trace::Keys(sql) => Some(sql.clone()),
        _ => None,
    });
    assert!(trace.expect("a trace").contains("(o.customer_id) IS NULL"));
}

#[test]
fn subqueries_in_from() {
    check("WITH x AS (SELECT id, status FROM s.orders) SELECT x.id FROM x", 1, "row: root orders");
    check(
        "SELECT o.id FROM (SELECT id, customer_id FROM s.orders) o JOIN s.customer c ON c.id = o.customer_id",
        1,
        "row: lookup c, root orders",
    );
    // The condition outside is about the groups inside.
    check(
        "SELECT c.id, t.total FROM s.customer c LEFT JOIN (SELECT customer_id, sum(amount) AS total FROM s.orders GROUP BY customer_id) t ON t.customer_id = c.id",
        2,
        "row: kept link orders, root c",
    );
    check(
        "SELECT c.id, t.amount FROM s.customer c LEFT JOIN LATERAL (SELECT o.amount FROM s.orders o WHERE o.customer_id = c.id ORDER BY o.id DESC LIMIT 1) t ON true",
        2,
        "row: kept link o, root c",
    );
    // The lines of an order are several groups here: what is found through the subquery does not make it one.
    let several = plan(&query(
        "SELECT o.id, t.n, c.name FROM s.orders o JOIN (SELECT order_id, quantity, count(*) AS n FROM s.line GROUP BY order_id, quantity) t ON t.order_id = o.id JOIN s.customer c ON c.id = t.quantity",
        3,
    ))
    .expect("a plan");
    assert!(several.branches()[0].fans_out, "{}", summary(&several));
    // A name inside may be a name outside.
    check("SELECT o.id FROM s.orders o WHERE EXISTS (SELECT 1 FROM s.customer o WHERE o.id = 3)", 1, "row: lookup o_2, root o");
}

#[test]
fn ranges_tie_where_equalities_do_not() {
    // The key tells what a row was compared by; another column is kept.
    check("SELECT o.id FROM s.orders o JOIN s.customer c ON c.id > o.customer_id", 1, "row: link c, root o");
    check(
        "SELECT o.id FROM s.orders o JOIN s.customer c ON c.region < o.status AND o.status < c.name",
        1,
        "row: kept link c, root o",
    );
    check(
        "SELECT o.id FROM s.orders o JOIN s.customer c ON c.id = o.customer_id OR c.name = o.status",
        1,
        "row: kept link c, root o",
    );
    check(
        "SELECT o.id FROM s.orders o WHERE EXISTS (SELECT 1 FROM s.customer c WHERE o.status ~~ (c.name || '%'))",
        1,
        "row: kept link c, root o",
    );
    // An equality concerns fewer.
    check(
        "SELECT o.id FROM s.orders o JOIN s.customer c ON c.id = o.customer_id AND c.name < o.status",
        1,
        "row: lookup c, root o",
    );
    let whole = |sql: &str| {
        let plan = plan(&query(sql, 1)).expect("a plan");
        assert!(!plan.is_incremental(), "{sql}: {}", summary(&plan));
    };
    whole("SELECT o.id FROM s.orders o JOIN s.customer c ON c.name <> o.status");
    whole("SELECT o.id FROM s.orders o JOIN s.customer c ON o.status ~~ ('%' || c.name)");
    whole("SELECT o.id FROM s.orders o JOIN s.customer c ON c.name < o.status OR o.amount > 5");
    // What NULLs satisfy depends on rows that do not.
    whole(
        "SELECT o.id FROM s.orders o LEFT JOIN s.customer c ON c.id = o.customer_id LEFT JOIN s.region r ON r.code < coalesce(c.name, 'x')",
    );
    whole(
        "SELECT o.id FROM s.orders o LEFT JOIN s.customer c ON c.id = o.customer_id LEFT JOIN s.region r ON r.code < c.name OR r.code = o.status",
    );
}

#[test]
fn a_range_asks_for_its_indexes_and_says_what_it_costs_without() {
    let role = |sql: &str, indexed: &[&str]| {
        let mut query = query(sql, 1);
        query.relations[0].indexes.extend(indexed.iter().map(|&column| vec![column.to_owned()]));
        let role = plan(&query).expect("a plan").branches()[0].roles[1].clone();
        (role.reason, role.missing_indexes.iter().map(WantedIndex::statement).collect::<Vec<_>>())
    };
    let bounded = "SELECT o.id FROM s.orders o JOIN s.customer c ON c.region < o.status AND o.status < c.name";
    let (reason, missing) = role(bounded, &[]);
    assert!(reason.ends_with("; a batch that changes it reads all of s.orders, which has no index for that"), "{reason}");
    assert_eq!(
        missing,
        [
            "CREATE INDEX CONCURRENTLY ON \"s\".\"orders\" (\"status\");",
            "CREATE INDEX CONCURRENTLY ON \"s\".\"customer\" (\"region\");"
        ]
    );
    let (reason, missing) = role(bounded, &["status"]);
    assert!(!reason.contains("reads all of") && missing.len() == 1, "{reason}: {missing:?}");
    // Each operand of an OR wants its own; no index finds what begins with something.
    let (_, missing) = role("SELECT o.id FROM s.orders o JOIN s.customer c ON c.id = o.customer_id OR c.name = o.status", &[]);
    assert_eq!(missing.len(), 3, "{missing:?}");
    let (reason, missing) = role("SELECT o.id FROM s.orders o JOIN s.customer c ON o.status ~~ (c.name || '%')", &[]);
    assert!(reason.contains("reads all of s.orders") && missing.is_empty(), "{reason}: {missing:?}");
}

#[test]
fn combinations_have_branches() {
    check("SELECT o.status FROM s.orders o UNION SELECT c.name FROM s.customer c", 1, "aggregate: root o + root c");
    check(
        "SELECT o.id, c.name FROM s.orders o FULL JOIN s.customer c ON c.id = o.customer_id",
        2,
        "aggregate: lookup c, root o + kept link o_2, root c",
    );
    check("SELECT DISTINCT o.status FROM s.orders o", 1, "aggregate: root o");
    check("SELECT DISTINCT ON (o.status) o.status, o.id FROM s.orders o ORDER BY o.status, o.id", 2, "aggregate: root o");
    check(
        "SELECT o.id, o.status, row_number() OVER (PARTITION BY o.status ORDER BY o.id) FROM s.orders o",
        3,
        "aggregate: root o",
    );
    // Rows whose root is not to be seen are found by all their columns.
    check("SELECT o.status FROM s.orders o", 1, "aggregate: root o");
}

#[test]
fn what_cannot_be_traced_is_whole() {
    check(
        "SELECT o.id FROM s.orders o JOIN s.customer c ON c.id = o.customer_id OR o.status = 'all'",
        1,
        "whole: s.customer (as c) is joined without an equality or a range that ties its rows to the root",
    );
    check("SELECT k.a FROM s.keyless k", 1, "whole: s.keyless has no primary key and no replica identity index");
    check("SELECT o.id FROM s.orders o LIMIT 3", 1, "whole: it has LIMIT or OFFSET");
    check("SELECT o.id FROM s.orders o INTERSECT SELECT c.id FROM s.customer c", 1, "aggregate: root o + root c");
    check(
        "SELECT o.id, CURRENT_DATE FROM s.orders o",
        2,
        "whole: it asks for the time outside a comparison with a column of a table",
    );
    check(
        "SELECT o.id, row_number() OVER (ORDER BY o.id) FROM s.orders o",
        2,
        "whole: a window function looks over all rows, without PARTITION BY",
    );
    // One table that cannot be traced does not make the others untraceable.
    check("SELECT o.id FROM s.orders o WHERE o.amount > (SELECT sum(l.quantity) FROM s.line l)", 1, "row: root o, whole l");
    // What an outer join may have replaced by NULLs says nothing through an expression that makes something of NULL.
    check(
        "SELECT o.id FROM s.orders o LEFT JOIN s.customer c ON c.id = o.customer_id LEFT JOIN s.region r ON r.code = coalesce(c.region, 'x')",
        1,
        "whole: s.region (as r) is joined without an equality or a range that ties its rows to the root",
    );
}

#[test]
fn aggregates_are_split_into_contributions_and_groups() {
    let sql = "SELECT o.status, sum(o.amount) FILTER (WHERE o.amount > 1), count(*), upper(o.status) FROM s.orders o GROUP BY o.status HAVING sum(o.amount) > 5";
    let plan = plan(&query(sql, 4)).expect("a plan");
    let Maintenance::Grouped(aggregate) = &plan.maintenance else { panic!("{}", summary(&plan)) };
    assert_eq!(aggregate.branches[0].contributions.as_ref().map(|state| state.columns.join(" ")).as_deref(), Some("k1 g1 a1 a2"));
    assert_eq!(aggregate.select_list, ["c.g1", "sum(c.a1) FILTER (WHERE c.a2)", "count(*)", "upper(c.g1)"]);
    assert_eq!(aggregate.form, GroupForm::Aggregate { having: Some("sum(c.a1) > 5".to_owned()) });
    assert_eq!(plan.key, RowKey::Located(vec!["c1".to_owned()]));
    check("SELECT count(*) FROM s.line l LEFT JOIN s.orders o ON o.id = l.order_id", 1, "aggregate: lookup o, root l");
    check(
        "SELECT count(*) FROM s.orders o GROUP BY o.status",
        1,
        "whole: the group expression o.status is not among its columns",
    );
    check("SELECT o.status, count(*) FROM s.orders o GROUP BY ROLLUP (o.status)", 2, "whole: it has grouping sets");
}

#[test]
fn a_whole_aggregate_is_keyed_by_its_groups() {
    let plan = plan(&query("SELECT o.status, count(*), CURRENT_DATE FROM s.orders o GROUP BY o.status", 3)).expect("a plan");
    assert_eq!((plan.kind(), &plan.key), ("whole", &RowKey::Located(vec!["c1".to_owned()])));
}

#[test]
fn a_trace_leads_over_the_path_and_asks_for_its_index() {
    let sql = "SELECT o.id FROM s.orders o JOIN s.customer c ON c.id = o.customer_id JOIN s.region r ON r.code = c.region";
    let plan = plan(&query(sql, 1)).expect("a plan");
    let region = plan.branches()[0].roles.iter().find(|role| role.alias == "r").expect("region");
    let Trace::Keys(trace) = &region.trace else { panic!("{region:?}") };
    assert_eq!(
        trace,
        "SELECT DISTINCT \"o\".\"id\"::text AS k1\nFROM \"s\".\"orders\" AS \"o\"\nJOIN \"s\".\"customer\" AS \"c\" ON c.id = (o.customer_id)\n\
             WHERE (c.region) IN (SELECT d.d1::text FROM unnest($1::text[]) AS d(d1))"
    );
    assert_eq!(
        region.missing_indexes.iter().map(WantedIndex::statement).collect::<Vec<_>>(),
        ["CREATE INDEX CONCURRENTLY ON \"s\".\"customer\" (\"region\");"]
    );
}

#[test]
fn definite_errors() {
    let refused = |query: &Query| plan(query).expect_err("refused");
    let mut volatile = query("SELECT o.id, random() FROM s.orders o", 2);
    volatile.functions.push(function("random", FunctionKind::Function, Volatility::Volatile));
    assert!(refused(&volatile).message.contains("random()"));
    let mut wrong_key = query("SELECT o.id FROM s.orders o", 1);
    wrong_key.declared_key = Some(vec!["nope".to_owned()]);
    assert!(matches!(refused(&wrong_key), PlanError { message, .. } if message.contains("nope")));
    let mut unidentified = query("SELECT o.id FROM s.orders o", 1);
    unidentified.relations[0].identity = Identity::None;
    assert!(refused(&unidentified).message.contains("no primary key"));
}

#[test]
fn deep_nesting_is_no_abort() {
    let deep = format!("SELECT o.id FROM s.orders o WHERE {}o.amount > 1{}", "(".repeat(400), ")".repeat(400));
    assert!(plan(&query(&deep, 1)).is_ok());
    let sum = format!("SELECT o.id, {} FROM s.orders o", vec!["o.amount"; 5_000].join(" + "));
    assert!(plan(&query(&sum, 2)).is_ok());
}

#[test]
fn a_definition_can_be_asked_for_at_a_time() {
    let mut recent = query("SELECT o.id FROM s.orders o WHERE o.status = 'x' AND o.placed > (now() - '30 days'::interval)", 1);
    recent.functions.push(function("now", FunctionKind::Function, Volatility::Stable));
    let plan = plan(&recent).expect("a plan");
    assert!(plan.follows_clock(), "{}", summary(&plan));
    let at = plan.definition_at("2026-01-02 03:04:05+00");
    assert!(at.contains("'2026-01-02 03:04:05+00'") && !at.contains("now()"), "{at}");
}

#[test]
fn the_time_of_a_group_is_no_row_s() {
    let mut grouped = query("SELECT o.status, max(o.placed) > now() FROM s.orders o GROUP BY o.status", 2);
    grouped.functions.push(function("now", FunctionKind::Function, Volatility::Stable));
    grouped.functions.push(function("max", FunctionKind::Aggregate, Volatility::Immutable));
    let plan = plan(&grouped).expect("a plan");
    assert_eq!(summary(&plan), "whole: it asks for the time outside a comparison with a column of a table");
}

#[test]
fn a_caret_stands_under_the_construct_that_is_meant() {
    for (sql, columns, at) in [
        (
            "SELECT o.id, row_number() OVER (PARTITION BY o.status ORDER BY o.id), row_number() OVER (ORDER BY o.amount) FROM s.orders o",
            3,
            "row_number() OVER (ORDER BY o.amount)",
        ),
        (
            "SELECT o.id, row_number() OVER w, row_number() OVER v FROM s.orders o WINDOW w AS (PARTITION BY o.status), v AS (ORDER BY o.id)",
            3,
            "row_number() OVER v",
        ),
        (
            "SELECT o.id, row_number() OVER (PARTITION BY o.status), row_number() OVER (PARTITION BY o.amount ORDER BY o.id) FROM s.orders o",
            3,
            "row_number() OVER (PARTITION BY o.amount",
        ),
        ("SELECT a.id FROM s.orders a JOIN s.customer c ON c.id <> a.id", 1, "s.customer c"),
        ("SELECT o.id FROM s.orders o OFFSET 3", 1, "3"),
    ] {
        let plan = plan(&query(sql, columns)).expect("a plan");
        let Maintenance::Whole(whole) = &plan.maintenance else { panic!("{sql}: {}", summary(&plan)) };
        let position = whole.position.unwrap_or_else(|| panic!("{sql}: no place for {}", whole.reason));
        assert!(sql[position..].starts_with(at), "{sql}: {} at {}", whole.reason, &sql[position..]);
    }
    // A place in a view's text is none in the query's.
    let mut over_view = query("SELECT v.id FROM s.v v", 1);
    over_view.relations = catalog();
    over_view.views.push(View {
        schema: "s".to_owned(),
        name: "v".to_owned(),
        sql: "WITH RECURSIVE r AS (SELECT o.id FROM s.orders o UNION SELECT r.id FROM r) SELECT r.id FROM r".to_owned(),
    });
    let plan = plan(&over_view).expect("a plan");
    let Maintenance::Whole(whole) = &plan.maintenance else { panic!("{}", summary(&plan)) };
    assert_eq!(whole.position, None, "{}", whole.reason);
}
