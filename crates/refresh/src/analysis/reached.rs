//! What a query reaches through the catalogs: views, functions, types, operators, and what those reach.

/// From one dependency to the next. `k` is what has been reached, `pg_depend`'s three columns; a table's part 0 is its whole row, and
/// every column belongs to it.
///
/// `pg_depend` tells nothing about columns' types that are built in, whole rows (`to_jsonb(t)`, `t.*::text`), an enum's labels, a
/// domain's conditions or the bodies of functions that are text; those are found by other ways.
const EDGES: &str = r"
    SELECT d.refclassid, d.refobjid, d.refobjsubid FROM pg_depend AS d
    WHERE d.classid = k.class AND d.objid = k.object AND d.objsubid = k.part AND d.deptype IN ('n', 'a', 'i', 'e')
      AND NOT (k.class = 'pg_class'::regclass AND k.part = 0)
      AND (d.refclassid <> 'pg_class'::regclass OR d.refobjsubid > 0
           OR EXISTS (SELECT FROM pg_class AS v WHERE v.oid = d.refobjid AND v.relkind = 'v'))
    UNION ALL
    SELECT 'pg_rewrite'::regclass, r.oid, 0 FROM pg_rewrite AS r JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'v'
    WHERE k.class = 'pg_class'::regclass AND r.ev_class = k.object
    UNION ALL
    SELECT 'pg_class'::regclass, t.typrelid, 0
    FROM pg_rewrite AS r, regexp_matches(r.ev_action::text, ':varattno 0 :vartype (\d+)', 'g') AS m, pg_type AS t
    WHERE k.class = 'pg_rewrite'::regclass AND r.oid = k.object AND t.oid = m[1]::oid AND t.typrelid <> 0
    UNION ALL
    SELECT 'pg_class'::regclass, a.attrelid, a.attnum FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
    WHERE k.class = 'pg_class'::regclass AND k.part = 0 AND a.attrelid = k.object AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relkind IN ('r', 'p', 'c')
    UNION ALL
    SELECT x.class, x.object, 0
    FROM pg_attribute AS a,
         LATERAL (VALUES ('pg_type'::regclass, a.atttypid), ('pg_collation'::regclass, nullif(a.attcollation, 0))) AS x (class, object)
    WHERE k.class = 'pg_class'::regclass AND k.part > 0 AND a.attrelid = k.object AND a.attnum = k.part
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid, 0
    FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated = 'v'
    WHERE k.class = 'pg_class'::regclass AND d.adrelid = k.object AND d.adnum = k.part
    UNION ALL
    SELECT x.class, x.object, 0
    FROM pg_type AS t,
         LATERAL (VALUES ('pg_type'::regclass, t.typelem), ('pg_type'::regclass, t.typbasetype), ('pg_class'::regclass, t.typrelid),
                         ('pg_type'::regclass, (SELECT r.rngsubtype FROM pg_range AS r WHERE r.rngtypid = t.oid))) AS x (class, object)
    WHERE k.class = 'pg_type'::regclass AND t.oid = k.object AND x.object <> 0
    UNION ALL
    SELECT 'pg_enum'::regclass, e.oid, 0 FROM pg_enum AS e WHERE k.class = 'pg_type'::regclass AND e.enumtypid = k.object
    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid, 0 FROM pg_constraint AS c WHERE k.class = 'pg_type'::regclass AND c.contypid = k.object
    UNION ALL
    SELECT 'pg_opclass'::regclass, o.oid, 0 FROM pg_opclass AS o WHERE k.class = 'pg_type'::regclass AND o.opcintype = k.object
    UNION ALL
    SELECT 'pg_proc'::regclass, p.amproc::oid, 0 FROM pg_opclass AS o JOIN pg_amproc AS p ON p.amprocfamily = o.opcfamily
    WHERE k.class = 'pg_opclass'::regclass AND o.oid = k.object
    UNION ALL
    SELECT 'pg_operator'::regclass, p.amopopr, 0 FROM pg_opclass AS o JOIN pg_amop AS p ON p.amopfamily = o.opcfamily
    WHERE k.class = 'pg_opclass'::regclass AND o.oid = k.object
    UNION ALL
    SELECT x.class, x.object, 0
    FROM pg_proc AS p
    JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c'),
    LATERAL (SELECT DISTINCT w.word FROM regexp_matches(p.prosrc, '[[:alpha:]_][[:alnum:]_$]*', 'g') AS m,
                    LATERAL (VALUES (m[1]), (lower(m[1]))) AS w (word)) AS w,
    LATERAL (SELECT 'pg_type'::regclass, t.oid FROM pg_type AS t WHERE t.typname = w.word AND t.typtype IN ('e', 'd', 'r')
             UNION ALL
             SELECT 'pg_class'::regclass, v.oid FROM pg_class AS v WHERE v.relname = w.word AND v.relkind = 'v'
             UNION ALL
             SELECT 'pg_ts_config'::regclass, c.oid FROM pg_ts_config AS c WHERE c.cfgname = w.word) AS x (class, object)
    WHERE k.class = 'pg_proc'::regclass AND p.oid = k.object AND p.prosqlbody IS NULL";

