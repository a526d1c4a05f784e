//! One GET after the other over one connection.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// No answer is larger.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// A connection that is kept.
pub(crate) struct Client {
    stream: TcpStream,
    /// What has been read and not been used.
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// The body of an answer; none if it is that the server could not in time.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.take(end + 4);
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer does not say how long it is")?.trim().parse()?;
        while self.buffer.len() < length {
            self.more().await?;
        }
        let body = self.take(length);
        if head.starts_with("http/1.1 504") || head.starts_with("http/1.1 503") {
            return Ok(None);
        }
        if !head.starts_with("http/1.1 200") {
            bail!("{path}: {}\n{}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body));
        }
        Ok(Some(body))
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 || self.buffer.len() > ANSWER_MAX {
            bail!("the answer ends in the middle, or does not end");
        }
        Ok(())
    }
}
