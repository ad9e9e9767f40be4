//! The streams of the server, and what it knows of them beyond their state. Time is an argument.

use std::collections::{BTreeMap, btree_map};
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::types::{StreamIdentity, Timestamp};
use kcl_lease_memory::MemoryStream;
use kcl_lease_memory::memory_stream::StreamMode;

use super::attributes::Attributes;
use super::consumers::Consumers;
use super::error::ServiceError;
use super::value::Map;

/// The largest record of a stream that says nothing about it, in KiB.
const MAX_RECORD_KIB: u32 = 1024;
/// The retention that a stream without one is described with, in hours.
const RETENTION_HOURS: u64 = 24;

/// A stream, and what goes on with it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stream: MemoryStream,
    pub(super) attributes: Attributes,
    pub(super) consumers: Consumers,
    /// The creation that the consumers belong to.
    created: Option<Timestamp>,
    transition: Option<(Status, Moment)>,
}

/// A transition of a stream.
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
    pub(super) fn new(stream: MemoryStream) -> Self {
        Self {
            created: stream.described().map(|identity| identity.created),
            stream,
            attributes: Attributes::default(),
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

    /// Whether it is being deleted, which nothing ends but the deletion.
    pub(super) fn is_going(&self) -> bool {
        matches!(self.transition, Some((Status::Deleting, _)))
    }

    pub(super) fn is_on_demand(&self) -> bool {
        self.stream.settings().mode == StreamMode::OnDemand
    }

    /// The largest record that clients may put, in KiB.
    pub(super) fn max_record_kib(&self) -> u32 {
        self.stream.settings().max_record_kib.unwrap_or(MAX_RECORD_KIB)
    }

    pub(super) fn retention_hours(&self) -> u64 {
        let retention = self.stream.settings().retention;
        retention.map_or(RETENTION_HOURS, |retention| retention.as_secs() / 3600)
    }

    pub(super) fn open_shards(&self) -> usize {
        let shards = self.stream.shards_snapshot();
        shards.iter().filter(|shard| !shard.shard.closed).count()
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
            // The stream was deleted or created again behind the server's back, and what was attached went with it.
            self.created = created;
            self.attributes = Attributes::default();
            self.consumers = Consumers::default();
        }
        true
    }
}

/// The streams of an account in a region, by name.
#[derive(Debug)]
pub(super) struct Streams {
    region: String,
    account: String,
    by_name: BTreeMap<String, Entry>,
}

/// A stream, or one of its consumers.
#[derive(Debug)]
pub(super) struct Resource<'a> {
    pub(super) entry: &'a mut Entry,
    pub(super) arn: &'a str,
    /// Whether it is the stream itself.
    pub(super) is_stream: bool,
}

impl Streams {
    pub(super) fn new(region: &str, account: &str) -> Self {
        Self {
            region: region.to_owned(),
            account: account.to_owned(),
            by_name: BTreeMap::new(),
        }
    }

    /// Serves a stream, which is of this region and account from now on.
    pub(super) fn add(&mut self, entry: Entry) -> &mut Entry {
        entry.stream.settle_at(&self.region, &self.account);
        let name = kcl_core::source::StreamSource::name(&entry.stream).to_owned();
        match self.by_name.entry(name) {
            btree_map::Entry::Occupied(mut place) => {
                place.insert(entry);
                place.into_mut()
            }
            btree_map::Entry::Vacant(place) => place.insert(entry),
        }
    }

    pub(super) fn account(&self) -> &str {
        &self.account
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
        let missing = self.missing(name);
        self.by_name
            .get_mut(name)
            .filter(|entry| entry.stream.described().is_some())
            .ok_or(missing)
    }

    fn missing(&self, name: &str) -> ServiceError {
        ServiceError::not_found(format!("Stream {name} under account {} not found.", self.account))
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

    /// The stream or consumer that the `ResourceARN` of a request names.
    pub(super) fn resource<'a>(&'a mut self, request: &'a Map) -> Result<Resource<'a>, ServiceError> {
        let arn = request.needed_text("ResourceARN")?;
        let entry = self.named(stream_of_arn(arn)?)?;
        let is_stream = entry.identity()?.arn == arn;
        if !is_stream {
            entry.consumers.with_arn(arn)?;
        }
        Ok(Resource {
            entry,
            arn,
            is_stream,
        })
    }

    /// The stream whose shards a request lists, or with which it registers a consumer or subscribes.
    pub(super) fn readable(&mut self, request: &Map, now: Moment) -> Result<&mut Entry, ServiceError> {
        self.in_status(request, now, |status| status != Status::Creating)
    }

    /// The stream that a request puts records into or gets an iterator for. One that is being created is not found yet.
    pub(super) fn with_data(&mut self, request: &Map, now: Moment) -> Result<&mut Entry, ServiceError> {
        let entry = self.of(request)?;
        if entry.status(now) == Status::Creating {
            let name = entry.identity()?.name;
            return Err(self.missing(&name));
        }
        self.of(request)
    }

    /// The stream that a request is about, if nothing goes on with it.
    pub(super) fn active(&mut self, request: &Map, now: Moment) -> Result<&mut Entry, ServiceError> {
        self.in_status(request, now, |status| status == Status::Active)
    }

    /// The stream of a request that only users of the provisioned mode make, if nothing goes on with it.
    pub(super) fn provisioned(&mut self, request: &Map, now: Moment) -> Result<&mut Entry, ServiceError> {
        let entry = self.active(request, now)?;
        if entry.is_on_demand() {
            return Err(ServiceError::validation(
                "This API is only supported for data streams with the provisioned capacity mode.",
            ));
        }
        Ok(entry)
    }

    fn in_status(
        &mut self,
        request: &Map,
        now: Moment,
        suits: impl Fn(Status) -> bool,
    ) -> Result<&mut Entry, ServiceError> {
        let entry = self.of(request)?;
        let status = entry.status(now);
        if suits(status) {
            return self.of(request);
        }
        let name = entry.identity()?.name;
        Err(ServiceError::in_use(format!(
            "Stream {name} under account {} not ACTIVE, instead in state {}",
            self.account,
            status.name()
        )))
    }
}

/// The name in `arn:aws:kinesis:<region>:<account>:stream/<name>` or in the ARN of one of its consumers.
fn stream_of_arn(arn: &str) -> Result<&str, ServiceError> {
    let after = arn.split_once(":stream/").map(|(_, rest)| rest);
    let name = after.map(|rest| rest.split('/').next().unwrap_or(rest));
    name.filter(|name| arn.starts_with("arn:") && !name.is_empty())
        .ok_or_else(|| ServiceError::invalid(format!("{arn} is not the ARN of a stream")))
}
