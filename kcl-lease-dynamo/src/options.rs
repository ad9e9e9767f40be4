//! How the lease table is made, as plain data.

use std::collections::BTreeMap;
use std::fmt;

use kcl_aws::{Arn, TableArn};
use serde::{Deserialize, Serialize};

/// How the lease table is made, and what a table that is there already should have. Plain data: it can be read from a file,
/// with every field optional.
///
/// A missing table is created as the options say. Of a table that is there already:
///
/// - the owner index is added where it is missing, and point-in-time recovery is switched on where the options ask for it: both
///   add something and take nothing away, and the Java KCL does the same at each start;
/// - billing, deletion protection and tags stay as they are, whoever made them so: what differs from the options is said in one
///   warning at the start.
///
/// A right that is not granted is no error while the table can be worked with. It is said in the same warning, with what to grant.
///
/// ```
/// use kcl_lease_dynamo::{Billing, TableOptions};
///
/// let options = TableOptions {
///     point_in_time_recovery: true,
///     tags: [("team".to_owned(), "trucks".to_owned())].into(),
///     ..TableOptions::default()
/// };
/// assert!(options.validate().is_ok());
/// let broken = TableOptions {
///     billing: Billing::Provisioned { read_units: 0, write_units: 0 },
///     tags: [("aws:mine".to_owned(), String::new())].into(),
///     ..TableOptions::default()
/// };
/// assert_eq!(broken.validate().unwrap_err().violations().len(), 3);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableOptions {
    /// In how many tables a new application keeps its rows.
    pub layout: TableLayout,
    /// How reads and writes are paid for. On demand by default, because nobody can say in advance how many shards a stream will
    /// have; being the default, it is no reason to complain of a table that is billed otherwise.
    pub billing: Billing,
    /// Whether the table can be restored to any second of the last 35 days. Off by default, as in the Java KCL: a lost lease table
    /// costs a second reading of the stream, not data.
    pub point_in_time_recovery: bool,
    /// Whether the table refuses to be deleted. Off by default, as in the Java KCL.
    pub deletion_protection: bool,
    /// The tags of the table, at most 50. None by default. Creating a table with tags takes the right to `dynamodb:TagResource`.
    pub tags: BTreeMap<String, String>,
}

/// In how many tables an application keeps its rows. One that is there already keeps the layout that it has: these are for a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableLayout {
    /// As the application has it: three tables where the Java KCL 3.0 to 3.4 worked, or where the lease table holds the leases of the
    /// Java KCL 2.x and nothing else; otherwise one. By default.
    #[default]
    AsFound,
    /// Everything in the lease table, as the Java KCL 3.5 has it for a new application. A Java KCL before 3.5 cannot start on such a
    /// table before [`DynamoLeaseStore::prepare_for_java`](crate::DynamoLeaseStore::prepare_for_java).
    OneTable,
    /// Leases in the lease table, the leader lock in `<application>-CoordinatorState` and the workers in
    /// `<application>-WorkerMetricStats`, as the Java KCL 3.0 to 3.4 has it: for an application that may go back to one. The lease table
    /// then holds what every Java KCL reads, also after a crash.
    ThreeTables,
}

/// How reads and writes of the lease table are paid for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Billing {
    /// By the request (`PAY_PER_REQUEST`).
    #[default]
    OnDemand,
    /// By the hour, for this much (`PROVISIONED`). The owner index gets as much again.
    ///
    /// A renewal costs one write unit, and one more in the index when the owner changes; a scan costs one read unit for each 8 KB of
    /// the table. A table with too little throttles, and a throttled renewal endangers its lease.
    Provisioned {
        /// Read capacity units, at least 1.
        read_units: u32,
        /// Write capacity units, at least 1.
        write_units: u32,
    },
}

impl fmt::Display for Billing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnDemand => f.write_str("on demand (PAY_PER_REQUEST)"),
            Self::Provisioned {
                read_units,
                write_units,
            } => {
                write!(
                    f,
                    "provisioned with {read_units} read and {write_units} write units"
                )
            }
        }
    }
}

/// The most tags that a resource of AWS may have ("Tagging restrictions in DynamoDB").
const MAX_TAGS: usize = 50;

