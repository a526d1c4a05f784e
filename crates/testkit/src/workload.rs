//! Seeded random writers over a small shop: several tables in one transaction, key changes, rows moving between groups, NULLs,
//! deletes and re-inserts of one key, rollbacks, savepoints, asynchronous commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_connect::Session;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::clusters::connect;

/// The tables. No foreign keys: the workload deletes what others refer to, which is the harder case.
pub const SCHEMA: &str = r#"
CREATE SCHEMA shop;
CREATE TABLE shop.region (code text PRIMARY KEY, name text);
CREATE TABLE shop.customer (id bigint PRIMARY KEY, "fullName" text, region_code text, tier integer);
CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer_id bigint, status text NOT NULL, amount numeric, placed date, extra jsonb);
CREATE TABLE shop.line (order_id bigint, position integer, product text, quantity integer, PRIMARY KEY (order_id, position));
CREATE TABLE shop.payment (id bigint PRIMARY KEY, order_id bigint, method text, amount numeric(10,2), paid_at timestamptz);
CREATE TABLE shop.employee (id integer PRIMARY KEY, manager_id integer, name text, region_code text);
CREATE TABLE shop.basket (id bigint PRIMARY KEY, order_ids bigint[], items jsonb, note text);
CREATE VIEW shop.paid_order AS SELECT o.id, o.customer_id, o.amount * 2 AS double FROM shop.orders o WHERE o.status = 'paid';
CREATE VIEW shop.paid_customer (customer, orders) AS SELECT p.customer_id, count(*) FROM shop.paid_order p GROUP BY p.customer_id;
CREATE INDEX ON shop.payment (order_id);
CREATE INDEX ON shop.employee (manager_id);
CREATE INDEX ON shop.orders (customer_id);
CREATE INDEX ON shop.customer (region_code);
INSERT INTO shop.region SELECT 'r' || n, 'Region ' || n FROM generate_series(1, 5) n;
INSERT INTO shop.customer SELECT n, 'Customer ' || n, 'r' || (1 + n % 6), n % 4 FROM generate_series(1, 40) n;
INSERT INTO shop.orders SELECT n, 1 + n % 45, (ARRAY['new','paid','sent'])[1 + n % 3], n % 50, date '2026-01-01' + n % 9, jsonb_build_object('n', n % 7)
FROM generate_series(1, 300) n;
INSERT INTO shop.payment SELECT n, nullif(n % 320, 7), (ARRAY['card','cash',NULL])[1 + n % 3], n % 40, timestamptz '2026-01-01 00:00:00+00' + n * interval '1 hour'
FROM generate_series(1, 200) n;
INSERT INTO shop.employee SELECT n, nullif(n / 3, 0), 'Employee ' || n, 'r' || (1 + n % 6) FROM generate_series(1, 30) n;
INSERT INTO shop.basket SELECT n, ARRAY[n, n * 2, n * 3], jsonb_build_array(jsonb_build_object('sku', 'p' || n % 12, 'n', n % 4), jsonb_build_object('sku', 'p' || n % 7)), 'note ' || n % 5
FROM generate_series(1, 60) n;
INSERT INTO shop.line SELECT 1 + n % 300, n / 300, 'p' || n % 12, n % 5 FROM generate_series(0, 599) n;
"#;

/// The largest keys that statements touch.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// Of orders.
    pub orders: i64,
    /// Of customers.
    pub customers: i64,
    /// Of payments.
    pub payments: i64,
    /// Of employees.
    pub employees: i64,
    /// Of baskets.
    pub baskets: i64,
    /// Whether tables are truncated now and then. Not beside a running batch: PostgreSQL shows a truncated table as empty to
    /// snapshots that were taken before, so there is nothing definite to compare with.
    pub truncates: bool,
}

/// What the writers touch: all rows of [`SCHEMA`], and some more.
const ALL: Keys = Keys { orders: 350, customers: 50, payments: 220, employees: 35, baskets: 70, truncates: false };

