//! Resource policies: stored and given back, never asked whether a call is allowed.

use crate::error::ServiceError;
use crate::shared::Shared;
use crate::value::{Answer, Map};

/// The largest policy, in bytes.
const MOST_BYTES: usize = 20 * 1024;

pub(super) fn put(shared: &Shared, request: &Map) -> Answer {
    let policy = request.needed_text("Policy")?;
    let is_object = serde_json::from_str::<serde_json::Value>(policy).is_ok_and(|policy| policy.is_object());
    if !is_object || policy.len() > MOST_BYTES {
        return Err(ServiceError::invalid(format!(
            "Policy must be a JSON object of at most {MOST_BYTES} bytes"
        )));
    }
    let mut streams = shared.streams();
    let resource = streams.resource(request)?;
    let policies = &mut resource.entry.attributes.policies;
    policies.insert(resource.arn.to_owned(), policy.to_owned());
    Ok(Map::new())
}

pub(super) fn get(shared: &Shared, request: &Map) -> Answer {
    let mut streams = shared.streams();
    let resource = streams.resource(request)?;
    let policy = resource.entry.attributes.policies.get(resource.arn);
    let policy = policy.ok_or_else(|| none(resource.arn))?;
    Ok(Map::new().with("Policy", policy.as_str()))
}

pub(super) fn delete(shared: &Shared, request: &Map) -> Answer {
    let mut streams = shared.streams();
    let resource = streams.resource(request)?;
    let removed = resource.entry.attributes.policies.remove(resource.arn);
    removed.map(|_| Map::new()).ok_or_else(|| none(resource.arn))
}

fn none(arn: &str) -> ServiceError {
    ServiceError::not_found(format!("There is no resource policy for {arn}."))
}
