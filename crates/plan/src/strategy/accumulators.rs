//! Accumulators: groups whose size does not matter.
//!
//! `count`, `sum` and `avg` over integers and numeric have exact inverses, so a group's value can be kept and moved by what a changed
//! contribution adds and takes away. `min` and `max` are an index's first and last entry. `count(DISTINCT …)` is the number of values
//! that occur at all. A projection whose aggregates are all of these kinds costs the same for a group of ten rows as for one of ten
//! million. Floats are never accumulated: `(a + b) - b` is not `a`.
//!
//! The rule: with `was = C − C'` and `is = C' − C` of one group, `Σ C' = Σ C − Σ was + Σ is`, for sums and counts, and for the number of
//! times that a value occurs. A batch reads what changed, not the group.
//!
//! PostgreSQL's `sum(numeric)` shows as many decimals as its most precise input, and NaN and infinity swallow everything. So sums are
//! kept over finite values, with the other three counted, and where the scale is not declared the scales are counted like values.

use std::collections::BTreeMap;

use pg_query::NodeEnum;
use pg_query::protobuf::{FuncCall, Node};

use crate::model::accumulators::{Accumulators, Input, Sum, Values};
use crate::model::contributions::CONTRIBUTION_ALIAS;
use crate::model::facts::{Query, TypeFacts};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::{GroupForm, GroupedPlan, Maintenance, Plan};
use crate::model::quote;
use crate::model::state::StateTable;
use crate::syntax::{self, children, name_parts, parse_expression, print_expression, with_large_stack};

/// Gives a plan accumulators if all its aggregates allow it. The types of its contributions must be known, and what can be said of each:
/// a group's row cannot show another spelling of 1.0 when the one it began with has gone, so groups must be of exact types.
pub fn accumulate(query: &Query, plan: &mut Plan, facts: &BTreeMap<String, TypeFacts>) {
    let Maintenance::Grouped(grouped) = &mut plan.maintenance else { return };
    let is_exact = |type_name: &&str| facts.get(*type_name).is_some_and(|facts| facts.exact);
    let inexact = grouped.group_types().into_iter().find(|type_name| !is_exact(type_name)).map(str::to_owned);
    if let (Some(type_name), GroupForm::Aggregate { .. }) = (inexact, &grouped.form) {
        grouped.recomputed_because = Some(format!("a group is of type {type_name}, of which equal values can look different"));
        return;
    }
    let made = with_large_stack(|| Maker::new(query, grouped, facts).make());
    match made {
        Ok(Ok(accumulators)) => grouped.accumulators = Some(Box::new(accumulators)),
        Ok(Err(obstacle)) => grouped.recomputed_because = Some(obstacle.reason),
        Err(reason) => grouped.recomputed_because = Some(reason),
    }
}

struct Maker<'a> {
    query: &'a Query,
    grouped: &'a GroupedPlan,
    inputs: Vec<Input>,
    values: Vec<Values>,
    ordered: Vec<String>,
    /// Types of the contributions' columns.
    types: BTreeMap<String, String>,
    facts: &'a BTreeMap<String, TypeFacts>,
}

impl<'a> Maker<'a> {
    fn new(query: &'a Query, grouped: &'a GroupedPlan, facts: &'a BTreeMap<String, TypeFacts>) -> Self {
        let state = grouped.branches.first().and_then(|branch| branch.contributions.as_ref());
        let types =
            state.map(|state| state.columns.iter().cloned().zip(state.types.iter().cloned()).collect()).unwrap_or_default();
        Self { query, grouped, inputs: Vec::new(), values: Vec::new(), ordered: Vec::new(), types, facts }
    }

    fn make(mut self) -> Outcome<Accumulators> {
        let GroupForm::Aggregate { having } = &self.grouped.form else {
            return Err(Obstacle::new("its groups are not aggregated"));
        };
        let ([branch], Some(_)) = (self.grouped.branches.as_slice(), having.as_ref().map_or(Some(""), |having| Some(having)))
        else {
            return Err(Obstacle::new("its contributions come from several branches"));
        };
        let Some(contributions) = &branch.contributions else { return Err(Obstacle::new("it has no contributions")) };
        let rewrite = |maker: &mut Self, text: &String| -> Outcome<String> {
            let expression = maker.over_groups(parse_expression(text)?)?;
            Ok(print_expression(&expression)?)
        };
        let mut select_list = Vec::new();
        for text in &self.grouped.select_list {
            select_list.push(rewrite(&mut self, text)?);
        }
        let having = having.as_ref().map(|having| rewrite(&mut self, having)).transpose()?;
        let groups = self.grouped.group_columns.clone();
        let group_types: Vec<String> = groups.iter().map(|group| self.types.get(group).cloned().unwrap_or_default()).collect();
        let mut columns: Vec<(String, String)> = vec![("n".to_owned(), "bigint NOT NULL".to_owned())];
        for (index, input) in self.inputs.iter().enumerate() {
            columns.extend(input.columns(index));
        }
        for (index, _) in self.values.iter().enumerate() {
            columns.push((format!("d{}", index + 1), "bigint NOT NULL".to_owned()));
        }
        let state = StateTable {
            name: format!("{}_group", self.query.projection),
            purpose: "one row for each group: how many rows it has, and their sums and counts".to_owned(),
            columns: groups.iter().cloned().chain(columns.iter().map(|(name, _)| name.clone())).collect(),
            types: group_types.iter().cloned().chain(columns.iter().map(|(_, type_name)| type_name.clone())).collect(),
            domains: Vec::new(),
            key: Vec::new(),
            many_per_key: false,
            definition: String::new(),
            located_by: groups,
        };
        debug_assert!(!contributions.types.is_empty());
        Ok(Accumulators { groups: state, inputs: self.inputs, values: self.values, select_list, having, ordered: self.ordered })
    }

