//! Rules for the code: which files use each other, who may call what, what a module shows, and where unit tests stand.

use super::source_tree::{Module, SourceTree};
use super::*;

/// The decisions of the core: synchronous, with time and randomness as arguments.
const PURE: &[&str] = &[
    "consumer::call_size",
    "consumer::gathering",
    "consumer::redrive::plan",
    "coordinator::assignment::balance",
    "coordinator::assignment::load",
    "coordinator::assignment::planner",
    "coordinator::assignment::plan",
    "coordinator::election",
    "coordinator::shard_sync::cleanup",
    "coordinator::shard_sync::coverage",
    "coordinator::shard_sync::former_streams",
    "coordinator::shard_sync::plan",
    "coordinator::table_view",
    "coordinator::workers",
    "lease::change",
    "lease::expiry_watch",
    "lease::resolve",
    "lease::scan_deadline",
    "lease::shard_end_plan",
    "lease::start_policy",
    "lease::stream_check",
    "lifecycle",
    "limits::budget_allocator",
    "limits::fetch_sizer",
    "ownership::backlog",
    "ownership::checkpoint_tracker",
    "ownership::control",
    "ownership::lease_state",
    "ownership::progress",
    "ownership::throughput",
    "ownership::validity",
    "processor::policy",
    "processor::windows::panes",
    "retrieval::deaggregate",
    "retrieval::end_check",
    "retrieval::start_position",
    "runtime::backoff",
    "runtime::log_once",
    "settings::scan_cadence",
    "settings::timing",
    "source::shard_graph",
    "status::issues",
];

/// The modules that a decision must not use: its world has neither tasks nor waiting.
const NOT_PURE: &[&str] = &["tokio", "runtime::task_scope", "runtime::watched"];

/// The modules of the core, beside that of the seam, that may name the store itself: its one client, the builder, which is given it, and the
/// replay, which looks from outside whether its worker has read everything.
const STORE: &[&str] = &["lease::client", "worker::builder", "worker::replay"];

/// The modules of the core that may ask for a scan: the scanner, a start, a worker that leaves, and a replay.
const SCANS: &[&str] = &[
    "lease::client",
    "lease::scanner",
    "worker::handover",
    "worker::lease_taker",
    "worker::replay",
    "worker::startup",
];

/// The longest module of unit tests that stands in the file that it tests.
const LONGEST_INLINE_TESTS: usize = 150;

#[test]
fn no_files_use_each_other_in_a_loop() {
    let mut loops = Vec::new();
    for (name, tree) in crates() {
        loops.extend(tree.loops().into_iter().map(|files| (name.clone(), files)));
    }
    assert!(loops.is_empty(), "{loops:#?}");
}

#[test]
fn type_names_are_unique_in_each_crate() {
    let mut twins = Vec::new();
    for (name, tree) in crates() {
        let mut homes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (path, module) in &tree.modules {
            for of_type in &module.types {
                homes.entry(of_type).or_default().push(path.join("::"));
            }
        }
        homes.retain(|_, homes| homes.len() > 1);
        twins.extend(
            homes
                .into_iter()
                .map(|(of_type, homes)| format!("{name}: {of_type} in {homes:?}")),
        );
    }
    assert!(twins.is_empty(), "{twins:#?}");
}

#[test]
fn decisions_know_neither_tasks_nor_waiting() {
    let core = core();
    for pure in PURE {
        let path: Vec<String> = pure.split("::").map(str::to_owned).collect();
        assert!(
            core.modules.contains_key(&path),
            "there is no module {pure}: correct the list"
        );
        let names = core.names(&path);
        let found: Vec<_> = names
            .iter()
            .filter(|name| NOT_PURE.iter().any(|forbidden| is_within(name, forbidden)))
            .collect();
        assert!(found.is_empty(), "{pure} is a decision and uses {found:?}");
    }
}

#[test]
fn only_the_store_client_calls_the_lease_store() {
    assert_only("names LeaseStore", STORE, |core, path, _| {
        core.names(path).contains("lease::store::LeaseStore")
    });
}

#[test]
fn only_scanner_and_ends_of_worker_scan() {
    assert_only("scans", SCANS, |_, _, module| module.methods.contains("scan"));
}

