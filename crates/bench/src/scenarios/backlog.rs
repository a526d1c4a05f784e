//! Every row changed once while nobody followed: how fast it is made up for.

use std::time::Instant;

use super::freshness::COPY;
use crate::bench::{Bench, DATABASE};
use crate::equality::ensure_equal;
use crate::projections::{QUIET, indexes_on, product_search, query};
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Section};
use crate::subscription::Subscription;

/// What an application without a read model has instead: indexes over expressions of the JSONB.
pub(super) const EXPRESSION_INDEXES: &str = r#"
    CREATE INDEX ON custom_posts (slug);
    CREATE INDEX ON custom_posts (status);
    CREATE INDEX ON custom_posts ("createdAt" DESC);
    CREATE INDEX ON custom_posts (("customFields" ->> 'sku'));
    CREATE INDEX ON custom_posts (("customFields" ->> 'type'));
    CREATE INDEX ON custom_posts (("customFields" ->> 'categoryId'));
    CREATE INDEX ON custom_posts (("customFields" ->> 'brand'));
    CREATE INDEX ON custom_posts (("customFields" ->> 'supplierId'));
    CREATE INDEX ON custom_posts ((("customFields" ->> 'recommendedPrice')::numeric));
    CREATE INDEX ON custom_posts ((("customFields" ->> 'inventory')::integer));
    CREATE INDEX ON custom_posts ((("customFields" -> 'metadata' ->> 'rating')::numeric) DESC NULLS LAST);
    CREATE INDEX ON custom_posts (("customFields" ->> 'categoryId'), (("customFields" ->> 'recommendedPrice')::numeric));
    CREATE INDEX ON custom_posts (("customFields" ->> 'brand'), "createdAt" DESC);
    CREATE INDEX ON custom_posts USING gin (to_tsvector('english', title || ' ' || coalesce(content, '')));
    CREATE INDEX ON custom_posts USING gin ("customFields" jsonb_path_ops);"#;

/// Changes every product.
const CHANGE_ALL: &str = "UPDATE custom_posts
    SET \"customFields\" = jsonb_set(\"customFields\", '{recommendedPrice}', to_jsonb((\"customFields\" ->> 'recommendedPrice')::int + 1))";

/// The search view alone, in the source's database.
pub(super) fn search_view(source: String) -> Setup {
    Setup { source, target: None, configuration: format!("{QUIET}{}", product_search()), projections: 1 }
}

/// The search view as a table that statements keep, and the statement that brings it up to date.
async fn statement(subscription: &Subscription) -> anyhow::Result<String> {
    let query = query("product_search")?;
    let source = &subscription.source;
    let indexes = indexes_on("product_search", "kept")?;
    source.batch_execute(&format!("CREATE TABLE kept AS {query}; ALTER TABLE kept ADD PRIMARY KEY (id); {indexes}")).await?;
    upsert(&subscription.source, &query, "true").await
}

/// Inserts what a query shows into the table `kept`, or updates it.
pub(super) async fn upsert(session: &lockstep_connect::Session, query: &str, condition: &str) -> anyhow::Result<String> {
    let columns = "SELECT string_agg(quote_ident(attname) || ' = excluded.' || quote_ident(attname), ', ' ORDER BY attnum)
                   FROM pg_attribute WHERE attrelid = 'kept'::regclass AND attnum > 0 AND attname <> 'id'";
    let set: String = session.query_one(columns, &[]).await?.get(0);
    Ok(format!("INSERT INTO kept SELECT q.* FROM (\n{query}\n) AS q WHERE {condition} ON CONFLICT (id) DO UPDATE SET {set}"))
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let rows = bench.rows(20_000, 100_000);
    let (cluster, publisher) = (bench.shop(rows).await?, bench.shop(rows).await?);
    let setup = search_view(cluster.url(DATABASE));
    Projector::start(bench, &setup).await?.stop().await?;
    let subscription = Subscription::start(bench, publisher, "custom_posts", &format!("{COPY}; {EXPRESSION_INDEXES}")).await?;
    let upsert = statement(&subscription).await?;
    let (mut ours, mut native, mut statements) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        ours.push(f64::from(rows) / followed(bench, &setup).await?);
        native.push(f64::from(rows) / applied(&subscription).await?);
        let began = Instant::now();
        subscription.source.batch_execute(&upsert).await?;
        statements.push(f64::from(rows) / began.elapsed().as_secs_f64());
        subscription.source.batch_execute("VACUUM kept").await?;
        subscription.until_contained().await?;
    }
    Ok(Section {
        name: "backlog",
        title: "A backlog of one large transaction",
        about: format!(
            "{rows} rows of `custom_posts` are changed in one transaction while nobody follows; then Lockstep is started, and it is waited \
             until `lockstep.wait_for` says that `product_search` with its seventeen indexes contains them: the program's start is part of \
             it. Anchors: a subscription of the table with fifteen indexes over expressions of its JSONB that is enabled, until it has \
             applied them; and one `INSERT … SELECT … ON CONFLICT DO UPDATE` of the defining query into an equal table with the same \
             indexes, which is what a nightly job does."
        ),
        figures: vec![
            Figure::new("rows", "per second", ours.clone()).against("native", native),
            Figure::new("rows", "per second", ours).against("one statement", statements),
        ],
        pictures: Vec::new(),
        seconds: 0.0,
    })
}

/// Seconds until Lockstep contains them.
async fn followed(bench: &Bench, setup: &Setup) -> anyhow::Result<f64> {
    let session = crate::bench::session(&setup.source).await?;
    session.batch_execute(CHANGE_ALL).await?;
    let began = Instant::now();
    let mut projector = Projector::spawn(bench, setup).await?;
    projector.until_contained().await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure_equal(&mut projector).await?;
    projector.stop().await?;
    session.batch_execute("VACUUM").await?;
    Ok(seconds)
}

/// Seconds until the subscription has applied them.
async fn applied(subscription: &Subscription) -> anyhow::Result<f64> {
    subscription.disable().await?;
    subscription.source.batch_execute(CHANGE_ALL).await?;
    let began = Instant::now();
    subscription.enable().await?;
    subscription.until_contained().await?;
    let seconds = began.elapsed().as_secs_f64();
    subscription.source.batch_execute("VACUUM custom_posts").await?;
    subscription.target.batch_execute("VACUUM").await?;
    Ok(seconds)
}
