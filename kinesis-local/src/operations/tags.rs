//! Tags of streams, and of streams and consumers by their ARN.

use kcl_core::clock::Moment;

use crate::attributes::Tags;
use crate::error::ServiceError;
use crate::shared::Shared;
use crate::streams::Resource;
use crate::value::{Answer, Map};

fn needs_tags(request: &Map) -> Result<(), ServiceError> {
    match request.map("Tags")? {
        Some(tags) if !tags.0.is_empty() => Ok(()),
        _ => Err(ServiceError::validation("Tags must have at least one member")),
    }
}

pub(super) fn add_to_stream(shared: &Shared, request: &Map, now: Moment) -> Answer {
    needs_tags(request)?;
    let mut streams = shared.streams();
    let entry = streams.readable(request, now)?;
    entry.attributes.tags.add(request)?;
    Ok(Map::new())
}

pub(super) fn remove_from_stream(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.readable(request, now)?;
    entry.attributes.tags.remove(request)?;
    Ok(Map::new())
}

pub(super) fn list_of_stream(shared: &Shared, request: &Map) -> Answer {
    let most = request.int_within("Limit", 1, 50)?.unwrap_or(50);
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let mut tags = entry.attributes.tags.list(request.text("ExclusiveStartTagKey")?);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let more = tags.len() > most;
    tags.truncate(most);
    Ok(Map::new().with("Tags", tags).with("HasMoreTags", more))
}

fn tags_of<'a>(resource: &'a mut Resource<'_>) -> Result<&'a mut Tags, ServiceError> {
    if resource.is_stream {
        return Ok(&mut resource.entry.attributes.tags);
    }
    let consumer = resource.entry.consumers.with_arn(resource.arn)?;
    Ok(&mut consumer.tags)
}

pub(super) fn add(shared: &Shared, request: &Map) -> Answer {
    needs_tags(request)?;
    let mut streams = shared.streams();
    tags_of(&mut streams.resource(request)?)?.add(request)?;
    Ok(Map::new())
}

pub(super) fn remove(shared: &Shared, request: &Map) -> Answer {
    let mut streams = shared.streams();
    tags_of(&mut streams.resource(request)?)?.remove(request)?;
    Ok(Map::new())
}

pub(super) fn list(shared: &Shared, request: &Map) -> Answer {
    let mut streams = shared.streams();
    let tags = tags_of(&mut streams.resource(request)?)?.list(None);
    Ok(Map::new().with("Tags", tags))
}
