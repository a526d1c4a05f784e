//! What the meaning of a query depends on besides its tables' rows: types, functions, views, operators, collations, configurations.
//!
//! When one of them changes, results change and no row does, so the stream tells nothing. They are found once, from the stored rule,
//! transitively ([`dependencies`]), and looked at again and again ([`meanings`]): by content where harmless changes touch the same
//! catalog row (grants, owners), and by the row's version (`xmin`) where only a change of meaning writes it anew, so that what is undone
//! before anybody looks is noticed as well.

use std::collections::BTreeMap;

use lockstep_plan::chains;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::definition::{EMPTY_SEARCH_PATH, StandIn, VIEW, make_stand_ins, tables};
use super::error::AnalysisError;
use super::reached::{Bodies, reached};

/// The first version whose database default collation has a version of its own (`server_version_num` / 10000).
const DATABASE_COLLATION_FROM: u32 = 15;

/// A catalog object as `pg_depend` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dependency {
    /// The catalog's oid.
    class: u32,
    /// The object's.
    object: u32,
    /// The number of a table's column; 0 for the object as a whole.
    part: i32,
    /// What it is, for people.
    label: String,
}

/// Everything that a query depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// What is looked at.
    pub seen: Vec<Dependency>,
    /// What cannot be looked at, in words.
    pub unseen: Vec<String>,
}

impl Dependencies {
    /// Adds those of another text of the same query.
    pub fn absorb(&mut self, other: Self) {
        self.seen.extend(other.seen.into_iter().filter(|one| !self.seen.contains(one)).collect::<Vec<_>>());
        self.unseen.extend(other.unseen.into_iter().filter(|one| !self.unseen.contains(one)).collect::<Vec<_>>());
    }
}

/// What an object was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    /// Its content; `None` if it was gone.
    content: Option<String>,
    /// Of a column: the version of its row, and the table's file. ALTER COLUMN TYPE … USING changes both and perhaps nothing else; a
    /// grant changes the one, VACUUM FULL the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rewritten: Option<(String, String)>,
}

impl Look {
    fn follows(&self, before: &Self) -> bool {
        let rewritten = match (&self.rewritten, &before.rewritten) {
            (Some((row, file)), Some((row_before, file_before))) => row != row_before && file != file_before,
            (Some(_) | None, Some(_) | None) => false,
        };
        self.content == before.content && !rewritten
    }
}

/// What a query means, as far as the catalogs tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meaning(BTreeMap<String, Look>);

impl Meaning {
    /// What has changed since `before`; nothing if results are what they were.
    pub fn changed_since(&self, before: &Self) -> Vec<String> {
        let follows = |name: &String, look: &Look| self.0.get(name).is_some_and(|now| now.follows(look));
        before.0.iter().filter(|(name, look)| !follows(name, look)).map(|(name, _)| name.clone()).collect()
    }
}

/// What a query depends on, through views, functions and types. `sql` is the query as it is run; names of `stand_ins` are their tables'.
///
/// # Errors
/// The query cannot be analysed any more.
pub async fn dependencies(client: &Client, sql: &str, stand_ins: &[StandIn]) -> Result<Dependencies, AnalysisError> {
    client.batch_execute("BEGIN").await?;
    let found = in_transaction(client, sql, stand_ins).await;
    let rolled_back = client.batch_execute("ROLLBACK").await;
    let found = found?;
    rolled_back?;
    Ok(found)
}

