//! The rules of the house that a compiler does not check: what may be depended on, which way the arrows point, how long files get.

mod code;
mod documents;
mod packages;
mod source_tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use packages::package_folders;

const LONGEST_FILE: usize = 620;

#[test]
fn modules_of_the_core_use_only_those_above() {
    let source = root().join("kcl-core/src");
    let modules = modules_in_order();
    let rank: BTreeMap<&str, usize> = modules
        .iter()
        .enumerate()
        .map(|(rank, module)| (module.as_str(), rank))
        .collect();
    let mut broken = Vec::new();
    for file in rust_files(&source) {
        let path = file.strip_prefix(&source).expect("a file inside the folder");
        let module = path
            .components()
            .next()
            .expect("not empty")
            .as_os_str()
            .to_string_lossy()
            .replace(".rs", "");
        if ["lib", "internals"].contains(&module.as_str()) {
            continue;
        }
        let own = rank
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{module} is not in the table of ARCHITECTURE.md"));
        let depth = module_depth(path);
        for used in used_modules(&read(&file), depth) {
            if rank.get(used.as_str()).is_some_and(|other| other > own) {
                broken.push(format!("{} uses {used}, which is below {module}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_of_the_core_are_short() {
    let long: Vec<String> = rust_files(&root().join("kcl-core"))
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > LONGEST_FILE)
        .map(|(lines, file)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_test_is_ignored_no_example_uncompiled() {
    // Spelled in two parts, so that this file does not find itself.
    let patterns = [
        concat!("#[ign", "ore"),
        concat!("```ign", "ore"),
        concat!("```rust,ign", "ore"),
    ];
    assert_absent(&patterns, &["rs", "md"]);
}

#[test]
fn nothing_refers_to_machine_it_was_written_on() {
    let patterns = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    assert_absent(&patterns, &["rs", "md", "toml", "js", "sh", "json", "yml"]);
}

#[test]
fn used_modules_are_found_in_every_spelling() {
    let code = "use crate::lease::{Lease, apply};\n\
                use crate::{model::Record, time, rng::{self, Rng}};\n\
                // crate::comment is not used\n\
                fn f() -> crate::error::Error { super::super::source::g() }\n\
                fn g() { super::sibling::h() }\n\
                #[cfg(test)]\nmod tests { use crate::worker::Worker; }\n";
    let expected = ["error", "lease", "model", "rng", "source", "time"];
    assert_eq!(used_modules(code, 2), expected.map(str::to_owned).into());
    assert_eq!(module_depth(Path::new("lease/mod.rs")), 1);
    assert_eq!(module_depth(Path::new("time.rs")), 1);
    assert_eq!(module_depth(Path::new("lease/row.rs")), 2);
}

/// The modules of `kcl-core` as ARCHITECTURE.md lists them: each uses only those above it.
fn modules_in_order() -> Vec<String> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let section = text
        .split("## `kcl-core`, module by module")
        .nth(1)
        .expect("the section on the modules");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let modules: Vec<String> = rows.map(str::to_owned).collect();
    assert!(
        modules.len() > 10,
        "the table of modules was not read: {modules:?}"
    );
    modules
}

/// How many `super` lead from this file to the root of the crate.
fn module_depth(path: &Path) -> usize {
    path.components().count() - usize::from(path.ends_with("mod.rs"))
}

/// The top-level modules that the code outside its unit tests uses.
fn used_modules(code: &str, depth: usize) -> BTreeSet<String> {
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let from_root = "super::".repeat(depth);
    let mut used = BTreeSet::new();
    for prefix in ["crate::", from_root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let continues_a_name =
                code[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == ':');
            if !continues_a_name {
                used.extend(first_names(&code[at + prefix.len()..]));
            }
        }
    }
    used
}

/// The names that a path goes on with: one, or those of a group in braces.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let mut names = vec![name(group)];
    let mut depth = 0_i32;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn assert_absent(patterns: &[&str], extensions: &[&str]) {
    let mut found = Vec::new();
    let mut searched = 0;
    for file in files(&root()) {
        let extension = file
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_script = file.ends_with(".ci/run");
        if !is_script && !extensions.contains(&extension.as_str()) {
            continue;
        }
        searched += 1;
        for (number, line) in read(&file).lines().enumerate() {
            if patterns.iter().any(|pattern| line.contains(pattern)) {
                found.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(searched > 20, "only {searched} files were searched");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in the workspace")
        .to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = files(folder);
    found.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    assert!(!found.is_empty(), "no code in {}", folder.display());
    found
}

/// All files below, without build output and version control.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        let name = path.file_name().unwrap_or_default();
        if name == "target" || name == ".git" || name == "corpus" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
