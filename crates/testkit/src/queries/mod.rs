//! Random defining queries over the shop of [`crate::SCHEMA`]: joins of one to four tables in any shape, by values, NULLs and ranges, subqueries, aggregates,
//! HAVING, windows, UNION, each of them in the FROM clause of another, three deep. Every query is valid, and its result does not depend on the order in which rows are read.

mod sources;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::tables::{Column, Kind, TABLES};

/// Two columns that may be compared: one in scope, one of what is joined.
struct Tie {
    left: String,
    right: String,
    kind: Kind,
}

impl Tie {
    fn equal(&self) -> String {
        format!("{} = {}", self.right, self.left)
    }
}

/// A query in parts that can be left out one by one.
#[derive(Debug, Clone)]
pub struct RandomQuery {
    /// FROM items after the first, each with what joins it.
    from: Vec<String>,
    select: Vec<String>,
    conditions: Vec<String>,
    group_by: Vec<String>,
    having: Option<String>,
    distinct: bool,
    union: Option<String>,
}

impl RandomQuery {
    /// The query of a seed.
    pub fn new(seed: u64) -> Self {
        Maker { random: StdRng::seed_from_u64(seed), scope: Vec::new(), aliases: 0, text_joins: 0, depth: 1 }.query()
    }

    /// Its text.
    pub fn sql(&self) -> String {
        let distinct = if self.distinct { "DISTINCT " } else { "" };
        let named: Vec<String> = self.select.iter().enumerate().map(|(n, item)| format!("{item} AS c{}", n + 1)).collect();
        let mut sql = format!("SELECT {distinct}{}\nFROM {}", named.join(", "), self.from.join("\n  "));
        if !self.conditions.is_empty() {
            sql.push_str(&format!("\nWHERE {}", self.conditions.join("\n  AND ")));
        }
        if !self.group_by.is_empty() {
            sql.push_str(&format!("\nGROUP BY {}", self.group_by.join(", ")));
        }
        if let Some(having) = &self.having {
            sql.push_str(&format!("\nHAVING {having}"));
        }
        if let Some(union) = &self.union {
            sql.push_str(&format!("\n{union}"));
        }
        sql
    }

    /// The same query with one part less, for each part that can be missing. Some of them are not valid.
    pub fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut without = |change: &dyn Fn(&mut Self)| {
            let mut copy = self.clone();
            change(&mut copy);
            all.push(copy);
        };
        for index in 0..self.conditions.len() {
            without(&|query| drop(query.conditions.remove(index)));
        }
        for index in (1..self.from.len()).rev() {
            without(&|query| drop(query.from.remove(index)));
        }
        if self.select.len() > 1 && self.union.is_none() {
            for index in 0..self.select.len() {
                without(&|query| drop(query.select.remove(index)));
            }
        }
        if self.having.is_some() {
            without(&|query| query.having = None);
        }
        if self.distinct {
            without(&|query| query.distinct = false);
        }
        if self.union.is_some() {
            without(&|query| query.union = None);
        }
        all
    }
}

/// A FROM item in scope.
#[derive(Debug, Clone)]
struct Item {
    alias: String,
    columns: Vec<(String, Kind)>,
    /// Of equal amounts that are spelled differently (1.5, 1.50) one stands for all, and PostgreSQL may choose any.
    merges: bool,
}

impl Item {
    fn new(alias: String, columns: Vec<(String, Kind)>) -> Self {
        Self { alias, columns, merges: false }
    }

    fn merging(alias: String, columns: Vec<(String, Kind)>) -> Self {
        Self { alias, columns, merges: true }
    }
}

struct Maker {
    random: StdRng,
    scope: Vec<Item>,
    aliases: usize,
    /// Joins on text meet many rows; more than one makes results too large.
    text_joins: usize,
    /// How many queries the one that is being made is inside of, with itself.
    depth: u32,
}

/// Queries inside queries go so deep.
const DEEPEST: u32 = 3;