impl TableOptions {
    /// Checks every rule there is.
    ///
    /// # Errors
    ///
    /// All violations at once, each with what to change.
    pub fn validate(&self) -> Result<(), InvalidTableOptions> {
        let violations = self.violations();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(InvalidTableOptions { violations })
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        if let Billing::Provisioned {
            read_units,
            write_units,
        } = self.billing
        {
            for (name, units) in [("read_units", read_units), ("write_units", write_units)] {
                if units == 0 {
                    violations.push(format!(
                        "{name} must be at least 1: a table without capacity answers nothing"
                    ));
                }
            }
        }
        if self.tags.len() > MAX_TAGS {
            violations.push(format!(
                "tags must be at most {MAX_TAGS}, and are {}",
                self.tags.len()
            ));
        }
        for (key, value) in &self.tags {
            let rules = [
                (
                    !(1..=128).contains(&key.chars().count()),
                    "its key must have 1 to 128 characters",
                ),
                (
                    value.chars().count() > 256,
                    "its value must have at most 256 characters",
                ),
                (
                    key.to_lowercase().starts_with("aws:"),
                    "its key must not begin with aws:, which AWS keeps to itself",
                ),
                (
                    !key.chars().chain(value.chars()).all(is_tag_character),
                    "it must be made of letters, digits, spaces and + - = . _ : / @",
                ),
            ];
            let violated = rules.into_iter().filter(|(violated, _)| *violated);
            violations.extend(violated.map(|(_, rule)| format!("tag {key:?}: {rule}")));
        }
        violations
    }
}

fn is_tag_character(character: char) -> bool {
    character.is_alphanumeric() || character.is_whitespace() || "+-=._:/@".contains(character)
}

/// The defect in the name of a table, from "Naming rules" of DynamoDB, or with its ARN for a client in this region.
pub(crate) fn table_name_problem(table: &str, region: Option<&str>) -> Option<String> {
    if Arn::looks_like_arn(table) {
        return match table.parse::<TableArn>() {
            Ok(arn) => arn.check_region(region).err().map(|problem| problem.to_string()),
            Err(problem) => Some(problem.to_string()),
        };
    }
    (!is_name(table)).then(|| {
        format!(
            "the table name {table:?} must have 3 to 255 characters of a-z, A-Z, 0-9, _, . and -: give the store another, which need not be \
             the name of the application"
        )
    })
}

/// Returns `true` if a table can have this name.
pub(crate) fn is_name(table: &str) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    (3..=255).contains(&table.len()) && table.chars().all(fits)
}

/// The options of a table cannot be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTableOptions {
    violations: Vec<String>,
}

impl InvalidTableOptions {
    /// Every rule that is violated, each with what to change.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }
}

impl fmt::Display for InvalidTableOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.violations.join("; "))
    }
}

impl std::error::Error for InvalidTableOptions {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_on_demand_bare_and_valid() {
        let options = TableOptions::default();
        assert_eq!(options.validate(), Ok(()));
        assert_eq!(options.billing, Billing::OnDemand);
        assert!(!options.point_in_time_recovery && !options.deletion_protection && options.tags.is_empty());
    }

    #[test]
    fn every_violation_is_reported_with_its_tag() {
        let mut tags = (0..50)
            .map(|number| (format!("tag-{number}"), String::new()))
            .collect::<BTreeMap<_, _>>();
        tags.insert("AWS:cost".to_owned(), "x".repeat(257));
        tags.insert(String::new(), "semi;colon".to_owned());
        let options = TableOptions {
            billing: Billing::Provisioned {
                read_units: 0,
                write_units: 1,
            },
            tags,
            ..TableOptions::default()
        };
        let invalid = options.validate().unwrap_err();
        let expected = [
            "read_units must be at least 1: a table without capacity answers nothing",
            "tags must be at most 50, and are 52",
            "tag \"\": its key must have 1 to 128 characters",
            "tag \"\": it must be made of letters, digits, spaces and + - = . _ : / @",
            "tag \"AWS:cost\": its value must have at most 256 characters",
            "tag \"AWS:cost\": its key must not begin with aws:, which AWS keeps to itself",
        ];
        assert_eq!(invalid.violations(), expected);
    }

    #[test]
    fn options_file_may_leave_out_but_not_misspell() {
        let file = r#"{"billing": {"provisioned": {"read_units": 10, "write_units": 20}}, "tags": {"team": "trucks"}}"#;
        let options: TableOptions = serde_json::from_str(file).unwrap();
        let expected = TableOptions {
            billing: Billing::Provisioned {
                read_units: 10,
                write_units: 20,
            },
            tags: [("team".to_owned(), "trucks".to_owned())].into(),
            ..TableOptions::default()
        };
        assert_eq!(options, expected);
        let on_demand: TableOptions = serde_json::from_str(r#"{"billing": "on_demand"}"#).unwrap();
        assert_eq!(on_demand, TableOptions::default());
        assert!(serde_json::from_str::<TableOptions>(r#"{"pitr": true}"#).is_err());
    }

    #[test]
    fn table_has_valid_name_or_arn() {
        for right in [
            "app",
            "My_app.v2-leases",
            "arn:aws:dynamodb:eu-west-1:123456789012:table/app",
        ] {
            assert_eq!(table_name_problem(right, Some("eu-west-1")), None, "{right}");
        }
        for wrong in [
            "",
            "ab",
            "my app",
            "größe",
            &"x".repeat(256),
            "arn:aws:dynamodb:us-east-1:123456789012:table/app",
            "arn:aws:kinesis:eu-west-1:123456789012:stream/app",
        ] {
            assert!(table_name_problem(wrong, Some("eu-west-1")).is_some(), "{wrong}");
        }
    }
}