/// A change of the failover time changes all that follows from it in one place.
#[test]
fn durations_follow_from_failover_time_in_one_table() {
    let source = root().join("kcl-core/src");
    let mut found = Vec::new();
    for file in rust_files(&source) {
        let is_test = file.file_stem().is_some_and(|stem| stem == "tests");
        if is_test || file.ends_with("settings/timing.rs") {
            continue;
        }
        let text = read(&file);
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if computes_with_failover(code) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "compute it in Timing::of: {found:#?}");
}

/// Returns `true` if the line multiplies or divides something that is called a failover time.
fn computes_with_failover(code: &str) -> bool {
    let methods = [".mul", ".div", ".saturating_mul", ".checked_mul"];
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices("failover").any(|(at, _)| {
        let rest = code[at..].trim_start_matches(is_part);
        // The arguments of a call, and the end of a parenthesis around it.
        let rest = match rest.strip_prefix('(') {
            Some(arguments) => arguments.split_once(')').map_or("", |(_, rest)| rest),
            None => rest.trim_start_matches(')'),
        };
        let rest = rest.trim_start();
        let before = code[..at]
            .trim_end_matches(|letter| is_part(letter) || letter == '.')
            .trim_end();
        // A star behind something is a product; elsewhere it looks through a reference.
        let operand = before.strip_suffix(['*', '/']).map(str::trim_end);
        let is_second = operand.is_some_and(|operand| operand.ends_with(|last| is_part(last) || last == ')'));
        rest.starts_with(['*', '/']) || methods.iter().any(|method| rest.starts_with(method)) || is_second
    })
}

#[test]
fn computation_with_failover_is_found_in_every_spelling() {
    for code in [
        "self.failover_time / 3",
        "settings.failover * 2",
        "failover_of(worker).mul_f64(0.9)",
        "2 * self.failover_time",
    ] {
        assert!(computes_with_failover(code), "{code}");
    }
    for code in [
        "timing.failover",
        "Timing::of(settings.failover_time).renewal",
        "now + failover",
    ] {
        assert!(!computes_with_failover(code), "{code}");
    }
}

/// A private module and a public one cannot have the same name, so what a public module shows of private ones stands in its own file.
#[test]
fn only_public_modules_show_names_of_others() {
    for (name, tree) in crates() {
        for (path, module) in &tree.modules {
            assert!(
                module.shown.is_empty() || module.is_public,
                "{name}: {} says `pub use` and is no public module",
                path.join("::")
            );
        }
    }
}

#[test]
fn unit_tests_stand_where_they_are_looked_for() {
    let mut misplaced = Vec::new();
    for (name, tree) in crates() {
        for (path, module) in &tree.modules {
            if module.has_path_attribute {
                misplaced.push(format!("{name}: {} has a module with #[path]", path.join("::")));
            }
        }
        for file in rust_files(&root().join(&name).join("src")) {
            let text = read(&file);
            let inline = text.split("#[cfg(test)]\nmod tests {").nth(1);
            let length = inline.map_or(0, |tests| tests.lines().count());
            if length > LONGEST_INLINE_TESTS {
                misplaced.push(format!("{}: {length} lines of inline tests", file.display()));
            }
        }
    }
    assert!(misplaced.is_empty(), "{misplaced:#?}");
}

/// Asserts that `holds` for these modules of the core and for no others.
fn assert_only(what: &str, allowed: &[&str], holds: impl Fn(&SourceTree, &[String], &Module) -> bool) {
    let core = core();
    let modules = core
        .modules
        .iter()
        .filter(|(path, module)| holds(&core, path, module));
    let found: Vec<String> = modules.map(|(path, _)| path.join("::")).collect();
    assert_eq!(found, allowed, "{what}");
}

fn is_within(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn core() -> SourceTree {
    SourceTree::read(&root().join("kcl-core/src"))
}

/// Every crate of the workspace with a library, by its folder.
fn crates() -> impl Iterator<Item = (String, SourceTree)> {
    let folders = package_folders().into_iter();
    folders.filter_map(|folder| {
        let source = root().join(&folder).join("src");
        let has_library = source.join("lib.rs").exists();
        has_library.then(|| (folder, SourceTree::read(&source)))
    })
}
