//! Following the feed of changes in the target: one session listens for all clients.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstep_connect::{Session, Settings};
use lockstep_plan::quote;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio_postgres::Client;

/// Events that a slow client may be behind; then it reads them from the table.
const BEHIND_MAX: usize = 256;

/// Rows of one look at the table.
const PAGE: i64 = 50;

/// A look at the table takes no longer: others wait for it.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Pause before another connection.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A change, as clients get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: i64,
    /// JSON.
    pub(super) data: String,
}

/// What clients are told.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// This.
    Event(Event),
    /// Look into the table: nobody listened until now.
    Look,
}

/// Who may be told, and up to where everybody has been.
struct Channel {
    events: broadcast::Sender<Told>,
    last: Option<i64>,
}

/// Tells clients what the feed says.
pub(super) struct Follower {
    settings: Settings,
    channels: Mutex<HashMap<String, Channel>>,
    /// For what clients have missed: one after the other, so that many that come at once do not take a session each.
    history: tokio::sync::Mutex<Option<Session>>,
    /// Names of projections that have changed.
    changed: broadcast::Sender<String>,
    /// The projections have changed.
    reconfigured: Notify,
}

/// What a client is to be told first.
pub(super) enum Backlog {
    /// These, which came after what it has seen; there may be more. None: it has seen everything.
    Events(Vec<Event>),
    /// What came in between has been forgotten: it must drop everything. The feed is here now.
    Forgotten(i64),
}

impl Follower {
    pub(super) fn new(settings: Settings) -> Self {
        let (changed, _) = broadcast::channel(BEHIND_MAX);
        Self {
            settings,
            channels: Mutex::default(),
            history: tokio::sync::Mutex::default(),
            changed,
            reconfigured: Notify::new(),
        }
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<String, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The projections that have a feed.
    pub(super) fn follow(&self, projections: impl Iterator<Item = String>) {
        let names: Vec<String> = projections.collect();
        let mut channels = self.channels();
        channels.retain(|name, _| names.contains(name));
        for name in names {
            channels.entry(name).or_insert_with(|| Channel { events: broadcast::channel(BEHIND_MAX).0, last: None });
        }
        self.reconfigured.notify_one();
    }

    /// What is to come; `None` if the projection has no feed.
    pub(super) fn subscribe(&self, projection: &str) -> Option<broadcast::Receiver<Told>> {
        self.channels().get(projection).map(|channel| channel.events.subscribe())
    }

    /// Tells how many clients there are.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn measure(&self) {
        for (name, channel) in self.channels().iter() {
            let clients = channel.events.receiver_count() as f64;
            metrics::gauge!("lockstep_feed_subscribers", "projection" => name.clone()).set(clients);
        }
    }

    /// Names of projections as they change.
    pub(super) fn changed(&self) -> broadcast::Receiver<String> {
        self.changed.subscribe()
    }

    /// What came after `since`.
    pub(super) async fn backlog(&self, projection: &str, since: i64) -> anyhow::Result<Backlog> {
        let mut kept = self.history.lock().await;
        let looked = tokio::time::timeout(LOOK_MAX, look(&self.settings, &mut kept, projection, since)).await;
        if !matches!(looked, Ok(Ok(_))) {
            // Whatever became of it, the next look begins anew.
            *kept = None;
        }
        looked.map_err(|_| anyhow::anyhow!("the target does not answer"))?
    }