async fn in_transaction(client: &Client, sql: &str, stand_ins: &[StandIn]) -> Result<Dependencies, AnalysisError> {
    make_stand_ins(client, stand_ins).await?;
    let projections = tables(stand_ins);
    let sql = if projections.is_empty() {
        sql.to_owned()
    } else {
        chains::stand_ins_of_tables(sql, &projections).map_err(|error| AnalysisError::definite(error, ""))?
    };
    client.execute(&format!("CREATE TEMPORARY VIEW {VIEW} AS {sql}"), &[]).await?;
    let view: u32 = client.query_one("SELECT $1::text::regclass::oid", &[&format!("pg_temp.{VIEW}")]).await?.get(0);
    client.batch_execute(EMPTY_SEARCH_PATH).await?;
    let reached = reached(Bodies::Words);
    let rows = client
        .query(
            &format!(
                "{reached}
                 SELECT k.class, k.object, k.part,
                        coalesce(CASE k.class
                            WHEN 'pg_enum'::regclass::oid
                                THEN (SELECT concat('label ', e.oid, ' of type ', e.enumtypid::regtype) FROM pg_enum AS e WHERE e.oid = k.object)
                            WHEN 'pg_rewrite'::regclass::oid
                                THEN (SELECT concat('view ', r.ev_class::regclass) FROM pg_rewrite AS r WHERE r.oid = k.object)
                            ELSE (SELECT concat(CASE WHEN k.class = 'pg_class'::regclass AND k.part = 0 THEN 'the columns of ' END, i.type, ' ', i.identity)
                                  FROM pg_identify_object(k.class, k.object, k.part) AS i)
                        END, '')
                 FROM reached AS k
                 LEFT JOIN pg_class AS c ON k.class = 'pg_class'::regclass AND c.oid = k.object
                 LEFT JOIN pg_rewrite AS r ON k.class = 'pg_rewrite'::regclass AND r.oid = k.object
                 WHERE c.relpersistence IS DISTINCT FROM 't' AND c.relkind IS DISTINCT FROM 'v' AND r.ev_class IS DISTINCT FROM $1
                 ORDER BY 4"
            ),
            &[&view],
        )
        .await?;
    let seen: Vec<Dependency> = rows
        .iter()
        .map(|row| Dependency { class: row.get(0), object: row.get(1), part: row.get(2), label: row.get(3) })
        .collect();
    let unseen = unseen(client, &seen).await?;
    Ok(Dependencies { seen, unseen })
}

