//! Circles among files.

use std::collections::{BTreeMap, BTreeSet};

/// The circles: sets of files each of which leads to every other one of its set.
pub fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = imports.keys().map(|file| (file, reachable(imports, file))).collect();
    let mut found: Vec<Vec<String>> = Vec::new();
    for (file, far) in &reached {
        let back = |other: &&&String| reached.get(**other).is_some_and(|far| far.contains(file));
        let circle: Vec<String> = far.iter().filter(back).map(|other| (*other).clone()).collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

fn reachable<'a>(imports: &'a BTreeMap<String, BTreeSet<String>>, from: &'a String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut left = vec![from];
    while let Some(file) = left.pop() {
        left.extend(imports.get(file).into_iter().flatten().filter(|target| seen.insert(*target)));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::circles;

    #[test]
    fn a_circle_is_found_and_a_chain_is_none() {
        let graph = |edges: &[(&str, &str)]| {
            let mut graph = std::collections::BTreeMap::<String, std::collections::BTreeSet<String>>::new();
            for (from, to) in edges {
                graph.entry((*to).to_owned()).or_default();
                graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            graph
        };
        assert_eq!(circles(&graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])), [["a", "b", "c"]]);
        assert!(circles(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    }
}
