//! The code of one crate as modules: what each defines, and which files it uses. Unit tests are left out.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a syntax tree has many kinds of items, and later versions have more: few matter here"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The modules of a crate by their path from its root, which is empty.
pub(super) struct SourceTree {
    pub(super) modules: BTreeMap<Vec<String>, Module>,
}

/// One module, in a file of its own or inside another module's file.
#[derive(Default)]
pub(super) struct Module {
    pub(super) file: PathBuf,
    /// Structs, enums, traits and aliases.
    pub(super) types: Vec<String>,
    /// The paths that `use` brings into the module, by their names there.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths in the code and of its private `use`.
    paths: BTreeSet<Vec<String>>,
    /// Names of `pub use`.
    pub(super) shown: Vec<String>,
    /// The names of the methods that the module calls.
    pub(super) methods: BTreeSet<String>,
    /// Whether every module on the way to it is `pub`.
    pub(super) is_public: bool,
    /// Whether a module in it is found by `#[path]`.
    pub(super) has_path_attribute: bool,
}

/// Whom a `use` shows its names to. Only a private one is a use of what it names: the others pass a name on.
#[derive(Clone, Copy)]
enum Shows {
    ToAll,
    InCrate,
    Nobody,
}

impl Shows {
    fn of(visibility: &syn::Visibility) -> Self {
        match visibility {
            syn::Visibility::Public(_) => Self::ToAll,
            syn::Visibility::Restricted(_) => Self::InCrate,
            syn::Visibility::Inherited => Self::Nobody,
        }
    }
}

impl SourceTree {
    /// Reads the crate whose `lib.rs` is in `folder`.
    pub(super) fn read(folder: &Path) -> Self {
        let mut tree = Self {
            modules: BTreeMap::new(),
        };
        tree.add_file(&folder.join("lib.rs"), folder, Vec::new(), true);
        tree
    }

    /// Which files each file uses: those that define a name which one of its paths leads to.
    pub(super) fn uses(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut uses: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (at, module) in &self.modules {
            let used = uses.entry(&module.file).or_default();
            for path in &module.paths {
                let absolute = self.absolute(at, path);
                let definer = absolute.and_then(|path| self.definer(&path, 0));
                used.extend(definer.filter(|file| *file != module.file));
            }
        }
        uses
    }

    /// The full paths that a module names, as far as they begin in this crate.
    pub(super) fn names(&self, at: &[String]) -> BTreeSet<String> {
        let module = &self.modules[at];
        let paths = module.paths.iter().filter_map(|path| self.absolute(at, path));
        paths.map(|path| path.join("::")).collect()
    }

    /// Groups of files that use each other, directly or in a loop.
    pub(super) fn loops(&self) -> Vec<Vec<String>> {
        let uses = self.uses();
        let reachable = |from: &Path| {
            let mut found = BTreeSet::new();
            let mut next: Vec<&Path> = uses[from].iter().copied().collect();
            while let Some(file) = next.pop() {
                if found.insert(file) {
                    next.extend(&uses[file]);
                }
            }
            found
        };
        let reached: BTreeMap<_, _> = uses.keys().map(|file| (*file, reachable(file))).collect();
        let mut loops: Vec<Vec<String>> = Vec::new();
        let mut seen: BTreeSet<&Path> = BTreeSet::new();
        for file in uses.keys() {
            if seen.contains(*file) || !reached[*file].contains(*file) {
                continue;
            }
            let members: Vec<_> = uses
                .keys()
                .filter(|other| reached[*file].contains(**other) && reached[**other].contains(*file))
                .collect();
            seen.extend(members.iter().map(|file| **file));
            loops.push(members.iter().map(|file| file.display().to_string()).collect());
        }
        loops
    }

    fn add_file(&mut self, file: &Path, folder: &Path, at: Vec<String>, is_public: bool) {
        let parsed = syn::parse_file(&super::read(file));
        let parsed = parsed.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.add_module(&parsed.items, file, folder, at, is_public);
    }