    /// Listens, forever.
    pub(super) async fn run(self: std::sync::Arc<Self>) {
        loop {
            if self.channels().is_empty() {
                self.reconfigured.notified().await;
                continue;
            }
            if let Err(error) = self.listen().await {
                tracing::debug!(error = format!("{error:#}"), "the feed of changes");
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Listens until the session ends or the projections change.
    async fn listen(&self) -> anyhow::Result<()> {
        let (sender, mut notifications) = mpsc::unbounded_channel();
        let session = Session::open_listening(&self.settings, "lockstep feed", Some(sender)).await?;
        let known: bool = session.query_one("SELECT to_regclass('lockstep.forgotten') IS NOT NULL", &[]).await?.get(0);
        anyhow::ensure!(known, "nothing is set up yet");
        let names: Vec<String> = self.channels().keys().cloned().collect();
        for name in &names {
            session.batch_execute(&format!("LISTEN {}", quote::identifier(&format!("lockstep_{name}")))).await?;
        }
        // What came while nobody listened.
        for name in &names {
            self.tell(&session, name).await?;
        }
        loop {
            let notification = tokio::select! {
                notification = notifications.recv() => notification,
                () = self.reconfigured.notified() => return Ok(()),
            };
            let Some(notification) = notification else { anyhow::bail!("the session ended") };
            let Some(name) = notification.channel().strip_prefix("lockstep_") else { continue };
            self.tell(&session, name).await?;
            drop(self.changed.send(name.to_owned()));
        }
    }

    /// Tells what is new of a projection.
    async fn tell(&self, session: &Client, projection: &str) -> anyhow::Result<()> {
        let Some(last) = self.channels().get(projection).map(|channel| channel.last) else { return Ok(()) };
        let (forgotten, newest) = ends(session, projection).await?;
        // Where numbers begin again, Lockstep was set up anew or the target restored. Where more has been forgotten than was seen, nobody
        // was told in between.
        let (begins, mut last) = match (last, newest) {
            (Some(last), Some(newest)) if last > newest => (true, newest),
            (Some(last), _) if last < forgotten => (true, newest.unwrap_or(forgotten)),
            (Some(last), Some(_) | None) => (false, last),
            (None, newest) => (true, newest.unwrap_or(0)),
        };
        loop {
            let events = after(session, projection, last).await?;
            let mut channels = self.channels();
            let Some(channel) = channels.get_mut(projection) else { return Ok(()) };
            last = events.last().map_or(last, |event| event.id);
            channel.last = Some(last);
            if begins {
                drop(channel.events.send(Told::Look));
            }
            if events.is_empty() {
                return Ok(());
            }
            metrics::counter!("lockstep_feed_events_total", "projection" => projection.to_owned())
                .increment(u64::try_from(events.len()).unwrap_or(0));
            for event in events {
                // Without a client there is nobody to tell.
                drop(channel.events.send(Told::Event(event)));
            }
        }
    }
}

/// A page of what came after `since`, on the session that is kept.
async fn look(settings: &Settings, kept: &mut Option<Session>, projection: &str, since: i64) -> anyhow::Result<Backlog> {
    let session = match kept {
        Some(session) if !session.is_closed() => session,
        _ => kept.insert(Session::open(settings, "lockstep feed").await?),
    };
    // In this order: what is forgotten between the two looks is noticed.
    let events = after(session, projection, since).await?;
    let (forgotten, newest) = ends(session, projection).await?;
    let newest = newest.unwrap_or(forgotten);
    // Beyond the newest is an identity of another time: the target was restored.
    if since < forgotten || since > newest {
        return Ok(Backlog::Forgotten(newest));
    }
    Ok(Backlog::Events(events))
}

/// Up to where changes have been forgotten, and the newest.
async fn ends(client: &Client, projection: &str) -> Result<(i64, Option<i64>), tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT coalesce((SELECT id FROM lockstep.forgotten WHERE projection = $1), 0),
                    (SELECT max(id) FROM lockstep.change WHERE projection = $1)",
            &[&projection],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

async fn after(client: &Client, projection: &str, last: i64) -> Result<Vec<Event>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT id, json_build_object('projection', projection, 'lsn', lsn, 'rows', rows, 'keys', keys, 'at', at)::text
             FROM lockstep.change WHERE projection = $1 AND id > $2 ORDER BY id LIMIT $3",
            &[&projection, &last, &PAGE],
        )
        .await?;
    Ok(rows.iter().map(|row| Event { id: row.get(0), data: row.get(1) }).collect())
}
