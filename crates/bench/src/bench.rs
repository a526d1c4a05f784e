//! What every scenario is given: the program, the sizes, clusters with the sample shop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use lockstep_cluster::{Binaries, Cluster, ClusterOptions};
use lockstep_connect::{Session, Settings};

use crate::arguments::Arguments;

/// Of every cluster. No checkpoint falls into what is measured: which of the two sides it would hit is chance.
const SETTINGS: &[&str] =
    &["track_commit_timestamp=on", "shared_buffers=512MB", "max_wal_size=16GB", "checkpoint_timeout=1h", "max_connections=200"];

/// The database with the sample schema.
pub(crate) const DATABASE: &str = "shop";

/// What a run is made of.
pub(crate) struct Bench {
    /// The program that is measured.
    pub(crate) program: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) full: bool,
    scale: f64,
    rounds: Option<usize>,
    /// Data directories with the sample shop, by the number of products.
    templates: Mutex<BTreeMap<u32, tempfile::TempDir>>,
}

impl Bench {
    pub(crate) fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let program = match &arguments.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("lockstep"),
        };
        if !program.is_file() {
            bail!("{} is not there: cargo build --release -p lockstep, or --program PATH", program.display());
        }
        Ok(Self {
            program: program.canonicalize()?,
            binaries: Binaries::find()?,
            full: arguments.full,
            scale: arguments.scale,
            rounds: arguments.rounds,
            templates: Mutex::default(),
        })
    }

    /// How often each side is measured.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.full { 5 } else { 3 }).max(1)
    }

    /// The same where a round is long.
    pub(crate) fn few_rounds(&self) -> usize {
        self.rounds().div_ceil(2)
    }

    /// Rows or changes: so many in a quick run, so many in a full one.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn rows(&self, quick: u32, full: u32) -> u32 {
        ((f64::from(if self.full { full } else { quick }) * self.scale) as u32).max(1_000)
    }

    /// How long a rate is held.
    pub(crate) fn window(&self, quick_seconds: f64, full_seconds: f64) -> Duration {
        let seconds = if self.full { full_seconds } else { quick_seconds };
        Duration::from_secs_f64((seconds * self.scale.min(1.0)).max(2.0))
    }

    /// An empty cluster.
    pub(crate) fn empty(&self) -> anyhow::Result<Cluster> {
        Ok(Cluster::start(&self.binaries, &options())?)
    }

    /// A cluster of its own with the sample shop of so many products. The data is loaded once and copied.
    pub(crate) async fn shop(&self, products: u32) -> anyhow::Result<Cluster> {
        let known = self.templates.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&products);
        if !known {
            let template = load(&self.binaries, products).await?;
            self.templates.lock().unwrap_or_else(PoisonError::into_inner).insert(products, template);
        }
        let templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let template = templates.get(&products).map(|directory| directory.path().join("data"));
        Ok(Cluster::start(&self.binaries, &ClusterOptions { template, ..options() })?)
    }
}

fn options() -> ClusterOptions {
    let settings = SETTINGS.iter().map(|setting| (*setting).to_owned()).collect();
    ClusterOptions { durable: true, settings, ..ClusterOptions::default() }
}

/// A stopped cluster with the sample shop.
async fn load(binaries: &Binaries, products: u32) -> anyhow::Result<tempfile::TempDir> {
    // Where private clusters are, too: what is copied from there is on one file system.
    let directory = tempfile::Builder::new().prefix("lockstep-bench-").tempdir_in("/tmp")?;
    let mut cluster =
        Cluster::start(binaries, &ClusterOptions { directory: Some(directory.path().to_owned()), durable: false, ..options() })?;
    let admin = session(&cluster.url("postgres")).await?;
    admin.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
    let shop = session(&cluster.url(DATABASE)).await?;
    let sample = |name: &str| std::fs::read_to_string(configuration().join("sample").join(name)).with_context(|| name.to_owned());
    shop.batch_execute(&sample("schema.sql")?).await.context("sample schema")?;
    shop.batch_execute(&format!("SET lockstep.products = {products}; {}", sample("data.sql")?)).await.context("sample data")?;
    // So that no side pays for what the loading left behind.
    shop.batch_execute("VACUUM ANALYZE").await?;
    drop((admin, shop));
    cluster.stop_server("fast")?;
    Ok(directory)
}

/// The repository's folder of configuration: sample, projections, example.
pub(crate) fn configuration() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

/// A session with a URL of a private cluster, where the caller's environment has no say.
pub(crate) async fn session(url: &str) -> anyhow::Result<Session> {
    Ok(Session::open(&settings(url)?, "lockstep bench").await?)
}

/// Settings of a private cluster.
pub(crate) fn settings(url: &str) -> anyhow::Result<Settings> {
    Ok(Settings::resolve(Some(url), &|_| None)?)
}
