use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kcl_core::types::ShardId;

use super::{Operation, Protocol};

/// A fault of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The request is accepted and nothing is answered, ever.
    Hang,
    /// The head of the answer comes and about half of its body, then nothing more; the connection stays open. A subscription
    /// comes with its initial response and without an event.
    HalfOpen,
    /// The connection is reset, with everything else that is on it.
    Reset,
    /// 500 `InternalFailureException`.
    InternalFailure,
    /// `ProvisionedThroughputExceededException` for what moves records, `LimitExceededException` for everything else.
    Throttle,
    /// A request in CBOR is refused, as by servers that do not speak it: 415 `SerializationException`, in JSON. Requests in JSON
    /// are served, and not counted against the number of calls of the rule.
    RefuseCbor,
    /// 200, and a body that is not what the content type says.
    Garbage,
    /// GetRecords answers without an iterator to go on with, as if the shard had ended. Other calls are answered as ever.
    WithoutIterator,
}

/// A fault, and the calls that it strikes.
///
/// ```
/// use kinesis_local::{Fault, FaultRule, Operation};
///
/// let twice = FaultRule::new(Fault::Hang).on(Operation::GetRecords).times(2);
/// let until_cleared = FaultRule::new(Fault::Throttle);
/// # let _ = (twice, until_cleared);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct FaultRule {
    fault: Fault,
    operation: Option<Operation>,
    shard: Option<ShardId>,
    left: Option<u32>,
}

impl FaultRule {
    /// Strikes every call until the rules are cleared.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            operation: None,
            shard: None,
            left: None,
        }
    }

    /// Only calls of this operation.
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only calls that are about this shard of any stream: those that name it, and GetRecords with its iterators.
    pub fn shard(mut self, shard: ShardId) -> Self {
        self.shard = Some(shard);
        self
    }

    /// Only the next so many of these calls.
    pub fn times(mut self, calls: u32) -> Self {
        self.left = Some(calls);
        self
    }

    fn strikes(&self, operation: Operation, shard: Option<&ShardId>, protocol: Protocol) -> bool {
        self.left != Some(0)
            && self.operation.is_none_or(|only| only == operation)
            && self.shard.as_ref().is_none_or(|only| Some(only) == shard)
            && (self.fault != Fault::RefuseCbor || protocol == Protocol::Cbor)
    }
}

/// The faults of a server, to be scripted by a test. Clones share them.
#[derive(Clone, Default)]
pub struct WireFaults {
    rules: Arc<Mutex<Vec<FaultRule>>>,
}

impl WireFaults {
    /// Adds a rule. Of several that strike the same call, the oldest does.
    pub fn inject(&self, rule: FaultRule) {
        self.with(|rules| rules.push(rule));
    }

    /// Takes all rules away. Calls that hang already go on hanging.
    pub fn clear(&self) {
        self.with(Vec::clear);
    }

    /// Whether a rule is left that may still strike.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.with(|rules| !rules.is_empty())
    }

    pub(super) fn take(
        &self,
        operation: Operation,
        shard: Option<&ShardId>,
        protocol: Protocol,
    ) -> Option<Fault> {
        self.with(|rules| {
            let rule = rules
                .iter_mut()
                .find(|rule| rule.strikes(operation, shard, protocol))?;
            rule.left = rule.left.map(|left| left - 1);
            let fault = rule.fault;
            rules.retain(|rule| rule.left != Some(0));
            Some(fault)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<FaultRule>) -> T) -> T {
        work(&mut self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for WireFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|rules| f.debug_list().entries(rules.iter()).finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_strikes_its_calls_so_often() {
        let faults = WireFaults::default();
        let shard = ShardId::new("shardId-000000000001").unwrap();
        let rule = FaultRule::new(Fault::Hang).on(Operation::GetRecords);
        faults.inject(rule.shard(shard.clone()).times(1));
        let take = |operation, shard| faults.take(operation, shard, Protocol::Json);
        assert_eq!(take(Operation::ListShards, Some(&shard)), None);
        assert_eq!(take(Operation::GetRecords, None), None);
        assert_eq!(take(Operation::GetRecords, Some(&shard)), Some(Fault::Hang));
        assert_eq!(take(Operation::GetRecords, Some(&shard)), None);
        assert!(!faults.pending());
    }

    #[test]
    fn json_is_served_where_cbor_is_refused() {
        let faults = WireFaults::default();
        faults.inject(FaultRule::new(Fault::RefuseCbor).times(1));
        let take = |protocol| faults.take(Operation::GetRecords, None, protocol);
        assert_eq!(take(Protocol::Json), None);
        assert_eq!(take(Protocol::Cbor), Some(Fault::RefuseCbor));
        assert_eq!(take(Protocol::Cbor), None);
    }
}
