//! What being followed costs those who write.

use lockstep_cluster::Cluster;

use super::backlog::{search_view, upsert};
use super::freshness::{COPY, NEW_PRICE, PRODUCTS};
use crate::bench::{Bench, DATABASE, session, settings};
use crate::equality::ensure_equal;
use crate::projections::{indexes_on, query};
use crate::projector::Projector;
use crate::report::{Figure, Section};
use crate::subscription::Subscription;
use crate::writers::{saturated, texts};

/// A table equal to the search view that triggers keep, as one writes them.
async fn with_triggers(cluster: &Cluster) -> anyhow::Result<()> {
    let (query, indexes) = (query("product_search")?, indexes_on("product_search", "kept")?);
    let session = session(&cluster.url(DATABASE)).await?;
    session.batch_execute(&format!("CREATE TABLE kept AS {query}; ALTER TABLE kept ADD PRIMARY KEY (id); {indexes}")).await?;
    let upsert = upsert(&session, &query, "q.id = NEW.id").await?;
    session
        .batch_execute(&format!(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF TG_OP = 'DELETE' THEN
                     DELETE FROM kept WHERE id = OLD.id;
                 ELSE
                     {upsert};
                     IF NOT FOUND THEN
                         DELETE FROM kept WHERE id = NEW.id;
                     END IF;
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER keep AFTER INSERT OR UPDATE OR DELETE ON custom_posts FOR EACH ROW EXECUTE FUNCTION keep()"
        ))
        .await?;
    Ok(session.batch_execute("VACUUM ANALYZE kept").await?)
}

/// Commits a second on a cluster, with everything as it is.
async fn commits(bench: &Bench, url: &str) -> anyhow::Result<f64> {
    let keys = texts(&session(url).await?, PRODUCTS).await?;
    saturated(&settings(url)?, NEW_PRICE, &keys, bench.window(3.0, 30.0)).await
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let products = bench.rows(20_000, 100_000);
    let (alone, followed, triggered) = (bench.shop(products).await?, bench.shop(products).await?, bench.shop(products).await?);
    with_triggers(&triggered).await?;
    let subscription = Subscription::start(bench, bench.shop(products).await?, "custom_posts", COPY).await?;
    let setup = search_view(followed.url(DATABASE));
    let mut projector = Projector::start(bench, &setup).await?;
    let (mut nothing, mut native, mut ours, mut triggers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        nothing.push(commits(bench, &alone.url(DATABASE)).await?);
        ours.push(commits(bench, &setup.source).await?);
        projector.until_contained().await?;
        native.push(commits(bench, &subscription.publisher.url(DATABASE)).await?);
        subscription.until_contained().await?;
        triggers.push(commits(bench, &triggered.url(DATABASE)).await?);
    }
    ensure_equal(&mut projector).await?;
    projector.stop().await?;
    let figure = |anchor: &str, rounds: Vec<f64>| Figure::new("commits", "per second", ours.clone()).against(anchor, rounds);
    Ok(Section {
        name: "writers",
        title: "What writers notice",
        about: format!(
            "Four sessions change prices among {products} posts as fast as they can, each commit flushed, while Lockstep keeps \
             `product_search` in the same database. Anchors: nobody follows; a subscription of the table in a second cluster; triggers \
             that keep an equal table with the same indexes in the writer's own transaction. All are on this machine, so what follows takes \
             its share of the cores."
        ),
        figures: vec![figure("nobody follows", nothing), figure("native", native), figure("triggers", triggers)],
        pictures: Vec::new(),
        seconds: 0.0,
    })
}
