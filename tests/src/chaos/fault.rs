//! Faults between a worker and a service.

use std::fmt;
use std::time::Duration;

/// The two services that a worker talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Records.
    Kinesis,
    /// Leases.
    Dynamo,
}

impl Service {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kinesis, Self::Dynamo];
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kinesis => "Kinesis",
            Self::Dynamo => "DynamoDB",
        })
    }
}

/// A fault of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkFault {
    /// Request and answer together take longer by this, or by as little as half. A request goes on its way even if the client has
    /// given up meanwhile.
    Latency(Duration),
    /// The request is taken and neither passed on nor ever answered.
    BlackHole,
    /// The request is passed on and takes effect; its answer never comes, or the connection is reset instead.
    LostReply,
    /// The connection is reset when the request is there; it is not passed on.
    Reset,
    /// An answer of the server's own failure, 500 or 503; the request is not passed on.
    ServerError,
    /// An answer that the caller is too fast, as each service says it; the request is not passed on.
    Throttle,
    /// Nothing passes in either direction, what is under way included. When it is over, some of what was held arrives late, whether its
    /// client still waits or not, and the connections of the rest are reset.
    Partition,
}

impl NetworkFault {
    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency(_) => "latency",
            Self::BlackHole => "black hole",
            Self::LostReply => "lost reply",
            Self::Reset => "reset",
            Self::ServerError => "5xx",
            Self::Throttle => "throttle",
            Self::Partition => "partition",
        }
    }
}

impl fmt::Display for NetworkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Self::Latency(most) = self {
            write!(f, " of up to {most:?}")?;
        }
        Ok(())
    }
}

/// A fault, and how many requests it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disturbance {
    /// The fault.
    pub fault: NetworkFault,
    /// It meets one in so many requests. A partition meets them all, whatever this says.
    pub one_in: u64,
}

impl Disturbance {
    /// The fault, for every request.
    pub fn always(fault: NetworkFault) -> Self {
        Self { fault, one_in: 1 }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault)?;
        match self.one_in {
            0 | 1 => Ok(()),
            n => write!(f, " for one request in {n}"),
        }
    }
}