/// The seed of a random test: `LOCKSTEP_SEED`, or a new one. It is printed, so that a failure can be repeated.
pub fn seed_from_environment() -> u64 {
    let seed = std::env::var("LOCKSTEP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("LOCKSTEP_SEED={seed}");
    seed
}

/// Running writers.
pub struct Workload {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    writers: JoinSet<anyhow::Result<()>>,
}

impl Workload {
    /// Starts writers against a database that has [`SCHEMA`].
    pub fn start(url: &str, writers: u64, seed: u64) -> Self {
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut set = JoinSet::new();
        for number in 0..writers {
            let writer = Writer {
                url: url.to_owned(),
                random: StdRng::seed_from_u64(seed.wrapping_add(number)),
                asynchronous: number % 2 == 1,
                stop: stop.clone(),
                commits: commits.clone(),
            };
            set.spawn(writer.run());
        }
        Self { stop, commits, writers: set }
    }

    /// Transactions committed so far.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits until so many transactions have committed.
    ///
    /// # Errors
    /// A writer failed.
    pub async fn reach(&mut self, commits: u64) -> anyhow::Result<()> {
        while self.commits() < commits {
            tokio::select! {
                Some(ended) = self.writers.join_next() => ended??,
                () = tokio::time::sleep(std::time::Duration::from_millis(5)) => {}
            }
        }
        Ok(())
    }

    /// Stops the writers; returns the number of commits.
    ///
    /// # Errors
    /// A writer failed.
    pub async fn finish(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended??;
        }
        Ok(self.commits.load(Ordering::Relaxed))
    }
}

struct Writer {
    url: String,
    random: StdRng,
    asynchronous: bool,
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self) -> anyhow::Result<()> {
        let session = connect(&self.url).await?;
        if self.asynchronous {
            session.batch_execute("SET synchronous_commit = off").await?;
        }
        while !self.stop.load(Ordering::Relaxed) {
            self.transaction(&session).await?;
            tokio::time::sleep(std::time::Duration::from_micros(self.random.random_range(0..1500))).await;
        }
        Ok(())
    }

    /// One transaction. Conflicts between writers (deadlocks, unique keys) roll it back and are no error.
    async fn transaction(&mut self, session: &Session) -> anyhow::Result<()> {
        let mut script = String::from("BEGIN;");
        for _ in 0..self.random.random_range(1..5) {
            let statement = random_statement(&mut self.random, &ALL);
            match self.random.random_range(0..12) {
                0 => script.push_str(&format!("SAVEPOINT s; {statement}; ROLLBACK TO SAVEPOINT s;")),
                1 => script.push_str(&format!("SAVEPOINT s; {statement}; RELEASE SAVEPOINT s;")),
                _ => script.push_str(&format!("{statement};")),
            }
        }
        let commits = self.random.random_range(0..10) > 0;
        script.push_str(if commits { "COMMIT" } else { "ROLLBACK" });
        match session.batch_execute(&script).await {
            Ok(()) if commits => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(error) if error.as_db_error().is_some() => Ok(session.batch_execute("ROLLBACK").await?),
            Err(error) => Err(error.into()),
        }
    }
}

