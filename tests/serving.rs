//! What serves reads in the tests: a shop with its projector, and `lockstep serve`.

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::connect;

use crate::harness::{PATIENCE, Program, Projector, Setup};
use crate::http::{PRODUCT_INDEXES, PRODUCT_SEARCH, PRODUCTS, SAMPLE, get};

/// A shop of ten products with a projector that serves reads.
pub(crate) struct Shop {
    pub(crate) setup: Setup,
    pub(crate) session: Session,
    pub(crate) projector: Projector,
    pub(crate) address: SocketAddr,
}

impl Shop {
    /// `api` is more TOML for `[api]`; what comes before it is for the whole file.
    pub(crate) async fn open(cluster_url: &str, preamble: &str, api: &str) -> anyhow::Result<Self> {
        let extra = format!("key = [\"id\"]\nindexes = \"{PRODUCT_INDEXES}\"\n");
        let mut setup = Setup::new(
            cluster_url,
            &[
                ("product_search", PRODUCT_SEARCH, &extra),
                ("by_brand", "SELECT p.\"customFields\" ->> 'brand' AS brand, count(*) AS n FROM custom_posts p GROUP BY 1", ""),
                ("odd", "SELECT o.code, o.r, o.k FROM odd o; -- a comment behind it", ""),
                ("keyless", "SELECT o.k FROM odd o", ""),
                ("over", "SELECT b.brand, b.n + 1 AS more FROM read_model.by_brand b", ""),
            ],
        );
        setup.preamble = format!("{preamble}\n[feed]\nhistory_s = 600\n[api]\nlisten = \"127.0.0.1:0\"\n{api}\n");
        let session = connect(cluster_url).await?;
        session.batch_execute(SAMPLE).await?;
        session.batch_execute(PRODUCTS).await?;
        session
            .batch_execute(
                "CREATE TABLE odd (code char(5) PRIMARY KEY, r int4range, k int);
                 INSERT INTO odd SELECT 'c' || n, CASE WHEN n % 2 = 0 THEN int4range(n, n + 2) END, n / 3 FROM generate_series(1, 9) AS n",
            )
            .await?;
        let (mut projector, address) = Projector::start_with_api(&setup, RefreshOptions::default()).await?;
        projector.catch_up().await?;
        Ok(Self { setup, session, projector, address })
    }

    pub(crate) async fn names(&self, path: &str) -> anyhow::Result<Vec<String>> {
        let answer = get(self.address, path).await?;
        anyhow::ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(answer.names())
    }
}

/// `lockstep serve` as a child, whose configuration can be changed.
pub(crate) struct Serving {
    child: std::process::Child,
    pub(crate) address: SocketAddr,
}

impl Serving {
    pub(crate) async fn start(program: &Program, setup: &Setup, api: &str) -> anyhow::Result<Self> {
        write_config(program, setup, api)?;
        let log = std::fs::File::create(program.directory.path().join("log"))?;
        let child = program.command(&["serve"]).stdout(std::process::Stdio::null()).stderr(log).spawn()?;
        let mut serving = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let log = program.log();
            if let Some(address) = log.lines().find_map(|line| line.split_once("serving the read API address=")) {
                serving.address = address.1.trim().parse()?;
                return Ok(serving);
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "it does not serve: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn hang_up(&self) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id())?;
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGHUP)?)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn write_config(program: &Program, setup: &Setup, api: &str) -> anyhow::Result<()> {
    let mut setup = setup.clone();
    setup.preamble = format!("[feed]\n[api]\nlisten = \"127.0.0.1:0\"\n{api}\n");
    program.file("lockstep.toml", &setup.toml())
}
