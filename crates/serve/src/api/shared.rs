//! What all handlers share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::HeaderMap;
use lockstep_config::{ApiConfig, Config, ProjectionConfig};
use lockstep_plan::chains::{stand_for_projections, tables_of_stand_ins};
use lockstep_read::{Cube, Model, Pool, Pools, Reader};

use super::follower::Follower;

/// Sessions for requests that wait for a position: projections that are looked at for them at the same time.
const LOOKS_MAX: usize = 8;

/// What all handlers share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) reader: Arc<Reader>,
    /// Replaced by a reload.
    config: Arc<RwLock<Arc<ApiConfig>>>,
    pub(super) follower: Arc<Follower>,
    pub(super) ratio: Arc<CacheRatio>,
}

impl Api {
    /// Pools and caches for a configuration; nothing is connected yet.
    pub(super) fn new(config: &Config, api: &ApiConfig) -> Self {
        let target = api.settings.clone().unwrap_or_else(|| config.target_settings().clone());
        // A role of its own for reading need not be able to read the source tables.
        let one_database = config.target.is_none() && api.settings.is_none();
        let pool = |settings, size| Pool::new(settings, size, api.request_timeout / 2, api.request_timeout);
        let pools = Pools {
            target: pool(&target, api.connections),
            source: (!one_database).then(|| pool(&config.source, api.connections.min(api.tables_at_once))),
            waits: Pool::new(&target, LOOKS_MAX, api.read.min_lsn_wait, api.request_timeout),
        };
        let reader = Reader::new(pools, api.tables_at_once, api.request_timeout / 2);
        let follower = Follower::new(target);
        let this = Self {
            reader: Arc::new(reader),
            config: Arc::new(RwLock::new(Arc::new(api.clone()))),
            follower: Arc::new(follower),
            ratio: Arc::default(),
        };
        this.configure(config, api);
        this
    }

    /// Takes another configuration; addresses, roles and sizes stay as they were at the start.
    pub(super) fn configure(&self, config: &Config, api: &ApiConfig) {
        self.reader.configure(api.read.clone(), models(config, api));
        self.follower.follow(config.projections.iter().filter(|projection| projection.feed).map(|found| found.name.clone()));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(api.clone());
    }

    pub(super) fn config(&self) -> Arc<ApiConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn models(config: &Config, api: &ApiConfig) -> Vec<Model> {
    let names: Vec<&str> = config.projections.iter().map(|projection| projection.name.as_str()).collect();
    let cubes = || config.projections.iter().filter(|projection| projection.cube_of.is_some());
    let one = |projection: &ProjectionConfig| Model {
        name: projection.name.clone(),
        schema: config.schema.clone(),
        on_target: !stand_for_projections(&projection.sql, &config.schema, &names).projections.is_empty(),
        // Printed again, it ends without semicolon and comment.
        sql: tables_of_stand_ins(&projection.sql, &[]).unwrap_or_else(|_| projection.sql.clone()),
        time_zone: projection.time_zone.clone(),
        key: projection.key.clone().unwrap_or_default(),
        cube: cubes()
            .find(|cube| cube.cube_of.as_ref() == Some(&projection.name))
            .map(|cube| Cube { name: cube.name.clone(), columns: projection.facets.clone() }),
        is_products: api.products.as_ref() == Some(&projection.name),
        is_items: api.items.as_ref() == Some(&projection.name),
    };
    config.projections.iter().filter(|projection| projection.cube_of.is_none()).map(one).collect()
}

impl Api {
    /// Tells what changes without requests.
    pub(super) async fn measure(self) {
        loop {
            metrics::gauge!("db_connection_usage").set(self.reader.usage());
            metrics::gauge!("cache_hit_ratio").set(self.ratio.tick());
            self.follower.measure();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Each second the past counts so much less: half of it is forgotten after four minutes.
const DECAY: f64 = 0.997;

/// The share of answers that needed no rows from the database, lately.
#[derive(Debug, Default)]
pub(super) struct CacheRatio(Mutex<(f64, f64)>);

impl CacheRatio {
    pub(super) fn note(&self, hit: bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.0 += f64::from(u8::from(hit));
        counts.1 += 1.0;
    }

    /// Lets a second pass; the ratio, 0 to 1. With nothing asked for, nothing was missed.
    pub(super) fn tick(&self) -> f64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts = (counts.0 * DECAY, counts.1 * DECAY);
        if counts.1 < 0.01 { 1.0 } else { counts.0 / counts.1 }
    }
}

/// What decides whether a client takes part in a rollout.
pub(super) fn sticky_key(config: &ApiConfig, headers: &HeaderMap, peer: Option<&ConnectInfo<SocketAddr>>) -> String {
    let header = headers.get(&config.rollout_header).and_then(|value| value.to_str().ok());
    header.map(str::to_owned).or_else(|| peer.map(|peer| peer.0.ip().to_string())).unwrap_or_default()
}
