//! Connections for subscriptions: a few share one, and none shares it with anything else.
//!
//! A subscription that is not read fills the window of its stream, and a few of those fill the window of their connection, which stops everything
//! else on it. Requests and answers must not be among that, so subscriptions have clients of their own, each with connections of its own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kinesis::{Client, Config};

/// The most subscriptions that share a client. A connection takes at least a hundred streams, and two unread ones hold it up.
const SUBSCRIPTIONS: usize = 8;

/// The clients for subscriptions, of one runtime.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Vec<Line>>);

struct Line {
    client: Client,
    users: Arc<()>,
}

/// Keeps a place on a line.
#[derive(Debug)]
pub(crate) struct LineUser {
    _user: Arc<()>,
}

impl Lines {
    /// A client with a free place: an old one where there is, so that there are as few as can be, and one with this configuration otherwise.
    pub(crate) fn free(&self, config: impl FnOnce() -> Config) -> (Client, LineUser) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let users = |line: &Line| Arc::strong_count(&line.users) - 1;
        let free = lines.iter().position(|line| users(line) < SUBSCRIPTIONS);
        let free = free.unwrap_or_else(|| {
            lines.push(Line {
                client: Client::from_conf(config()),
                users: Arc::default(),
            });
            lines.len() - 1
        });
        // Lines that nobody uses any more behind the last one in use are closed.
        let in_use = lines.iter().rposition(|line| users(line) > 0).unwrap_or(0);
        lines.truncate(in_use.max(free) + 1);
        let line = &lines[free];
        let user = LineUser {
            _user: Arc::clone(&line.users),
        };
        (line.client.clone(), user)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_kinesis::config::BehaviorVersion;

    #[test]
    fn eight_share_a_client_and_places_are_used_again() {
        let config = || {
            Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .build()
        };
        let lines = Lines::default();
        let count = || lines.0.lock().unwrap().len();
        let mut users: Vec<_> = (0..17).map(|_| lines.free(config).1).collect();
        assert_eq!(count(), 3);
        users.truncate(1);
        users.push(lines.free(config).1);
        assert_eq!(count(), 1);
    }
}
