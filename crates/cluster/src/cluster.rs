//! One cluster: made, started, stopped, removed.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::binaries::Binaries;
use crate::error::ClusterError;
use crate::unprivileged::RunAs;

/// How to run a cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Where to make it; `None` for a temporary directory.
    pub directory: Option<PathBuf>,
    /// An initialised data directory to copy instead of running initdb.
    pub template: Option<PathBuf>,
    /// Additional settings, `name=value`.
    pub settings: Vec<String>,
    /// Files written into the data directory before the start (certificates, `pg_hba.conf`): name and content.
    pub files: Vec<(String, String)>,
    /// Whether commits reach the disk. Tests go without.
    pub durable: bool,
}

/// A running cluster. Dropping it stops the server and removes a temporary directory.
pub struct Cluster {
    binaries: Binaries,
    run_as: RunAs,
    home: Home,
    port: u16,
    settings: Vec<String>,
    running: bool,
}

/// The directory that holds data, socket and log.
enum Home {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(path) => path,
        }
    }
}

impl Cluster {
    /// Makes and starts a cluster with `wal_level=logical` and a superuser named `postgres` without password.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn start(binaries: &Binaries, options: &ClusterOptions) -> Result<Self, ClusterError> {
        let run_as = RunAs::choose().map_err(ClusterError::System)?;
        let home = make_home(options)?;
        run_as.own(home.path()).map_err(ClusterError::System)?;
        let data = home.path().join("data");
        if !data.join("PG_VERSION").exists() {
            match &options.template {
                Some(template) => {
                    run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(template).arg(&data))?;
                    run_as.own_tree(&data).map_err(ClusterError::System)?;
                }
                None => initialise(binaries, run_as, &data)?,
            }
        }
        for (name, content) in &options.files {
            write_private(&data.join(name), content, run_as)?;
        }
        let mut settings: Vec<String> = [
            "wal_level=logical",
            "max_wal_senders=20",
            "max_replication_slots=20",
            "listen_addresses=127.0.0.1",
            "logging_collector=off",
        ]
        .map(str::to_owned)
        .to_vec();
        if !options.durable {
            settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
        }
        settings.extend(options.settings.iter().cloned());
        let mut cluster = Self { binaries: binaries.clone(), run_as, home, port: free_port()?, settings, running: false };
        cluster.start_server()?;
        Ok(cluster)
    }

    /// Initialises a data directory to serve as a template.
    ///
    /// # Errors
    /// initdb failed.
    pub fn initialise_template(binaries: &Binaries, data: &Path) -> Result<(), ClusterError> {
        let run_as = RunAs::choose().map_err(ClusterError::System)?;
        if let Some(parent) = data.parent() {
            run_as.own(parent).map_err(ClusterError::System)?;
        }
        initialise(binaries, run_as, data)
    }

    /// Starts a stopped server again, on the same port.
    ///
    /// # Errors
    /// `pg_ctl` failed; the server's log is in the message.
    pub fn start_server(&mut self) -> Result<(), ClusterError> {
        let home = self.home.path();
        let mut server_options = format!("-p {} -k '{}'", self.port, home.display());
        for setting in &self.settings {
            server_options.push_str(&format!(" -c '{setting}'"));
        }
        let result = run(self.pg_ctl().args(["-w", "-t", "60", "-o", &server_options, "-l"]).arg(home.join("log")).arg("start"));
        if let Err(ClusterError::Program { program, output }) = result {
            let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return Err(ClusterError::Program { program, output: format!("{output}\n{}", tail.join("\n")) });
        }
        self.running = result.is_ok();
        result
    }

    /// Stops the server: `fast`, or `immediate` as after a power cut.
    ///
    /// # Errors
    /// `pg_ctl` failed.
    pub fn stop_server(&mut self, mode: &str) -> Result<(), ClusterError> {
        self.running = false;
        run(self.pg_ctl().args(["-w", "-t", "60", "-m", mode, "stop"]))
    }

    fn pg_ctl(&self) -> Command {
        let mut command = self.run_as.command(&self.binaries.program("pg_ctl"));
        command.arg("-D").arg(self.home.path().join("data"));
        command
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.binaries.major
    }

    /// The directory of data, socket and log.
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// A URL for a database of this cluster.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running
            && let Err(error) = self.stop_server("immediate")
        {
            tracing::warn!(error = %error, "the cluster did not stop");
        }
    }
}

fn make_home(options: &ClusterOptions) -> Result<Home, ClusterError> {
    let system = |error: std::io::Error| ClusterError::System(error.to_string());
    let home = match &options.directory {
        Some(path) => {
            std::fs::create_dir_all(path).map_err(|error| ClusterError::System(format!("{}: {error}", path.display())))?;
            Home::Kept(path.canonicalize().map_err(system)?)
        }
        // Under /tmp whatever TMPDIR says: a Unix socket's path is limited to 107 bytes.
        None => Home::Temporary(tempfile::Builder::new().prefix("lockstep-").tempdir_in("/tmp").map_err(system)?),
    };
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).map_err(system)?;
    Ok(home)
}

fn initialise(binaries: &Binaries, run_as: RunAs, data: &Path) -> Result<(), ClusterError> {
    run(run_as.command(&binaries.program("initdb")).arg("-D").arg(data).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]))
}

/// Writes a file that only the server's user can read, as it insists for private keys.
fn write_private(path: &Path, content: &str, run_as: RunAs) -> Result<(), ClusterError> {
    let system = |error: std::io::Error| ClusterError::System(format!("{}: {error}", path.display()));
    std::fs::write(path, content).map_err(system)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
    run_as.own(path).map_err(ClusterError::System)
}

fn free_port() -> Result<u16, ClusterError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| ClusterError::System(error.to_string()))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| ClusterError::System(error.to_string()))
}

fn run(command: &mut Command) -> Result<(), ClusterError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| ClusterError::Program { program: program.clone(), output: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(ClusterError::Program { program, output: String::from_utf8_lossy(&text).trim().to_owned() })
}
