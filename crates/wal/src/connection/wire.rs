//! Messages over the byte stream: one buffer each way, frames cut by hand (`Message::parse` of postgres-protocol rejects
//! `CopyBothResponse`, and copies).

use bytes::{Buf as _, Bytes, BytesMut};
use lockstep_connect::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ReplicationError;

/// A row of a command's answer, as text.
pub(super) type TextRow = Vec<Option<String>>;

/// A message longer than this is not one that a walsender sends (a row is limited to 1 GiB).
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// A read buffer that grew beyond this for one large message is given back afterwards.
const BUFFER_KEEP_BYTES: usize = 1024 * 1024;

pub(super) struct Wire {
    stream: Stream,
    incoming: BytesMut,
    outgoing: BytesMut,
}

/// A backend message: its tag and its body.
pub(super) struct Backend {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, incoming: BytesMut::with_capacity(READ_BYTES), outgoing: BytesMut::new() }
    }

    /// Encodes and sends one message.
    pub(super) async fn send(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), ReplicationError> {
        encode(&mut self.outgoing)?;
        self.stream.write_all_buf(&mut self.outgoing).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The next message. Cancel-safe: a message is taken from the buffer only when it is complete.
    pub(super) async fn receive(&mut self) -> Result<Backend, ReplicationError> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(message);
            }
            if self.incoming.is_empty() && self.incoming.capacity() > BUFFER_KEEP_BYTES {
                self.incoming = BytesMut::with_capacity(READ_BYTES);
            }
            self.incoming.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(ReplicationError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Backend>, ReplicationError> {
        let Some((&[tag, a, b, c, d], _)) = self.incoming.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(ReplicationError::Protocol(format!("a message of {length} bytes; is this PostgreSQL?")));
        }
        if self.incoming.len() < length + 1 {
            self.incoming.reserve(length + 1 - self.incoming.len());
            return Ok(None);
        }
        let mut message = self.incoming.split_to(length + 1);
        message.advance(5);
        Ok(Some(Backend { tag, body: message.freeze() }))
    }
}

impl Backend {
    /// The error that this message reports or, being none that was expected, is.
    pub(super) fn into_error(self) -> ReplicationError {
        if self.tag != b'E' {
            return ReplicationError::Protocol(format!("message '{}'", self.tag.escape_ascii()));
        }
        let mut sqlstate = String::new();
        let mut message = String::new();
        let mut hint = None;
        for field in self.body.split(|&byte| byte == 0) {
            let [code, text @ ..] = field else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match code {
                b'C' => sqlstate = text,
                b'M' => message = text,
                b'H' => hint = Some(text),
                _ => {}
            }
        }
        ReplicationError::Server { sqlstate, message, hint }
    }

    /// The value of a `ParameterStatus`, if it is of this parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let mut fields = self.body.split(|&byte| byte == 0);
        (fields.next() == Some(name.as_bytes()))
            .then(|| fields.next().map(|value| String::from_utf8_lossy(value).into_owned()))
            .flatten()
    }

    /// Decodes a `DataRow` of text columns.
    pub(super) fn data_row(self) -> Result<TextRow, ReplicationError> {
        let short = || ReplicationError::Protocol("a row is cut short".to_owned());
        let mut body = self.body;
        let count = body.try_get_u16().map_err(|_| short())?;
        (0..count)
            .map(|_| {
                let length = body.try_get_i32().map_err(|_| short())?;
                let Ok(length) = usize::try_from(length) else { return Ok(None) };
                if body.len() < length {
                    return Err(short());
                }
                Ok(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()))
            })
            .collect()
    }
}
