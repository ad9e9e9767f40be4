//! The bounds of the server.

use std::time::Duration;

/// The largest request line with its headers, in bytes.
pub(crate) const LARGEST_HEAD: usize = 16 * 1024;
/// The most headers of a request.
pub(crate) const MOST_HEADERS: usize = 64;

/// The pause between two collections of the samples of histograms.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);

/// The bounds of connections.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// The connections that are served at a time. A further one takes the place of the oldest.
    pub connections: usize,
    /// The time for a request line and its headers.
    pub head: Duration,
    /// The time for a whole connection: its head, the answer, and the client's reading.
    pub connection: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(2),
            connection: Duration::from_secs(10),
        }
    }
}
