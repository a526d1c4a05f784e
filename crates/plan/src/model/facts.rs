//! What the planner is told about a query: facts that PostgreSQL's catalogs gave, nothing it would have to look up itself.

use super::quote;
use super::row_key::locator;
use serde::Serialize;

/// A defining query as PostgreSQL understood it.
#[derive(Debug, Clone)]
pub struct Query {
    /// The projection's name.
    pub projection: String,
    /// The query as `pg_get_viewdef` prints it under an empty search path: names qualified, stars expanded.
    pub sql: String,
    /// The result's columns.
    pub columns: Vec<OutputColumn>,
    /// Every table that the query reads, directly or through views.
    pub relations: Vec<Relation>,
    /// Every view that the query reads, directly or through views.
    pub views: Vec<View>,
    /// Every function that the query calls, operators' and aggregates' included.
    pub functions: Vec<Function>,
    /// Whether it, or a view that it reads, asks for the time with `CURRENT_DATE` and its like.
    pub reads_clock: bool,
    /// The key given in the configuration.
    pub declared_key: Option<Vec<String>>,
}

/// A column of the result.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct OutputColumn {
    /// Name.
    pub name: String,
    /// `format_type`'s name with modifier.
    pub type_name: String,
    /// The same; of a domain what it is over at last.
    pub base_type: String,
    /// Collation, quoted and qualified, where it is not the type's default.
    pub collation: Option<String>,
    /// Whether the type can be hashed (a hash operator class exists).
    pub hashable: bool,
    /// Whether the type has an equality (json, xml and point have none).
    pub comparable: bool,
}

/// What a column is declared with. Tables are told apart by this text (see `setup.rs`), so what follows from the type is not in it.
#[expect(clippy::missing_fields_in_debug, reason = "what follows from the others would make every table another one")]
impl std::fmt::Debug for OutputColumn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OutputColumn")
            .field("name", &self.name)
            .field("type_name", &self.type_name)
            .field("collation", &self.collation)
            .field("hashable", &self.hashable)
            .field("comparable", &self.comparable)
            .finish()
    }
}

impl OutputColumn {
    /// The type, with the collation where it is not the type's default.
    pub(crate) fn typed(&self) -> String {
        self.collation.as_ref().map_or_else(|| self.type_name.clone(), |name| format!("{} COLLATE {name}", self.type_name))
    }
}

/// A view that the query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Its query, printed like [`Query::sql`].
    pub sql: String,
}

/// The name of an identity that is the hash of columns, [`Relation::located_by`].
pub const LOCATOR: &str = "lockstep:locator";

/// A table that the query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its oid.
    pub oid: u32,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// What kind of relation it is.
    pub kind: RelationKind,
    /// Its columns.
    pub columns: Vec<Column>,
    /// What identifies a row in the replication stream.
    pub identity: Identity,
    /// The columns of which the identity is the hash, where it is one: those of a group, which may be NULL, or all of a table without a
    /// key. Then the identity has one column, [`LOCATOR`], which the table does not have.
    pub located_by: Vec<String>,
    /// Whether it never has more than one row: a block of one value.
    pub single_row: bool,
    /// The oids of its inheritance children, theirs included; they are relations of the query as well.
    pub children: Vec<u32>,
    /// The leading columns (or expressions) of its usable indexes.
    pub indexes: Vec<Vec<String>>,
    /// The orders in which its B-trees can read it: those over plain columns, as the columns themselves compare.
    pub orders: Vec<Vec<OrderKey>>,
    /// The columns of its usable `GiST`, `SP-GiST` and `GIN` indexes.
    pub searchable: Vec<String>,
}

/// A column of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderKey {
    /// The column.
    pub column: String,
    /// From the greatest to the least.
    pub descending: bool,
    /// NULLs before everything else.
    pub nulls_first: bool,
}

impl OrderKey {
    /// The key of the order from behind.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self { column: self.column.clone(), descending: !self.descending, nulls_first: !self.nulls_first }
    }
}

impl Relation {
    /// `schema.name`, unquoted, for messages and labels.
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whether the identity's columns compare under their types' default collations.
    pub fn identity_is_plain(&self) -> bool {
        self.identity_columns().iter().all(|name| self.column(name).is_none_or(|column| !column.own_collation))
    }

