//! The values of requests and answers, whatever protocol carries them.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use kcl_core::types::{Record, ShardId, Timestamp};

use super::error::ServiceError;

/// A value of the protocol. JSON has neither blobs nor times of its own: there they arrive as texts and numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(ByteString),
    Blob(Bytes),
    Time(Timestamp),
    List(Vec<Value>),
    Map(Map),
    /// Records as answers and events show them. They are many, so they become bytes without becoming structures first.
    Records(Vec<Record>),
}

/// The answer of an operation.
pub(super) type Answer = Result<Map, ServiceError>;

/// The members of a structure, in the order they are written.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Map(pub(super) Vec<(Cow<'static, str>, Value)>);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(answer: bool) -> Self {
        Self::Bool(answer)
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

impl From<Bytes> for Value {
    fn from(blob: Bytes) -> Self {
        Self::Blob(blob)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(list: Vec<V>) -> Self {
        Self::List(list.into_iter().map(Into::into).collect())
    }
}

impl Map {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The structure with this member.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((Cow::Borrowed(name), value.into()));
        self
    }

    /// The structure with this member, if there is a value for it.
    pub(super) fn with_some(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(member, value)| member == name && *value != Value::Null)
            .map(|(_, value)| value)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ServiceError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(mistyped(name, "a text")),
        }
    }

    pub(super) fn needed_text(&self, name: &str) -> Result<&str, ServiceError> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn int(&self, name: &str) -> Result<Option<i64>, ServiceError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Int(number)) => Ok(Some(*number)),
            Some(_) => Err(mistyped(name, "an integer")),
        }
    }

    /// An integer that must lie within these bounds.
    pub(super) fn int_within(&self, name: &str, least: i64, most: i64) -> Result<Option<i64>, ServiceError> {
        match self.int(name)? {
            Some(number) if !(least..=most).contains(&number) => Err(ServiceError::invalid(format!(
                "{name} is {number}; it must be between {least} and {most}"
            ))),
            number => Ok(number),
        }
    }

    /// How many things a page holds: what is asked for, and at most `most`, which is also the default.
    pub(super) fn page_size(&self, name: &str, most: usize) -> Result<usize, ServiceError> {
        let asked = self.int_within(name, 1, 10_000)?;
        Ok(asked
            .and_then(|asked| usize::try_from(asked).ok())
            .map_or(most, |asked| asked.min(most)))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ServiceError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(mistyped(name, "true or false")),
        }
    }

    pub(super) fn map(&self, name: &str) -> Result<Option<&Map>, ServiceError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Map(map)) => Ok(Some(map)),
            Some(_) => Err(mistyped(name, "a structure")),
        }
    }

    /// A list of texts; none if it is not there.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&str>, ServiceError> {
        let list = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::List(list)) => list,
            Some(_) => return Err(mistyped(name, "a list of texts")),
        };
        list.iter()
            .map(|value| {
                let Value::Text(text) = value else {
                    return Err(mistyped(name, "a list of texts"));
                };
                Ok(&**text)
            })
            .collect()
    }

    /// The members of a structure whose values are texts.
    pub(super) fn text_members(&self) -> Result<Vec<(&str, &str)>, ServiceError> {
        self.0
            .iter()
            .filter(|(_, value)| *value != Value::Null)
            .map(|(name, value)| {
                let Value::Text(text) = value else {
                    return Err(mistyped(name, "a text"));
                };
                Ok((&**name, &**text))
            })
            .collect()
    }

    pub(super) fn maps(&self, name: &str) -> Result<Vec<&Map>, ServiceError> {
        let Some(Value::List(list)) = self.get(name) else {
            return Err(missing(name));
        };
        list.iter()
            .map(|value| {
                let Value::Map(map) = value else {
                    return Err(mistyped(name, "a list of structures"));
                };
                Ok(map)
            })
            .collect()
    }

    /// Bytes, or the base64 text that stands for them in JSON.
    pub(super) fn blob(&self, name: &str) -> Result<Bytes, ServiceError> {
        match self.get(name) {
            None => Err(missing(name)),
            Some(Value::Blob(bytes)) => Ok(bytes.clone()),
            Some(Value::Text(text)) => STANDARD
                .decode(text.as_bytes())
                .map(Bytes::from)
                .map_err(|_| mistyped(name, "base64")),
            Some(_) => Err(mistyped(name, "a blob")),
        }
    }

    /// A time, or the seconds that stand for it in JSON.
    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, ServiceError> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a time too far away becomes the farthest one"
        )]
        match self.get(name) {
            None => Ok(None),
            Some(Value::Time(time)) => Ok(Some(*time)),
            Some(Value::Int(seconds)) => Ok(Some(Timestamp::from_millis(seconds.saturating_mul(1000)))),
            Some(Value::Float(seconds)) => {
                Ok(Some(Timestamp::from_millis((seconds * 1000.0).round() as i64)))
            }
            Some(_) => Err(mistyped(name, "a time")),
        }
    }

    /// A shard id. Kinesis takes the bare number as well as the full form; only the full form is taken here.
    pub(super) fn shard(&self, name: &str) -> Result<ShardId, ServiceError> {
        let id = self.needed_text(name)?;
        ShardId::new(id).map_err(|_| ServiceError::invalid(format!("{name} is not the id of a shard: {id}")))
    }

    /// A hash key: a decimal number below 2¹²⁸, without a sign and without leading zeros.
    pub(super) fn hash_key(&self, name: &str) -> Result<Option<u128>, ServiceError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let is_plain =
            text.bytes().all(|digit| digit.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let key = text.parse().ok().filter(|_| is_plain);
        key.map(Some)
            .ok_or_else(|| ServiceError::invalid(format!("{name} is not a hash key: {text}")))
    }
}

fn missing(name: &str) -> ServiceError {
    ServiceError::validation(format!("{name} is missing"))
}

fn mistyped(name: &str, expected: &str) -> ServiceError {
    ServiceError::serialization(format!("{name} is not {expected}"))
}