/// Functions that the text of a body names: by any word of it, or by a call, which has parentheses.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bodies {
    /// Too many rather than too few.
    Words,
    /// What is called, as far as the text shows.
    Calls,
}

impl Bodies {
    fn edges(self) -> &'static str {
        match self {
            Self::Words => {
                r"SELECT 'pg_proc'::regclass, f.oid, 0
                  FROM pg_proc AS p
                  JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c'),
                  LATERAL regexp_matches(p.prosrc, '[[:alpha:]_][[:alnum:]_$]*', 'g') AS m
                  JOIN pg_proc AS f ON f.proname IN (m[1], lower(m[1]))
                  WHERE k.class = 'pg_proc'::regclass AND p.oid = k.object AND p.prosqlbody IS NULL"
            }
            Self::Calls => {
                r#"SELECT 'pg_proc'::regclass, f.oid, 0
                   FROM pg_proc AS p
                   JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c'),
                   LATERAL regexp_matches(p.prosrc, '(?:"([^"]+)"|([[:alpha:]_][[:alnum:]_$]*))\s*\(', 'g') AS m
                   JOIN pg_proc AS f ON f.proname IN (m[1], m[2], lower(m[2]))
                   WHERE k.class = 'pg_proc'::regclass AND p.oid = k.object AND p.prosqlbody IS NULL"#
            }
        }
    }
}

/// The start of a statement: `reached (class, object, part)`, everything that the view `$1` reaches.
pub(super) fn reached(bodies: Bodies) -> String {
    let functions = bodies.edges();
    format!(
        "WITH RECURSIVE reached (class, object, part) AS (
             SELECT 'pg_class'::regclass::oid, $1::oid, 0
             UNION
             SELECT n.class::oid, n.object, n.part::integer
             FROM reached AS k CROSS JOIN LATERAL ({EDGES} UNION ALL {functions}) AS n (class, object, part)
             WHERE n.object <> 0 AND ({FOLLOWED})
         )"
    )
}

/// The catalogs whose objects carry meaning. What the installation brought along is of the server's version and is not followed, apart
/// from what can be altered in place: configurations, dictionaries, collations (`FirstNormalObjectId` in `access/transam.h`).
const FOLLOWED: &str = "n.class IN ('pg_ts_config'::regclass, 'pg_ts_dict'::regclass, 'pg_collation'::regclass)
    OR n.object >= 16384 AND n.class IN ('pg_class'::regclass, 'pg_rewrite'::regclass, 'pg_attrdef'::regclass, 'pg_type'::regclass,
        'pg_enum'::regclass, 'pg_constraint'::regclass, 'pg_opclass'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass,
        'pg_extension'::regclass)
    OR n.class = 'pg_enum'::regclass";