    /// A column of the identity, as an expression over an alias (quoted).
    pub fn identity_value(&self, alias: &str, column: &str) -> String {
        if column == LOCATOR && !self.located_by.is_empty() {
            return locator(&format!("{alias}."), &self.located_by);
        }
        format!("{alias}.{}", quote::identifier(column))
    }

    /// The identity's columns, for the reader of a plan.
    pub fn key_for_reader(&self) -> String {
        if self.located_by.is_empty() { self.identity_columns().join(", ") } else { self.located_by.join(", ") }
    }

    /// The type of a column of the identity.
    pub fn identity_type(&self, column: &str) -> String {
        if column == LOCATOR && !self.located_by.is_empty() {
            return "bigint".to_owned();
        }
        self.column(column).map_or_else(|| "text".to_owned(), |found| found.type_name.clone())
    }

    /// Whether it is a table without a key, of which the stream delivers whole rows: their hashes are the dirty keys.
    pub fn is_keyless(&self) -> bool {
        !self.located_by.is_empty() && self.kind != RelationKind::Projection
    }

    /// Whether rows are found by the hash that identifies them without looking at all of them. The table of a block has the index.
    pub fn finds_by_hash(&self) -> bool {
        // As `pg_get_indexdef` prints the expression: `hash_record_extended(ROW(a, b), (0)::bigint)`.
        let plain = |text: &str| text.replace("::bigint", "").replace(['(', ')', ' ', '"'], "");
        let wanted = plain(&locator("", &self.located_by));
        !self.is_keyless() || self.indexes.iter().any(|index| index.first().is_some_and(|first| plain(first) == wanted))
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The identity's columns, where it has some.
    pub fn identity_columns(&self) -> &[String] {
        match &self.identity {
            Identity::Columns { columns, .. } => columns,
            Identity::FullRow { .. } | Identity::None => &[],
        }
    }
}

/// The kinds of relation that can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// An ordinary table.
    Table,
    /// A partitioned table; its partitions' changes are published under its name.
    Partitioned,
    /// The table of another projection: its changes are known from its own refresh.
    Projection,
    /// A table with inheritance children, whose changes come under the children's names.
    InheritanceParent,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// `format_type`'s name with modifier.
    pub type_name: String,
    /// Whether it is declared NOT NULL.
    pub not_null: bool,
    /// Whether it has a collation of its own, or no operator `=`: keys that travel as text would be compared under another one, or not.
    pub own_collation: bool,
}

/// What the planner's rules ask of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFacts {
    /// The type, or what a domain is over at last, with the modifier that its values have.
    pub base: String,
    /// Whether equal values are the same value: not so for numeric (1.0 and 1.00), citext, floats (0 and -0), or text that compares
    /// under a collation of its own. A numeric with a declared scale has one spelling.
    pub exact: bool,
}

/// What identifies a row of a table in the replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// These columns: the primary key, or the replica identity index.
    Columns {
        /// The columns, in index order.
        columns: Vec<String>,
        /// REPLICA IDENTITY FULL: the old row comes whole, and the publication cannot list columns.
        full: bool,
    },
    /// REPLICA IDENTITY FULL and no primary key, and the hash of the row does not do either: changes are seen, rows cannot be told apart.
    FullRow {
        /// Why the hash does not do, in words that follow "and".
        because: Option<String>,
    },
    /// Nothing: publishing it would make the application's updates and deletes fail.
    None,
}

/// A function that the query calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its oid.
    pub oid: u32,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `v`olatile functions are refused.
    pub volatility: Volatility,
    /// Function, aggregate or window function.
    pub kind: FunctionKind,
    /// Whether it returns a set.
    pub returns_set: bool,
    /// Whether it returns NULL as soon as an argument is NULL.
    pub strict: bool,
    /// Number of arguments declared.
    pub arguments: usize,
    /// Whether its body is SQL or a procedural language, which can read tables and the clock.
    pub interpreted: bool,
}

/// `pg_proc.provolatile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    /// Same arguments, same result, for ever.
    Immutable,
    /// Same result within one statement.
    Stable,
    /// Anything.
    Volatile,
}

/// `pg_proc.prokind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// An ordinary function.
    Function,
    /// An aggregate.
    Aggregate,
    /// A window function.
    Window,
}
