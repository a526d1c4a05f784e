//! Planning one projection after the other: what reads another comes after it, and what can only be maintained over inner
//! projections brings those along.

use std::collections::BTreeMap;

use lockstep_config::{Config, DEFAULT_GROUP, Diagnostic, ProjectionConfig};
use lockstep_connect::{ErrorClass, Session};
use lockstep_plan::chains::{StoodFor, stand_for_projections, with_other_stand_ins};
use lockstep_plan::facts::{Query, RelationKind, TypeFacts};
use lockstep_plan::{Decomposition, GroupForm, Maintenance, Plan, compositions, decompose};
use lockstep_refresh::analysis::{self, Analysed, AnalysisError, Definition, StandIn};

use crate::block_indexes::{STATE_SCHEMA, make_indexes};
use crate::query_errors::{in_query, wrong_time_zone};
use crate::report::Planned;
use crate::shared::Former;
use crate::stand_ins::stand_ins;

/// Inner projections may have inner projections, so deep.
const DEPTH_MAX: usize = 3;

/// A configured projection with the names of others stood for.
pub(crate) struct Link {
    pub(crate) index: usize,
    text: StoodFor,
}

impl Link {
    /// The projections that it reads.
    pub(crate) fn reads(&self) -> &[String] {
        &self.text.projections
    }
}

/// The projections in an order in which each comes after those that it reads, and those that read each other in a circle.
pub(crate) fn in_dependency_order(config: &Config) -> (Vec<Link>, Vec<(usize, Diagnostic)>) {
    let names: Vec<&str> = config.projections.iter().map(|projection| projection.name.as_str()).collect();
    let mut waiting: Vec<Link> = config
        .projections
        .iter()
        .enumerate()
        .map(|(index, projection)| Link { index, text: stand_for_projections(&projection.sql, &config.schema, &names) })
        .collect();
    let mut ordered: Vec<Link> = Vec::new();
    loop {
        let done: Vec<&str> = ordered.iter().map(|link| names[link.index]).collect();
        let next = waiting.iter().position(|link| link.reads().iter().all(|name| done.contains(&name.as_str())));
        let Some(next) = next else { break };
        ordered.push(waiting.remove(next));
    }
    let circular = waiting
        .iter()
        .map(|link| {
            let message = format!("projection {} reads itself, by way of {}", names[link.index], link.reads().join(", "));
            (link.index, Diagnostic::error(message).help("break the circle: one of them has to read tables only"))
        })
        .collect();
    (ordered, circular)
}

/// Plans a projection; inner ones come before it.
pub(crate) async fn plan(
    config: &Config,
    link: &Link,
    source: &Session,
    earlier: &[Planned],
) -> Result<Vec<Planned>, Diagnostic> {
    let projection = &config.projections[link.index];
    let failed = |mut error: AnalysisError| {
        error.position = error.position.map(|position| link.text.original_position(position));
        in_query(config, projection, &error)
    };
    if !analysis::is_time_zone(source, &projection.time_zone).await.map_err(|error| failed(error.into()))? {
        return Err(wrong_time_zone(config, projection));
    }
    let definition = Definition {
        name: projection.name.clone(),
        sql: link.text.sql.clone(),
        key: projection.key.clone(),
        time_zone: projection.time_zone.clone(),
        settled: false,
    };
    let read: Vec<&Planned> = earlier.iter().filter(|planned| link.reads().contains(&planned.plan.projection)).collect();
    let group_read = group_that_is_read(projection, &read)?;
    let first_node = earlier.iter().map(|planned| planned.node).min().map_or(u32::MAX, |lowest| lowest - 1);
    let former = former(projection, earlier);
    let mut planner = Planner { projection, source, first_node, two_databases: config.target.is_some(), former };
    let problem = |problem| match problem {
        Problem::Analysis(error) => failed(error),
        Problem::Refused(diagnostic) => *diagnostic,
    };
    let mut planned = planner.plan(definition.clone(), &read, None, 0).await.map_err(problem)?;
    let mut shared = planner.former.finish();
    let group_of = |planned: &[Planned], own: &str| {
        group_read.clone().or_else(|| projection.group.clone()).unwrap_or_else(|| {
            // What may take long has a group of its own, so that it never holds the others back.
            let incremental = planned.iter().all(|planned| planned.plan.is_incremental());
            if incremental { DEFAULT_GROUP.to_owned() } else { own.to_owned() }
        })
    };
    let mut group = group_of(&planned, projection.version_of.as_ref().filter(|_| !shared.is_empty()).unwrap_or(&projection.name));
    let elsewhere = |block: &str| earlier.iter().any(|planned| planned.plan.projection == block && planned.group != group);
    if shared.iter().any(|shared| elsewhere(&shared.block)) {
        // Blocks and what reads them are right together, or not at all.
        (planner.former, planner.first_node) = (Former::default(), first_node);
        planned = planner.plan(definition, &read, None, 0).await.map_err(problem)?;
        shared.clear();
        group = group_of(&planned, &projection.name);
    }
    if let Some(last) = planned.last_mut() {
        last.schema.clone_from(&config.schema);
        last.indexes.clone_from(&projection.indexes);
        last.shared = shared;
    }
    for planned in &mut planned {
        planned.group.clone_from(&group);
    }
    find_dependencies(source, earlier, &mut planned).await.map_err(failed)?;
    let mixed = planned.iter().find(|planned| {
        let projections = planned.plan.relations.iter().filter(|relation| relation.kind == RelationKind::Projection).count();
        projections > 0 && projections < planned.plan.relations.len()
    });
    if config.target.is_some() && mixed.is_some() {
        let message =
            format!("projection {}: it reads tables of the source and projections, which are on another server", projection.name);
        return Err(Diagnostic::error(message).help("read either tables or projections; a further projection can join the two"));
    }
    Ok(planned)
}

