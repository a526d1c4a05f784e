//! Times in which the publication did not publish everything: what was missed is compared and repaired, and nothing else.

use std::collections::BTreeMap;

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::cluster;

use crate::harness::{Followed, Projector, Setup, assert_equal, shop, until};

const TWO: &[(&str, &str, &str)] =
    &[("regions", "SELECT r.code, r.name FROM shop.region r", ""), ("orders", "SELECT o.id, o.status FROM shop.orders o", "")];

/// Changes of the publication that are undone, with what happens meanwhile and the projections that it concerns.
const FOR_A_MOMENT: &[(&[&str], &[&str])] = &[
    (
        &[
            "ALTER PUBLICATION lockstep SET (publish = 'insert')",
            "DELETE FROM shop.orders WHERE id % 10 = 1",
            "UPDATE shop.region SET name = name || ' unseen'",
            "ALTER PUBLICATION lockstep SET (publish = 'insert, update, delete, truncate')",
        ],
        &["orders", "regions"],
    ),
    (
        &[
            "ALTER PUBLICATION lockstep DROP TABLE shop.orders",
            "ALTER PUBLICATION lockstep ADD TABLE shop.orders WHERE (id < 3)",
            "INSERT INTO shop.orders SELECT 800000 + o.id, o.customer_id, 'unseen', o.amount, o.placed FROM shop.orders o WHERE o.id % 10 = 2",
            "ALTER PUBLICATION lockstep DROP TABLE shop.orders",
            "ALTER PUBLICATION lockstep ADD TABLE shop.orders",
        ],
        &["orders"],
    ),
];

/// When each projection last changed its state.
async fn changed(session: &Session) -> anyhow::Result<BTreeMap<String, String>> {
    let rows = session.query("SELECT name, changed_at::text FROM lockstep.projection", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// In one transaction, so that no look falls in between.
async fn meddle(session: &Session, statements: &[&str]) -> anyhow::Result<()> {
    Ok(session.batch_execute(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await?)
}

/// Waits until what a change concerns has been compared, and makes sure that nothing else was.
async fn only_those(
    session: &Session,
    projector: &mut Projector,
    before: &BTreeMap<String, String>,
    concerned: &[&str],
) -> anyhow::Result<()> {
    for name in concerned {
        until(
            session,
            &format!("SELECT state = 'live' AND changed_at > '{}' FROM lockstep.projection WHERE name = '{name}'", before[*name]),
        )
        .await?;
    }
    projector.catch_up().await?;
    let after = changed(session).await?;
    for (name, at) in before.iter().filter(|(name, _)| !concerned.contains(&name.as_str())) {
        assert_eq!(&after[name], at, "{name} was not concerned");
    }
    Ok(())
}

/// Undone before anybody looks, under a running projector.
#[tokio::test(flavor = "multi_thread")]
async fn changed_for_a_moment_while_it_runs() -> anyhow::Result<()> {
    let Followed { cluster: _cluster, setup, session, mut projector } = Followed::shop(TWO).await?;
    for (statements, concerned) in FOR_A_MOMENT {
        let before = changed(&session).await?;
        meddle(&session, statements).await?;
        only_those(&session, &mut projector, &before, concerned).await?;
        assert_equal(&setup).await.map_err(|error| error.context(statements[0]))?;
    }
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_for_a_moment_while_it_stands_still() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), TWO);
    let session = shop(&setup.source_url).await?;
    for (statements, concerned) in FOR_A_MOMENT {
        let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        projector.catch_up().await?;
        projector.stop().await?;
        let before = changed(&session).await?;
        meddle(&session, statements).await?;
        let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        only_those(&session, &mut projector, &before, concerned).await?;
        assert_equal(&setup).await.map_err(|error| error.context(statements[0]))?;
        projector.stop().await?;
    }
    Ok(())
}

/// What Lockstep adds to its publication for a new projection is no reason to compare the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_added_concerns_its_readers_alone() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), TWO);
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let before = changed(&session).await?;
    setup.projections.push(("customers".to_owned(), "SELECT c.id, c.tier FROM shop.customer c".to_owned(), String::new()));
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection WHERE name = 'customers'").await?;
    only_those(&session, &mut projector, &before, &[]).await?;
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}