/// What is reached and has an inside that no catalog shows.
async fn unseen(client: &Client, seen: &[Dependency]) -> Result<Vec<String>, AnalysisError> {
    let objects: Vec<u32> = seen.iter().map(|dependency| dependency.object).collect();
    let rows = client
        .query(
            r"SELECT format('%s is written in %s: what it does is text, of which only the names of functions, types and views are followed',
                           p.oid::regprocedure, l.lanname)
              FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
              WHERE p.oid = ANY ($1) AND l.lanname NOT IN ('internal', 'c', 'sql', 'plpgsql')
              UNION ALL
              SELECT format('%s puts statements together (EXECUTE): what they name is not followed', p.oid::regprocedure)
              FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
              WHERE p.oid = ANY ($1) AND l.lanname = 'plpgsql' AND p.prosrc ~* '\mexecute\M'
              UNION ALL
              SELECT format('the files of the dictionary %s are not followed', d.oid::regdictionary)
              FROM pg_ts_dict AS d WHERE d.oid = ANY ($1) AND d.oid >= 16384 AND d.dictinitoption ~* '(file|synonyms|stopwords)\M'
              ORDER BY 1",
            &[&objects],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What an object is: its content, or of what changes only with its meaning the version of its row. A function or view that is replaced
/// has its dependencies recorded anew (`ProcedureCreate`, `InsertRule`), which a grant or another owner leaves alone.
fn content(major: u32) -> String {
    let database_version = if major < DATABASE_COLLATION_FROM { "NULL" } else { "pg_database_collation_actual_version(d.oid)" };
    let replaced = "(SELECT string_agg(d.xmin::text, ' ' ORDER BY d.refclassid, d.refobjid, d.refobjsubid)
                     FROM pg_depend AS d WHERE d.classid = o.class AND d.objid = o.object AND d.deptype = 'n')";
    format!(
        "CASE o.class
         WHEN 'pg_class'::regclass THEN CASE WHEN o.part > 0 THEN
             (SELECT concat_ws(' ', a.attname, a.attnum, a.atttypid, a.atttypmod, a.attcollation,
                               (SELECT md5(d.adbin::text) FROM pg_attrdef AS d
                                WHERE a.attgenerated <> '' AND d.adrelid = a.attrelid AND d.adnum = a.attnum))
              FROM pg_attribute AS a WHERE a.attrelid = o.object AND a.attnum = o.part AND NOT a.attisdropped)
             ELSE (SELECT md5(string_agg(concat_ws(' ', a.attnum, a.attname), ',' ORDER BY a.attnum))
                   FROM pg_attribute AS a WHERE a.attrelid = o.object AND a.attnum > 0 AND NOT a.attisdropped) END
         WHEN 'pg_rewrite'::regclass THEN
             (SELECT concat_ws(' ', md5(r.ev_action::text), {replaced}) FROM pg_rewrite AS r WHERE r.oid = o.object)
         WHEN 'pg_proc'::regclass THEN
             (SELECT concat_ws(' ', p.oid, md5(concat(to_jsonb(p) - '{{proowner,proacl,procost,prorows,proparallel,prosupport}}'::text[],
                                                    (SELECT to_jsonb(a) FROM pg_aggregate AS a WHERE a.aggfnoid = p.oid))), {replaced})
              FROM pg_proc AS p WHERE p.oid = o.object)
         WHEN 'pg_type'::regclass THEN
             (SELECT md5(concat(to_jsonb(t) - '{{typowner,typacl,typdefault,typdefaultbin,typarray}}'::text[],
                                (SELECT to_jsonb(r) FROM pg_range AS r WHERE r.rngtypid = t.oid)))
              FROM pg_type AS t WHERE t.oid = o.object)
         WHEN 'pg_enum'::regclass THEN (SELECT concat_ws(' ', e.xmin, e.enumlabel) FROM pg_enum AS e WHERE e.oid = o.object)
         WHEN 'pg_constraint'::regclass THEN
             (SELECT md5((to_jsonb(c) - 'conname'::text)::text) FROM pg_constraint AS c WHERE c.oid = o.object)
         WHEN 'pg_attrdef'::regclass THEN (SELECT md5(d.adbin::text) FROM pg_attrdef AS d WHERE d.oid = o.object)
         WHEN 'pg_operator'::regclass THEN
             (SELECT md5((to_jsonb(p) - '{{oprowner,oprcom,oprnegate,oprrest,oprjoin}}'::text[])::text) FROM pg_operator AS p WHERE p.oid = o.object)
         WHEN 'pg_opclass'::regclass THEN
             (SELECT md5(concat(to_jsonb(c) - 'opcowner'::text,
                                (SELECT string_agg(concat_ws(' ', p.amopstrategy, p.amopopr), ',' ORDER BY p.oid) FROM pg_amop AS p WHERE p.amopfamily = c.opcfamily),
                                (SELECT string_agg(concat_ws(' ', p.amprocnum, p.amproc::oid), ',' ORDER BY p.oid) FROM pg_amproc AS p WHERE p.amprocfamily = c.opcfamily)))
              FROM pg_opclass AS c WHERE c.oid = o.object)
         WHEN 'pg_collation'::regclass THEN
             (SELECT CASE WHEN c.collprovider = 'd'
                     THEN (SELECT concat_ws(' ', d.datcollate, d.datctype, {database_version}) FROM pg_database AS d WHERE d.datname = current_database())
                     ELSE concat_ws(' ', md5((to_jsonb(c) - '{{collowner,collversion}}'::text[])::text), pg_collation_actual_version(c.oid)) END
              FROM pg_collation AS c WHERE c.oid = o.object)
         WHEN 'pg_ts_config'::regclass THEN
             (SELECT concat_ws(' ', c.cfgparser, md5((SELECT string_agg(concat_ws(' ', m.xmin, m.maptokentype, m.mapseqno, m.mapdict), ',' ORDER BY m.maptokentype, m.mapseqno)
                                                      FROM pg_ts_config_map AS m WHERE m.mapcfg = c.oid)))
              FROM pg_ts_config AS c WHERE c.oid = o.object)
         WHEN 'pg_ts_dict'::regclass THEN
             (SELECT concat_ws(' ', d.xmin, d.dicttemplate, md5(d.dictinitoption)) FROM pg_ts_dict AS d WHERE d.oid = o.object)
         WHEN 'pg_extension'::regclass THEN (SELECT e.extversion FROM pg_extension AS e WHERE e.oid = o.object)
         END"
    )
}

