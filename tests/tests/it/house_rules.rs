//! The rules of the house that a compiler does not check: what may be depended on, which way the arrows point, how long files get.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kcl_core::metrics::ALL;
use kcl_tests::prose;
use serde_json::Value;

/// Crates that may never be in the tree, by name and leading version: a second HTTP and TLS stack with open advisories,
/// and two crates that nobody maintains.
const BANNED: &[(&str, &str)] = &[
    ("hyper", "0.14"),
    ("h2", "0.3"),
    ("rustls", "0.21"),
    ("backoff", ""),
    ("instant", ""),
];

/// Packages that must build without any AWS crate.
const WITHOUT_AWS: &[&str] = &[
    "kcl-core",
    "kcl-aggregation",
    "kcl-lease-memory",
    "kcl-testkit",
    "kinesis-local",
    "kcl-model",
    "kcl-examples",
];

/// Which of our packages each of our packages may use, for every kind of dependency.
const ARROWS: &[(&str, &[&str])] = &[
    // Itself only for its own tests, with its inside open.
    ("kcl-core", &["kcl-aggregation", "kcl-core"]),
    ("kcl-aggregation", &[]),
    ("kcl-aws", &["kcl-core"]),
    ("kcl-kinesis", &["kcl-aws", "kcl-core"]),
    ("kcl-lease-dynamo", &["kcl-aws", "kcl-core"]),
    ("kcl-lease-memory", &["kcl-core"]),
    (
        "kcl-testkit",
        &["kcl-core", "kcl-lease-memory", "kcl-aggregation"],
    ),
    ("kinesis-local", &["kcl-core", "kcl-lease-memory", "kcl-testkit"]),
    ("kcl-model", &["kcl-core", "kcl-lease-memory"]),
    (
        "kinesis-client",
        &["kcl-core", "kcl-kinesis", "kcl-lease-dynamo", "kcl-lease-memory"],
    ),
];

/// What an SDK crate may be built with. Its default features compile the second HTTP stack.
const LEAN_FEATURES: &[&str] = &[
    "default-https-client",
    "rt-tokio",
    "credentials-process",
    "sso",
    "test-util",
];

/// Integration tests whose subject is the process or the machine, so that they are a program beside `it`; the head of each says why.
const PROGRAMS_OF_THEIR_OWN: &[(&str, &[&str])] = &[
    ("kcl-testkit", &["blocking", "log_lines"]),
    ("kcl-tests", &["fleet", "simulation"]),
];

/// Programs of integration tests in the workspace. Each links everything that it tests.
const MOST_TEST_PROGRAMS: usize = 14;

const LONGEST_FILE: usize = 620;

#[test]
fn banned_crates_are_not_in_the_tree() {
    let tree = tree(&["--workspace"]);
    let found: Vec<&String> = tree
        .iter()
        .filter(|package| {
            BANNED.iter().any(|(name, version)| {
                package
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(&format!(" v{version}")))
            })
        })
        .collect();
    assert!(
        found.is_empty(),
        "banned: {found:?}; `cargo tree -i NAME` says who asks for it"
    );
    assert!(
        tree.iter().any(|package| package.starts_with("hyper v1.")),
        "the tree was not read: {tree:?}"
    );
}

#[test]
fn what_needs_no_aws_depends_on_no_aws_crate() {
    for package in WITHOUT_AWS {
        let tree = tree(&["-p", package]);
        let found: Vec<&String> = tree
            .iter()
            .filter(|name| name.starts_with("aws-") || name.starts_with("aws_"))
            .collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
        assert!(
            tree.iter().any(|name| name.starts_with(package)),
            "the tree was not read: {tree:?}"
        );
    }
}

#[test]
fn arrows_between_the_packages_point_one_way() {
    let packages = packages();
    for (name, allowed) in ARROWS {
        let package = packages.iter().find(|package| package["name"] == *name);
        let package = package.unwrap_or_else(|| panic!("there is no package {name}"));
        for dependency in array(&package["dependencies"]) {
            let used = text(&dependency["name"]);
            assert!(
                !used.starts_with("kcl-") || allowed.contains(&used),
                "{name} depends on {used} ({})",
                dependency["kind"].as_str().unwrap_or("normal")
            );
        }
    }
}

