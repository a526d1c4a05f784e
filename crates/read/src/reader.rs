//! Answering a request from the first source that can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockstep_plan::quote;
use lockstep_wal::Lsn;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::condition::Operator;
use crate::cursor;
use crate::error::{ReadError, SourceFault};
use crate::lane::Lanes;
use crate::pool::{Borrowed, Pool, Slots};
use crate::select::{Query, Statement, Statements, statements};
use crate::settings::{Miss, Model, ReadSettings, Source};
use crate::suggest::{self, Suggestion};
use crate::table::{self, Table};

/// Totals that are kept at most; then all are counted anew.
const TOTALS_MAX: usize = 10_000;

/// How long what the catalogue said is believed.
const CATALOGUE_FOR: Duration = Duration::from_secs(5);

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The projection.
    pub projection: String,
    /// What of it.
    pub query: Query,
    /// The version that the client has.
    pub known: Option<String>,
    /// Everything that distinguishes this question from others; equal ones may be answered together.
    pub identity: String,
    /// The source that it insists on.
    pub forced: Option<Source>,
    /// What decides whether it takes part in a rollout.
    pub sticky_key: String,
    /// The position that the answer must contain.
    pub min_lsn: Option<Lsn>,
}

/// Where a projection was when it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Version {
    /// Changes with every batch and every definition.
    pub tag: String,
    /// How long ago it was known to be current, in seconds.
    pub staleness_seconds: Option<f64>,
    /// The position that it contains.
    pub lsn: Option<String>,
}

/// A facet's name and its JSON.
pub type Facets = Vec<(String, String)>;

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Where the rows come from; `None` if the client has them already.
    pub source: Option<Source>,
    /// Each row as JSON.
    pub rows: Vec<String>,
    /// The cursor of the next page, if there is one.
    pub next: Option<String>,
    /// How many rows there are, if it was asked for.
    pub total: Option<i64>,
    /// The facets that were asked for.
    pub facets: Facets,
    /// The version; without a tag unless the source is the projection.
    pub version: Version,
    /// Whether the client has this version.
    pub not_modified: bool,
}

/// Totals that were counted lately, by the statement that counted them.
#[derive(Default)]
struct Totals(Mutex<HashMap<Statement, (Instant, i64)>>);

impl Totals {
    fn get(&self, statement: &Statement, max_age: Duration) -> Option<i64> {
        let totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals.get(statement).filter(|(since, _)| since.elapsed() < max_age).map(|(_, total)| *total)
    }

    fn keep(&self, statement: Statement, total: i64) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if totals.len() >= TOTALS_MAX {
            totals.clear();
        }
        totals.insert(statement, (Instant::now(), total));
    }
}

/// Projection, identity of the request, sources to be tried, and whether it must contain a position: such an answer is never put together
/// from what is older.
type Question = (String, String, Vec<Source>, bool);

/// Reads projections.
pub struct Reader {
    target: Pool,
    source: Pool,
    /// For requests that wait for a position, so that they do not keep the others waiting.
    waits: Pool,
    one_database: bool,
    costly: Slots,
    costly_wait: Duration,
    in_force: RwLock<Arc<InForce>>,
    tables: Mutex<HashMap<String, (Instant, Arc<Table>)>>,
    lanes: Lanes<Question, Result<Arc<Answer>, ReadError>>,
    totals: Totals,
}

/// What a reload replaces.
struct InForce {
    settings: ReadSettings,
    models: Vec<Model>,
}