/// What a new version may take over.
fn former<'a>(projection: &ProjectionConfig, earlier: &'a [Planned]) -> Former<'a> {
    let Some(of) = &projection.version_of else { return Former::default() };
    let mut names = vec![of.as_str()];
    // Blocks come before what reads them.
    let blocks = earlier.iter().rev().filter(|planned| {
        let is_part = planned.part_of.as_deref().is_some_and(|whole| names.contains(&whole));
        names.extend(is_part.then_some(planned.plan.projection.as_str()));
        is_part
    });
    let blocks = blocks.collect();
    Former::new(blocks, &projection.name, of)
}

/// What the queries' meaning depends on. Those of inner projections and of what is made of them are together what was written.
async fn find_dependencies(source: &Session, earlier: &[Planned], planned: &mut [Planned]) -> Result<(), AnalysisError> {
    for index in 0..planned.len() {
        let one = &planned[index];
        let all = earlier.iter().chain(planned.iter());
        let read: Vec<&Planned> = all.filter(|other| one.reads.contains(&other.plan.projection)).collect();
        let stand_ins = stand_ins(&read);
        let mut found = analysis::dependencies(source, &one.plan.query, &stand_ins).await?;
        if one.plan.query != one.written.trim().trim_end_matches(';') {
            found.absorb(analysis::dependencies(source, &one.written, &stand_ins).await?);
        }
        planned[index].dependencies = found;
    }
    Ok(())
}

/// A projection must be in the group of those that it reads: they are right together, or not at all.
fn group_that_is_read(projection: &ProjectionConfig, read: &[&Planned]) -> Result<Option<String>, Diagnostic> {
    let Some(first) = read.first() else { return Ok(None) };
    let named = projection.group.as_ref().filter(|group| **group != first.group);
    let other = read.iter().find(|planned| planned.group != first.group);
    let differs = match (named, other) {
        (Some(named), _) => Some(format!("is in group \"{named}\" and {} in \"{}\"", first.plan.projection, first.group)),
        (None, Some(other)) => Some(format!(
            "reads {} in group \"{}\" and {} in \"{}\"",
            first.plan.projection, first.group, other.plan.projection, other.group
        )),
        (None, None) => None,
    };
    match differs {
        None => Ok(Some(first.group.clone())),
        Some(how) => Err(Diagnostic::error(format!("projection {} {how}", projection.name))
            .help("a projection and those that it reads must be in one group: give all of them the same group = \"…\"")),
    }
}

enum Problem {
    Analysis(AnalysisError),
    Refused(Box<Diagnostic>),
}

impl From<AnalysisError> for Problem {
    fn from(error: AnalysisError) -> Self {
        Self::Analysis(error)
    }
}

/// The inner projections of a query that is taken apart.
struct Blocks<'a> {
    inner: Vec<Planned>,
    /// Those of the old version.
    shared: Vec<&'a Planned>,
    /// What the outer query reads.
    names: Vec<String>,
    outer: String,
}

/// A projection taken apart.
struct Apart<'a> {
    inner: Vec<Planned>,
    /// The old version's, of which there are no others.
    shared: Vec<&'a Planned>,
    outer: Plan,
    /// The inner projections that the outer plan reads.
    reads: Vec<String>,
    /// Statements for indexes that those of them lack that are the old version's.
    shared_indexes: Option<String>,
}

struct Planner<'a> {
    projection: &'a ProjectionConfig,
    source: &'a Session,
    first_node: u32,
    two_databases: bool,
    former: Former<'a>,
}

