//! Something between us and a server: a stand-in for poolers and for servers that do not answer.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// `SSLRequest` and `GSSENCRequest` (PostgreSQL's protocol documentation, message formats).
const ENCRYPTION_REQUESTS: [u32; 2] = [80_877_103, 80_877_104];

/// What it does with each connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Interposing {
    /// Takes `options` out of the start-up message.
    DropOptions,
    /// Refuses the start-up with SQLSTATE 08P01 and this message.
    Refuse(&'static str),
    /// Accepts, and says nothing.
    SayNothing,
}

/// Listens on a port of its own while it lives.
pub(crate) struct Interposed {
    port: u16,
    task: JoinHandle<()>,
}

impl Interposed {
    pub(crate) async fn start(server_port: u16, interposing: Interposing) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server_port, interposing));
            }
        });
        Ok(Self { port, task })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Interposed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, server_port: u16, interposing: Interposing) -> anyhow::Result<()> {
    if matches!(interposing, Interposing::SayNothing) {
        return std::future::pending().await;
    }
    let mut packet = start_packet(&mut client).await?;
    while ENCRYPTION_REQUESTS.contains(&code(&packet)) {
        client.write_all(b"N").await?;
        packet = start_packet(&mut client).await?;
    }
    let mut server = TcpStream::connect(("127.0.0.1", server_port)).await?;
    match interposing {
        Interposing::DropOptions => server.write_all(&without_options(&packet)).await?,
        Interposing::Refuse(message) => {
            let mut body = format!("SFATAL\0C08P01\0M{message}\0").into_bytes();
            body.push(0);
            client.write_all(b"E").await?;
            client.write_all(&u32::try_from(body.len() + 4)?.to_be_bytes()).await?;
            client.write_all(&body).await?;
            return Ok(());
        }
        Interposing::SayNothing => {}
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// A message without a tag, its length included.
pub(crate) async fn start_packet(client: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let length = client.read_u32().await?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.resize(length as usize, 0);
    client.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

fn code(packet: &[u8]) -> u32 {
    packet[4..].first_chunk::<4>().map_or(0, |code| u32::from_be_bytes(*code))
}

fn without_options(packet: &[u8]) -> Vec<u8> {
    let texts: Vec<&[u8]> = packet[8..].split(|&byte| byte == 0).collect();
    let pairs: HashMap<&[u8], &[u8]> = texts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    // A cancellation has no parameters.
    if !pairs.contains_key(b"user".as_slice()) {
        return packet.to_vec();
    }
    let mut body = packet[4..8].to_vec();
    for (name, value) in pairs.into_iter().filter(|(name, _)| !name.is_empty() && *name != b"options") {
        body.extend([name, b"\0", value, b"\0"].concat());
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or_default();
    [length.to_be_bytes().as_slice(), &body].concat()
}