impl Reader {
    /// A reader over the pools. At most `costly_max` requests compute over the source tables at the same time.
    pub fn new(target: Pool, source: Pool, waits: Pool, one_database: bool, costly_max: usize, costly_wait: Duration) -> Self {
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
            target,
            source,
            waits,
            one_database,
            costly: Arc::new(Semaphore::new(costly_max)),
            costly_wait,
            in_force: RwLock::new(Arc::new(InForce { settings, models: Vec::new() })),
            tables: Mutex::default(),
            lanes: Lanes::default(),
            totals: Totals::default(),
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
        self.target.usage().max(self.source.usage())
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
        if let Ok(session) = self.target.get().await {
            for name in [model.name.clone(), format!("mv_{}", model.name)] {
                match table::look_up(&session, &model.schema, &name).await {
                    Ok(Some(mut table)) => {
                        if table.key.is_empty() {
                            table.key.clone_from(&model.key);
                        }
                        return Some(table);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(error = %lockstep_connect::describe(&error), "looking a table up"),
                }
            }
        }
        let session = self.pool_of(model, Source::Tables).get().await.ok()?;
        table::describe(&session, model.sql.trim(), &model.key).await.ok()
    }

    fn pool_of(&self, model: &Model, source: Source) -> &Pool {
        match source {
            Source::Projection | Source::View => &self.target,
            Source::Tables if model.on_target || self.one_database => &self.target,
            Source::Tables => &self.source,
        }
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
                Some(Source::Tables) => vec![Source::Tables],
                Some(Source::Projection | Source::View) | None => self.chain_with(&model, settings, lsn, chain).await?,
            };
        }
        // What the client has need not be read to be known.
        if let (Some(known), Some(Source::Projection)) = (&request.known, chain.first())
            && let Some(version) = self.version_of(&model, settings, &request.identity).await
            && known.split(',').any(|known| known.trim() == version.tag)
        {
            let answer = Answer { source: Some(Source::Projection), version, not_modified: true, ..Answer::default() };
            note_answer(&model, &answer);
            return Ok(Arc::new(answer));
        }
        let key = (request.projection.clone(), request.identity.clone(), chain.clone(), request.min_lsn.is_some());
        let answered = self.lanes.join(key, || {
            let (this, request) = (self.clone(), request.clone());
            async move { this.read_alone(&model, &in_force, &request, chain).await.map(Arc::new) }
        });
        let answer = answered.await?;
        note_answer(&self.model(&request.projection)?, &answer);
        Ok(answer)
    }

    /// Where a projection is; `None` if it cannot answer.
    async fn version_of(&self, model: &Model, settings: &ReadSettings, identity: &str) -> Option<Version> {
        let session = Borrowed::new(self.target.get().await.ok()?);
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
            let asked = tokio::time::timeout(share, Box::pin(self.ask(attempt))).await;
            match asked.unwrap_or(Err(Obstacle::Source(SourceFault::TimedOut))) {
                Ok(answer) => {
                    note_query(model, source, began.elapsed());
                    return Ok(answer);
                }
                Err(Obstacle::Request(error)) => return Err(error),
                Err(Obstacle::Source(fault)) => {
                    note_fault(model, source, fault);
                    match fault {
                        // A projection that is set aside does not contain what its group contains.
                        SourceFault::Stale if request.min_lsn.is_none() => put_last.push(source),
                        SourceFault::Missing => self.forget(&model.name),
                        SourceFault::TimedOut => last = ReadError::TimedOut,
                        SourceFault::Stale
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

    /// The chain for a request that must contain a position; waits for it.
    async fn chain_with(
        &self,
        model: &Model,
        settings: &ReadSettings,
        lsn: Lsn,
        chain: Vec<Source>,
    ) -> Result<Vec<Source>, ReadError> {
        // First without waiting: those that wait must not keep those waiting that need not.
        let contained = self.contains(model, lsn).await || self.waited_for(model, settings, lsn).await;
        // A view is of its last refresh, whatever the projection contains.
        let may = |source: &Source| *source == Source::Tables || (*source == Source::Projection && contained);
        let kept: Vec<Source> = chain.into_iter().filter(may).collect();
        if contained {
            return Ok(kept);
        }
        match settings.min_lsn_miss {
            Miss::Tables => Ok(vec![Source::Tables]),
            Miss::Refuse => Err(ReadError::NotYet),
        }
    }

    /// Waits until the projection contains a position; false if the time runs out.
    async fn waited_for(&self, model: &Model, settings: &ReadSettings, lsn: Lsn) -> bool {
        let Ok(session) = self.waits.get().await else { return false };
        let session = Borrowed::new(session);
        let (lsn, seconds) = (lsn.to_string(), settings.min_lsn_wait.as_secs_f64());
        let statement = "SELECT lockstep.wait_for($1::text::pg_lsn, $2::float8 * interval '1 second', $3)";
        match session.session().query_one(statement, &[&lsn, &seconds, &model.name]).await {
            Ok(row) => {
                session.give_back();
                row.get(0)
            }
            Err(_) => false,
        }
    }

    /// Whether the projection contains a position already.
    async fn contains(&self, model: &Model, lsn: Lsn) -> bool {
        let Ok(session) = self.target.get().await else { return false };
        let session = Borrowed::new(session);
        let lsn = lsn.to_string();
        let asked = session.session().query_one("SELECT lockstep.contains($1::text::pg_lsn, $2)", &[&lsn, &model.name]).await;
        session.give_back();
        asked.is_ok_and(|row| row.get(0))
    }

    fn forget(&self, projection: &str) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).remove(projection);
    }

    async fn ask(&self, attempt: Attempt<'_>) -> Result<Answer, Obstacle> {
        let Attempt { model, table, settings, request, source, .. } = attempt;
        let from = match source {
            Source::Projection => quote::qualified(&model.schema, &model.name),
            Source::View => quote::qualified(&model.schema, &format!("mv_{}", model.name)),
            Source::Tables => format!("(\n{}\n)", model.sql.trim()),
        };
        let mut wanted = statements(&request.query, table, &from, &settings.text_config).map_err(Obstacle::Request)?;
        // Counting is most of what a list costs.
        let counted = wanted.total.clone().filter(|_| !settings.total_for.is_zero() && request.min_lsn.is_none());
        let kept = counted.as_ref().and_then(|statement| self.totals.get(statement, settings.total_for));
        if kept.is_some() {
            wanted.total = None;
        }
        let _slot = match source {
            Source::Tables => {
                let waiting = tokio::time::timeout(self.costly_wait, self.costly.clone().acquire_owned());
                Some(waiting.await.map_err(|_| Obstacle::Source(SourceFault::Busy))?)
            }
            Source::Projection | Source::View => None,
        };
        let session = Borrowed::new(self.pool_of(model, source).get().await.map_err(Obstacle::Source)?);
        let answer = one_snapshot(session.session(), &attempt, &wanted).await;
        match answer {
            Ok(mut answer) => {
                session.give_back();
                match (kept, counted, answer.total) {
                    (Some(total), ..) => answer.total = Some(total),
                    (None, Some(statement), Some(total)) => self.totals.keep(statement, total),
                    (None, ..) => {}
                }
                Ok(answer)
            }
            Err(Trouble::Fault(fault)) => {
                if session.session().batch_execute("ROLLBACK").await.is_ok() {
                    session.give_back();
                }
                Err(Obstacle::Source(fault))
            }
            Err(Trouble::Sql(error)) => {
                let obstacle = self.explain(session.session(), &request.query, &wanted, &error).await;
                if session.session().batch_execute("ROLLBACK").await.is_ok() {
                    session.give_back();
                }
                Err(obstacle)
            }
        }
    }

    /// Whose fault an error is: the request's, if it is about one of its values.
    async fn explain(&self, client: &Client, request: &Query, wanted: &Statements, error: &tokio_postgres::Error) -> Obstacle {
        let code = lockstep_connect::sqlstate(error).map(tokio_postgres::error::SqlState::code).unwrap_or_default();
        // Whatever does not concern the server may concern a value, such as one that a domain does not allow.
        let of_the_server = ["08", "25", "40", "53", "55", "57", "58", "XX"].iter().any(|class| code.starts_with(class));
        if code.is_empty() || of_the_server || ["42P01", "42703", "3F000", "42501"].contains(&code) {
            return Obstacle::Source(SourceFault::of(error));
        }
        if client.batch_execute("ROLLBACK").await.is_err() {
            return Obstacle::Source(SourceFault::Unreachable);
        }
        for typed in &wanted.typed {
            let sql = format!("SELECT $1::text::{}", typed.type_name);
            if client.query_typed(&sql, &[(&typed.value, Type::TEXT)]).await.is_err() {
                let what = if typed.parameter == "after" {
                    "not a cursor of this order".to_owned()
                } else {
                    format!("not a value of type {}", typed.type_name)
                };
                return Obstacle::Request(ReadError::bad(&typed.parameter, what));
            }
        }
        if code == "22025"
            && let Some(like) =
                request.conditions.iter().find(|condition| matches!(condition.operator, Operator::Like | Operator::Ilike))
        {
            return Obstacle::Request(ReadError::bad(
                &like.parameter,
                "the pattern ends in the middle of an escape: write \\\\ for a backslash",
            ));
        }
        match (code, wanted.typed.first()) {
            ("42883", Some(typed)) => Obstacle::Request(ReadError::bad(
                &typed.parameter,
                format!("values of type {} cannot be compared so", typed.type_name),
            )),
            ("42883", None) => {
                let parameter = if request.facets.is_empty() { "order" } else { "facets" };
                Obstacle::Request(ReadError::bad(parameter, "values of such a column cannot be compared so"))
            }
            // The source's own: a row whose expression fails while the defining query is computed.
            _ => Obstacle::Source(SourceFault::Refused),
        }
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
            let Ok(session) = self.target.get().await else { continue };
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
                    note_fault(&model, source, fault);
                    if fault == SourceFault::TimedOut {
                        last = ReadError::TimedOut;
                    }
                }
            }
        }
        Err(last)
    }
}