#[test]
fn published_packages_describe_themselves() {
    let packages = packages();
    let published: Vec<_> = packages
        .iter()
        .filter(|package| package["publish"].is_null())
        .collect();
    assert!(published.len() > 5, "only {} are published", published.len());
    for package in published {
        for field in [
            "description",
            "documentation",
            "license",
            "readme",
            "rust_version",
        ] {
            assert!(package[field].is_string(), "{} lacks {field}", package["name"]);
        }
        for field in ["categories", "keywords"] {
            assert!(
                !array(&package[field]).is_empty(),
                "{} lacks {field}",
                package["name"]
            );
        }
    }
}

#[test]
fn two_dependencies_are_enough_on_aws() {
    let packages = packages();
    let minimal = packages
        .iter()
        .find(|package| package["name"] == "kcl-examples-minimal");
    let dependencies = array(&minimal.expect("it is there")["dependencies"]);
    let names: Vec<_> = dependencies
        .iter()
        .map(|dependency| text(&dependency["name"]))
        .collect();
    assert_eq!(names, ["kinesis-client", "tokio"]);
}

#[test]
fn deliberate_bugs_are_in_no_release() {
    const FEATURE: &str = "mutants";
    let packages = packages();
    let mut users = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        let features = package["features"].as_object().expect("features");
        for (feature, enables) in features {
            let enables = array(enables).iter().map(text);
            let is_mutant = |enabled: &str| enabled.split('/').next_back() == Some(FEATURE);
            let culprits: Vec<_> = enables.filter(|enabled| is_mutant(enabled)).collect();
            assert!(culprits.is_empty(), "{feature} of {name} enables {culprits:?}");
        }
        for dependency in array(&package["dependencies"]) {
            if array(&dependency["features"])
                .iter()
                .any(|feature| text(feature) == FEATURE)
            {
                users.push(name);
            }
            assert_ne!(text(&dependency["name"]), "kcl-mutants", "{name}");
        }
    }
    assert_eq!(users, ["kcl-mutants"]);
    let user = packages.iter().find(|package| package["name"] == users[0]);
    // An empty list of registries: it is published nowhere.
    assert!(array(&user.expect("it is there")["publish"]).is_empty());
    let core = packages.iter().find(|package| package["name"] == "kcl-core");
    let features = &core.expect("it is there")["features"];
    assert_eq!(
        array(&features[FEATURE]),
        [] as [Value; 0],
        "the feature has another name by now"
    );
}

/// Fuzz targets aside: the fuzzer wants a program for each.
#[test]
fn each_package_has_one_integration_test_program() {
    let mut programs = 0;
    for package in packages() {
        let name = text(&package["name"]);
        if name == "kcl-fuzz" {
            continue;
        }
        let own = PROGRAMS_OF_THEIR_OWN.iter().find(|(of, _)| *of == name);
        let own = own.map_or(&[] as &[&str], |(_, own)| own);
        for target in array(&package["targets"]) {
            if array(&target["kind"]).iter().any(|kind| kind == "test") {
                let program = text(&target["name"]);
                programs += 1;
                assert!(
                    program == "it" || own.contains(&program),
                    "{name}: {program} is a module of tests/it"
                );
            }
        }
    }
    assert!((8..=MOST_TEST_PROGRAMS).contains(&programs), "{programs}");
}

#[test]
fn cargo_test_builds_the_core_without_deliberate_bugs() {
    let features = cargo(&["tree", "--locked", "--edges", "features", "--invert", "kcl-core"]);
    assert!(features.contains("kcl-core feature \"internals\""), "{features}");
    assert!(!features.contains("kcl-core feature \"mutants\""), "{features}");
    assert!(
        !features.contains("kcl-mutants") && !features.contains("kcl-fuzz"),
        "{features}"
    );
}