impl<'a> Planner<'a> {
    /// Plans a definition, apart into inner projections where that helps.
    async fn plan(
        &mut self,
        definition: Definition,
        read: &[&Planned],
        part_of: Option<&str>,
        depth: usize,
    ) -> Result<Vec<Planned>, Problem> {
        let stand_ins = stand_ins(read);
        let Analysed { query, written, ties } = analysis::analyse(self.source, &definition, &stand_ins).await?;
        let plan = lockstep_plan::plan(&query).map_err(|error| {
            let message = format!("projection {}: {}", self.projection.name, error.message);
            Problem::Refused(Box::new(Diagnostic::error(message).help(error.hint)))
        })?;
        let mut plan = self.with_types(&query, plan, &stand_ins).await?;
        let (mut all, mut shared_indexes) = (Vec::new(), None);
        let mut reads: Vec<String> = read.iter().map(|planned| planned.plan.projection.clone()).collect();
        if !plan.is_incremental()
            && read.is_empty()
            && depth < DEPTH_MAX
            && let Some(apart) = Box::pin(self.apart(&query, &definition, &plan, depth)).await?
        {
            all = apart.inner;
            let why = std::mem::replace(&mut plan, apart.outer).maintenance;
            if let (Maintenance::Whole(outer), Maintenance::Whole(why)) = (&mut plan.maintenance, why) {
                // What the reader wants to know is why the query as it was written is not incremental.
                (outer.reason, outer.position, outer.hint) = (why.reason, why.position, why.hint);
            }
            (reads, shared_indexes) = (apart.reads, apart.shared_indexes);
        }
        let node = self.next_node();
        all.push(Planned {
            plan,
            written,
            ties,
            schema: STATE_SCHEMA.to_owned(),
            part_of: part_of.map(str::to_owned),
            reads,
            node,
            group: String::new(),
            time_zone: definition.time_zone,
            on_error: self.projection.on_error,
            feed: self.projection.feed && part_of.is_none(),
            dependencies: analysis::Dependencies::default(),
            indexes: None,
            shared: Vec::new(),
            shared_indexes,
        });
        Ok(all)
    }

    fn next_node(&mut self) -> u32 {
        let node = self.first_node;
        self.first_node -= 1;
        node
    }