impl Maker {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items.choose(&mut self.random).cloned().expect("something to choose from")
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn query(&mut self) -> RandomQuery {
        let (first, item) = self.source();
        let mut from = vec![format!("{first} {}", item.alias)];
        self.scope.push(item);
        let joins: &[u32] = if self.depth == 1 { &[0, 1, 1, 2, 2, 3] } else { &[0, 0, 1] };
        for _ in 0..self.pick(joins) {
            if let Some(joined) = self.join() {
                from.push(joined);
            }
        }
        let conditions = (0..self.pick(&[0, 0, 1, 1, 2])).map(|_| self.condition(2)).collect();
        let mut query = RandomQuery {
            from,
            select: Vec::new(),
            conditions,
            group_by: Vec::new(),
            having: None,
            distinct: false,
            union: None,
        };
        match self.random.random_range(0..10) {
            0..4 => self.rows(&mut query),
            4..8 => self.groups(&mut query),
            8 => self.windows(&mut query),
            _ => self.union(&mut query),
        }
        query
    }

    fn rows(&mut self, query: &mut RandomQuery) {
        for item in self.scope.clone() {
            if self.chance(70) {
                query.select.push(format!("{}.{}", item.alias, item.columns[0].0));
            }
        }
        for _ in 0..self.random.random_range(1..4) {
            let value = self.value();
            query.select.push(value);
        }
        query.distinct = self.chance(15);
    }

    fn groups(&mut self, query: &mut RandomQuery) {
        for _ in 0..self.pick(&[0, 1, 1, 1, 2]) {
            let group = self.group_expression();
            if !query.group_by.contains(&group) {
                query.group_by.push(group.clone());
                query.select.push(group);
            }
        }
        for _ in 0..self.random.random_range(1..4) {
            let aggregate = self.aggregate();
            query.select.push(aggregate);
        }
        if self.chance(30) {
            let limit = self.random.random_range(0..4);
            query.having = Some(format!("count(*) > {limit}"));
        }
    }

    fn windows(&mut self, query: &mut RandomQuery) {
        let item = self.scope[0].clone();
        query.select.push(format!("{}.{}", item.alias, item.columns[0].0));
        let partition = self.column();
        query.select.push(partition.clone());
        let value = self.column_of(&[Kind::Number, Kind::Amount]).unwrap_or_else(|| "1".to_owned());
        query.select.push(format!("count({value}) OVER (PARTITION BY {partition})"));
        if self.chance(50) {
            query.select.push(format!("rank() OVER (PARTITION BY {partition} ORDER BY {}.{})", item.alias, item.columns[0].0));
        }
        if self.chance(30) {
            query.select.push(format!("count(*) OVER (PARTITION BY {partition}, {value})"));
        }
    }

    fn union(&mut self, query: &mut RandomQuery) {
        let number = self.column_of(&[Kind::Number]).unwrap_or_else(|| "1".to_owned());
        let text = self.column_of(&[Kind::Text]).unwrap_or_else(|| "'x'".to_owned());
        query.select = vec![format!("{number}::bigint"), format!("{text}::text")];
        let all = if self.chance(50) { " ALL" } else { "" };
        let operation = self.pick(&["UNION", "UNION", "EXCEPT", "INTERSECT"]);
        query.union = Some(self.pick(&[
            format!("{operation}{all} SELECT u.id, u.method FROM shop.payment u WHERE u.amount > 10"),
            format!(
                "{operation}{all} SELECT u.tier, r.name FROM shop.customer u LEFT JOIN shop.region r ON r.code = u.region_code"
            ),
            format!("{operation}{all} SELECT u.order_id, u.product FROM shop.line u"),
        ]));
    }

    /// A join with something in scope; `None` if nothing fits.
    fn join(&mut self) -> Option<String> {
        let (text, item) = self.source();
        let tie = self.tie(&item)?;
        let full = self.chance(8);
        // PostgreSQL has full joins by equalities alone.
        let mut condition = if full { tie.equal() } else { self.comparison(&tie) };
        if !full && self.chance(25) {
            let extra = self.local_condition(&item);
            condition.push_str(&format!(" AND {extra}"));
        }
        let kind = if full { "FULL JOIN" } else { self.pick(&["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN"]) };
        let joined = format!("{kind} {text} {} ON {condition}", item.alias);
        self.scope.push(item);
        Some(joined)
    }

