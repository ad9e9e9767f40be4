//! Amazon resource names, read once and wholly.

use std::fmt;
use std::str::FromStr;

/// An Amazon resource name: `arn:partition:service:region:account:resource`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arn {
    text: String,
    /// Where the five parts after `arn` begin.
    begins: [usize; 5],
}

/// The text is not the ARN that is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the ARN of {needed}: {problem}")]
pub struct InvalidArn {
    text: String,
    needed: &'static str,
    problem: String,
}

/// The resource is in another region than the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{arn} is in the region {named}, and the client is set up for {client}: give the client the region {named}, or correct the ARN"
)]
pub struct OtherRegion {
    arn: String,
    named: String,
    client: String,
}

const STREAM: &str = "a stream (arn:PARTITION:kinesis:REGION:ACCOUNT:stream/NAME)";
const CONSUMER: &str = "a consumer (arn:PARTITION:kinesis:REGION:ACCOUNT:stream/NAME/consumer/CONSUMER:TIME)";
const TABLE: &str = "a table (arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME)";

/// How the names of regions begin, and the partition they belong to, from the endpoint rules of the AWS SDKs.
const PARTITIONS: [(&str, &str); 7] = [
    ("cn-", "aws-cn"),
    ("us-gov-", "aws-us-gov"),
    ("us-iso-", "aws-iso"),
    ("us-isob-", "aws-iso-b"),
    ("eu-isoe-", "aws-iso-e"),
    ("us-isof-", "aws-iso-f"),
    ("eusc-", "aws-eusc"),
];

/// The partition that a region belongs to, where its name says so, and `aws` otherwise.
pub fn partition_of(region: &str) -> &'static str {
    let mut partitions = PARTITIONS.into_iter();
    let found = partitions.find(|(begin, _)| region.starts_with(begin));
    found.map_or("aws", |(_, partition)| partition)
}

impl Arn {
    /// Returns `true` if the text can only be meant as an ARN: names of streams and tables hold no colon.
    pub fn looks_like_arn(text: &str) -> bool {
        text.trim_start().starts_with("arn:")
    }

