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
pub(crate) struct ConnectionPool(Mutex<Vec<SharedClient>>);

struct SharedClient {
    client: Client,
    permits: Arc<()>,
}

/// Keeps a place on a shared client.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _permit: Arc<()>,
}

impl ConnectionPool {
    /// A client with a free place: an old one where there is, so that there are as few as can be, and one with this configuration otherwise.
    pub(crate) fn acquire(&self, config: impl FnOnce() -> Config) -> (Client, ConnectionPermit) {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let permits = |shared: &SharedClient| Arc::strong_count(&shared.permits) - 1;
        let free = clients.iter().position(|shared| permits(shared) < SUBSCRIPTIONS);
        let free = free.unwrap_or_else(|| {
            clients.push(SharedClient {
                client: Client::from_conf(config()),
                permits: Arc::default(),
            });
            clients.len() - 1
        });
        // Connections that nobody uses any more behind the last one in use are closed.
        let in_use = clients
            .iter()
            .rposition(|shared| permits(shared) > 0)
            .unwrap_or(0);
        clients.truncate(in_use.max(free) + 1);
        let shared = &clients[free];
        let permit = ConnectionPermit {
            _permit: Arc::clone(&shared.permits),
        };
        (shared.client.clone(), permit)
    }
}

impl fmt::Debug for ConnectionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_kinesis::config::BehaviorVersion;

    #[test]
    fn eight_share_one_client_and_reuse_places() {
        let config = || {
            Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .build()
        };
        let clients = ConnectionPool::default();
        let count = || clients.0.lock().unwrap().len();
        let mut permits: Vec<_> = (0..17).map(|_| clients.acquire(config).1).collect();
        assert_eq!(count(), 3);
        permits.truncate(1);
        permits.push(clients.acquire(config).1);
        assert_eq!(count(), 1);
    }
}
