//! What `lockstep plan` says: what a change costs, how rows are known, what is kept and how large that is, and what to write instead of
//! what stays whole.

use lockstep_testkit::cluster;

use crate::harness::{Program, Setup, shop};

/// A relation, and what is said of it.
type Told = (&'static str, &'static str);

/// Projections, and for each what a change of a relation costs, in the order in which the plan names them: blocks first.
const COSTS: &[(&str, &str, &[Told])] = &[
    (
        "looked_up",
        "SELECT o.id, c.tier FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id",
        &[
            ("shop.orders", "a changed row refreshes its row"),
            ("shop.customer", "a changed row leads to the rows of shop.orders that refer to it, each of which refreshes its row"),
        ],
    ),
    (
        "linked",
        "SELECT o.id, p.id AS payment FROM shop.orders o LEFT JOIN shop.payment p ON p.order_id = o.id",
        &[
            ("shop.orders", "a changed row refreshes its rows"),
            (
                "shop.payment",
                "a changed row leads to the rows of shop.orders that it met and meets now, each of which refreshes its rows",
            ),
        ],
    ),
    (
        "ranked",
        "SELECT o.customer_id, o.id, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.id) AS n FROM shop.orders o",
        &[("shop.orders", "a changed row refreshes the partitions that it leaves and joins, every row of them")],
    ),
    (
        "summed",
        "SELECT o.status, sum(o.amount) AS total FROM shop.orders o GROUP BY o.status",
        &[(
            "shop.orders",
            "a changed row refreshes the groups that it leaves and joins, from what is kept of them, whatever their size",
        )],
    ),
    (
        "listed",
        "SELECT o.status, string_agg(o.id::text, ',' ORDER BY o.id) AS ids FROM shop.orders o GROUP BY o.status",
        &[("shop.orders", "a changed row refreshes the groups that it leaves and joins, from all their rows")],
    ),
    (
        "first",
        "SELECT DISTINCT ON (o.status) o.status, o.id FROM shop.orders o ORDER BY o.status, o.id DESC",
        &[(
            "shop.orders",
            "a changed row refreshes the groups that it leaves and joins, of whose rows the first is looked for again",
        )],
    ),
    (
        "counted",
        "SELECT o.status, o.placed FROM shop.orders o",
        &[("shop.orders", "a changed row refreshes the rows that it makes, among those that equal them")],
    ),
    (
        "both",
        "SELECT o.customer_id FROM shop.orders o INTERSECT ALL SELECT p.order_id FROM shop.payment p",
        &[
            ("shop.orders", "a changed row refreshes the rows that it makes, as often as the arms' counts say"),
            ("shop.payment", "a changed row refreshes the rows that it makes, as often as the arms' counts say"),
        ],
    ),
    (
        "above",
        "SELECT o.id FROM shop.orders o WHERE o.amount > (SELECT avg(p.amount) FROM shop.payment p)",
        &[
            ("shop.payment", "a changed row refreshes the only row, from what is kept of it, whatever was counted"),
            ("shop.orders", "a changed row refreshes its row"),
            ("lockstep.above__part1", "another value refreshes every row, the same value none"),
        ],
    ),
    (
        "top",
        "SELECT o.customer_id, count(*) AS n FROM shop.orders o GROUP BY o.customer_id ORDER BY n DESC, o.customer_id LIMIT 3",
        &[
            (
                "shop.orders",
                "a changed row refreshes the groups that it leaves and joins, from what is kept of them, whatever their size",
            ),
            (
                "lockstep.top__part1",
                "a changed row lets the first rows be read again, by an index: as many as there are, however large the block is",
            ),
        ],
    ),
    (
        "numbered",
        "SELECT o.id, row_number() OVER (ORDER BY o.id) AS n FROM shop.orders o",
        &[("shop.orders", "any change refreshes every row")],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_change_costs_is_told() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let projections: Vec<(&str, &str, &str)> = COSTS.iter().map(|(name, sql, _)| (*name, *sql, "")).collect();
    let setup = Setup::new(&cluster.url("postgres"), &projections);
    shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let read = || -> anyhow::Result<Vec<serde_json::Value>> {
        let (status, output, errors) = program.run(&["plan", "--json"])?;
        anyhow::ensure!(status == 0, "{errors}");
        Ok(serde_json::from_str(&output)?)
    };
    let plans = read()?;
    for (name, _, costs) in COSTS {
        let of_it = plans.iter().filter(|plan| plan["name"] == *name || plan["part_of"] == *name);
        let told: Vec<(&str, &str)> = of_it
            .flat_map(|plan| plan["relations"].as_array().into_iter().flatten())
            .map(|relation| (relation["relation"].as_str().unwrap_or_default(), relation["cost"].as_str().unwrap_or_default()))
            .collect();
        assert_eq!(told, *costs, "{name}");
    }
    let identities: Vec<(&str, &str)> = plans
        .iter()
        .map(|plan| (plan["name"].as_str().unwrap_or_default(), plan["identity"].as_str().unwrap_or_default()))
        .filter(|(name, _)| ["looked_up", "linked", "summed", "counted", "above__part1"].contains(name))
        .collect();
    let expected = [
        ("looked_up", "each known by id"),
        ("linked", "equal ones counted, found by the hash of id"),
        ("summed", "each known by the hash of status"),
        ("counted", "equal ones counted, found by their hash"),
        ("above__part1", "one, or none"),
    ];
    assert_eq!(identities, expected);
    // Nothing is built yet; then there are sizes.
    let is_sized = |plan: &serde_json::Value| {
        let states = plan["state"].as_array().into_iter().flatten();
        let mut all = std::iter::once(plan).chain(states);
        all.all(|table| table["bytes"].as_i64() >= Some(8192)) && plan["rows"].is_i64()
    };
    assert!(plans.iter().all(|plan| plan["rows"].is_null() && plan["bytes"].is_null()));
    assert_eq!(program.run(&["run", "--once"])?.0, 0);
    let plans = read()?;
    assert!(plans.iter().all(is_sized), "{plans:#?}");
    let (_, output, _) = program.run(&["plan", "above"])?;
    for line in [
        "├─ rows    180 rows, ",
        "├─ rows    1 row, ",
        "root    shop.orders as o: ",
        "│          a changed row refreshes its row",
        "another value refreshes every row, the same value none",
    ] {
        assert!(output.contains(line), "{line} is not in\n{output}");
    }
    Ok(())
}

/// What stays whole, a part of what is said to write instead, where the construct stands, and the query that is written so.
const INSTEAD: &[(&str, &str, &str, &str)] = &[
    (
        "SELECT o.id, r.code FROM shop.orders o CROSS JOIN shop.region r",
        "a single value",
        "shop.region",
        "SELECT o.id, (SELECT max(r.code) FROM shop.region r) AS code FROM shop.orders o",
    ),
    (
        "SELECT p.id, p.amount / sum(p.amount) OVER () AS share FROM shop.payment p",
        "PARTITION BY",
        "sum(",
        "SELECT p.id, p.amount / (SELECT sum(t.amount) FROM shop.payment t) AS share FROM shop.payment p",
    ),
    (
        "SELECT o.id, row_number() OVER (PARTITION BY o.status ORDER BY o.id) AS n, row_number() OVER (PARTITION BY o.placed ORDER BY o.id) AS m FROM shop.orders o",
        "subquery in FROM of its own",
        "row_number() OVER (PARTITION BY o.placed",
        "SELECT a.id, a.n, b.m FROM (SELECT o.id, row_number() OVER (PARTITION BY o.status ORDER BY o.id) AS n FROM shop.orders o) a
             JOIN (SELECT o.id, row_number() OVER (PARTITION BY o.placed ORDER BY o.id) AS m FROM shop.orders o) b ON b.id = a.id",
    ),
    (
        "SELECT id, status FROM shop.payment p RIGHT JOIN shop.orders o USING (id)",
        "left join",
        "shop.orders",
        "SELECT id, status FROM shop.orders o LEFT JOIN shop.payment p USING (id)",
    ),
    (
        "SELECT o.status, count(*) AS n, unnest(ARRAY[1, 2]) AS k FROM shop.orders o GROUP BY o.status",
        "outside",
        "unnest(",
        "SELECT s.status, s.n, unnest(ARRAY[1, 2]) AS k FROM (SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status) s",
    ),
    (
        "SELECT o.id, row_number() OVER (PARTITION BY o.status ORDER BY o.id) AS n, unnest(ARRAY[1, 2]) AS k FROM shop.orders o",
        "outside",
        "unnest(",
        "SELECT s.id, s.n, unnest(ARRAY[1, 2]) AS k FROM (SELECT o.id, row_number() OVER (PARTITION BY o.status ORDER BY o.id) AS n FROM shop.orders o) s",
    ),
    (
        "SELECT DISTINCT ON (o.status) o.status, unnest(ARRAY[2, 1]) AS k FROM shop.orders o ORDER BY o.status, o.id",
        "outside",
        "unnest(",
        "SELECT s.status, unnest(ARRAY[2, 1]) AS k FROM (SELECT DISTINCT ON (o.status) o.status, o.id FROM shop.orders o ORDER BY o.status, o.id) s",
    ),
    (
        "SELECT DISTINCT ON (o.status) o.status, o.id, rank() OVER (PARTITION BY o.placed ORDER BY o.id) AS n FROM shop.orders o ORDER BY o.status, o.id",
        "DISTINCT outside",
        "rank() OVER",
        "SELECT DISTINCT ON (s.status) s.status, s.id, s.n FROM (SELECT o.status, o.id, rank() OVER (PARTITION BY o.placed ORDER BY o.id) AS n FROM shop.orders o) s ORDER BY s.status, s.id",
    ),
    (
        "SELECT o.id, c.tier FROM shop.orders o JOIN shop.customer c ON c.id = o.customer_id ORDER BY c.tier FETCH FIRST 3 ROWS WITH TIES",
        "LIMIT",
        "3) ROWS",
        "SELECT o.id, c.tier FROM shop.orders o JOIN shop.customer c ON c.id = o.customer_id ORDER BY c.tier, o.id LIMIT 3",
    ),
    (
        "SELECT o.customer_id AS id FROM shop.orders o UNION SELECT p.order_id FROM shop.payment p ORDER BY 1 LIMIT 3",
        "subquery in FROM",
        "",
        "SELECT u.id FROM (SELECT o.customer_id AS id FROM shop.orders o UNION SELECT p.order_id FROM shop.payment p) u ORDER BY u.id LIMIT 3",
    ),
    (
        "SELECT o.id, shop.named(o.customer_id) AS name FROM shop.orders o",
        "IMMUTABLE",
        "named(",
        "SELECT o.id, (SELECT c.\"fullName\" FROM shop.customer c WHERE c.id = o.customer_id) AS name FROM shop.orders o",
    ),
    (
        "SELECT o.id, now() - o.placed AS age FROM shop.orders o",
        "compare",
        "now()",
        "SELECT o.id, o.placed FROM shop.orders o WHERE o.placed > now() - interval '1 day'",
    ),
    (
        "SELECT count(*) AS n, (SELECT max(p.amount) FROM shop.payment p) AS most FROM shop.orders o",
        "CROSS JOIN",
        "",
        "SELECT a.n, b.most FROM (SELECT count(*) AS n FROM shop.orders o) a CROSS JOIN (SELECT max(p.amount) AS most FROM shop.payment p) b",
    ),
    (
        "WITH RECURSIVE t AS (SELECT e.id, e.id AS top FROM shop.employee e WHERE e.manager_id IS NULL UNION ALL SELECT e.id, t.top FROM shop.employee e JOIN t ON t.top = e.manager_id) SELECT t.id FROM t",
        "in each arm",
        "",
        "WITH RECURSIVE t AS (SELECT e.id, e.id AS top FROM shop.employee e WHERE e.manager_id IS NULL UNION ALL SELECT e.id, t.top FROM shop.employee e JOIN t ON t.id = e.manager_id) SELECT t.id FROM t",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_whole_says_what_to_write_instead() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let names: Vec<String> = (0..INSTEAD.len()).flat_map(|n| [format!("whole_{n}"), format!("instead_{n}")]).collect();
    let queries = INSTEAD.iter().flat_map(|(whole, _, _, instead)| [*whole, *instead]);
    let projections: Vec<(&str, &str, &str)> = names.iter().zip(queries).map(|(name, sql)| (name.as_str(), sql, "")).collect();
    let setup = Setup::new(&cluster.url("postgres"), &projections);
    let session = shop(&setup.source_url).await?;
    session
        .batch_execute("CREATE FUNCTION shop.named(bigint) RETURNS text STABLE LANGUAGE sql AS 'SELECT \"fullName\" FROM shop.customer WHERE id = $1'")
        .await?;
    let (status, output, errors) = Program::new(&setup)?.run(&["plan", "--json"])?;
    anyhow::ensure!(status == 0, "{errors}");
    let plans: Vec<serde_json::Value> = serde_json::from_str(&output)?;
    let of = |name: &str| plans.iter().find(|plan| plan["name"] == name).unwrap_or(&serde_json::Value::Null);
    let mut wrong = Vec::new();
    for (n, (_, words, place, _)) in INSTEAD.iter().enumerate() {
        let (whole, instead) = (of(&format!("whole_{n}")), of(&format!("instead_{n}")));
        let hint = whole["hint"].as_str().unwrap_or_default();
        if whole["incremental"] != false || !hint.contains(words) {
            wrong.push(format!("{n}: {} {}; {hint}", whole["incremental"], whole["reason"]));
        }
        let at = whole["position"].as_u64().map(|position| usize::try_from(position).unwrap_or_default());
        let text = at.and_then(|at| whole["query"].as_str()?.get(at..)).unwrap_or_default();
        if !text.starts_with(place) || (place.is_empty() && at.is_some()) {
            wrong.push(format!("{n}: at {at:?} {text}"));
        }
        if instead["incremental"] != true {
            wrong.push(format!("{n}: instead {} {}", instead["reason"], instead["query"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
