//! The replication connection: log in, create a slot, stream.
//!
//! Two states, two types: [`ReplicationConnection`] answers commands; [`ReplicationStream`] is in `CopyBoth` mode.

mod login;
mod stream;
mod wire;

use lockstep_connect::{
    Candidate, ErrorClass, LoggedIn, Login, ReadBack, SQL_ASCII, ServerIdentity, Settings, Transport, establish,
};
use postgres_protocol::message::frontend;

use crate::{Lsn, ReplicationError};
pub use login::APPLICATION_NAME;
pub use stream::{Frame, ReplicationStream};
use wire::{Backend, TextRow, Wire};

/// What `IDENTIFY_SYSTEM` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Identifies the cluster through its life.
    pub system_identifier: String,
    /// Grows with every failover or point-in-time recovery.
    pub timeline: u32,
    /// The current flush position.
    pub flushed_lsn: Lsn,
}

impl SystemIdentity {
    /// What stays the same while it is one server and one history.
    pub fn identity(&self) -> ServerIdentity {
        ServerIdentity { system_identifier: self.system_identifier.clone(), timeline: self.timeline }
    }
}

/// A slot that was just created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Every transaction that commits after this position is decoded.
    pub consistent_lsn: Lsn,
}

/// A logged-in replication connection that is not streaming.
pub struct ReplicationConnection {
    wire: Wire,
}

impl ReplicationConnection {
    /// Connects with `replication=database` and logs in.
    ///
    /// # Errors
    /// The server is unreachable, refuses the login, or is not PostgreSQL (a pooler, for example, refuses `replication`).
    pub async fn open(settings: &Settings) -> Result<Self, ReplicationError> {
        let (connection, _) = Box::pin(establish(settings, &ReplicationLogin)).await?;
        Ok(connection)
    }

    /// Reads the pinned settings back.
    async fn settle(&mut self, to: &Candidate, server_version: Option<&str>) -> Result<(), ReplicationError> {
        let read_back = ReadBack::new(to.endpoint().to_string(), server_version, to.given_options());
        let row = self.single_row(&read_back.statement()).await?;
        if let Some(then) = read_back.settled(&row)?.then {
            self.single_row(&then).await?;
        }
        Ok(())
    }

    /// Asks for texts as the database has them, in its own encoding: what has no place in UTF-8, or no encoding, would end the stream.
    ///
    /// # Errors
    /// See [`ReplicationError`].
    pub async fn convert_nothing(&mut self) -> Result<(), ReplicationError> {
        self.single_row(&format!("SELECT pg_catalog.set_config('client_encoding', '{SQL_ASCII}', false)")).await.map(drop)
    }

    /// Who the server is.
    ///
    /// # Errors
    /// See [`ReplicationError`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let row = self.single_row("IDENTIFY_SYSTEM").await?;
        let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        Ok(SystemIdentity {
            system_identifier: field(0),
            timeline: field(1).parse().map_err(|_| unexpected("timeline"))?,
            flushed_lsn: field(2).parse().map_err(|_| unexpected("position"))?,
        })
    }

    /// Everything before this position is confirmed to a slot; `None` if there is no such slot, or it has no position.
    ///
    /// # Errors
    /// See [`ReplicationError`].
    pub async fn confirmed_position(&mut self, slot: &str) -> Result<Option<Lsn>, ReplicationError> {
        let name = slot.replace('\'', "''");
        let command =
            format!("SELECT (SELECT confirmed_flush_lsn::text FROM pg_catalog.pg_replication_slots WHERE slot_name = '{name}')");
        let row = self.single_row(&command).await?;
        Ok(row.first().cloned().flatten().and_then(|text| text.parse().ok()))
    }

    /// The value of `synchronous_standby_names`.
    ///
    /// # Errors
    /// See [`ReplicationError`].
    pub async fn standby_names(&mut self) -> Result<String, ReplicationError> {
        Ok(self.single_row("SHOW synchronous_standby_names").await?.first().cloned().flatten().unwrap_or_default())
    }

    /// Creates a permanent logical slot for pgoutput. Waits for the transactions that run on the server now.
    ///
    /// The unparenthesised options are the form that PostgreSQL 14 understands, and 15–18 still do.
    ///
    /// # Errors
    /// No privilege, no free slot, `wal_level` too low, or the name is taken (SQLSTATE 42710).
    pub async fn create_slot(&mut self, slot: &str) -> Result<CreatedSlot, ReplicationError> {
        let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", quote_identifier(slot));
        let row = self.single_row(&command).await?;
        let position = row.get(1).cloned().flatten().unwrap_or_default();
        Ok(CreatedSlot { consistent_lsn: position.parse().map_err(|_| unexpected("consistent point"))? })
    }

    /// Starts streaming from `start` (the server moves a start before the slot's confirmed position forward to it).
    ///
    /// # Errors
    /// The slot is in use (SQLSTATE 55006), gone (42704) or invalidated (55000), or the publication is missing.
    pub async fn start(mut self, slot: &str, publication: &str, start: Lsn) -> Result<ReplicationStream, ReplicationError> {
        let publication_list = quote_identifier(publication).replace('\'', "''");
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {start} (proto_version '1', publication_names '{publication_list}')",
            quote_identifier(slot)
        );
        self.wire.send(|buffer| frontend::query(&command, buffer)).await?;
        loop {
            match self.wire.receive().await? {
                Backend { tag: b'W', .. } => return Ok(ReplicationStream::new(self.wire)),
                Backend { tag: b'N' | b'S', .. } => {}
                other => return Err(other.into_error()),
            }
        }
    }

    async fn single_row(&mut self, command: &str) -> Result<TextRow, ReplicationError> {
        self.wire.send(|buffer| frontend::query(command, buffer)).await?;
        let mut row = None;
        let mut failure = None;
        loop {
            let message = self.wire.receive().await?;
            match message.tag {
                b'D' => row = Some(message.data_row()?),
                b'E' => failure = Some(message.into_error()),
                b'Z' => break,
                b'T' | b'C' | b'N' | b'S' => {}
                _ => return Err(message.into_error()),
            }
        }
        match (failure, row) {
            (Some(error), _) => Err(error),
            (None, Some(row)) => Ok(row),
            (None, None) => Err(ReplicationError::Protocol(format!("{command} returned no row"))),
        }
    }
}

/// How a replication connection logs in.
struct ReplicationLogin;

impl Login for ReplicationLogin {
    type Opened = ReplicationConnection;
    type Error = ReplicationError;

    async fn login(&self, transport: Transport, to: &Candidate) -> Result<LoggedIn<ReplicationConnection>, ReplicationError> {
        let mut wire = Wire::new(transport.stream);
        let said =
            login::login(&mut wire, to, transport.server_end_point).await.map_err(|error| error.of_pooler(&to.endpoint()))?;
        let mut connection = ReplicationConnection { wire };
        connection.settle(to, said.version.as_deref()).await?;
        if said.encoding.as_deref() == Some(SQL_ASCII) {
            connection.convert_nothing().await?;
        }
        Ok(LoggedIn { opened: connection, in_hot_standby: said.in_hot_standby })
    }

    fn class(error: &ReplicationError) -> ErrorClass {
        error.class()
    }

    fn tries_next(error: &ReplicationError) -> bool {
        error.tries_next()
    }
}

fn unexpected(what: &str) -> ReplicationError {
    ReplicationError::Protocol(format!("the {what} is unreadable"))
}

/// Double-quotes a name for a replication command.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
