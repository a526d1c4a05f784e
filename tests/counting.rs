//! Something between us and a server that counts what each kind of session asks for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::interposed::start_packet;

/// What sessions of one name have asked for, by the statement's text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// How often each was run.
    pub(crate) run: BTreeMap<String, u64>,
    /// How often each was parsed.
    pub(crate) parsed: BTreeMap<String, u64>,
    /// Messages that were sent when every earlier one had been answered: round trips, by their first statement.
    pub(crate) trips: BTreeMap<String, u64>,
    /// Bytes that were sent.
    pub(crate) bytes: u64,
}

impl Asked {
    /// What has been asked for since.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let less = |now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>| {
            let counts = now.iter().map(|(text, count)| (text.clone(), count - then.get(text).copied().unwrap_or_default()));
            counts.filter(|(_, count)| *count > 0).collect()
        };
        Self {
            run: less(&self.run, &earlier.run),
            parsed: less(&self.parsed, &earlier.parsed),
            trips: less(&self.trips, &earlier.trips),
            bytes: self.bytes - earlier.bytes,
        }
    }
}

type Tally = Arc<Mutex<HashMap<String, Asked>>>;

/// Listens on a port of its own while it lives.
pub(crate) struct Counting {
    pub(crate) port: u16,
    tally: Tally,
    task: JoinHandle<()>,
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Counting {
    pub(crate) async fn start(server_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let tally = Tally::default();
        let shared = tally.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server_port, shared.clone()));
            }
        });
        Ok(Self { port, tally, task })
    }

    /// What sessions of this application name have asked for.
    pub(crate) fn of(&self, application_name: &str) -> Asked {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.get(application_name).cloned().unwrap_or_default()
    }
}

async fn serve(mut client: TcpStream, server_port: u16, tally: Tally) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let mut packet = start_packet(&mut client).await?;
    // SSLRequest and GSSENCRequest are eight bytes; so is nothing that is served.
    while packet.len() == 8 {
        client.write_all(b"N").await?;
        packet = start_packet(&mut client).await?;
    }
    let texts: Vec<String> =
        packet[8..].split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let name = texts.iter().position(|text| text == "application_name").and_then(|at| texts.get(at + 1)).cloned();
    let mut server = TcpStream::connect(("127.0.0.1", server_port)).await?;
    server.set_nodelay(true)?;
    server.write_all(&packet).await?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The answers to the start end in one that nobody has asked for.
    let outstanding = Arc::new(Mutex::new(1_i64));
    let answers = tokio::spawn(answer(from_server, to_client, outstanding.clone()));
    let asked = ask(from_client, to_server, &name.unwrap_or_default(), &tally, &outstanding).await;
    answers.abort();
    asked
}

/// A message: its tag, and what follows its length.
async fn message(from: &mut OwnedReadHalf) -> anyhow::Result<(u8, Vec<u8>)> {
    let tag = from.read_u8().await?;
    let mut body = vec![0; (from.read_u32().await? as usize).saturating_sub(4)];
    from.read_exact(&mut body).await?;
    Ok((tag, body))
}

async fn send(to: &mut OwnedWriteHalf, tag: u8, body: &[u8]) -> anyhow::Result<()> {
    let length = u32::try_from(body.len() + 4)?.to_be_bytes();
    Ok(to.write_all(&[&[tag], length.as_slice(), body].concat()).await?)
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, outstanding: Arc<Mutex<i64>>) -> anyhow::Result<()> {
    loop {
        let (tag, body) = message(&mut from).await?;
        // ReadyForQuery; before it is passed on, so that what the client does with it comes later.
        if tag == b'Z' {
            *outstanding.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        }
        send(&mut to, tag, &body).await?;
    }
}

async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    name: &str,
    tally: &Tally,
    outstanding: &Mutex<i64>,
) -> anyhow::Result<()> {
    let mut session = Session::default();
    loop {
        let (tag, body) = message(&mut from).await?;
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            let mut outstanding = outstanding.lock().unwrap_or_else(PoisonError::into_inner);
            session.note(tag, &body, tally.entry(name.to_owned()).or_default(), &mut outstanding);
        }
        send(&mut to, tag, &body).await?;
    }
}

/// What is known of a session.
#[derive(Default)]
struct Session {
    /// The text of each prepared statement.
    prepared: HashMap<String, String>,
    /// Something has been sent since the last end of a request.
    begun: bool,
}

impl Session {
    /// Notes a message that is about to be sent; `outstanding` requests have not been answered.
    fn note(&mut self, tag: u8, body: &[u8], asked: &mut Asked, outstanding: &mut i64) {
        let mut parts = body.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        asked.bytes += body.len() as u64 + 5;
        let text = match tag {
            b'P' => {
                let (statement, sql) = (parts.next().unwrap_or_default(), beginning(&parts.next().unwrap_or_default()));
                *asked.parsed.entry(sql.clone()).or_default() += 1;
                self.prepared.insert(statement, sql.clone());
                Some(sql)
            }
            b'B' => {
                let sql = parts.nth(1).and_then(|statement| self.prepared.get(&statement).cloned()).unwrap_or_default();
                *asked.run.entry(sql.clone()).or_default() += 1;
                Some(sql)
            }
            b'Q' => {
                let sql = beginning(&parts.next().unwrap_or_default());
                *asked.run.entry(sql.clone()).or_default() += 1;
                Some(sql)
            }
            _ => None,
        };
        if let Some(text) = text {
            if *outstanding == 0 && !self.begun {
                *asked.trips.entry(text).or_default() += 1;
            }
            self.begun = true;
        }
        if matches!(tag, b'S' | b'Q') {
            *outstanding += 1;
            self.begun = false;
        }
    }
}

/// A statement on one line.
fn beginning(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}