/// One source asked.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    model: &'a Model,
    table: &'a Table,
    settings: &'a ReadSettings,
    request: &'a Request,
    source: Source,
    /// Even if it is stale or set aside.
    whatever: bool,
    /// How long it may take.
    share: Duration,
}

/// Why a source gave no answer.
enum Obstacle {
    /// No source will.
    Request(ReadError),
    /// Another one may.
    Source(SourceFault),
}

enum Trouble {
    Sql(tokio_postgres::Error),
    Fault(SourceFault),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

/// Runs everything in one transaction, so that rows, total, facets and version belong together; in as few round trips as can be.
async fn one_snapshot(client: &Client, attempt: &Attempt<'_>, wanted: &Statements) -> Result<Answer, Trouble> {
    let Attempt { model, settings, request, source, whatever, share, .. } = *attempt;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL TimeZone = {}; SET LOCAL statement_timeout = {}",
        quote::literal(&model.time_zone),
        share.as_millis().max(1)
    );
    let looking = async {
        match source {
            Source::Projection => version(client, model).await.map(Some),
            Source::View => view_version(client, model).await.map(Some),
            Source::Tables => Ok(None),
        }
    };
    let (begun, version) = tokio::join!(biased; client.batch_execute(&begin), looking);
    begun?;
    let mut answer = Answer { source: Some(source), version: Version::default(), ..Answer::default() };
    match (version?, source) {
        (Some(found), Source::Projection) => {
            if !found.is_built {
                return Err(Trouble::Fault(SourceFault::NotBuilt));
            }
            if found.is_stale(settings) && !whatever {
                return Err(Trouble::Fault(SourceFault::Stale));
            }
            answer.version = found.version;
            answer.version.tag = tag(&answer.version.tag, &request.identity, model, settings, attempt.table);
        }
        (Some(found), _) => answer.version = found.version,
        (None, _) => answer.version.staleness_seconds = Some(0.0),
    }
    let total = async {
        match &wanted.total {
            Some(statement) => run(client, statement).await.map(Some),
            None => Ok(None),
        }
    };
    let facets = join_all(wanted.facets.iter().map(|(_, statement)| run(client, statement)));
    // All are sent before the first is awaited: the COMMIT is behind them.
    let (rows, total, facets, committed) =
        tokio::join!(biased; run(client, &wanted.rows), total, facets, client.batch_execute("COMMIT"));
    let rows = rows?;
    answer.total = total?.as_deref().and_then(|rows| rows.first()).map(counted);
    for ((name, _), found) in wanted.facets.iter().zip(facets) {
        answer.facets.push((name.clone(), found?.first().map(|row| row.get(0)).unwrap_or_default()));
    }
    committed?;
    if rows.len() > wanted.limit {
        let values: Vec<Option<String>> = rows[wanted.limit - 1].get(1);
        answer.next = (!values.is_empty()).then(|| cursor::encode(&values));
    }
    answer.rows = rows.iter().take(wanted.limit).map(|row| row.get(0)).collect();
    Ok(answer)
}

