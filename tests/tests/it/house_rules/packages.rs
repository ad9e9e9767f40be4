//! Rules for the packages: what each may depend on, and what is built with it.

use std::process::Command;

use super::*;

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
    "kcl-dead-letters",
    "kcl-http",
    "kcl-lease-memory",
    "kcl-operations",
    "kcl-testkit",
    "kinesis-local",
    "kcl-model",
    "kcl-examples",
    "kcl-examples-files",
];

/// Which of our packages each of our packages may use, for every kind of dependency.
const ARROWS: &[(&str, &[&str])] = &[
    // Itself only for its own tests, with its inside open.
    ("kcl-core", &["kcl-aggregation", "kcl-core"]),
    ("kcl-aggregation", &[]),
    ("kcl-aws", &["kcl-core"]),
    ("kcl-kinesis", &["kcl-aws", "kcl-core", "kcl-dead-letters"]),
    ("kcl-lease-dynamo", &["kcl-aws", "kcl-core"]),
    ("kcl-cloudwatch", &["kcl-aws", "kcl-core"]),
    ("kcl-dead-letters", &["kcl-core"]),
    // The store and the stream in memory for its tests.
    ("kcl-http", &["kcl-core", "kcl-lease-memory"]),
    ("kcl-operations", &["kcl-core"]),
    (
        "kcl-cli",
        &[
            "kcl-aws",
            "kcl-core",
            "kcl-dead-letters",
            "kcl-http",
            "kcl-kinesis",
            "kcl-lease-dynamo",
            "kcl-lease-memory",
            "kcl-operations",
        ],
    ),
    ("kcl-lease-memory", &["kcl-core"]),
    (
        "kcl-testkit",
        &[
            "kcl-core",
            "kcl-lease-memory",
            "kcl-operations",
            "kcl-aggregation",
        ],
    ),
    ("kinesis-local", &["kcl-core", "kcl-lease-memory", "kcl-testkit"]),
    ("kcl-model", &["kcl-core", "kcl-lease-memory", "kcl-testkit"]),
    (
        "kinesis-client",
        &[
            "kcl-core",
            "kcl-dead-letters",
            "kcl-http",
            "kcl-kinesis",
            "kcl-lease-dynamo",
            "kcl-lease-memory",
        ],
    ),
];

/// The features that an SDK crate may be built with. Its default features compile the second HTTP stack.
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
fn packages_without_aws_depend_on_no_aws_crate() {
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

/// A file that no module names is compiled by no program: it is left over, and looks as if it were used.
#[test]
fn every_file_belongs_to_a_program() {
    let packages = packages();
    let targets = packages.iter().flat_map(|package| array(&package["targets"]));
    let roots: BTreeSet<PathBuf> = targets.map(|target| text(&target["src_path"]).into()).collect();
    let declares = |parent: &Path, module: &str| {
        let code = std::fs::read_to_string(parent).unwrap_or_default();
        let (declaration, path) = (format!("mod {module};"), format!("#[path = \"{module}.rs\"]"));
        code.lines()
            .any(|line| line.ends_with(&declaration) || line.trim() == path)
    };
    let is_named = |file: &PathBuf| {
        let mut place = file.with_extension("");
        if place.ends_with("mod") {
            place.pop();
        }
        let (Some(folder), Some(module)) = (place.parent(), place.file_name()) else {
            return false;
        };
        let beside = roots.iter().filter(|root| root.parent() == Some(folder)).cloned();
        let above = [folder.join("mod.rs"), folder.with_extension("rs")];
        // A test module may be named by its path, in the file that it tests.
        let tested = module
            .to_string_lossy()
            .strip_suffix("_tests")
            .map(|tested| folder.join(format!("{tested}.rs")));
        beside
            .chain(above)
            .chain(tested)
            .any(|parent| declares(&parent, &module.to_string_lossy()))
    };
    let mut unnamed = rust_files(&root());
    unnamed.retain(|file| !roots.contains(file) && !is_named(file));
    assert!(unnamed.is_empty(), "remove them, or name them: {unnamed:#?}");
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

/// The folders of the workspace's packages.
pub(super) fn package_folders() -> Vec<String> {
    let folder = |package: &Value| {
        let manifest = Path::new(text(&package["manifest_path"]));
        let folder = manifest
            .parent()
            .and_then(|folder| folder.strip_prefix(root()).ok());
        folder
            .expect("a package inside the workspace")
            .display()
            .to_string()
    };
    packages().iter().map(folder).collect()
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