    /// Rewrites an expression over contributions so that it reads a group's row.
    fn over_groups(&mut self, mut node: Node) -> Outcome<Node> {
        if syntax::is_aggregate_call(&node, &self.query.functions) {
            let Some(NodeEnum::FuncCall(call)) = &node.node else { return Ok(node) };
            return Ok(parse_expression(&self.aggregate(call)?)?);
        }
        if let Some(NodeEnum::ColumnRef(reference)) = &node.node {
            let column = reference.fields.last().and_then(syntax::string_of).unwrap_or_default().to_owned();
            if self.grouped.group_columns.contains(&column) {
                return Ok(node);
            }
            // All contributions of a group agree on it.
            return Ok(parse_expression(&format!(
                "(SELECT x.{} FROM \"lockstep:contributions\" x LIMIT 1)",
                quote::identifier(&column)
            ))?);
        }
        if let Some(NodeEnum::SubLink(link)) = &node.node {
            return Err(Obstacle::at("it has a subquery beside aggregates", link.location));
        }
        for child in children(&mut node)? {
            *child = self.over_groups(std::mem::take(child))?;
        }
        Ok(node)
    }

    /// An aggregate over a group's contributions as an expression over the group's row.
    fn aggregate(&mut self, call: &FuncCall) -> Outcome<String> {
        let parts = name_parts(&call.funcname);
        let (Some(name), true) = (parts.last().copied(), parts.len() == 1 || parts.first() == Some(&"pg_catalog")) else {
            return Err(Obstacle::new("it has an aggregate of its own making"));
        };
        let refuse = || Obstacle::new(format!("{name}() has to see all rows of a group"));
        if call.agg_within_group || (!call.agg_order.is_empty() && !matches!(name, "count" | "min" | "max")) {
            return Err(refuse());
        }
        let filter = call.agg_filter.as_deref().map(print_expression).transpose()?;
        if call.agg_star {
            return Ok(match filter {
                None => "COALESCE(c.n, 0)".to_owned(),
                Some(filter) => self.counted(&format!("CASE WHEN {filter} THEN 1 END")),
            });
        }
        let [argument] = call.args.as_slice() else { return Err(refuse()) };
        // Only columns can be put into other statements by their text.
        let is_column = |node: &Node| matches!(&node.node, Some(NodeEnum::ColumnRef(_)));
        if name != "count" && !is_column(argument) || call.agg_filter.as_deref().is_some_and(|filter| !is_column(filter)) {
            return Err(refuse());
        }
        let plain = print_expression(argument)?;
        let expression = match &filter {
            None => plain.clone(),
            Some(filter) => format!("CASE WHEN {filter} THEN {plain} END"),
        };
        match (name, call.agg_distinct) {
            ("count", false) => Ok(self.counted(&expression)),
            ("count", true) if is_column(argument) => {
                let index = self.counted_values(&expression, &plain)?;
                Ok(format!("COALESCE(c.d{}, 0)", index + 1))
            }
            ("min" | "max", _) if !self.is_short(&plain) => Err(Obstacle::new(format!(
                "{name}() is over {}, whose values may be too long for an index",
                self.type_of(&plain)
            ))),
            ("min" | "max", _) => {
                if !self.ordered.contains(&expression) {
                    self.ordered.push(expression.clone());
                }
                let over = expression.replace(&format!("{CONTRIBUTION_ALIAS}."), "x.");
                Ok(format!("(SELECT {name}({over}) FROM \"lockstep:contributions\" x)"))
            }
            ("sum" | "avg", false) => {
                let sum = self.sum_of(&plain, &expression).ok_or_else(|| {
                    let type_name = self.type_of(&plain);
                    Obstacle::new(format!("{name}() over {type_name} is not exact, or its type is not known"))
                })?;
                Ok(self.summed(&expression, sum, name))
            }
            _ => Err(refuse()),
        }
    }

