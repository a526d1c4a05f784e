//! Many small transactions on few rows while nobody followed.

use std::time::{Duration, Instant};

use lockstep_connect::Session;

use super::backlog::{EXPRESSION_INDEXES, search_view};
use super::freshness::{COPY, PRODUCTS};
use crate::bench::{Bench, DATABASE, session};
use crate::equality::ensure_equal;
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Picture, Section, Series};
use crate::subscription::Subscription;
use crate::waiting::position;

/// Rows that are changed again and again.
const ROWS: u32 = 10_000;

/// How often it is looked how far they are, for the picture.
const LOOK: Duration = Duration::from_millis(100);

/// Seconds since the start, and mebibytes of WAL that are not contained yet.
type Course = Vec<(f64, f64)>;

/// Each change is a transaction of its own; that they are not flushed one by one only makes the preparation shorter.
async fn change(source: &Session, changes: u32) -> anyhow::Result<()> {
    source.batch_execute("SET synchronous_commit = off").await?;
    source
        .batch_execute(&format!(
            "DO $$
             DECLARE ids uuid[] := ARRAY(SELECT id::uuid FROM ({PRODUCTS} LIMIT {ROWS}) AS p (id));
             BEGIN
                 FOR n IN 1..{changes} LOOP
                     UPDATE custom_posts SET \"customFields\" = jsonb_set(\"customFields\", '{{recommendedPrice}}', to_jsonb(n))
                     WHERE id = ids[1 + n % array_length(ids, 1)];
                     COMMIT;
                 END LOOP;
             END $$"
        ))
        .await?;
    Ok(source.batch_execute("SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'bench', '')").await?)
}

/// Looks how far it is, until it is dropped.
async fn watch(began: Instant, session: &Session, behind: &str, course: &mut Course) -> anyhow::Result<()> {
    loop {
        let row = session.query_one(behind, &[]).await?;
        if let Some(bytes) = row.get::<_, Option<f64>>(0) {
            course.push((began.elapsed().as_secs_f64(), bytes.max(0.0) / 1024.0 / 1024.0));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Watches while something is waited for; the last look is at its end.
async fn watched(
    began: Instant,
    session: &Session,
    behind: &str,
    waiting: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<(f64, Course)> {
    let mut course = Course::new();
    tokio::select! {
        waited = waiting => waited?,
        looked = watch(began, session, behind, &mut course) => looked?,
    }
    let seconds = began.elapsed().as_secs_f64();
    course.push((seconds, 0.0));
    Ok((seconds, course))
}

async fn ours(bench: &Bench, setup: &Setup, changes: u32) -> anyhow::Result<(f64, Course)> {
    let onlooker = session(&setup.source).await?;
    change(&onlooker, changes).await?;
    let wanted = position(&onlooker).await?;
    let behind = format!("SELECT pg_wal_lsn_diff('{wanted}', min(lsn))::float8 FROM lockstep.checkpoint");
    let began = Instant::now();
    let mut projector = Projector::spawn(bench, setup).await?;
    let found = watched(began, &onlooker, &behind, projector.until_contained()).await?;
    ensure_equal(&mut projector).await?;
    projector.stop().await?;
    onlooker.batch_execute("VACUUM").await?;
    Ok(found)
}

async fn native(subscription: &Subscription, changes: u32) -> anyhow::Result<(f64, Course)> {
    let onlooker = session(&subscription.publisher.url(DATABASE)).await?;
    subscription.disable().await?;
    change(&onlooker, changes).await?;
    let wanted = position(&onlooker).await?;
    let behind = format!(
        "SELECT pg_wal_lsn_diff('{wanted}', min(replay_lsn))::float8 FROM pg_stat_replication WHERE application_name = 'bench'"
    );
    let began = Instant::now();
    subscription.enable().await?;
    let found = watched(began, &onlooker, &behind, subscription.until_contained()).await?;
    onlooker.batch_execute("VACUUM custom_posts").await?;
    subscription.target.batch_execute("VACUUM").await?;
    Ok(found)
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let (products, changes) = (bench.rows(20_000, 100_000), bench.rows(60_000, 300_000));
    let (cluster, publisher) = (bench.shop(products).await?, bench.shop(products).await?);
    let setup = search_view(cluster.url(DATABASE));
    Projector::start(bench, &setup).await?.stop().await?;
    let subscription = Subscription::start(bench, publisher, "custom_posts", &format!("{COPY}; {EXPRESSION_INDEXES}")).await?;
    let (mut mine, mut anchor) = (Vec::new(), Vec::new());
    let (mut my_course, mut anchor_course) = (Course::new(), Course::new());
    for _ in 0..bench.few_rounds() {
        let (seconds, course) = ours(bench, &setup, changes).await?;
        mine.push(f64::from(changes) / seconds);
        my_course = course;
        let (seconds, course) = native(&subscription, changes).await?;
        anchor.push(f64::from(changes) / seconds);
        anchor_course = course;
    }
    Ok(Section {
        name: "catch_up",
        title: "A backlog of small transactions",
        about: format!(
            "{changes} transactions, each changing one of {} products, while nobody follows; then as above. Native applies each; Lockstep \
             refreshes each row that changed once for all that it takes together.",
            ROWS.min(products)
        ),
        figures: vec![Figure::new("changes", "per second", mine).against("native", anchor)],
        pictures: vec![Picture {
            file: "catch-up.svg".to_owned(),
            title: "What is not contained yet, in the last round".to_owned(),
            axes: ("seconds since the start".to_owned(), "MiB of WAL".to_owned()),
            series: vec![
                Series { name: "Lockstep".to_owned(), points: my_course },
                Series { name: "native".to_owned(), points: anchor_course },
            ],
        }],
        seconds: 0.0,
    })
}