    /// Two columns that can be equal: one in scope, one of the item.
    fn tie(&mut self, item: &Item) -> Option<Tie> {
        let mut pairs = Vec::new();
        for known in &self.scope {
            for (left, kind) in &known.columns {
                for (right, other) in &item.columns {
                    let fits = kind == other && (*kind == Kind::Number || (*kind == Kind::Text && self.text_joins == 0));
                    if fits {
                        pairs.push((format!("{}.{left}", known.alias), format!("{}.{right}", item.alias), *kind));
                    }
                }
            }
        }
        let (left, right, kind) = pairs.choose(&mut self.random).cloned()?;
        self.text_joins += usize::from(kind == Kind::Text);
        Some(Tie { left, right, kind })
    }

    /// Mostly an equality; or one that NULLs satisfy, or a range.
    fn comparison(&mut self, tie: &Tie) -> String {
        let Tie { left, right, kind } = tie;
        match (self.random.random_range(0..16), kind) {
            (0, _) => format!("{right} IS NOT DISTINCT FROM {left}"),
            (1, _) => format!("({left} = {right} OR ({right} IS NULL AND {left} IS NULL))"),
            (2, Kind::Number) => format!("{right} BETWEEN {left} AND {left} + 1"),
            (3, Kind::Number) => format!("({right} = {left} OR {right} = {left} - 3)"),
            _ => tie.equal(),
        }
    }

    fn column(&mut self) -> String {
        let item = self.pick(&self.scope.clone());
        let (name, _) = self.pick(&item.columns);
        format!("{}.{name}", item.alias)
    }

    /// A column as text, whatever spelling of equal amounts it has.
    fn text_of(&self, column: &str) -> String {
        let merged = |item: &Item| {
            let name = column.strip_prefix(&format!("{}.", item.alias));
            item.merges && item.columns.iter().any(|(found, kind)| Some(found.as_str()) == name && *kind == Kind::Amount)
        };
        let text = if self.scope.iter().any(merged) { format!("trim_scale({column})") } else { column.to_owned() };
        format!("{text}::text")
    }

    fn column_of(&mut self, kinds: &[Kind]) -> Option<String> {
        let fitting: Vec<String> = self
            .scope
            .iter()
            .flat_map(|item| {
                item.columns
                    .iter()
                    .filter(|(_, kind)| kinds.contains(kind))
                    .map(move |(name, _)| format!("{}.{name}", item.alias))
            })
            .collect();
        fitting.choose(&mut self.random).cloned()
    }

    fn local_condition(&mut self, item: &Item) -> String {
        let place = item.columns.iter().find(|(name, _)| name == "place").cloned();
        let (name, kind) = place.filter(|_| self.chance(50)).unwrap_or_else(|| self.pick(&item.columns));
        let column = format!("{}.{name}", item.alias);
        match (kind, self.random.random_range(0..4)) {
            (_, 0) => format!("{column} IS NOT NULL"),
            (_, 1) => format!("{column} IS NULL"),
            // A place in a partition is asked for by a limit.
            (Kind::Number, n) if name == "place" => format!("{column} {} {n}", self.pick(&["<=", "<", "=", ">="])),
            (Kind::Number, n) => format!("{column} % {} <> 1", n + 1),
            (Kind::Amount, _) => format!("{column} > {}", self.random.random_range(0..30)),
            (Kind::Text, _) => format!("{column} <> '{}'", self.pick(&["new", "paid", "r1", "p3", "card"])),
            (Kind::Date, _) => format!("{column} > date '2026-01-04'"),
        }
    }

    fn condition(&mut self, depth: u32) -> String {
        let choice = if depth == 0 { 0 } else { self.random.random_range(0..9) };
        match choice {
            0..4 => {
                let item = self.pick(&self.scope.clone());
                self.local_condition(&item)
            }
            4 => format!("({} OR {})", self.condition(depth - 1), self.condition(depth - 1)),
            5 => format!("NOT coalesce({}, false)", self.condition(depth - 1)),
            6 => self.exists(depth),
            7 => self.membership(),
            _ => format!("{} > {}", self.scalar(), self.random.random_range(0..3)),
        }
    }

