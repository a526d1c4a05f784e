//! The live workload: price and stock changes, new orders, returns, deletions; one row in each commit, at a steady rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_connect::{Session, Settings};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Writers share the rate, so that commits overlap as an application's do.
const WRITERS: u32 = 4;

/// What an application does, with how often out of 20. `$1` is a random number from 0 to 1.
const STATEMENTS: &[(u32, &str)] = &[
    (
        2,
        "INSERT INTO items (owner_id, title, category, geohash, created_at)
         VALUES (1 + floor($1 * 500), 'Found ' || $1, 'keys', 'u33d' || substr(md5($1::text), 1, 5), now() - interval '30 days' + $1 * interval '20 seconds')",
    ),
    (1, "UPDATE items SET is_deleted = NOT is_deleted WHERE id = 1 + floor($1 * 1000)::int"),
    (
        1,
        "UPDATE inventory.stock_financial SET sale_price = round((10 + $1 * 300)::numeric, 2)
         WHERE stock_id = (SELECT id FROM inventory.stock LIMIT 1 OFFSET floor($1 * 500)::int)",
    ),
    (
        6,
        "UPDATE custom_posts SET \"customFields\" = jsonb_set(\"customFields\", '{recommendedPrice}', to_jsonb(40 + floor($1 * 300)::int)), \"updatedAt\" = now()
         WHERE id = (SELECT id FROM custom_posts WHERE slug >= 'item-' || floor($1 * 100000)::int ORDER BY slug LIMIT 1)",
    ),
    (
        4,
        "UPDATE custom_posts SET \"customFields\" = jsonb_set(\"customFields\", '{inventory}', to_jsonb(floor($1 * 20)::int)), \"updatedAt\" = now()
         WHERE id = (SELECT id FROM custom_posts WHERE slug >= 'item-' || floor($1 * 100000)::int ORDER BY slug LIMIT 1)",
    ),
    (
        5,
        "INSERT INTO sales.\"order\" (inventory_item_id, platform_id, external_id, status, sold_at, gross_sale, net_profit, platform_fee, shipping_cost, roi, platform_specific_data)
         SELECT s.id, m.id, 'LIVE-' || $1::float8, 'completed', localtimestamp, round(50 + 300 * $1::numeric, 2), round(60 * $1::numeric, 2), 12.5, 8.5, round(60 * $1::numeric, 2),
                jsonb_build_object('orderId', 'PO-LIVE', 'shippingCost', 8.5, 'totalFees', 21)
         FROM (SELECT id FROM inventory.stock WHERE id >= (lpad(to_hex(floor($1 * 4294967295)::bigint), 8, '0') || '-0000-0000-0000-000000000000')::uuid ORDER BY id LIMIT 1) s,
              (SELECT id FROM platform.marketplace ORDER BY md5(name || $1::float8) LIMIT 1) m",
    ),
    (
        2,
        "UPDATE sales.\"order\" SET status = 'returned', net_profit = -platform_fee
         WHERE id = (SELECT id FROM sales.\"order\" WHERE external_id = 'EXT-' || floor($1 * 1000)::int ORDER BY id LIMIT 1)",
    ),
    (
        2,
        "UPDATE inventory.stock SET quantity = floor($1 * 8)::int, status = (ARRAY['in_stock', 'reserved', 'sold'])[1 + floor($1 * 2.99)::int]
         WHERE id = (SELECT id FROM inventory.stock WHERE id >= (lpad(to_hex(floor($1 * 4294967295)::bigint), 8, '0') || '-0000-0000-0000-000000000000')::uuid ORDER BY id LIMIT 1)",
    ),
    (
        1,
        "DELETE FROM sales.\"order\"
         WHERE id = (SELECT id FROM sales.\"order\" WHERE id >= (lpad(to_hex(floor($1 * 4294967295)::bigint), 8, '0') || '-0000-0000-0000-000000000000')::uuid ORDER BY id LIMIT 1)",
    ),
];

pub(super) struct Workload {
    commits: Arc<AtomicU64>,
    writers: Vec<JoinHandle<anyhow::Result<()>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Workload {
    pub(super) fn start(source: &Settings, rate: u32) -> Self {
        let commits = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let pace = Duration::from_secs(1) * WRITERS / rate;
        let writers = (0..WRITERS)
            .map(|number| {
                let (source, commits, stop) = (source.clone(), commits.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(pace * number / WRITERS).await;
                    write(&source, pace, &commits, &stop).await
                })
            })
            .collect();
        Self { commits, writers, stop }
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Fails if a writer has failed.
    pub(super) async fn check(&mut self) -> anyhow::Result<()> {
        match self.writers.iter().position(JoinHandle::is_finished) {
            Some(ended) => self.writers.swap_remove(ended).await?,
            None => Ok(()),
        }
    }

    pub(super) async fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await??;
        }
        Ok(self.commits.load(Ordering::Relaxed))
    }
}

async fn write(
    source: &Settings,
    pace: Duration,
    commits: &AtomicU64,
    stop: &std::sync::atomic::AtomicBool,
) -> anyhow::Result<()> {
    let session = Session::open(source, "lockstep demo workload").await?;
    let mut statements = Vec::new();
    for (weight, sql) in STATEMENTS {
        let sql = sql.replace("$1::float8", "$1").replace("$1", "$1::float8");
        statements.push((*weight, session.prepare(&sql).await?));
    }
    let total: u32 = statements.iter().map(|(weight, _)| weight).sum();
    let mut ticker = tokio::time::interval(pace);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        ticker.tick().await;
        let mut pick = rand::random_range(0..total);
        let chosen = statements.iter().find(|(weight, _)| {
            let found = pick < *weight;
            pick = pick.saturating_sub(*weight);
            found
        });
        if let Some((_, statement)) = chosen {
            match session.execute(statement, &[&rand::random::<f64>()]).await {
                Ok(_) => {
                    commits.fetch_add(1, Ordering::Relaxed);
                }
                // Two writers met on one row, or an item that an order still names was wanted; an application tries the next.
                Err(error)
                    if error.as_db_error().is_some()
                        && error.code().is_some_and(|c| c.code().starts_with("40") || c.code().starts_with("23")) => {}
                Err(error) => anyhow::bail!("workload: {}", lockstep_connect::describe(&error)),
            }
        }
    }
    Ok(())
}