/// One random change, as one or more statements.
pub fn random_statement(random: &mut StdRng, keys: &Keys) -> String {
    let (order, customer) = (random.random_range(1..=keys.orders), random.random_range(1..=keys.customers));
    let (other_order, other_customer) = (random.random_range(1..=keys.orders), random.random_range(1..=keys.customers));
    let region = random.random_range(1..=7);
    let number = random.random_range(0..50);
    let status = ["new", "paid", "sent"][random.random_range(0..3)];
    let amount = match random.random_range(0..80) {
        0..9 => "NULL".to_owned(),
        9 => "'NaN'".to_owned(),
        10 => "'Infinity'".to_owned(),
        11 => "'-Infinity'".to_owned(),
        _ => format!("{number}.{}", random.random_range(0..3) * 50),
    };
    let day = random.random_range(0..9);
    let position = random.random_range(0..4);
    let (payment, employee, other_employee, basket) = (
        random.random_range(1..=keys.payments),
        random.random_range(1..=keys.employees),
        random.random_range(1..=keys.employees),
        random.random_range(1..=keys.baskets),
    );
    if keys.truncates && random.random_range(0..60) == 0 {
        let table = ["payment", "basket", "line", "employee"][random.random_range(0..4)];
        return format!("TRUNCATE shop.{table}");
    }
    match random.random_range(0..32) {
            0..3 => format!("UPDATE shop.orders SET amount = {amount} WHERE id = {order}"),
            3..5 => format!("UPDATE shop.orders SET status = '{status}', placed = date '2026-01-01' + {day} WHERE id = {order}"),
            5 => format!("UPDATE shop.orders SET customer_id = nullif({customer}, 13) WHERE id = {order}"),
            6 => format!("UPDATE shop.orders SET id = {other_order} WHERE id = {order}"),
            7 => format!("DELETE FROM shop.orders WHERE id = {order}"),
            8..10 => format!(
                "INSERT INTO shop.orders VALUES ({order}, {customer}, '{status}', {amount}, date '2026-01-01' + {day}, '{{\"n\": {number}}}')
                 ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, extra = excluded.extra"
            ),
            10 => format!("DELETE FROM shop.orders WHERE id = {order}; INSERT INTO shop.orders VALUES ({order}, {customer}, '{status}', {amount})"),
            11 => format!("UPDATE shop.customer SET \"fullName\" = 'Name {number}', tier = nullif({number} % 5, 4) WHERE id = {customer}"),
            12 => format!("UPDATE shop.customer SET region_code = CASE WHEN {region} < 7 THEN 'r{region}' END WHERE id = {customer}"),
            13 => format!("DELETE FROM shop.customer WHERE id = {customer}"),
            14 => format!("INSERT INTO shop.customer VALUES ({customer}, 'Again {number}', 'r{region}', {number} % 4) ON CONFLICT DO NOTHING"),
            15 => format!("UPDATE shop.customer SET id = {other_customer} WHERE id = {customer}"),
            16 => format!("UPDATE shop.region SET name = 'Region {number}' WHERE code = 'r{region}'"),
            17 => format!("DELETE FROM shop.region WHERE code = 'r{region}'; INSERT INTO shop.region VALUES ('r{}', 'New {number}') ON CONFLICT DO NOTHING", 1 + number % 6),
            18 => format!(
                "INSERT INTO shop.line VALUES ({order}, {position}, 'p{}', {number} % 5)
                 ON CONFLICT (order_id, position) DO UPDATE SET quantity = excluded.quantity",
                number % 12
            ),
            20 => format!("UPDATE shop.payment SET order_id = nullif({order}, 7), amount = {amount} WHERE id = {payment}"),
            21 => format!("DELETE FROM shop.payment WHERE id = {payment}"),
            22 => format!(
                "INSERT INTO shop.payment VALUES ({payment}, {order}, 'card', {amount}, timestamptz '2026-01-01 00:00:00+00' + {number} * interval '1 hour')
                 ON CONFLICT (id) DO UPDATE SET method = CASE WHEN {number} % 3 > 0 THEN 'cash' END"
            ),
            23 => format!("UPDATE shop.employee SET manager_id = nullif({other_employee}, 9) WHERE id IN ({employee}, {other_employee})"),
            24 => format!("DELETE FROM shop.employee WHERE id = {employee}"),
            25 => format!(
                "INSERT INTO shop.employee VALUES ({employee}, {other_employee}, 'Again {number}', 'r{region}')
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, region_code = excluded.region_code"
            ),
            26 => format!(
                "INSERT INTO shop.basket VALUES ({basket}, ARRAY[{order}, {other_order}], '[{{\"sku\": \"p{region}\", \"n\": {number}}}]', 'note {region}')
                 ON CONFLICT (id) DO UPDATE SET order_ids = excluded.order_ids || shop.basket.order_ids[1:2], items = excluded.items"
            ),
            27 => format!("DELETE FROM shop.basket WHERE id = {basket}"),
            // Several tables of one join at once.
            28 => format!(
                "DELETE FROM shop.line WHERE order_id = {order}; DELETE FROM shop.payment WHERE order_id = {order}; DELETE FROM shop.orders WHERE id = {order}"
            ),
            29 => format!(
                "INSERT INTO shop.line VALUES ({order}, {position}, 'p{}', NULL) ON CONFLICT (order_id, position) DO UPDATE SET product = excluded.product, order_id = {other_order}",
                number % 12
            ),
            30 => format!("UPDATE shop.line SET quantity = quantity + 1 WHERE order_id = {order}; UPDATE shop.orders SET status = '{status}' WHERE id = {order}"),
            _ => format!("DELETE FROM shop.line WHERE order_id = {order} AND position = {position}"),
        }
}