    fn type_of(&self, plain: &str) -> String {
        let column = plain.trim_start_matches("c.").trim_matches('"');
        self.types.get(column).cloned().unwrap_or_else(|| "an expression".to_owned())
    }

    /// The type of which a column's domain is, or its type.
    fn base_type_of(&self, plain: &str) -> String {
        let type_name = self.type_of(plain);
        self.facts.get(&type_name).map_or(type_name, |facts| facts.base.clone())
    }

    /// Whether values of a type fit into an index in any case.
    fn is_short(&self, plain: &str) -> bool {
        const SHORT: [&str; 9] =
            ["smallint", "integer", "bigint", "date", "timestamp", "time", "double precision", "real", "numeric"];
        let type_name = self.base_type_of(plain);
        SHORT.iter().any(|short| type_name.starts_with(short)) && !type_name.ends_with("[]")
    }

    fn sum_of(&mut self, plain: &str, expression: &str) -> Option<Sum> {
        let type_name = self.base_type_of(plain);
        match type_name.as_str() {
            "smallint" | "integer" => Some(Sum::Integer { to_bigint: true }),
            "bigint" => Some(Sum::Integer { to_bigint: false }),
            "numeric" => Some(Sum::Unscaled(self.counted_values(&format!("scale({expression})"), "integer").ok()?)),
            _ => {
                let declared = type_name.strip_prefix("numeric(")?.strip_suffix(')')?;
                let scale = declared.split_once(',').map_or(Some(0), |(_, scale)| scale.trim().parse().ok())?;
                // A negative scale rounds to tens and more, and shows none of it.
                Some(Sum::Scaled(scale.max(0)))
            }
        }
    }

    fn input(&mut self, expression: &str, sum: Option<Sum>) -> usize {
        let index = self.inputs.iter().position(|input| input.expression == expression).unwrap_or_else(|| {
            self.inputs.push(Input { expression: expression.to_owned(), sum: None });
            self.inputs.len() - 1
        });
        self.inputs[index].sum = self.inputs[index].sum.or(sum);
        index + 1
    }

    fn counted(&mut self, expression: &str) -> String {
        format!("COALESCE(c.c{}, 0)", self.input(expression, None))
    }

    fn summed(&mut self, expression: &str, sum: Sum, name: &str) -> String {
        let n = self.input(expression, Some(sum));
        let finite = match sum {
            Sum::Integer { .. } => format!("c.s{n}"),
            Sum::Scaled(scale) => format!("round(c.s{n}, {scale})"),
            Sum::Unscaled(values) => format!("round(c.s{n}, (SELECT max(v.v) FROM \"lockstep:values_{}\" v))", values + 1),
        };
        let exact = match sum {
            Sum::Integer { .. } => finite,
            Sum::Scaled(_) | Sum::Unscaled(_) => format!(
                "CASE WHEN c.x{n} > 0 OR (c.p{n} > 0 AND c.m{n} > 0) THEN 'NaN'::numeric \
                 WHEN c.p{n} > 0 THEN 'Infinity'::numeric WHEN c.m{n} > 0 THEN '-Infinity'::numeric ELSE {finite} END"
            ),
        };
        match (name, sum) {
            ("sum", Sum::Integer { to_bigint: true }) => format!("CASE WHEN c.c{n} > 0 THEN ({exact})::bigint END"),
            ("sum", _) => format!("CASE WHEN c.c{n} > 0 THEN {exact} END"),
            (_, _) => format!("CASE WHEN c.c{n} > 0 THEN ({exact}) / c.c{n}::numeric END"),
        }
    }

    fn counted_values(&mut self, expression: &str, typed_like: &str) -> Outcome<usize> {
        if let Some(index) = self.values.iter().position(|values| values.expression == expression) {
            return Ok(index);
        }
        let type_name = if typed_like == "integer" { "integer".to_owned() } else { self.type_of(typed_like) };
        if type_name == "an expression" {
            return Err(Obstacle::new("count(DISTINCT …) is over an expression whose type is not known"));
        }
        let groups = self.grouped.group_columns.clone();
        let types = groups.iter().map(|group| self.types.get(group).cloned().unwrap_or_default());
        self.values.push(Values {
            state: StateTable {
                name: format!("{}_value{}", self.query.projection, self.values.len() + 1),
                purpose: format!("how often each value of {expression} occurs in a group"),
                columns: groups.iter().cloned().chain(["v".to_owned(), "n".to_owned()]).collect(),
                types: types.chain([type_name, "bigint NOT NULL".to_owned()]).collect(),
                domains: Vec::new(),
                key: Vec::new(),
                many_per_key: false,
                definition: String::new(),
                located_by: groups.into_iter().chain(["v".to_owned()]).collect(),
            },
            expression: expression.to_owned(),
        });
        Ok(self.values.len() - 1)
    }
}