    fn add_module(
        &mut self,
        items: &[syn::Item],
        file: &Path,
        folder: &Path,
        at: Vec<String>,
        is_public: bool,
    ) {
        let mut module = Module {
            file: file.to_owned(),
            is_public,
            ..Module::default()
        };
        let mut children = Vec::new();
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            match item {
                syn::Item::Mod(child) => children.push(child),
                other => module.visit_item(other),
            }
        }
        for child in &children {
            // A path that begins with a child's name leads there.
            let name = child.ident.to_string();
            let to_child = vec!["self".to_owned(), name.clone()];
            module.imports.entry(name).or_insert(to_child);
        }
        let own = at.clone();
        for child in children {
            let name = child.ident.to_string();
            let inner = [at.clone(), vec![name.clone()]].concat();
            let below = folder.join(&name);
            let is_public = is_public && is_pub(&child.vis);
            let path_attribute = child
                .attrs
                .iter()
                .any(|attribute| attribute.path().is_ident("path"));
            module.has_path_attribute |= path_attribute;
            if let Some((_, items)) = &child.content {
                self.add_module(items, file, &below, inner, is_public);
            } else if below.join("mod.rs").exists() {
                self.add_file(&below.join("mod.rs"), &below, inner, is_public);
            } else if !path_attribute {
                self.add_file(&folder.join(format!("{name}.rs")), &below, inner, is_public);
            }
        }
        self.modules.insert(own, module);
    }

    /// A path as seen from the crate's root; `None` where it leads out of the crate.
    fn absolute(&self, at: &[String], path: &[String]) -> Option<Vec<String>> {
        let first = path.first()?;
        match first.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([at, &path[1..]].concat()),
            "super" => {
                let mut up = at.len();
                let mut rest = path;
                while rest.first().is_some_and(|name| name == "super") {
                    up = up.checked_sub(1)?;
                    rest = &rest[1..];
                }
                Some([&at[..up], rest].concat())
            }
            _ => {
                let import = self.modules.get(at)?.imports.get(first)?;
                if import.first() == Some(first) {
                    return None;
                }
                let start = self.absolute(at, import)?;
                Some([start, path[1..].to_vec()].concat())
            }
        }
    }

    /// The file that defines what an absolute path names, through every `use` on the way.
    fn definer(&self, path: &[String], depth: usize) -> Option<&Path> {
        let known = (0..=path.len())
            .rev()
            .find(|length| self.modules.contains_key(&path[..*length]))?;
        let (at, rest) = path.split_at(known);
        let module = &self.modules[at];
        let Some(name) = rest.first() else {
            return Some(&module.file);
        };
        let import = module.imports.get(name).filter(|_| depth < 16);
        if let Some(import) = import {
            let target = self.absolute(at, import)?;
            return self.definer(&[target, rest[1..].to_vec()].concat(), depth + 1);
        }
        Some(&module.file)
    }
}

impl Module {
    fn add_use(&mut self, tree: &syn::UseTree, before: &[String], shows: Shows) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident), shows),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, before, shows);
                }
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.bind(before.last().cloned().unwrap_or_default(), before.to_vec(), shows);
            }
            syn::UseTree::Name(name) => self.bind(name.ident.to_string(), with(&name.ident), shows),
            syn::UseTree::Rename(rename) => self.bind(rename.rename.to_string(), with(&rename.ident), shows),
            syn::UseTree::Glob(_) => self.bind("*".to_owned(), before.to_vec(), shows),
        }
    }

    fn bind(&mut self, name: String, path: Vec<String>, shows: Shows) {
        match shows {
            Shows::ToAll => self.shown.push(name.clone()),
            Shows::InCrate => {}
            Shows::Nobody => drop(self.paths.insert(path.clone())),
        }
        self.imports.insert(name, path);
    }

    /// Paths in the words of a macro, whose grammar is its own.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if path.is_empty() || colons == 2 => {
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1
                }
                other => {
                    self.end_path(&mut path);
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.add_tokens(group.stream()),
                        TokenTree::Ident(name) => path.push(name.to_string()),
                        _ => {}
                    }
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.paths.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Struct(item) => self.types.push(item.ident.to_string()),
            syn::Item::Enum(item) => self.types.push(item.ident.to_string()),
            syn::Item::Trait(item) => self.types.push(item.ident.to_string()),
            syn::Item::Type(item) => self.types.push(item.ident.to_string()),
            syn::Item::Use(item) => {
                let shows = Shows::of(&item.vis);
                self.add_use(&item.tree, &[], shows);
            }
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if names.len() > 1 {
            self.paths.insert(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.methods.insert(call.method.to_string());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn is_pub(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<TokenStream>()
                .is_ok_and(|condition| condition.into_iter().any(|token| token.to_string() == "test"))
    })
}
