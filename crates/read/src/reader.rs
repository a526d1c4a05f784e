//! Answering a request from the first source that can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lockstep_plan::quote;
use lockstep_wal::Lsn;
use tokio::sync::Semaphore;

use crate::answer::{Answer, Request};
use crate::attempt::{Attempt, Obstacle, Sources, run};
use crate::error::{ReadError, SourceFault};
use crate::lane::Lanes;
use crate::noted;
use crate::pool::{Borrowed, Pool};
use crate::settings::{Miss, Model, ReadSettings, Source};
use crate::suggest::{self, Suggestion};
use crate::table::{self, Table};
use crate::totals::Totals;
use crate::version::{Version, tag, version};

/// How long what the catalogue said is believed.
const CATALOGUE_FOR: Duration = Duration::from_secs(5);

/// Projection, identity of the request, sources to be tried, and whether it must contain a position: such an answer is never put together
/// from what is older.
type Question = (String, String, Vec<Source>, bool);

/// Where a reader's sessions come from.
pub struct Pools {
    /// For projections and views.
    pub target: Pool,
    /// For source tables of another database, or that the target's role may not read.
    pub source: Option<Pool>,
    /// To the target, for requests that wait for a position, so that they do not keep the others waiting.
    pub waits: Pool,
}

/// Reads projections.
pub struct Reader {
    pub(crate) sources: Sources,
    pub(crate) waits: Pool,
    in_force: RwLock<Arc<InForce>>,
    tables: Mutex<HashMap<String, (Instant, Arc<Table>)>>,
    lanes: Lanes<Question, Result<Arc<Answer>, ReadError>>,
    pub(crate) looks: Lanes<String, Result<Option<Lsn>, SourceFault>>,
}

/// What a reload replaces.
struct InForce {
    settings: ReadSettings,
    models: Vec<Model>,
}

impl Reader {
    /// A reader over the pools. At most `costly_max` requests compute over the source tables at the same time.
    pub fn new(pools: Pools, costly_max: usize, costly_wait: Duration) -> Self {
        let Pools { target, source, waits } = pools;
        let settings = ReadSettings {
            enabled: true,
            rollout_percent: 100,
            chain: Source::ALL.to_vec(),
            allow_forced: false,
            timeout: Duration::from_secs(5),
            total_for: Duration::ZERO,
            min_lsn_wait: Duration::from_secs(1),
            min_lsn_miss: Miss::Refuse,
            staleness_max: None,
            text_config: "english".to_owned(),
        };
        Self {
            sources: Sources {
                target,
                source,
                costly: Arc::new(Semaphore::new(costly_max)),
                costly_wait,
                totals: Totals::default(),
            },
            waits,
            in_force: RwLock::new(Arc::new(InForce { settings, models: Vec::new() })),
            tables: Mutex::default(),
            lanes: Lanes::default(),
            looks: Lanes::default(),
        }
    }