    fn read(text: &str, needed: &'static str, service: &str) -> Result<Self, InvalidArn> {
        let problem = |problem: &str| InvalidArn {
            text: text.to_owned(),
            needed,
            problem: problem.to_owned(),
        };
        let mut begins = [0; 5];
        let mut at = 0;
        for begin in &mut begins {
            let colon = text[at..].find(':');
            at += colon.ok_or_else(|| problem("it has less than six parts"))? + 1;
            *begin = at;
        }
        let arn = Self {
            text: text.to_owned(),
            begins,
        };
        if !text.starts_with("arn:") {
            return Err(problem("it does not begin with arn:"));
        }
        if arn.service() != service {
            return Err(problem(&format!("its service is {:?}", arn.service())));
        }
        let is_word = |word: &str| {
            let mut bytes = word.bytes();
            !word.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_word(arn.region()) || !is_word(arn.partition()) {
            return Err(problem("it needs a partition and a region"));
        }
        let belongs = partition_of(arn.region());
        let is_known =
            arn.partition() == "aws" || PARTITIONS.iter().any(|(_, known)| *known == arn.partition());
        if is_known && arn.partition() != belongs {
            let (region, partition) = (arn.region(), arn.partition());
            return Err(problem(&format!(
                "the region {region} is in the partition {belongs}, not in {partition}"
            )));
        }
        let is_account = arn.account().len() == 12 && arn.account().bytes().all(|byte| byte.is_ascii_digit());
        if !is_account {
            return Err(problem("an account has twelve digits"));
        }
        Ok(arn)
    }

    fn part(&self, number: usize) -> &str {
        let begin = self.begins[number];
        match self.begins.get(number + 1) {
            Some(next) => &self.text[begin..next - 1],
            None => &self.text[begin..],
        }
    }

    /// Such as `aws`, or `aws-cn` in China.
    pub fn partition(&self) -> &str {
        self.part(0)
    }

    fn service(&self) -> &str {
        self.part(1)
    }

    /// Such as `eu-west-1`.
    pub fn region(&self) -> &str {
        self.part(2)
    }

    /// Twelve digits.
    pub fn account(&self) -> &str {
        self.part(3)
    }

    fn resource(&self) -> &str {
        self.part(4)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Checks the region against that of the client.
    ///
    /// # Errors
    ///
    /// If they differ. A client without a region is not judged here.
    pub fn check_region(&self, client: Option<&str>) -> Result<(), OtherRegion> {
        match client {
            Some(client) if client != self.region() => Err(OtherRegion {
                arn: self.text.clone(),
                named: self.region().to_owned(),
                client: client.to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn other_resource(text: &str, needed: &'static str, resource: &str) -> InvalidArn {
    InvalidArn {
        text: text.to_owned(),
        needed,
        problem: format!("it names {resource:?}"),
    }
}

/// The length and the characters of the name of a stream or of a consumer, from the API reference of Kinesis.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(fits)
}

/// The ARN of a stream.
///
/// ```
/// use kcl_aws::StreamArn;
///
/// let arn: StreamArn = "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks".parse()?;
/// assert_eq!((arn.name(), arn.region()), ("trucks", "eu-west-1"));
/// # Ok::<(), kcl_aws::InvalidArn>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamArn(Arn);

impl StreamArn {
    /// The name of the stream.
    pub fn name(&self) -> &str {
        self.resource().trim_start_matches("stream/")
    }
}

impl std::ops::Deref for StreamArn {
    type Target = Arn;

    fn deref(&self) -> &Arn {
        &self.0
    }
}

impl FromStr for StreamArn {
    type Err = InvalidArn;

    fn from_str(text: &str) -> Result<Self, InvalidArn> {
        let arn = Arn::read(text, STREAM, "kinesis")?;
        match arn.resource().strip_prefix("stream/") {
            Some(name) if is_name(name) => Ok(Self(arn)),
            Some(_) | None => Err(other_resource(text, STREAM, arn.resource())),
        }
    }
}

/// The ARN of a consumer, which names its stream.
///
/// ```
/// use kcl_aws::ConsumerArn;
///
/// let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks/consumer/tracker:1700000000";
/// let arn: ConsumerArn = arn.parse()?;
/// assert_eq!((arn.name(), arn.stream().name()), ("tracker", "trucks"));
/// # Ok::<(), kcl_aws::InvalidArn>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerArn {
    arn: Arn,
    stream: StreamArn,
    name: String,
}

impl ConsumerArn {
    /// The stream that the consumer belongs to.
    pub fn stream(&self) -> &StreamArn {
        &self.stream
    }

    /// The name of the consumer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        self.arn.as_str()
    }
}

impl FromStr for ConsumerArn {
    type Err = InvalidArn;

    fn from_str(text: &str) -> Result<Self, InvalidArn> {
        let arn = Arn::read(text, CONSUMER, "kinesis")?;
        let wrong = || other_resource(text, CONSUMER, arn.resource());
        let (stream, consumer) = text.split_once("/consumer/").ok_or_else(wrong)?;
        let stream = stream.parse().map_err(|_| wrong())?;
        let (name, created) = consumer.split_once(':').ok_or_else(wrong)?;
        let is_time = !created.is_empty() && created.bytes().all(|byte| byte.is_ascii_digit());
        if !is_name(name) || !is_time {
            return Err(wrong());
        }
        Ok(Self {
            stream,
            name: name.to_owned(),
            arn,
        })
    }
}

/// The ARN of a table of DynamoDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableArn(Arn);

impl TableArn {
    /// The name of the table.
    pub fn name(&self) -> &str {
        self.resource().trim_start_matches("table/")
    }
}

impl std::ops::Deref for TableArn {
    type Target = Arn;

    fn deref(&self) -> &Arn {
        &self.0
    }
}

impl FromStr for TableArn {
    type Err = InvalidArn;

    fn from_str(text: &str) -> Result<Self, InvalidArn> {
        let arn = Arn::read(text, TABLE, "dynamodb")?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        match arn.resource().strip_prefix("table/") {
            Some(name) if (3..=255).contains(&name.len()) && name.bytes().all(fits) => Ok(Self(arn)),
            Some(_) | None => Err(other_resource(text, TABLE, arn.resource())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUCKS: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks";
    const TRACKER: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks/consumer/tracker:1700000000";
    const LEASES: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/truck-tracker";

    #[test]
    fn every_part_of_an_arn_is_read() {
        let arn: StreamArn = TRUCKS.parse().unwrap();
        let parts = (arn.partition(), arn.region(), arn.account(), arn.name());
        assert_eq!(parts, ("aws", "eu-west-1", "123456789012", "trucks"));
        let arn: ConsumerArn = TRACKER.parse().unwrap();
        assert_eq!((arn.name(), arn.stream().as_str()), ("tracker", TRUCKS));
        let arn: TableArn = LEASES.parse().unwrap();
        assert_eq!((arn.name(), arn.account()), ("truck-tracker", "123456789012"));
    }

    #[test]
    fn an_arn_of_anything_else_is_refused() {
        let wrong = [
            TRACKER,
            LEASES,
            "arn:aws:kinesis:eu-west-1:123456789012:stream/",
            "arn:aws:kinesis:eu-west-1:123456789012:stream/a/b",
            "arn:aws:kinesis:eu-west-1:12345678901:stream/trucks",
            "arn:aws:kinesis:eu-west-1::stream/trucks",
            "arn:aws:kinesis::123456789012:stream/trucks",
            "arn::kinesis:eu-west-1:123456789012:stream/trucks",
            "arn:aws:firehose:eu-west-1:123456789012:deliverystream/trucks",
            "arn:aws:kinesis:cn-north-1:123456789012:stream/trucks",
            "arn:aws-cn:kinesis:eu-west-1:123456789012:stream/trucks",
            "arn:aws-us-gov:kinesis:eu-west-1:123456789012:stream/trucks",
            "arn:aws:kinesis:eusc-de-east-1:123456789012:stream/trucks",
            "arn:aws-iso:kinesis:us-isob-east-1:123456789012:stream/trucks",
            " arn:aws:kinesis:eu-west-1:123456789012:stream/trucks",
            "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks ",
            "arn:aws:kinesis",
            "arn:odd",
            "trucks",
            "",
        ];
        for text in wrong {
            assert!(text.parse::<StreamArn>().is_err(), "{text}");
        }
        for text in [
            TRUCKS,
            "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks/consumer/tracker",
            "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks/consumer/tracker:",
            "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks/consumer/:1",
            "arn:aws:kinesis:eu-west-1:123456789012:stream//consumer/tracker:1",
        ] {
            assert!(text.parse::<ConsumerArn>().is_err(), "{text}");
        }
        for text in [
            TRUCKS,
            "arn:aws:dynamodb:eu-west-1:123456789012:table/t/index/i",
            "arn:aws:dynamodb:eu-west-1:123456789012:table/t",
        ] {
            assert!(text.parse::<TableArn>().is_err(), "{text}");
        }
        let said = TRACKER.parse::<StreamArn>().unwrap_err().to_string();
        assert!(
            said.contains("consumer/tracker") && said.contains("stream/NAME"),
            "{said}"
        );
    }

    #[test]
    fn regions_outside_the_known_partitions_are_taken() {
        for arn in [
            "arn:aws-cn:kinesis:cn-north-1:123456789012:stream/a",
            "arn:aws-us-gov:kinesis:us-gov-west-1:123456789012:stream/a",
            "arn:aws-iso:kinesis:us-iso-east-1:123456789012:stream/a",
            "arn:aws-eusc:kinesis:eusc-de-east-1:123456789012:stream/a",
            "arn:aws-of-the-future:kinesis:moon-base-1:123456789012:stream/a",
        ] {
            assert!(arn.parse::<StreamArn>().is_ok(), "{arn}");
        }
    }

    #[test]
    fn another_region_is_named_beside_the_clients() {
        let arn: StreamArn = TRUCKS.parse().unwrap();
        assert_eq!(arn.check_region(Some("eu-west-1")), Ok(()));
        assert_eq!(arn.check_region(None), Ok(()));
        let said = arn.check_region(Some("us-east-1")).unwrap_err().to_string();
        assert!(said.contains("eu-west-1") && said.contains("us-east-1"), "{said}");
    }
}
