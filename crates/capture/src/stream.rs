//! The task that reads the replication stream.
//!
//! It decodes, collects the identities of one transaction at a time, hands them to the groups at its commit, and answers the
//! walsender. It reconnects by itself; what it cannot mend (the slot is gone) it reports and ends.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_connect::{ErrorClass, ServerIdentity, Settings};
use lockstep_wal::pgoutput::{self, Message, Tuple};
use lockstep_wal::{Frame, Lsn, ReplicationConnection, ReplicationError, ReplicationStream};

use crate::dirty::{Commit, DirtyKeys, DirtyRelations};
use crate::keys::KeySet;
use crate::layout::{Announced, Layout};
use crate::repeats::Repeats;
use crate::shared::{CaptureStatus, Followed, Shared, StreamEnd};
use crate::standby::{ADVANCE_BYTES, ADVANCE_EVERY, advance};
use crate::tracked::Tracked;
use tokio::sync::watch;

/// Status updates go out at least this often; `wal_sender_timeout` is 60 s by default, and 3 s at its usual minimum.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// First and largest pause between connection attempts.
const BACKOFF_MILLISECONDS: std::ops::RangeInclusive<u64> = 100..=30_000;

/// The walsender answers our status updates; a connection that stays silent for so long is dead.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// What the stream task needs to know.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// The source.
    pub source: Settings,
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The relations to follow.
    pub tracked: Vec<Tracked>,
    /// The source's identifier and timeline.
    pub identity: ServerIdentity,
    /// Where the slot was when we set up.
    pub slot_lsn: Option<Lsn>,
}

/// Runs until the task is aborted or capture cannot go on.
pub(crate) async fn run(settings: StreamSettings, shared: Arc<Shared>) {
    let mut backoff = *BACKOFF_MILLISECONDS.start();
    let mut told = String::new();
    let mut repeats = Repeats::default();
    let mut texts = Texts::Converted;
    loop {
        let started = Instant::now();
        let Err(error) = stream_once(&settings, &shared, texts).await;
        if let StreamError::Advance(to) = error {
            move_slot(&settings, &shared, to).await;
            continue;
        }
        if matches!(&error, StreamError::Replication(error) if error.is_about_encoding()) && texts == Texts::Converted {
            tracing::warn!(
                error = %error,
                "a key cannot be converted to UTF-8; from here on tables whose keys are not ASCII are refreshed as a whole when they change"
            );
            texts = Texts::AsTheyAre;
            continue;
        }
        let stuck = shared.streams() && repeats.is_stuck(sqlstate(&error), shared.last_commit());
        match class(&error) {
            ErrorClass::Transient if !stuck => {
                if started.elapsed() > Duration::from_secs(10) {
                    backoff = *BACKOFF_MILLISECONDS.start();
                    told.clear();
                }
                // Full jitter, so that several instances do not knock in step.
                let pause = Duration::from_millis(rand::random_range(backoff / 2..=backoff));
                let now = error.to_string();
                // One line for each change of state: what has been said goes on.
                if now == told {
                    tracing::debug!(error = now, retry_in = ?pause, "reconnecting");
                } else {
                    tracing::warn!(error = now, retry_in = ?pause, "the replication stream broke; reconnecting");
                    told.clone_from(&now);
                }
                shared.set_status(CaptureStatus::Reconnecting(now));
                metrics::counter!("lockstep_errors_total", "class" => "transient").increment(1);
                tokio::time::sleep(pause).await;
                backoff = (backoff * 2).min(*BACKOFF_MILLISECONDS.end());
            }
            ErrorClass::Transient | ErrorClass::Definite => {
                let after = shared.positions().0;
                tracing::error!(error = %error, %after, "the replication stream ended");
                let (reason, sqlstate) = (error.to_string(), sqlstate(&error).map(str::to_owned));
                shared.set_status(CaptureStatus::Ended(StreamEnd { reason, sqlstate, after, last_commit: shared.last_commit() }));
                return;
            }
        }
    }
}

/// Errors that cure themselves, beyond what the connection itself knows: none of the decoder's do.
fn class(error: &StreamError) -> ErrorClass {
    match error {
        // A rotated password, a certificate that has run out: what is there is served, and it is tried until somebody has mended it.
        StreamError::Replication(error) if error.refuses_login() => ErrorClass::Transient,
        StreamError::Replication(error) => error.class(),
        StreamError::Decode(_) | StreamError::AnotherSource(_) | StreamError::AnotherSlot(_) => ErrorClass::Definite,
        StreamError::Restart | StreamError::Silent | StreamError::Advance(_) => ErrorClass::Transient,
    }
}