    /// Takes other settings and projections; requests that run go on with theirs.
    pub fn configure(&self, settings: ReadSettings, models: Vec<Model>) {
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(InForce { settings, models });
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn in_force(&self) -> Arc<InForce> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The settings in force.
    pub fn settings(&self) -> ReadSettings {
        self.in_force().settings.clone()
    }

    /// The projections that can be read.
    pub fn models(&self) -> Vec<Model> {
        self.in_force().models.clone()
    }

    /// The share of sessions in use, 0 to 1.
    pub fn usage(&self) -> f64 {
        self.sources.source.as_ref().map_or(0.0, Pool::usage).max(self.sources.target.usage())
    }

    fn model(&self, name: &str) -> Result<Model, ReadError> {
        let in_force = self.in_force();
        let found = in_force.models.iter().find(|model| model.name == name).cloned();
        found.ok_or_else(|| ReadError::NoSuchProjection(name.to_owned()))
    }

    /// The columns of a projection: of its table, else of its view, else of its defining query.
    ///
    /// # Errors
    /// There is no such projection, or no server tells.
    pub async fn table(&self, projection: &str) -> Result<Arc<Table>, ReadError> {
        let model = self.model(projection)?;
        let kept = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(projection).cloned();
        if let Some((since, table)) = &kept
            && since.elapsed() < CATALOGUE_FOR
        {
            return Ok(table.clone());
        }
        let found = match self.looked_up(&model).await {
            Some(table) => Arc::new(table),
            // What it was last known to be is better than nothing.
            None => kept.map(|(_, table)| table).ok_or(ReadError::Unavailable)?,
        };
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.insert(projection.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    async fn looked_up(&self, model: &Model) -> Option<Table> {
        if let Ok(session) = self.sources.target.get().await.map(Borrowed::new) {
            for name in [model.name.clone(), format!("mv_{}", model.name)] {
                match table::look_up(session.session(), &model.schema, &name, &model.key).await {
                    Ok(Some(table)) => {
                        session.give_back();
                        return Some(table);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(error = %lockstep_connect::describe(&error), "looking a table up"),
                }
            }
            session.give_back();
        }
        let session = Borrowed::new(self.sources.pool_of(model, Source::Tables).get().await.ok()?);
        let table = table::describe(session.session(), model.sql.trim(), &model.key).await.ok()?;
        session.give_back();
        Some(table)
    }

    /// Answers a request; equal ones that wait are answered together.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(self: &Arc<Self>, request: &Request) -> Result<Arc<Answer>, ReadError> {
        let model = self.model(&request.projection)?;
        let in_force = self.in_force();
        let settings = &in_force.settings;
        let mut chain = match request.forced {
            Some(_) if !settings.allow_forced => {
                return Err(ReadError::bad("source", "choosing a source is not allowed here ([api] allow_source)"));
            }
            Some(Source::View) if request.min_lsn.is_some() => {
                return Err(ReadError::bad("source", "a view is of its last refresh; no position can be waited for"));
            }
            Some(forced) => vec![forced],
            None => settings.chain_for(&request.sticky_key).to_vec(),
        };
        if let Some(lsn) = request.min_lsn {
            // The tables contain it; what comes after them would have to be asked.
            chain = match chain.first() {
                Some(Source::Tables) if !model.on_target => vec![Source::Tables],
                Some(Source::Projection | Source::View | Source::Tables) | None => {
                    self.chain_with(&model, settings, lsn, chain).await?
                }
            };
        }
        // What the client has need not be read to be known.
        if let (Some(known), Some(Source::Projection)) = (&request.known, chain.first())
            && let Some(version) = self.version_of(&model, settings, &request.identity).await
            && known.split(',').any(|known| known.trim() == version.tag || known.trim() == "*")
        {
            let answer = Answer { source: Some(Source::Projection), version, not_modified: true, ..Answer::default() };
            noted::answer(&model, &answer);
            return Ok(Arc::new(answer));
        }
        let key = (request.projection.clone(), request.identity.clone(), chain.clone(), request.min_lsn.is_some());
        let answered = self.lanes.join(key, || {
            let (this, request) = (self.clone(), request.clone());
            async move { this.read_alone(&model, &in_force, &request, chain).await.map(Arc::new) }
        });
        let answer = answered.await?;
        noted::answer(&self.model(&request.projection)?, &answer);
        Ok(answer)
    }

    /// Where a projection is; `None` if it cannot answer.
    async fn version_of(&self, model: &Model, settings: &ReadSettings, identity: &str) -> Option<Version> {
        let session = Borrowed::new(self.sources.target.get().await.ok()?);
        let found = version(session.session(), model).await.ok()?;
        session.give_back();
        if !found.is_built || found.is_stale(settings) {
            return None;
        }
        let table = self.table(&model.name).await.ok()?;
        Some(Version { tag: tag(&found.version.tag, identity, model, settings, &table), ..found.version })
    }

    async fn read_alone(
        &self,
        model: &Model,
        in_force: &InForce,
        request: &Request,
        chain: Vec<Source>,
    ) -> Result<Answer, ReadError> {
        let settings = &in_force.settings;
        let table = self.table(&model.name).await?;
        let deadline = Instant::now() + settings.timeout;
        let mut last = ReadError::Unavailable;
        let mut put_last: Vec<Source> = Vec::new();
        let mut from: Option<Source> = None;
        let mut tried = chain.into_iter();
        loop {
            // What is stale or set aside is better than nothing.
            let (source, whatever) = match tried.next() {
                Some(source) => (source, false),
                None if put_last.is_empty() => return Err(last),
                None => (put_last.remove(0), true),
            };
            if let Some(from) = from {
                let labels =
                    [("projection", model.name.clone()), ("from", from.name().to_owned()), ("to", source.name().to_owned())];
                metrics::counter!("lockstep_read_fallbacks_total", &labels).increment(1);
                if model.is_products {
                    metrics::counter!("product_search_fallback_total").increment(1);
                }
            }
            let began = Instant::now();
            // A source that hangs leaves the others their share of the time.
            let left = u32::try_from(tried.len() + put_last.len() + 1).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let attempt = Attempt { model, table: &table, settings, request, source, whatever, share };
            let asked = tokio::time::timeout(share, Box::pin(self.sources.ask(attempt))).await;
            match asked.unwrap_or(Err(Obstacle::Source(SourceFault::TimedOut))) {
                Ok(answer) => {
                    noted::query(model, source, began.elapsed());
                    return Ok(answer);
                }
                Err(Obstacle::Request(error)) => return Err(error),
                Err(Obstacle::Source(fault)) => {
                    noted::fault(model, source, fault);
                    match fault {
                        // A projection that is set aside does not contain what its group contains.
                        SourceFault::Stale | SourceFault::SetAside if request.min_lsn.is_none() && !whatever => {
                            if fault == SourceFault::SetAside {
                                last = ReadError::SetAside;
                            }
                            put_last.push(source);
                        }
                        SourceFault::SetAside => last = ReadError::SetAside,
                        SourceFault::Missing => self.forget(&model.name),
                        SourceFault::TimedOut if last != ReadError::SetAside => last = ReadError::TimedOut,
                        SourceFault::TimedOut
                        | SourceFault::Stale
                        | SourceFault::NotBuilt
                        | SourceFault::Unreachable
                        | SourceFault::Busy
                        | SourceFault::Refused => {}
                    }
                    from = Some(source);
                }
            }
        }
    }

    pub(crate) fn forget(&self, projection: &str) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).remove(projection);
    }

    /// Values of a column that somebody may be about to type, from the projection's table.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn suggest(
        &self,
        projection: &str,
        column: &str,
        input: &str,
        condition: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Suggestion>, ReadError> {
        let model = self.model(projection)?;
        let table = self.table(projection).await?;
        table.column("q", column)?;
        let mut last = ReadError::Unavailable;
        for source in [Source::Projection, Source::View] {
            let name = if source == Source::View { format!("mv_{}", model.name) } else { model.name.clone() };
            let statement = suggest::sql(&table, &quote::qualified(&model.schema, &name), column, input, condition, limit);
            let Ok(session) = self.sources.target.get().await else { continue };
            let session = Borrowed::new(session);
            match run(session.session(), &statement).await {
                Ok(rows) => {
                    session.give_back();
                    return Ok(rows.iter().map(|row| Suggestion { value: row.get(0), prefix: row.get(1) }).collect());
                }
                Err(error) => {
                    // Such as a byte 0.
                    if lockstep_connect::sqlstate(&error).is_some_and(|state| state.code().starts_with("22")) {
                        return Err(ReadError::bad("q", "not a text"));
                    }
                    let fault = SourceFault::of(&error);
                    noted::fault(&model, source, fault);
                    if fault == SourceFault::TimedOut {
                        last = ReadError::TimedOut;
                    }
                }
            }
        }
        Err(last)
    }
}
