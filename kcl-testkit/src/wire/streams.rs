//! The streams of the server, and what it knows of them beyond their state. Time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use kcl_core::model::StreamIdentity;
use kcl_core::time::{Moment, Timestamp};

use super::consumers::Consumers;
use super::error::ServiceError;
use super::value::Map;
use crate::memory_stream::MemoryStream;

/// A stream, and what goes on with it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stream: MemoryStream,
    pub(super) on_demand: bool,
    pub(super) consumers: Consumers,
    /// The creation that the consumers belong to.
    created: Option<Timestamp>,
    transition: Option<(Status, Moment)>,
}

/// What a stream may be going through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Active,
    Updating,
    Deleting,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::Updating => "UPDATING",
            Self::Deleting => "DELETING",
        }
    }
}

impl Entry {
    pub(super) fn new(stream: MemoryStream, on_demand: bool) -> Self {
        Self {
            created: stream.described().map(|identity| identity.created),
            stream,
            on_demand,
            consumers: Consumers::default(),
            transition: None,
        }
    }

    pub(super) fn begin(&mut self, status: Status, now: Moment, takes: Duration) {
        self.transition = Some((status, now + takes));
    }

    pub(super) fn status(&self, now: Moment) -> Status {
        match self.transition {
            Some((status, until)) if now < until => status,
            _ => Status::Active,
        }
    }

    pub(super) fn identity(&self) -> Result<StreamIdentity, ServiceError> {
        self.stream
            .described()
            .ok_or_else(|| ServiceError::not_found("the stream was deleted"))
    }

    /// Whether it is to be kept. A deletion whose time has come is done here.
    fn settle(&mut self, now: Moment) -> bool {
        self.consumers.settle(now);
        if let Some((Status::Deleting, until)) = self.transition
            && now >= until
        {
            self.stream.delete();
            return false;
        }
        let created = self.stream.described().map(|identity| identity.created);
        if self.created != created {
            // The stream was deleted or created again behind the server's back, and its consumers went with it.
            self.created = created;
            self.consumers = Consumers::default();
        }
        true
    }
}

/// The streams, by name.
#[derive(Debug, Default)]
pub(super) struct Streams {
    by_name: BTreeMap<String, Entry>,
}

impl Streams {
    pub(super) fn add(&mut self, name: String, entry: Entry) {
        self.by_name.insert(name, entry);
    }

    pub(super) fn settle(&mut self, now: Moment) {
        self.by_name.retain(|_, entry| entry.settle(now));
    }

    /// Those that exist, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.by_name
            .iter()
            .filter(|(_, entry)| entry.stream.described().is_some())
    }

    pub(super) fn named(&mut self, name: &str) -> Result<&mut Entry, ServiceError> {
        self.by_name
            .get_mut(name)
            .filter(|entry| entry.stream.described().is_some())
            .ok_or_else(|| {
                ServiceError::not_found(format!("Stream {name} under account 000000000000 not found."))
            })
    }

    /// The stream that a request is about: by its name, its ARN, or the ARN of one of its consumers.
    pub(super) fn of(&mut self, request: &Map) -> Result<&mut Entry, ServiceError> {
        let name = request.text("StreamName")?;
        let arn = match request.text("StreamARN")? {
            Some(arn) => Some(arn),
            None => request.text("ConsumerARN")?,
        };
        let of_arn = arn.map(|arn| stream_of_arn(arn).map(|name| (arn, name)));
        let wanted = match (name, of_arn.transpose()?) {
            (None, None) => {
                return Err(ServiceError::invalid("StreamName or StreamARN must be given"));
            }
            (Some(name), Some((arn, other))) if name != other => {
                return Err(ServiceError::invalid(format!(
                    "the stream {name} does not have the ARN {arn}"
                )));
            }
            (Some(name), _) | (None, Some((_, name))) => name,
        };
        let entry = self.named(wanted)?;
        let own = entry.identity()?.arn;
        match arn {
            Some(arn) if arn != own && !arn.starts_with(&format!("{own}/consumer/")) => {
                Err(ServiceError::not_found(format!("there is no stream {arn}")))
            }
            _ => Ok(entry),
        }
    }

    /// The stream that a request is about, unless it is being created.
    pub(super) fn readable(&mut self, request: &Map, now: Moment) -> Result<&mut Entry, ServiceError> {
        let entry = self.of(request)?;
        match entry.status(now) {
            Status::Creating => Err(busy(entry, now)),
            Status::Active | Status::Updating | Status::Deleting => Ok(entry),
        }
    }

    /// The stream that a request is about, if nothing goes on with it.
    pub(super) fn active(&mut self, request: &Map, now: Moment) -> Result<&mut Entry, ServiceError> {
        let entry = self.of(request)?;
        match entry.status(now) {
            Status::Active => Ok(entry),
            Status::Creating | Status::Updating | Status::Deleting => Err(busy(entry, now)),
        }
    }
}

fn busy(entry: &Entry, now: Moment) -> ServiceError {
    ServiceError::in_use(format!(
        "Stream {} is {}, not ACTIVE",
        kcl_core::source::StreamSource::name(&entry.stream),
        entry.status(now).name()
    ))
}

/// The name in `arn:aws:kinesis:<region>:<account>:stream/<name>` or in the ARN of one of its consumers.
fn stream_of_arn(arn: &str) -> Result<&str, ServiceError> {
    let after = arn.split_once(":stream/").map(|(_, rest)| rest);
    let name = after.map(|rest| rest.split('/').next().unwrap_or(rest));
    name.filter(|name| arn.starts_with("arn:") && !name.is_empty())
        .ok_or_else(|| ServiceError::invalid(format!("{arn} is not the ARN of a stream")))
}
