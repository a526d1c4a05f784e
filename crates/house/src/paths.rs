//! The paths that a file names.

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree};

/// A path, by its words; whether it is a `use` that gives it to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) words: Vec<String>,
    pub(crate) given_on: bool,
    /// The name that it has from then on.
    pub(crate) name: String,
}

/// The paths in a file's text that may lead into its own crate, tests apart.
///
/// # Errors
/// The text is not Rust.
pub(crate) fn named(text: &str) -> syn::Result<Vec<Named>> {
    let mut reader = Reader { found: Vec::new() };
    reader.visit_file(&syn::parse_file(text)?);
    Ok(reader.found)
}

struct Reader {
    found: Vec<Named>,
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(ItemMod { attrs, .. }) | Item::Use(ItemUse { attrs, .. }) => attrs,
            _ => &[],
        };
        if !attributes.iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let given_on = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &mut Vec::new(), given_on);
    }

    /// `pub(super)` names no other file.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if matches!(words.first().map(String::as_str), Some("crate" | "super")) {
            let name = words.last().cloned().unwrap_or_default();
            self.found.push(Named { words, given_on: false, name });
        }
        visit::visit_path(self, path);
    }
}

impl Reader {
    fn tree(&mut self, tree: &UseTree, before: &mut Vec<String>, given_on: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before, given_on);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before, given_on)),
            UseTree::Name(name) if name.ident == "self" => self.add(before.clone(), before.last().cloned(), given_on),
            UseTree::Name(name) => {
                let words = before.iter().cloned().chain([name.ident.to_string()]).collect();
                self.add(words, Some(name.ident.to_string()), given_on);
            }
            UseTree::Rename(rename) => {
                let words = before.iter().cloned().chain([rename.ident.to_string()]).collect();
                self.add(words, Some(rename.rename.to_string()), given_on);
            }
            UseTree::Glob(_) => self.add(before.clone(), None, given_on),
        }
    }

    fn add(&mut self, words: Vec<String>, name: Option<String>, given_on: bool) {
        self.found.push(Named { words, given_on, name: name.unwrap_or_default() });
    }
}

/// `#[cfg(test)]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn paths_are_read_as_the_compiler_reads_them() -> syn::Result<()> {
        let text = "use crate::a::{self, B as C, d::*}; pub use e::F; pub(super) fn f() -> crate::g::H { super::i() }
                    #[cfg(test)] mod tests { use crate::unseen; }";
        let found: Vec<String> = named(text)?.into_iter().map(|named| named.words.join("::")).collect();
        assert_eq!(found, ["crate::a", "crate::a::B", "crate::a::d", "e::F", "crate::g::H", "super::i"]);
        Ok(())
    }
}