async fn run(client: &Client, statement: &Statement) -> Result<Vec<Row>, tokio_postgres::Error> {
    let values: Vec<(&(dyn ToSql + Sync), Type)> =
        statement.values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    client.query_typed(&statement.sql, &values).await
}

/// A count, or what the planner expects.
fn counted(row: &Row) -> i64 {
    if let Ok(count) = row.try_get::<_, i64>(0) {
        return count;
    }
    let plan: serde_json::Value = row.try_get(0).unwrap_or_default();
    plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_i64).unwrap_or_default()
}

struct Found {
    version: Version,
    is_built: bool,
    is_faulted: bool,
}

impl Found {
    /// Set aside, or older than is wanted.
    fn is_stale(&self, settings: &ReadSettings) -> bool {
        let seconds = self.version.staleness_seconds.unwrap_or(f64::MAX);
        self.is_faulted || settings.staleness_max.is_some_and(|max| seconds > max.as_secs_f64())
    }
}

async fn version(client: &Client, model: &Model) -> Result<Found, tokio_postgres::Error> {
    let rows = client
        .query_typed(
            "SELECT concat_ws(' ', p.fingerprint, c.batches, c.snapshot), extract(epoch FROM clock_timestamp() - c.current_as_of)::float8,
                    c.lsn::text, p.built_at IS NOT NULL, p.state = 'faulted'
             FROM lockstep.projection AS p JOIN lockstep.checkpoint AS c USING (group_name) WHERE p.name = $1",
            &[(&model.name, Type::TEXT)],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(Found { version: Version::default(), is_built: false, is_faulted: false });
    };
    let staleness = row.get::<_, Option<f64>>(1).map(|seconds| seconds.max(0.0));
    let version = Version { tag: row.get(0), staleness_seconds: staleness, lsn: row.get(2) };
    Ok(Found { version, is_built: row.get(3), is_faulted: row.get(4) })
}

