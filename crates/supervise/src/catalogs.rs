//! Watching the source's catalogs: what is not told by the stream.

use std::time::Duration;

use lockstep_capture::{Coverage, Signature, coverage, signatures};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_preflight::{self as preflight, Depth, Preflight};
use lockstep_refresh::analysis::{Dependencies, meanings};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::setup::fingerprint::fingerprint;
use crate::setup::followed::named;

/// How often the followed tables, what the queries depend on and the publication are looked at: looking takes at most a hundredth of
/// the time, within these bounds.
const LOOK_EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

/// The queries are planned again after a minute of looks.
const PLANS_EVERY: u32 = 60;

/// Who asks to look now; answered when a look that began after the question has found nothing new.
pub(crate) type Asked = mpsc::UnboundedReceiver<oneshot::Sender<()>>;

/// The way to ask.
#[derive(Clone)]
pub(crate) struct Catalogs(mpsc::UnboundedSender<oneshot::Sender<()>>);

impl Catalogs {
    pub(crate) fn new() -> (Self, Asked) {
        let (ask, asked) = mpsc::unbounded_channel();
        (Self(ask), asked)
    }

    /// Returns when the catalogs have been looked at and are what they were. If they are not, everything is set up again and this
    /// never returns.
    pub(crate) async fn unchanged(&self) {
        let (question, answer) = oneshot::channel();
        let asked = self.0.send(question).is_ok();
        if !asked || answer.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a look at the catalogs has found.
enum Found {
    Nothing,
    /// Columns were added: nothing that is followed, but a `*` may mean more now.
    Columns,
    /// Everything has to be set up again, for this reason.
    Change(String),
}

/// The same while a projection is set aside because its query fails, or what it reads cannot be followed: it is to come back soon.
const SET_ASIDE_EVERY: u32 = 10;

/// Watches one set-up.
struct Watch<'a> {
    config: &'a Config,
    checked: &'a Preflight,
    /// What the tracked relations were when it was set up.
    before: &'a [Signature],
    /// What they were when the queries were planned last.
    planned_with: Vec<Signature>,
    planned_at: Instant,
    plan_every: Duration,
    session: Option<Session>,
}

/// Returns, with the reason, when everything has to be set up again.
pub(crate) async fn schema(
    config: &Config,
    checked: &Preflight,
    before: &[Signature],
    every: Option<Duration>,
    mut asked: Asked,
) -> String {
    let mut pause = every.unwrap_or(*LOOK_EVERY.start());
    let mut watch = Watch {
        config,
        checked,
        before,
        planned_with: before.to_vec(),
        planned_at: Instant::now(),
        plan_every: pause * if checked.passed() { PLANS_EVERY } else { SET_ASIDE_EVERY },
        session: None,
    };
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(question) = asked.recv() => waiting.push(question),
        }
        while let Ok(question) = asked.try_recv() {
            waiting.push(question);
        }
        let began = Instant::now();
        let found = watch.catalogs().await;
        pause = every.unwrap_or_else(|| (began.elapsed() * 100).clamp(*LOOK_EVERY.start(), *LOOK_EVERY.end()));
        match found {
            Ok(Found::Change(reason)) => return reason,
            Ok(Found::Columns) => {
                if let Some(reason) = watch.plan_again().await {
                    return reason;
                }
            }
            Ok(Found::Nothing) => {}
            // Whatever ails the source, the stream and the groups notice.
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "looking at the source's catalogs");
                watch.session = None;
                continue;
            }
        }
        // Who has given up does not want to know.
        waiting.drain(..).for_each(|question| question.send(()).unwrap_or_default());
        if watch.planned_at.elapsed() < watch.plan_every {
            continue;
        }
        // Planning takes its time: who asks meanwhile comes first.
        tokio::select! {
            reason = watch.plan_again() => if let Some(reason) = reason {
                return reason;
            },
            Some(question) = asked.recv() => {
                waiting.push(question);
                pause = Duration::ZERO;
            }
        }
    }
}

impl Watch<'_> {
    /// Plans the queries again. Returns why everything has to be set up again, if it has.
    async fn plan_again(&mut self) -> Option<String> {
        let depth = if self.checked.passed() { Depth::Plans } else { Depth::Start };
        let again = preflight::run(self.config, depth).await;
        self.planned_at = Instant::now();
        // Without a plan of anything it is the source that fails.
        if again.planned.is_empty() || !(again.passed() || again.only_queries_fail()) {
            return None;
        }
        if fingerprints(&again) != fingerprints(self.checked) || !depends_as_before(self.checked, &again) {
            return Some("a query is planned otherwise now: the source's schema changed".to_owned());
        }
        self.planned_with = again.signatures;
        None
    }

    async fn catalogs(&mut self) -> anyhow::Result<Found> {
        let Self { config, checked, before, .. } = *self;
        let session = match &mut self.session {
            Some(session) if !session.is_closed() => session,
            kept => kept.insert(Session::open(&config.source, "lockstep monitor").await?),
        };
        let found = signatures(session, &config.publication, &checked.tracked, checked.major).await?;
        let changed = checked.tracked.iter().zip(before).zip(&found).find(|((_, before), now)| !now.follows(before));
        if let Some(((relation, _), _)) = changed {
            return Ok(Found::Change(format!(
                "{} was replaced, or its key, its partitions, its column names or its publication changed",
                relation.label()
            )));
        }
        let dependencies: Vec<&Dependencies> = checked.planned.iter().map(|planned| &planned.dependencies).collect();
        let meanings = meanings(session, &dependencies, checked.major).await?;
        for (planned, now) in checked.planned.iter().zip(&meanings) {
            let before = checked.meanings.get(&planned.plan.projection);
            let changed = before.map(|before| now.changed_since(before)).unwrap_or_default();
            if !changed.is_empty() {
                return Ok(Found::Change(format!("{} changed, which {} depends on", named(&changed), planned.name())));
            }
        }
        Ok(match coverage(session, &config.publication, &checked.tracked, checked.major).await? {
            Coverage::Complete if found == self.planned_with => Found::Nothing,
            Coverage::Complete => Found::Columns,
            Coverage::Missing => Found::Change(format!("publication {} is gone", config.publication)),
            Coverage::Incomplete(lacks) => {
                let reasons: Vec<String> = lacks.into_iter().map(|lack| lack.reason).collect();
                Found::Change(format!("publication {}: {}", config.publication, reasons.join("; ")))
            }
        })
    }
}

/// What is planned, and how.
fn fingerprints(checked: &Preflight) -> Vec<(String, String)> {
    let one = |planned| (preflight::Planned::name(planned), fingerprint(planned, &checked.planned));
    checked.planned.iter().map(one).collect()
}

/// Whether names still lead to the same functions, operators and types. A label that was added to an enum is no change.
fn depends_as_before(before: &Preflight, now: &Preflight) -> bool {
    let pairs = before.planned.iter().zip(&now.planned);
    pairs.into_iter().all(|(before, now)| before.dependencies.seen.iter().all(|one| now.dependencies.seen.contains(one)))
}
