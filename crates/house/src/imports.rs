//! Which file of a crate imports which other one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use crate::paths::{Named, named};
use crate::{files, text};

/// A module's path, `crate` left out.
type Module = Vec<String>;

/// A re-export leads on this many times at most.
const STEPS_MAX: usize = 8;

/// The files of one crate, and for each the files that it imports something of: those where the thing is, not those that give it on.
#[derive(Debug, Default)]
pub struct Imports {
    /// Named from the crate's `src`.
    pub of: BTreeMap<String, BTreeSet<String>>,
}

impl Imports {
    /// Reads a crate.
    ///
    /// # Errors
    /// A file cannot be read, or is not Rust.
    pub fn read(name: &str) -> anyhow::Result<Self> {
        let source = format!("crates/{name}/src");
        let mut texts = BTreeMap::new();
        for file in files(&source, &["rs"])? {
            let inside = file.trim_start_matches(&source).trim_start_matches('/').to_owned();
            texts.insert(inside, text(&file)?);
        }
        Self::of_texts(&texts)
    }

    /// The same of texts, by the files' names.
    ///
    /// # Errors
    /// One is not Rust.
    pub fn of_texts(texts: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let mut tree = Tree::default();
        let mut all = BTreeMap::new();
        for (file, text) in texts {
            tree.files.insert(module_of(file), file.clone());
            all.insert(file, named(text).with_context(|| file.clone())?);
        }
        for (file, paths) in &all {
            let module = module_of(file);
            for path in paths {
                if let Some(leads_to) = tree.absolute(&module, path) {
                    tree.leads.entry((module.clone(), path.name.clone())).or_insert(leads_to);
                }
            }
        }
        let mut imports = Self::default();
        for (file, paths) in all {
            let module = module_of(file);
            let mut targets = BTreeSet::new();
            // What is given on is the business of those who take it.
            for path in paths.iter().filter(|path| !path.given_on) {
                let target = tree.absolute(&module, path).and_then(|path| tree.file(&path, STEPS_MAX));
                targets.extend(target.filter(|target| target != file));
            }
            imports.of.insert(file.clone(), targets);
        }
        Ok(imports)
    }
}

/// The module that a file is.
fn module_of(file: &str) -> Module {
    let mut words: Module = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if words.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        words.pop();
    }
    words
}

#[derive(Default)]
struct Tree {
    files: BTreeMap<Module, String>,
    /// What a name in a module leads to.
    leads: BTreeMap<(Module, String), Vec<String>>,
}

impl Tree {
    /// A path from the crate's root on; none if it leads out of the crate.
    fn absolute(&self, module: &Module, path: &Named) -> Option<Vec<String>> {
        let words = path.words.as_slice();
        match words.first().map(String::as_str)? {
            "crate" => Some(words[1..].to_vec()),
            "self" => Some(module.iter().chain(&words[1..]).cloned().collect()),
            "super" => {
                let up = words.iter().take_while(|word| *word == "super").count();
                let around = module.len().checked_sub(up)?;
                Some(module[..around].iter().chain(&words[up..]).cloned().collect())
            }
            first => {
                let child: Module = module.iter().cloned().chain([first.to_owned()]).collect();
                self.files.contains_key(&child).then(|| module.iter().chain(words).cloned().collect())
            }
        }
    }

    /// The file where the thing at a path is.
    fn file(&self, path: &[String], steps: usize) -> Option<String> {
        let depth = (0..=path.len()).rev().find(|&depth| self.files.contains_key(&path[..depth]))?;
        let module = path[..depth].to_vec();
        if let (Some(name), Some(fewer)) = (path.get(depth), steps.checked_sub(1))
            && let Some(leads_to) = self.leads.get(&(module.clone(), name.clone()))
            && leads_to[..] != path[..=depth]
        {
            let on: Vec<String> = leads_to.iter().chain(&path[depth + 1..]).cloned().collect();
            return self.file(&on, fewer);
        }
        self.files.get(&module).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Imports;

    #[test]
    fn re_exports_lead_to_where_the_thing_is() -> anyhow::Result<()> {
        let texts = [
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "mod one; mod two; pub use one::One;"),
            ("a/one.rs", "pub struct One;"),
            ("a/two.rs", "use super::One;"),
            ("b.rs", "fn f() { crate::a::One }"),
        ];
        let texts: BTreeMap<String, String> = texts.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        let imports = Imports::of_texts(&texts)?;
        let of = |file: &str| imports.of[file].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(of("a/two.rs"), ["a/one.rs"]);
        assert_eq!(of("b.rs"), ["a/one.rs"]);
        assert!(of("a/mod.rs").is_empty());
        Ok(())
    }
}
