//! When a value on a path agrees with one of a dirty row, NULLs and all.

/// What NULLs do where a value is compared with a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Nulls {
    /// Two NULLs are equal: `IS NOT DISTINCT FROM`.
    pub(crate) equal: bool,
    /// For NOT IN and its like, where NULL and false differ. `value` may be NULL: then the answer is false or NULL, as the subquery is
    /// empty or not.
    pub(crate) in_value: bool,
    /// The same. `side` may be NULL: a member that is NULL turns every "false" into NULL.
    pub(crate) in_side: bool,
}

impl Nulls {
    /// Whether more than equal values can change the answer.
    pub(crate) fn concern_more(self) -> bool {
        self.in_value || self.in_side
    }

    fn ways(self) -> Vec<Way> {
        let all =
            [(true, Way::Equal), (self.equal, Way::BothNull), (self.in_value, Way::ValueNull), (self.in_side, Way::DirtyNull)];
        all.into_iter().filter_map(|(possible, way)| possible.then_some(way)).collect()
    }
}

/// A value on a path, as an expression, and what its NULLs do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) value: String,
    pub(crate) nulls: Nulls,
}

/// How a value and a dirty one agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Equal,
    BothNull,
    ValueNull,
    DirtyNull,
}

/// So many SELECTs at most. A column that would make more of them is not compared: a trace may name too many roots.
const ARMS_MAX: usize = 9;

/// `select` where the values agree with those of some dirty row: `dirty` are expressions over the FROM item `from`, one a value.
///
/// One SELECT for each way in which they can agree, because PostgreSQL finds equal values and NULLs by an index, and neither where an
/// `IS NOT DISTINCT FROM` or an OR across tables has both.
pub(crate) fn restricted(select: &str, compared: &[Compared], dirty: &[String], from: &str) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    let mut arms: Vec<Vec<Way>> = vec![Vec::new()];
    for (column, dirty) in compared.iter().zip(dirty) {
        let ways = column.nulls.ways();
        if arms.len() * ways.len() > ARMS_MAX {
            continue;
        }
        columns.push((&column.value, dirty));
        arms = arms.iter().flat_map(|arm| ways.iter().map(|way| [arm.as_slice(), &[*way]].concat())).collect();
    }
    let arms = arms.iter().map(|arm| format!("{select}\nWHERE {}", agreement(arm, &columns, from)));
    arms.collect::<Vec<_>>().join("\nUNION\n")
}

fn agreement(arm: &[Way], columns: &[(&str, &str)], from: &str) -> String {
    let of = |ways: &[Way]| {
        let found = arm.iter().zip(columns).filter(|(way, _)| ways.contains(way)).map(|(_, column)| *column);
        found.unzip::<&str, &str, Vec<_>, Vec<_>>()
    };
    let are_null = |values: Vec<&str>| values.into_iter().map(|value| format!("({value}) IS NULL")).collect::<Vec<_>>();
    let (values, dirty) = of(&[Way::Equal]);
    let dirty_nulls = are_null(of(&[Way::BothNull, Way::DirtyNull]).1).join(" AND ");
    let mut conditions = Vec::new();
    match (values.is_empty(), dirty_nulls.is_empty()) {
        (true, true) => {}
        (true, false) => conditions.push(format!("(SELECT bool_or({dirty_nulls}) FROM {from})")),
        (false, none) => {
            let such = if none { String::new() } else { format!(" WHERE {dirty_nulls}") };
            conditions.push(format!("({}) IN (SELECT {} FROM {from}{such})", values.join(", "), dirty.join(", ")));
        }
    }
    conditions.extend(are_null(of(&[Way::BothNull, Way::ValueNull]).0));
    conditions.join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::{Compared, Nulls, restricted};

    fn arms(columns: &[(bool, bool, bool)]) -> Vec<String> {
        let name = |n: usize| Compared {
            value: format!("v{}", n + 1),
            nulls: Nulls { equal: columns[n].0, in_value: columns[n].1, in_side: columns[n].2 },
        };
        let compared: Vec<Compared> = (0..columns.len()).map(name).collect();
        let dirty: Vec<String> = (1..=columns.len()).map(|n| format!("d{n}")).collect();
        restricted("S", &compared, &dirty, "d").split("\nUNION\n").map(|arm| arm.replace("S\nWHERE ", "")).collect()
    }

    #[test]
    fn one_select_for_each_way_to_agree() {
        assert_eq!(arms(&[(false, false, false)]), ["(v1) IN (SELECT d1 FROM d)"]);
        assert_eq!(
            arms(&[(true, false, false)]),
            ["(v1) IN (SELECT d1 FROM d)", "(SELECT bool_or((d1) IS NULL) FROM d) AND (v1) IS NULL"]
        );
        assert_eq!(
            arms(&[(false, false, false), (true, false, false)]),
            ["(v1, v2) IN (SELECT d1, d2 FROM d)", "(v1) IN (SELECT d1 FROM d WHERE (d2) IS NULL) AND (v2) IS NULL"]
        );
        assert_eq!(
            arms(&[(false, true, true)]),
            ["(v1) IN (SELECT d1 FROM d)", "(v1) IS NULL", "(SELECT bool_or((d1) IS NULL) FROM d)"]
        );
        assert_eq!(
            arms(&[(false, true, false), (false, false, true)]),
            [
                "(v1, v2) IN (SELECT d1, d2 FROM d)",
                "(v1) IN (SELECT d1 FROM d WHERE (d2) IS NULL)",
                "(v2) IN (SELECT d2 FROM d) AND (v1) IS NULL",
                "(SELECT bool_or((d2) IS NULL) FROM d) AND (v1) IS NULL",
            ]
        );
    }

    #[test]
    fn what_would_make_too_many_selects_is_not_compared() {
        let all = arms(&[(false, true, true), (false, true, true), (false, true, true), (false, false, false)]);
        assert_eq!(all.len(), 9);
        assert_eq!(all[0], "(v1, v2, v4) IN (SELECT d1, d2, d4 FROM d)");
    }
}