fn sqlstate(error: &StreamError) -> Option<&str> {
    match error {
        StreamError::Replication(error) => error.sqlstate(),
        StreamError::Decode(_)
        | StreamError::AnotherSource(_)
        | StreamError::AnotherSlot(_)
        | StreamError::Restart
        | StreamError::Silent
        | StreamError::Advance(_) => None,
    }
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    #[error("the target was lost; its last batches are read again")]
    Restart,
    /// Not an error: we stand aside, and the slot can be moved only while nobody streams from it.
    #[error("the slot is moved to {0}")]
    Advance(Lsn),
    #[error("nothing was heard from the server for {SILENCE_MAX:?}")]
    Silent,
    #[error("the source is not what it was: {0}")]
    AnotherSource(String),
    #[error("the replication slot is not ours: {0}")]
    AnotherSlot(String),
    #[error("the stream cannot be decoded: {0}")]
    Decode(#[from] pgoutput::DecodeError),
}

async fn stream_once(settings: &StreamSettings, shared: &Shared, texts: Texts) -> Result<std::convert::Infallible, StreamError> {
    let mut connection = ReplicationConnection::open(&settings.source).await?;
    refuse_another_source(settings, shared, &mut connection).await?;
    if texts == Texts::AsTheyAre {
        connection.convert_nothing().await?;
    }
    shared.note_standby_names(&connection.standby_names().await?);
    // Position 0: the server starts at the slot's confirmed position, which it alone knows for sure.
    let mut stream = connection.start(&settings.slot, &settings.publication, Lsn::ZERO).await?;
    let number = shared.begin_stream();
    shared.set_status(CaptureStatus::Streaming);
    tracing::info!(slot = settings.slot, "streaming");
    let mut decoder = Decoder::new(shared.followed(), shared.keys_max(), texts);
    let began = Instant::now();
    let mut ticker = tokio::time::interval(STATUS_INTERVAL);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            frame = tokio::time::timeout(SILENCE_MAX, stream.next()) => match frame.map_err(|_| StreamError::Silent)?? {
                Frame::Data { data, .. } => decoder.message(&data, number, shared)?,
                Frame::Keepalive { wal_end, reply_requested } => {
                    // Inside a transaction the position belongs to what was sent, not to what we have finished.
                    if !decoder.in_transaction() {
                        shared.received_up_to(number, wal_end);
                    }
                    if reply_requested {
                        send_status(&mut stream, shared, false).await?;
                    }
                }
            },
            () = shared.position_wanted() => send_status(&mut stream, shared, true).await?,
            // Asking for an answer keeps the position, and with it the staleness of an idle group, up to date.
            _ = ticker.tick() => {
                send_status(&mut stream, shared, true).await?;
                if let Some(to) = slot_to_move(shared, began) {
                    return Err(StreamError::Advance(to));
                }
            }
            () = shared.restart_wanted() => return Err(StreamError::Restart),
        }
    }
}

/// A source that was restored, or a slot that was made anew under our name, goes on where we have not been: what lies between would be
/// missing for ever.
async fn refuse_another_source(
    settings: &StreamSettings,
    shared: &Shared,
    connection: &mut ReplicationConnection,
) -> Result<(), StreamError> {
    let found = connection.identify_system().await?;
    let ServerIdentity { system_identifier, timeline } = &settings.identity;
    if (&found.system_identifier, &found.timeline) != (system_identifier, timeline) {
        return Err(StreamError::AnotherSource(format!(
            "it was system {system_identifier} on timeline {timeline}, and is system {} on timeline {}",
            found.system_identifier, found.timeline
        )));
    }
    let (received, confirmed) = shared.positions();
    // Before anything is confirmed, it is where it was found.
    let ours = if confirmed > Lsn::ZERO { confirmed } else { settings.slot_lsn.unwrap_or_default() };
    if found.flushed_lsn < received {
        return Err(StreamError::AnotherSource(format!(
            "its position {} is before {received}, which it sent us",
            found.flushed_lsn
        )));
    }
    match connection.confirmed_position(&settings.slot).await? {
        Some(confirmed) if confirmed > ours && ours > Lsn::ZERO => {
            Err(StreamError::AnotherSlot(format!("{} is at {confirmed}, and was at {ours}", settings.slot)))
        }
        Some(_) | None => Ok(()),
    }
}

/// Where the slot is to be moved, if it is time. Never a position reported for a moment: it could release commits that no standby has.
fn slot_to_move(shared: &Shared, began: Instant) -> Option<Lsn> {
    if !shared.aside() {
        return None;
    }
    let (_, confirmed) = shared.positions();
    let (_, confirmable) = shared.positions_to_report();
    // Before anything is confirmed the slot is somewhere else.
    let much = confirmed > Lsn::ZERO && confirmable.bytes_since(confirmed) >= ADVANCE_BYTES;
    (confirmable > confirmed && (much || began.elapsed() >= ADVANCE_EVERY)).then_some(confirmable)
}

async fn move_slot(settings: &StreamSettings, shared: &Shared, to: Lsn) {
    match advance(&settings.source, &settings.slot, to).await {
        Ok(reached) => shared.set_confirmed(reached),
        // The slot stays where it was, which loses nothing; the next stream says more.
        Err(error) => tracing::warn!(error, "the slot cannot be moved"),
    }
}

async fn send_status(stream: &mut ReplicationStream, shared: &Shared, reply_requested: bool) -> Result<(), StreamError> {
    if shared.aside() {
        return Ok(stream.send_status(Lsn::ZERO, Lsn::ZERO, reply_requested).await?);
    }
    let (received, confirmed) = shared.positions_to_report();
    stream.send_status(received, confirmed, reply_requested).await?;
    shared.set_confirmed(confirmed);
    Ok(())
}

