//! The streaming state: WAL in, status updates out.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use postgres_protocol::message::frontend::CopyData;

use super::wire::Wire;
use crate::{Lsn, ReplicationError};

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const POSTGRES_EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// What the walsender sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A logical replication message.
    Data {
        /// The position that the message belongs to.
        wal_lsn: Lsn,
        /// The pgoutput message.
        data: Bytes,
    },
    /// Everything up to `wal_end` has been sent.
    Keepalive {
        /// The position up to which the walsender has decoded and sent.
        wal_end: Lsn,
        /// Whether it wants a status update now.
        reply_requested: bool,
    },
}

/// A connection in `CopyBoth` mode.
pub struct ReplicationStream {
    wire: Wire,
}

impl ReplicationStream {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire }
    }

    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or the server ended the stream and says why.
    pub async fn next(&mut self) -> Result<Frame, ReplicationError> {
        loop {
            let message = self.wire.receive().await?;
            match message.tag {
                b'd' => return frame(message.body),
                b'N' | b'S' => {}
                // CopyDone: the server is shutting down.
                b'c' => return Err(ReplicationError::Io(std::io::ErrorKind::ConnectionAborted.into())),
                _ => return Err(message.into_error()),
            }
        }
    }

    /// Tells the walsender how far we are. Only `flushed` moves a logical slot; with [`Lsn::ZERO`] for both it stays, and this stream is
    /// no candidate for a synchronous standby.
    ///
    /// With `reply_requested` the walsender answers with its position, in order, behind everything it has sent.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_status(&mut self, received: Lsn, flushed: Lsn, reply_requested: bool) -> Result<(), ReplicationError> {
        let mut payload = BytesMut::with_capacity(34);
        payload.put_u8(b'r');
        payload.put_u64(received.0);
        payload.put_u64(flushed.0);
        payload.put_u64(flushed.0);
        payload.put_i64(now_microseconds());
        payload.put_u8(u8::from(reply_requested));
        self.wire
            .send(|buffer| {
                CopyData::new(payload.freeze())?.write(buffer);
                Ok(())
            })
            .await
    }
}

fn frame(mut body: Bytes) -> Result<Frame, ReplicationError> {
    let short = || ReplicationError::Protocol("a replication frame is cut short".to_owned());
    match body.try_get_u8().map_err(|_| short())? {
        b'w' if body.len() >= 24 => {
            let wal_lsn = Lsn(body.get_u64());
            // The walsender's end and clock: the end of a logical stream's data repeats its start.
            body.advance(16);
            Ok(Frame::Data { wal_lsn, data: body })
        }
        b'k' if body.len() == 17 => {
            let wal_end = Lsn(body.get_u64());
            body.advance(8);
            Ok(Frame::Keepalive { wal_end, reply_requested: body.get_u8() == 1 })
        }
        b'w' | b'k' => Err(short()),
        tag => Err(ReplicationError::Protocol(format!("replication frame '{}'", tag.escape_ascii()))),
    }
}

fn now_microseconds() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros());
    i64::try_from(since_1970).unwrap_or(i64::MAX) - POSTGRES_EPOCH_MICROSECONDS
}
