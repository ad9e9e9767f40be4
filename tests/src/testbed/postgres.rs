//! A PostgreSQL server of the test's own, from the binaries that are installed: in a temporary folder, on a socket in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kcl_core::clock::{Clock as _, TokioClock};

use super::LeftOut;
use super::servers::say;
use crate::wait::eventually;

/// Where Debian has the server: it puts only the clients on the path.
const DEBIAN: &str = "/usr/lib/postgresql";
/// The account of the server: `initdb` refuses to run as root.
const ACCOUNT: &str = "postgres";
const UP_WITHIN: Duration = Duration::from_secs(60);

/// A running server. It ends when this is dropped, and its folder is removed.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    server: Child,
}

impl Postgres {
    /// Makes a database cluster and starts its server.
    ///
    /// # Errors
    ///
    /// [`LeftOut`] when no server is installed, or root has no account to run it as.
    ///
    /// # Panics
    ///
    /// When the installed server does not start.
    ///
    /// # Cancel safety
    ///
    /// The server ends.
    pub async fn start() -> Result<Self, LeftOut> {
        let binaries = binaries().ok_or_else(|| {
            left_out("the command initdb is neither on the path nor in /usr/lib/postgresql: apt-get install postgresql")
        })?;
        let unique = format!(
            "kcl-postgres-{}-{}",
            std::process::id(),
            TokioClock::new().wall().as_millis()
        );
        let folder = std::env::temp_dir().join(unique);
        fs::create_dir(&folder).expect("the folder for temporary files is writable");
        let account = match fs::metadata(&folder).map(|folder| folder.uid()) {
            Ok(0) => Some(account(ACCOUNT).ok_or_else(|| {
                left_out("initdb refuses to run as root, and there is no account postgres to run it as")
            })?),
            _ => None,
        };
        if let Some((user, group)) = account {
            chown(&folder, Some(user), Some(group)).expect("root gives a folder away");
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("the folder is ours");
        let command = |name: &str| {
            let mut command = Command::new(binaries.join(name));
            command
                .current_dir(&folder)
                .env("LC_ALL", "C")
                .stdin(Stdio::null());
            if let Some((user, group)) = account {
                command.gid(group).uid(user);
            }
            command
        };
        let data = folder.join("data");
        let made = command("initdb")
            .arg("--pgdata")
            .arg(&data)
            .args([
                "--username",
                "postgres",
                "--auth",
                "trust",
                "--encoding",
                "UTF8",
                "--no-sync",
            ])
            .output()
            .expect("initdb runs");
        assert!(
            made.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let log = fs::File::create(folder.join("log")).expect("the folder is writable");
        let server = command("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&folder)
            // Workers are killed here, the machine is not.
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "max_connections=200",
            ])
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        let mut started = Self { folder, server };
        say(&format!("starting PostgreSQL of {}", binaries.display()));
        started.until_up().await;
        Ok(started)
    }

    /// How a client reaches it, in the form of a connection string.
    pub fn url(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.display())
    }

    async fn until_up(&mut self) {
        let url = self.url();
        let log = self.folder.join("log");
        eventually(UP_WITHIN, async || {
            let ended = self.server.try_wait().is_ok_and(|status| status.is_some());
            let printed = || fs::read_to_string(&log).unwrap_or_default();
            assert!(!ended, "postgres ended: {}", printed());
            let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
            connected.map(drop)
        })
        .await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It would wait for its clients at SIGTERM; at this it ends, and its children with it.
        let quit = Command::new("kill")
            .args(["-QUIT", &self.server.id().to_string()])
            .status();
        if !quit.is_ok_and(|quit| quit.success()) {
            // It may have ended already.
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn left_out(reason: &str) -> LeftOut {
    LeftOut {
        lack: "PostgreSQL to test on:".to_owned(),
        reasons: vec![reason.to_owned()],
    }
}

/// The folder of the server's commands: beside the `initdb` on the path, or the newest of Debian's.
fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find_map(|folder| {
        let initdb = folder.join("initdb").canonicalize().ok()?;
        initdb.parent().map(Path::to_owned)
    });
    on_path.or_else(|| {
        let versions = fs::read_dir(DEBIAN).ok()?.flatten();
        let number = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
        let folders = versions.map(|version| version.path());
        let installed = folders.filter(|folder| folder.join("bin/initdb").exists());
        installed
            .max_by_key(|folder| number(folder))
            .map(|folder| folder.join("bin"))
    })
}

/// The ids of a user and of its group.
fn account(name: &str) -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next()? == name;
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        is_it.then_some((user, group))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_ids_that_are_zero() {
        assert_eq!(account("root"), Some((0, 0)));
        assert_eq!(account("no such account"), None);
    }
}