    /// `[NOT] EXISTS (…)` with a correlated subquery, perhaps with one more inside.
    fn exists(&mut self, depth: u32) -> String {
        let (table, columns) = self.pick(TABLES);
        let item = self.inner(columns);
        let not = self.pick(&["", "NOT "]);
        let Some(tie) = self.tie_inner(&item) else { return "true".to_owned() };
        let mut condition = self.comparison(&tie);
        if self.chance(40) {
            let outer = std::mem::replace(&mut self.scope, vec![item.clone()]);
            let extra = self.condition(depth - 1);
            self.scope = outer;
            condition.push_str(&format!(" AND {extra}"));
        }
        format!("{not}EXISTS (SELECT 1 FROM {table} {} WHERE {condition})", item.alias)
    }

    fn membership(&mut self) -> String {
        let (table, columns) = self.pick(TABLES);
        let item = self.inner(columns);
        let Some(Tie { left, right, .. }) = self.tie_inner(&item) else { return "true".to_owned() };
        let extra = self.local_condition(&item);
        let not = self.pick(&["", "NOT "]);
        if self.chance(25)
            && let Some(second) = self.tie_inner(&item)
        {
            let Tie { left: other, right: shown, .. } = second;
            return format!("({left}, {other}) {not}IN (SELECT {right}, {shown} FROM {table} {} WHERE {extra})", item.alias);
        }
        format!("{left} {not}IN (SELECT {right} FROM {table} {} WHERE {extra})", item.alias)
    }

    fn scalar(&mut self) -> String {
        let (table, columns) = self.pick(TABLES);
        let item = self.inner(columns);
        let Some(tie) = self.tie_inner(&item) else { return "1".to_owned() };
        let (condition, extra) = (self.comparison(&tie), self.local_condition(&item));
        format!("(SELECT count(*) FROM {table} {} WHERE {condition} AND {extra})", item.alias)
    }

    fn inner(&mut self, columns: &[Column]) -> Item {
        let alias = self.alias();
        Item::new(alias, columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect())
    }

    fn tie_inner(&mut self, item: &Item) -> Option<Tie> {
        let before = self.text_joins;
        self.text_joins = 0;
        let tie = self.tie(item);
        self.text_joins = before;
        tie
    }

    fn value(&mut self) -> String {
        match self.random.random_range(0..8) {
            0 => self.scalar(),
            1 => {
                let column = self.column();
                format!("coalesce({}, '-')", self.text_of(&column))
            }
            2 => format!("CASE WHEN {} THEN 1 ELSE 0 END", self.condition(1)),
            3 => self.column_of(&[Kind::Amount]).map_or_else(|| "7".to_owned(), |column| format!("{column} * 2")),
            _ => self.column(),
        }
    }

    fn group_expression(&mut self) -> String {
        let column = self.column();
        match self.random.random_range(0..4) {
            0 => format!("upper({})", self.text_of(&column)),
            _ => column,
        }
    }

    fn aggregate(&mut self) -> String {
        let number = self.column_of(&[Kind::Number, Kind::Amount]).unwrap_or_else(|| "1".to_owned());
        let any = self.column();
        let filter = if self.chance(25) { format!(" FILTER (WHERE {})", self.condition(1)) } else { String::new() };
        match self.random.random_range(0..8) {
            0 => format!("count(*){filter}"),
            1 => format!("count({any}){filter}"),
            2 => format!("count(DISTINCT {any}){filter}"),
            3 => format!("sum({number}){filter}"),
            4 => format!("avg({number}){filter}"),
            5 => format!("min({any}){filter}"),
            6 => format!("max({any}){filter}"),
            _ => {
                let any = self.text_of(&any);
                format!("string_agg({any}, ',' ORDER BY {any}){filter}")
            }
        }
    }
}