/// How keys are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Texts {
    /// In the encoding of the sessions that look for them.
    Converted,
    /// In the database's own encoding, because some key cannot be converted: those that are not ASCII say nothing to our sessions.
    AsTheyAre,
}

impl Texts {
    fn tell(self, key: &[&[u8]]) -> bool {
        self == Self::Converted || key.iter().all(|field| field.is_ascii())
    }
}

/// Collects one transaction's keys.
struct Decoder {
    followed: watch::Receiver<Followed>,
    keys_max: usize,
    texts: Texts,
    announced: HashMap<u32, Announced>,
    layouts: HashMap<u32, Layout>,
    xid: Option<u32>,
    commit_time: i64,
    relations: DirtyRelations,
    changes: HashMap<u32, u64>,
}

impl Decoder {
    fn new(followed: watch::Receiver<Followed>, keys_max: usize, texts: Texts) -> Self {
        Self {
            followed,
            keys_max,
            texts,
            announced: HashMap::new(),
            layouts: HashMap::new(),
            xid: None,
            commit_time: 0,
            relations: HashMap::new(),
            changes: HashMap::new(),
        }
    }

    fn in_transaction(&self) -> bool {
        self.xid.is_some()
    }

    fn message(&mut self, data: &[u8], stream: u64, shared: &Shared) -> Result<(), pgoutput::DecodeError> {
        match pgoutput::decode(data)? {
            Message::Begin { xid, commit_time, .. } => {
                if self.followed.has_changed().unwrap_or(false) {
                    self.lay_out_all();
                }
                self.xid = Some(xid);
                self.commit_time = commit_time;
                self.relations.clear();
            }
            Message::Commit { commit_lsn, end_lsn, .. } => self.commit(commit_lsn, end_lsn, stream, shared),
            Message::Relation(relation) => {
                let columns = relation.columns.iter().map(|column| (column.name.to_owned(), column.in_identity)).collect();
                self.announced.insert(relation.oid, columns);
                self.lay_out(relation.oid);
            }
            Message::Insert { relation, new } => self.row(relation, None, Some(&new)),
            Message::Update { relation, old, new } => self.row(relation, old.as_ref(), Some(&new)),
            Message::Delete { relation, old } => self.row(relation, Some(&old), None),
            Message::Truncate { relations } => {
                for oid in relations {
                    if self.layouts.contains_key(&oid) {
                        *self.changes.entry(oid).or_default() += 1;
                        self.relations.insert(oid, DirtyKeys::Whole);
                    }
                }
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {}
        }
        Ok(())
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, stream: u64, shared: &Shared) {
        if let Some(xid) = self.xid.take() {
            let commit = Commit { commit_time: self.commit_time, received_at: Instant::now() };
            shared.add(stream, xid, commit_lsn, commit, &self.relations);
        }
        for (oid, count) in self.changes.drain() {
            if let Some(layout) = self.layouts.get(&oid) {
                metrics::counter!("lockstep_changes_total", "relation" => layout.label.clone()).increment(count);
            }
        }
        self.relations = HashMap::new();
        shared.received_up_to(stream, end_lsn);
    }

    /// The relations that are followed have changed.
    fn lay_out_all(&mut self) {
        self.followed.mark_unchanged();
        self.layouts.clear();
        let announced: Vec<u32> = self.announced.keys().copied().collect();
        for oid in announced {
            self.lay_out(oid);
        }
    }

    fn lay_out(&mut self, oid: u32) {
        let followed = self.followed.borrow();
        // A relation that nobody reads: somebody else's table in a publication FOR ALL TABLES.
        let (Some(tracked), Some(columns)) = (followed.get(&oid), self.announced.get(&oid)) else { return };
        self.layouts.insert(oid, Layout::new(tracked, columns));
    }

    fn row(&mut self, oid: u32, old: Option<&Tuple<'_>>, new: Option<&Tuple<'_>>) {
        let Some(layout) = self.layouts.get(&oid) else { return };
        *self.changes.entry(oid).or_default() += 1;
        let dirty = self
            .relations
            .entry(oid)
            .or_insert_with(|| layout.key_columns().map_or(DirtyKeys::Whole, |columns| DirtyKeys::Keys(KeySet::new(columns))));
        let DirtyKeys::Keys(keys) = &mut *dirty else { return };
        let kept = [old.map(|tuple| layout.key(tuple, None)), new.map(|tuple| layout.key(tuple, old))]
            .into_iter()
            .flatten()
            .all(|key| key.is_some_and(|key| insert(keys, &key, self.texts)));
        if !kept || keys.weight() > self.keys_max {
            *dirty = DirtyKeys::Whole;
        }
    }
}

/// Adds a key; false if it says nothing, or there is no room.
fn insert(keys: &mut KeySet, key: &[Cow<'_, [u8]>], texts: Texts) -> bool {
    let fields: Vec<&[u8]> = key.iter().map(AsRef::as_ref).collect();
    fields.len() == keys.columns() && texts.tell(&fields) && keys.insert(&fields)
}
