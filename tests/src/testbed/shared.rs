//! Servers shared by all processes of a test run: `cargo test` runs one process per test binary, one after the other.
//!
//! Each start has a folder `runs/<name>` with a **lease file**, which every user touches every few seconds, and a
//! `state.json` with the endpoints. The keeper of the servers ends them when the lease has not been touched for [`IDLE`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kcl_core::clock::{Clock, TokioClock};
use serde_json::{Value, json};

use super::servers::{DynamoServer, Servers, say};

/// How long the servers outlive their last user.
pub(super) const IDLE: Duration = Duration::from_secs(60);
const TOUCH_EVERY: Duration = Duration::from_secs(5);
/// Generous: a machine that compiles on all cores answers late, and a second set of servers would not help it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The folder for everything the testbed installs and runs: inside the workspace's target folder.
pub(super) fn root() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let root = target.join("emulators");
    fs::create_dir_all(&root).expect("the target folder is writable");
    root.canonicalize().expect("a folder that was just made")
}

/// Held while servers are installed, started or looked for; released when dropped or when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Blocks until it is this process's turn: the others need the same servers.
    pub(super) fn acquire(root: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say("another test process is starting the servers; waiting for it");
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Self { _file: file })
    }
}

/// One start of servers.
#[derive(Debug)]
pub(super) struct Run {
    folder: PathBuf,
}

impl Run {
    /// A new folder, its lease just touched.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        let name = format!("{}-{}", TokioClock::new().wall().as_millis(), std::process::id());
        let folder = root.join("runs").join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("lease"), ".")?;
        Ok(Self { folder })
    }

    /// The servers that an earlier process started, if they still answer; from now on this process keeps them alive.
    pub(super) fn reuse(root: &Path) -> Option<Servers> {
        let folder = PathBuf::from(fs::read_to_string(root.join("current")).ok()?);
        // The order matters: see `stopIfIdle` in keeper.js.
        touch(&folder.join("lease")).ok()?;
        let state = serde_json::from_str(&fs::read_to_string(folder.join("state.json")).ok()?).ok()?;
        let servers = servers_of(&state)?;
        let mut endpoints =
            std::iter::once(&servers.kinesis).chain(servers.dynamo.iter().map(|server| &server.endpoint));
        endpoints.all(|endpoint| answers(endpoint)).then(|| {
            keep_alive(folder.join("lease"));
            servers
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes these servers the ones that later processes find.
    pub(super) fn publish(&self, root: &Path, servers: &Servers) -> io::Result<()> {
        let dynamo: Vec<Value> = servers
            .dynamo
            .iter()
            .map(|server| json!([server.name, server.endpoint]))
            .collect();
        let state = json!({ "kind": servers.kind, "kinesis": servers.kinesis, "dynamo": dynamo });
        fs::write(self.folder.join("state.json"), state.to_string())?;
        fs::write(root.join("current"), self.folder.to_string_lossy().as_bytes())?;
        self.keep();
        Ok(())
    }

    /// Keeps the servers running for as long as this process lives, or until they are [abandoned](Self::abandon).
    pub(super) fn keep(&self) {
        keep_alive(self.folder.join("lease"));
    }

    /// Takes the lease away, so that whatever runs on it ends now. The logs stay, for whoever looks into the failure.
    pub(super) fn abandon(&self) {
        // It may be gone already, and then there is nothing to end.
        let _ = fs::remove_file(self.folder.join("lease"));
    }

    /// Takes the whole folder away: nothing was started on it.
    pub(super) fn forget(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn servers_of(state: &Value) -> Option<Servers> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let dynamo = state.get("dynamo")?.as_array()?;
    Some(Servers {
        kind: text(state.get("kind")?)?,
        kinesis: text(state.get("kinesis")?)?,
        dynamo: dynamo
            .iter()
            .map(|pair| {
                Some(DynamoServer {
                    name: text(pair.get(0)?)?,
                    endpoint: text(pair.get(1)?)?,
                })
            })
            .collect::<Option<Vec<_>>>()?,
    })
}

fn touch(lease: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(lease)?.write_all(b".")
}

/// Touches the lease for as long as this process lives.
#[expect(
    clippy::disallowed_methods,
    reason = "a plain thread outlives the runtimes of single tests, of which none lasts as long as the process"
)]
fn keep_alive(lease: PathBuf) {
    std::thread::spawn(move || {
        while touch(&lease).is_ok() {
            std::thread::sleep(TOUCH_EVERY);
        }
    });
}

/// Whether an HTTP server answers there, whatever it says.
pub(super) fn answers(endpoint: &str) -> bool {
    ask(endpoint).is_ok_and(|answer| answer.starts_with(b"HTTP/"))
}

fn ask(endpoint: &str) -> io::Result<[u8; 5]> {
    let authority = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let address = authority
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other("an endpoint without address"))?;
    let mut connection = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    connection.set_read_timeout(Some(ANSWER_WITHIN))?;
    connection
        .write_all(format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = [0; 5];
    connection.read_exact(&mut answer)?;
    Ok(answer)
}

/// A port that nobody uses at the moment.
pub(super) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback interface");
    listener
        .local_addr()
        .expect("a bound listener has an address")
        .port()
}
