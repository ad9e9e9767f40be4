//! kinesis-mock, DynamoDB Local and ministack as processes of this machine.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kcl_core::clock::{Clock, ClockExt, TokioClock};
use serde_json::{Value, json};

use super::install;
use super::servers::{DynamoServer, Servers, say};
use super::shared::{IDLE, Lock, Run, answers, free_port};

const KEEPER: &str = include_str!("keeper.js");
/// Node, a JVM and Python come up in under three seconds; a machine that compiles beside them takes far longer.
const START_WITHIN: Duration = Duration::from_secs(90);

/// Finds the servers that another process of this run started, or installs and starts them.
///
/// # Errors
///
/// The missing or failed parts, one entry per server, for people.
pub(super) async fn servers(root: &Path, require_all: bool) -> Result<Servers, Vec<String>> {
    let one = |error: std::io::Error| vec![format!("{}: {error}", root.display())];
    let _lock = Lock::acquire(root).map_err(one)?;
    if let Some(servers) = Run::reuse(root) {
        return Ok(servers);
    }
    let (plan, servers) = plan(root, require_all)?;
    let run = run(root, &plan, &servers).await.map_err(|why| vec![why])?;
    run.publish(root, &servers).map_err(one)?;
    Ok(servers)
}

/// Starts servers by this plan and waits until all of them answer.
///
/// # Errors
///
/// Which of them does not, with the ends of all logs.
pub(super) async fn run(root: &Path, plan: &[Value], servers: &Servers) -> Result<Run, String> {
    let one = |error: std::io::Error| format!("{}: {error}", root.display());
    let run = Run::create(root).map_err(one)?;
    say(&format!("starting {}", servers.names()));
    let keeper = start(run.folder(), plan).map_err(one)?;
    match wait_until_up(servers, keeper, run.folder()).await {
        Ok(()) => Ok(run),
        Err(why) => {
            run.abandon();
            Err(why)
        }
    }
}

/// DynamoDB Local on a port of its own: its entry in the keeper's configuration, and its endpoint.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn dynamodb_local(root: &Path) -> Result<(Value, DynamoServer), String> {
    let folder = install::dynamodb_local(root)?;
    let port = free_port();
    let plan = json!({
        "name": "dynamodb-local", "command": "java", "cwd": folder, "env": {},
        "args": ["-Xmx512m", "-Djava.library.path=DynamoDBLocal_lib", "-jar", "DynamoDBLocal.jar",
                 "-inMemory", "-sharedDb", "-port", port.to_string()],
    });
    let server = DynamoServer {
        name: "dynamodb-local".to_owned(),
        endpoint: format!("http://127.0.0.1:{port}"),
    };
    Ok((plan, server))
}

/// kinesis-mock on a port of its own: its entry in the keeper's configuration, and its endpoint.
///
/// # Errors
///
/// The missing or failed part, for people.
pub(super) fn kinesis_mock(root: &Path) -> Result<(Value, String), String> {
    let folder = install::kinesis_mock(root)?;
    let port = free_port();
    let plan = json!({
        "name": "kinesis-mock", "command": "node", "cwd": folder, "args": ["main.js"],
        "env": {
            "KINESIS_MOCK_PLAIN_PORT": port.to_string(), "KINESIS_MOCK_TLS_PORT": free_port().to_string(),
            "SHARD_LIMIT": "500", "LOG_LEVEL": "WARN", "AWS_ACCOUNT_ID": "123456789012",
        },
    });
    Ok((plan, format!("http://127.0.0.1:{port}")))
}

/// The servers to start, and their ports. Kinesis is needed; one of the two DynamoDBs is enough unless all are required.
fn plan(root: &Path, require_all: bool) -> Result<(Vec<Value>, Servers), Vec<String>> {
    let mut missing = Vec::new();
    let mut keep = |outcome: Result<_, String>| outcome.map_err(|why| missing.push(why)).ok();
    let kinesis = keep(kinesis_mock(root));
    let dynamodb_local = dynamodb_local(root).map_err(|why| missing.push(why)).ok();
    let ministack = install::ministack(root).map_err(|why| missing.push(why)).ok();

    let (mut plan, mut dynamo): (Vec<_>, Vec<_>) = dynamodb_local.into_iter().unzip();
    if let Some(python) = ministack {
        let port = free_port();
        plan.push(json!({
            "name": "ministack", "command": python, "cwd": root, "args": ["-m", "ministack"],
            "env": { "GATEWAY_PORT": port.to_string() },
        }));
        dynamo.push(DynamoServer {
            name: "ministack".to_owned(),
            endpoint: format!("http://127.0.0.1:{port}"),
        });
    }
    let Some((kinesis_mock, kinesis)) = kinesis else {
        return Err(missing);
    };
    if dynamo.is_empty() || (require_all && !missing.is_empty()) {
        return Err(missing);
    }
    for server in missing {
        say(&format!("LEFT OUT: {server}"));
    }
    plan.push(kinesis_mock);
    Ok((
        plan,
        Servers {
            kind: "kinesis-mock".to_owned(),
            kinesis,
            dynamo,
        },
    ))
}

/// Starts the keeper in a process group of its own, so that an interrupt at the terminal does not reach it.
fn start(folder: &Path, plan: &[Value]) -> std::io::Result<Child> {
    let script = folder.join("keeper.js");
    fs::write(&script, KEEPER)?;
    let log = File::create(folder.join("keeper.log"))?;
    let task = json!({ "directory": folder, "idleSeconds": IDLE.as_secs(), "servers": plan });
    Command::new("node")
        .arg(script)
        .arg(task.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

async fn wait_until_up(servers: &Servers, mut keeper: Child, folder: &Path) -> Result<(), String> {
    let clock = TokioClock::new();
    let deadline = clock.now() + START_WITHIN;
    loop {
        let silent = servers.endpoints().find(|(_, endpoint)| !answers(endpoint));
        let Some((name, _)) = silent else { return Ok(()) };
        let ended = keeper.try_wait().is_ok_and(|status| status.is_some());
        if ended || clock.now() > deadline {
            return Err(format!("{name} does not answer.{}", logs(folder)));
        }
        clock.sleep(Duration::from_millis(100)).await;
    }
}

fn logs(folder: &Path) -> String {
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let mut text = String::new();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "log"))
    {
        let log = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(5)..] {
            text.push_str(&format!(
                "\n    {}: {line}",
                file.file_stem().unwrap_or_default().to_string_lossy()
            ));
        }
    }
    text
}