#[test]
fn sdk_crates_are_built_with_lean_features() {
    let mut seen = 0;
    for package in packages() {
        for dependency in array(&package["dependencies"]) {
            let (owner, name) = (text(&package["name"]), text(&dependency["name"]));
            if !(name.starts_with("aws-sdk-") || name == "aws-config") {
                continue;
            }
            seen += 1;
            assert_eq!(
                dependency["uses_default_features"], false,
                "{owner} uses the default features of {name}"
            );
            for feature in array(&dependency["features"]) {
                let feature = text(feature);
                assert!(
                    LEAN_FEATURES.contains(&feature),
                    "{owner} uses {name} with {feature}"
                );
            }
        }
    }
    assert!(seen > 0, "no SDK crate was seen");
}

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
fn no_test_is_ignored_and_no_example_goes_uncompiled() {
    // Spelled in two parts, so that this file does not find itself.
    let patterns = [
        concat!("#[ign", "ore"),
        concat!("```ign", "ore"),
        concat!("```rust,ign", "ore"),
    ];
    assert_absent(&patterns, &["rs", "md"]);
}

#[test]
fn nothing_refers_to_the_machine_it_was_written_on() {
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

/// Every package in the tree, once, as `name vX.Y.Z`: all kinds of dependencies, all features, all platforms.
fn tree(selection: &[&str]) -> Vec<String> {
    let arguments = [
        "tree",
        "--locked",
        "--prefix",
        "none",
        "--all-features",
        "--target",
        "all",
        "--format",
        "{p}",
    ];
    let arguments = [&arguments[..], selection].concat();
    let mut lines: Vec<String> = cargo(&arguments)
        .lines()
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

#[test]
fn table_of_metrics_is_the_code_s() {
    let documented = read(&root().join("docs/metrics.md"));
    let rows = documented.lines().filter(|line| line.starts_with("| `kcl_"));
    let rows: Vec<_> = rows.map(str::to_owned).collect();
    let in_words = |text: String| text.to_lowercase();
    let expected: Vec<_> = ALL
        .iter()
        .map(|metric| {
            let labels = metric
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect::<Vec<_>>();
            let labels = match labels.is_empty() {
                true => String::new(),
                false => format!("{} ", labels.join(", ")),
            };
            let (kind, unit) = (format!("{:?}", metric.kind), format!("{:?}", metric.unit));
            let (name, help) = (metric.name, metric.help);
            format!(
                "| `{name}` | {} | {} | {labels}| {help} |",
                in_words(kind),
                in_words(unit)
            )
        })
        .collect();
    assert_eq!(rows, expected, "correct docs/metrics.md");
}

/// The packages whose comments keep the rules of prose. It grows until it has all of them.
const PROSE_IN_FORCE: &[&str] = &[
    "examples",
    "fuzz",
    "kcl-aggregation",
    "kcl-aws",
    "kcl-core",
    "kcl-kinesis",
    "kcl-lease-dynamo",
    "kcl-lease-memory",
    "kinesis-client",
    "model",
    "mutants",
];

/// Commits before this one were made before there was a rule for subjects.
const SUBJECTS_CHECKED_SINCE: &str = "2796d8b";

#[test]
fn documents_and_comments_keep_the_word_list() {
    let mut found = Vec::new();
    let mut searched = 0;
    for file in files(&root()) {
        let path = file.strip_prefix(root()).expect("a file of the repository");
        let findings = match file.extension().and_then(|extension| extension.to_str()) {
            Some("md") => prose::markdown(&read(&file)),
            Some("rs") if PROSE_IN_FORCE.iter().any(|package| path.starts_with(package)) => {
                prose::rust(&read(&file))
            }
            _ => continue,
        };
        searched += 1;
        found.extend(
            findings
                .into_iter()
                .map(|finding| format!("{}:{}: {}", path.display(), finding.line, finding.rule)),
        );
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(searched > 40, "only {searched} files were searched");
}

/// Where the history is there: an archive of the sources has none, and a shallow clone a part.
#[test]
fn commit_subjects_are_imperatives() {
    let range = format!("{SUBJECTS_CHECKED_SINCE}..HEAD");
    let log = Command::new("git")
        .args(["log", "--no-merges", "--format=%s", &range])
        .current_dir(root())
        .output();
    let Some(log) = log.ok().filter(|log| log.status.success()) else {
        return;
    };
    let subjects = String::from_utf8_lossy(&log.stdout);
    let wrong: Vec<String> = subjects
        .lines()
        .filter_map(|subject| Some(format!("{subject}: {}", prose::subject(subject)?)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every setting, with its default as a file writes it.
#[test]
fn tuning_guide_names_every_setting_and_default() {
    let guide = read(&root().join("docs/tuning.md"));
    let defaults = serde_json::to_value(kcl_core::settings::Settings::default()).expect("settings are data");
    let mut missing = Vec::new();
    let mut leaves = vec![(String::new(), defaults)];
    while let Some((path, value)) = leaves.pop() {
        if let Value::Object(fields) = value {
            let prefix = match path.as_str() {
                "" => String::new(),
                path => format!("{path}."),
            };
            leaves.extend(
                fields
                    .into_iter()
                    .map(|(name, value)| (prefix.clone() + &name, value)),
            );
            continue;
        }
        let is_duration = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
        let value = match value.as_str() {
            Some(text) if is_duration(text) => text.to_owned(),
            _ => value.to_string(),
        };
        let row = format!("| `{path}` | {value} |");
        if !guide.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "correct docs/tuning.md: {missing:#?}");
}

#[test]
fn documents_name_metrics_that_exist() {
    let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    let documents = files(&root().join("docs"))
        .into_iter()
        .chain([root().join("README.md")]);
    let documents = documents.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    let mut seen = 0;
    for file in documents {
        let text = read(&file);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let looks_like_one = |word: &&str| {
            let suffixes = [
                "_total",
                "_seconds",
                "_held",
                "_of_concern",
                "_waiting",
                "_unfinished",
                "_on_hold",
            ];
            word.starts_with("kcl_") && suffixes.iter().any(|suffix| word.ends_with(suffix))
        };
        for word in words.filter(looks_like_one) {
            seen += 1;
            assert!(
                names.contains(word),
                "{} names {word}, which is no metric",
                file.display()
            );
        }
    }
    assert!(seen > 30, "only {seen} names were found");
}

/// The names of the fields of every log line in this code, as far as they are written out, with the line's beginning.
fn fields_of_lines(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for level in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
        for event in code.split(&format!("tracing::{level}")).skip(1) {
            // The message is the first text, and fields come before it.
            let fields = event.split('"').next().unwrap_or_default();
            for field in fields.split(',') {
                let name = field.split('=').next().unwrap_or_default().trim();
                found.push((
                    name.trim_start_matches(['%', '?']).to_owned(),
                    format!("{level}{fields}"),
                ));
            }
        }
    }
    found
}

/// The tasks of a lease run inside of its span, which carries the lease, the token and the worker: a line that says them again would have them
/// twice. Code that is called from elsewhere gives its lines the span as parent.
#[test]
fn lines_of_a_consumer_leave_the_lease_to_their_span() {
    let mut seen = 0;
    for file in rust_files(&root().join("kcl-core/src/consumer")) {
        for (field, line) in fields_of_lines(&read(&file)) {
            seen += 1;
            let is_of_span = ["lease", "token", "worker", "application"].contains(&field.as_str());
            assert!(
                !is_of_span,
                "{}: {line}… says {field}, as its span does",
                file.display()
            );
        }
    }
    assert!(seen > 30, "only {seen} fields were seen");
}

/// The message is a field of that name already, and the worker is in every line's span.
#[test]
fn no_field_of_a_line_is_called_message_or_worker() {
    for krate in [
        "kcl-aws",
        "kcl-core",
        "kcl-kinesis",
        "kcl-lease-dynamo",
        "kcl-lease-memory",
    ] {
        for file in rust_files(&root().join(krate).join("src")) {
            for (field, line) in fields_of_lines(&read(&file)) {
                let is_taken = ["message", "worker", "application"].contains(&field.as_str());
                assert!(!is_taken, "{}: {line}… has another {field}", file.display());
            }
        }
    }
}

fn packages() -> Vec<Value> {
    let metadata: Value = serde_json::from_str(&cargo(&[
        "metadata",
        "--locked",
        "--no-deps",
        "--format-version",
        "1",
    ]))
    .expect("the metadata is JSON");
    array(&metadata["packages"]).to_vec()
}

/// Without the network where that works; crates of other platforms may have to be fetched the first time.
fn cargo(arguments: &[&str]) -> String {
    let run = |more: &[&str]| {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(program)
            .args(arguments)
            .args(more)
            .current_dir(root())
            .output();
        output.expect("cargo runs")
    };
    let mut output = run(&["--offline"]);
    if !output.status.success() {
        output = run(&[]);
    }
    let (said, complaint) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "cargo {arguments:?}: {complaint}");
    said.into_owned()
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