    /// Blocks and a plan over them: an incremental one if there is a way, else one that recomputes from blocks that are small.
    async fn apart(
        &mut self,
        query: &Query,
        definition: &Definition,
        plan: &Plan,
        depth: usize,
    ) -> Result<Option<Apart<'a>>, Problem> {
        for parts in compositions(query, self.two_databases) {
            let incremental = |apart: &Apart<'_>| apart.outer.is_incremental();
            if let Some(apart) = self.taken_apart_if(query, definition, parts, depth, &incremental).await? {
                return Ok(Some(apart));
            }
        }
        // What is incremental for some of its relations is better than what is for none.
        let whole = matches!(plan.maintenance, Maintenance::Whole(_));
        let Some(parts) = decompose(query).filter(|_| whole) else { return Ok(None) };
        // Rows of groups are as many as there are groups; rows as they are would only be a copy.
        let smaller = |planned: &Planned| match &planned.plan.maintenance {
            Maintenance::Grouped(grouped) => !matches!(grouped.form, GroupForm::Rows { .. }),
            Maintenance::Row(_) | Maintenance::Whole(_) => !planned.reads.is_empty(),
        };
        let is_smaller = |apart: &Apart<'_>| apart.inner.iter().chain(apart.shared.iter().copied()).any(smaller);
        self.taken_apart_if(query, definition, parts, depth, &is_smaller).await
    }

    /// The same as [`Self::taken_apart`]; where it is not good nothing of it is left.
    async fn taken_apart_if(
        &mut self,
        query: &Query,
        definition: &Definition,
        parts: Decomposition,
        depth: usize,
        is_good: &(dyn Fn(&Apart<'_>) -> bool + Sync),
    ) -> Result<Option<Apart<'a>>, Problem> {
        let (first_node, taken) = (self.first_node, self.former.taken());
        let apart = Box::pin(self.taken_apart(query, definition, parts, depth)).await?.filter(is_good);
        if apart.is_none() {
            self.first_node = first_node;
            self.former.give_back(taken);
        }
        Ok(apart)
    }

    /// Inner projections and the outer plan over them. `None` if nothing is won: some inner part is whole as well.
    async fn taken_apart(
        &mut self,
        query: &Query,
        definition: &Definition,
        parts: Decomposition,
        depth: usize,
    ) -> Result<Option<Apart<'a>>, Problem> {
        let Some(Blocks { mut inner, shared, names, outer }) = Box::pin(self.blocks(definition, parts, depth)).await? else {
            return Ok(None);
        };
        let all = inner.iter().chain(shared.iter().copied());
        let read: Vec<&Planned> = all.filter(|planned| names.contains(&planned.plan.projection)).collect();
        let stand_ins = stand_ins(&read);
        let outer = Definition { sql: outer, settled: true, ..definition.clone() };
        let outer_query = match analysis::analyse(self.source, &outer, &stand_ins).await {
            Ok(analysed) => analysed.query,
            Err(error) if error.class == ErrorClass::Definite => {
                tracing::debug!(projection = definition.name, reason = error.message, "nothing reads its blocks");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        // What it returns must be what the definition returns.
        if outer_query.columns != query.columns {
            return Ok(None);
        }
        let Ok(plan) = lockstep_plan::plan(&outer_query) else { return Ok(None) };
        let mut plan = self.with_types(&outer_query, plan, &stand_ins).await?;
        let shared_indexes = make_indexes(&mut plan, &mut inner, &shared);
        plan.definition_at = lockstep_plan::plan_whole(query, "").definition_at;
        query.sql.trim().trim_end_matches(';').clone_into(&mut plan.definition);
        Ok(Some(Apart { inner, shared, outer: plan, reads: names, shared_indexes }))
    }

    /// The inner projections of a decomposition, those of the old version among them. `None` if some cannot be maintained.
    async fn blocks(
        &mut self,
        definition: &Definition,
        parts: Decomposition,
        depth: usize,
    ) -> Result<Option<Blocks<'a>>, Problem> {
        let mut blocks = Blocks { inner: Vec::new(), shared: Vec::new(), names: Vec::new(), outer: parts.outer };
        let mut others = Vec::new();
        for (name, sql) in parts.inner {
            let first_node = self.first_node;
            let part = Definition { name: name.clone(), sql, key: None, time_zone: definition.time_zone.clone(), settled: true };
            let planned = match Box::pin(self.plan(part, &[], Some(&definition.name), depth + 1)).await {
                Ok(planned) => planned,
                // A part that refers to what is around it is no query by itself.
                Err(Problem::Analysis(error)) if error.class != ErrorClass::Definite => return Err(error.into()),
                // Nor is one that reads no table.
                Err(Problem::Analysis(error)) => {
                    tracing::debug!(part = name, reason = error.message, "no block");
                    return Ok(None);
                }
                Err(Problem::Refused(_)) => return Ok(None),
            };
            let incremental = |planned: &Planned| planned.plan.is_incremental() || !planned.reads.is_empty();
            if let Some(whole) = planned.iter().find(|planned| !incremental(planned)) {
                tracing::debug!(part = whole.plan.projection, maintenance = ?whole.plan.maintenance, "no block: it is whole");
                return Ok(None);
            }
            if let Some(block) = planned.last().and_then(|block| self.former.take(block)) {
                self.first_node = first_node;
                blocks.names.push(block.plan.projection.clone());
                others.push((name, block.plan.projection.clone()));
                blocks.shared.extend(self.former.with_parts(block));
                continue;
            }
            blocks.names.push(name);
            blocks.inner.extend(planned);
        }
        if !others.is_empty() {
            let Ok(outer) = with_other_stand_ins(&blocks.outer, &others) else { return Ok(None) };
            blocks.outer = outer;
        }
        Ok(Some(blocks))
    }

    /// The plan with its hidden tables' columns typed; whole, if some type cannot be stored.
    async fn with_types(&self, query: &Query, mut plan: Plan, stand_ins: &[StandIn]) -> Result<Plan, Problem> {
        let comparable = match &plan.maintenance {
            Maintenance::Grouped(grouped) => grouped.group_columns.iter().chain(&grouped.dependent_columns).cloned().collect(),
            Maintenance::Row(_) | Maintenance::Whole(_) => Vec::new(),
        };
        for state in plan.state_tables_mut() {
            match analysis::result_types(self.source, &state.definition, &comparable, stand_ins).await {
                Ok(types) => state.types = types,
                Err(error) if error.class == ErrorClass::Definite => {
                    let reason = format!("its hidden state cannot be stored: {}", error.message);
                    return Ok(lockstep_plan::plan_whole(query, &reason));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut facts: BTreeMap<String, TypeFacts> = BTreeMap::new();
        for state in plan.state_tables_mut() {
            for type_name in &state.types {
                if !facts.contains_key(type_name) {
                    facts.insert(type_name.clone(), analysis::type_facts(self.source, type_name).await?);
                }
            }
        }
        plan.look_through_domains(&facts);
        let without = plan.clone();
        lockstep_plan::accumulate(query, &mut plan, &facts);
        if let Maintenance::Grouped(grouped) = &plan.maintenance {
            for values in grouped.accumulators.iter().flat_map(|found| &found.values) {
                let value_type = values.state.types.iter().rev().nth(1).map_or("text", String::as_str);
                if !analysis::is_hashable(self.source, value_type).await? {
                    return Ok(without);
                }
            }
        }
        Ok(plan)
    }
}
