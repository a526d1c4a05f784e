//! What `lockstep plan` says: what a change costs, how rows are known, what is kept and how large that is, and what to write instead of
//! what stays whole.

use lockstep_testkit::cluster;

use crate::harness::{Program, Setup, shop};

/// Projections, and for each what a change of a relation costs, in the order in which the plan names them: blocks first.
const COSTS: &[(&str, &str, &[(&str, &str)])] = &[
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