/// What queries mean now, each given by what it depends on, in their order. One statement. `major` is the server's major version.
///
/// # Errors
/// The query failed.
pub async fn meanings(
    client: &Client,
    dependencies: &[&Dependencies],
    major: u32,
) -> Result<Vec<Meaning>, tokio_postgres::Error> {
    let mut objects: Vec<&Dependency> = dependencies.iter().flat_map(|dependencies| &dependencies.seen).collect();
    objects.sort_unstable_by_key(|object| (object.class, object.object, object.part));
    objects.dedup_by_key(|object| (object.class, object.object, object.part));
    if objects.is_empty() {
        return Ok(dependencies.iter().map(|_| Meaning::default()).collect());
    }
    let classes: Vec<u32> = objects.iter().map(|object| object.class).collect();
    let oids: Vec<u32> = objects.iter().map(|object| object.object).collect();
    let parts: Vec<i32> = objects.iter().map(|object| object.part).collect();
    let content = content(major);
    let rows = client
        .query(
            &format!(
                "SELECT {content},
                        CASE WHEN o.class = 'pg_class'::regclass AND o.part > 0
                             THEN (SELECT a.xmin::text FROM pg_attribute AS a WHERE a.attrelid = o.object AND a.attnum = o.part) END,
                        CASE WHEN o.class = 'pg_class'::regclass AND o.part > 0 THEN pg_relation_filenode(o.object)::text END
                 FROM unnest($1::oid[], $2::oid[], $3::integer[]) WITH ORDINALITY AS o (class, object, part, number)
                 ORDER BY o.number"
            ),
            &[&classes, &oids, &parts],
        )
        .await?;
    let look = |row: &tokio_postgres::Row| Look {
        content: row.get(0),
        rewritten: row.get::<_, Option<String>>(1).zip(row.get::<_, Option<String>>(2)),
    };
    let looks: Vec<Look> = rows.iter().map(look).collect();
    let look_at = |wanted: &Dependency| {
        let key = (wanted.class, wanted.object, wanted.part);
        objects.binary_search_by_key(&key, |object| (object.class, object.object, object.part)).ok().map(|at| looks[at].clone())
    };
    let one = |dependencies: &&Dependencies| {
        let pairs = dependencies.seen.iter().filter_map(|object| Some((object.label.clone(), look_at(object)?)));
        Meaning(pairs.collect())
    };
    Ok(dependencies.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::{Look, Meaning};

    /// Name, content, version of the row with the table's file.
    type Shown<'a> = (&'a str, Option<&'a str>, Option<(&'a str, &'a str)>);

    fn meaning(looks: &[Shown<'_>]) -> Meaning {
        let look = |content: Option<&str>, rewritten: Option<(&str, &str)>| Look {
            content: content.map(str::to_owned),
            rewritten: rewritten.map(|(row, file)| (row.to_owned(), file.to_owned())),
        };
        Meaning(looks.iter().map(|(name, content, rewritten)| ((*name).to_owned(), look(*content, *rewritten))).collect())
    }

    #[test]
    fn only_what_changes_results_counts() {
        let before = meaning(&[("function f", Some("1"), None), ("column c", Some("numeric"), Some(("700", "9")))]);
        for unchanged in [
            meaning(&[
                ("function f", Some("1"), None),
                ("column c", Some("numeric"), Some(("701", "9"))),
                ("label new", Some("x"), None),
            ]),
            meaning(&[("function f", Some("1"), None), ("column c", Some("numeric"), Some(("700", "10")))]),
        ] {
            assert!(unchanged.changed_since(&before).is_empty(), "{unchanged:?}");
        }
        for (changed, what) in [
            (meaning(&[("function f", Some("2"), None), ("column c", Some("numeric"), Some(("700", "9")))]), "function f"),
            (meaning(&[("column c", Some("numeric"), Some(("700", "9")))]), "function f"),
            (meaning(&[("function f", Some("1"), None), ("column c", Some("numeric"), Some(("701", "10")))]), "column c"),
            (meaning(&[("function f", Some("1"), None), ("column c", None, None)]), "column c"),
        ] {
            assert_eq!(changed.changed_since(&before), [what]);
        }
    }
}