async fn view_version(client: &Client, model: &Model) -> Result<Found, tokio_postgres::Error> {
    let view = format!("mv_{}", model.name);
    let rows = client
        .query_typed(
            "SELECT extract(epoch FROM clock_timestamp() - max(last_refresh_at))::float8 FROM lockstep.mv_refresh_log WHERE view = $1 AND success",
            &[(&view, Type::TEXT)],
        )
        .await?;
    let staleness_seconds = rows.first().and_then(|row| row.get(0));
    Ok(Found { version: Version { staleness_seconds, ..Version::default() }, is_built: true, is_faulted: false })
}

/// An HTTP entity tag: of the version, of what was asked for, and of everything else that the answer depends on.
fn tag(version: &str, identity: &str, model: &Model, settings: &ReadSettings, table: &Table) -> String {
    let (zone, text, trigrams) = (&model.time_zone, &settings.text_config, &table.trigrams);
    let digest = Sha256::digest(format!("{version}\n{identity}\n{zone}\n{text}\n{trigrams:?}"));
    let hexadecimal: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("W/\"{hexadecimal}\"")
}

fn note_answer(model: &Model, answer: &Answer) {
    let source = answer.source.map_or("none", Source::name);
    let labels = [("projection", model.name.clone()), ("source", source.to_owned())];
    metrics::counter!("lockstep_reads_total", &labels).increment(1);
}

fn note_query(model: &Model, source: Source, took: Duration) {
    if model.is_products {
        metrics::histogram!("product_search_query_duration_ms", "source" => source.name()).record(took.as_secs_f64() * 1000.0);
    }
    if model.is_items {
        metrics::histogram!("item_search_latency_seconds").record(took.as_secs_f64());
    }
}

fn note_fault(model: &Model, source: Source, fault: SourceFault) {
    tracing::warn!(projection = model.name, source = source.name(), fault = fault.label(), "a source cannot answer");
    let labels =
        [("projection", model.name.clone()), ("source", source.name().to_owned()), ("error_type", fault.label().to_owned())];
    metrics::counter!("lockstep_read_errors_total", &labels).increment(1);
    if model.is_products {
        let labels = [("source", source.name().to_owned()), ("error_type", fault.label().to_owned())];
        metrics::counter!("product_search_query_errors_total", &labels).increment(1);
    }
}
