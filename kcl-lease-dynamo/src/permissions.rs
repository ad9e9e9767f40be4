//! The actions of AWS that a worker asks for, and what to say when one is not granted.

use kcl_aws::partition_of;

use crate::attributes;

/// One action as IAM policies write it.
pub(crate) type IamAction = &'static str;

pub(crate) const GET_ITEM: IamAction = "dynamodb:GetItem";
pub(crate) const PUT_ITEM: IamAction = "dynamodb:PutItem";
pub(crate) const UPDATE_ITEM: IamAction = "dynamodb:UpdateItem";
pub(crate) const DELETE_ITEM: IamAction = "dynamodb:DeleteItem";
pub(crate) const SCAN: IamAction = "dynamodb:Scan";
pub(crate) const QUERY: IamAction = "dynamodb:Query";
pub(crate) const DESCRIBE_TABLE: IamAction = "dynamodb:DescribeTable";
pub(crate) const CREATE_TABLE: IamAction = "dynamodb:CreateTable";
pub(crate) const UPDATE_TABLE: IamAction = "dynamodb:UpdateTable";
pub(crate) const DESCRIBE_BACKUPS: IamAction = "dynamodb:DescribeContinuousBackups";
pub(crate) const UPDATE_BACKUPS: IamAction = "dynamodb:UpdateContinuousBackups";
pub(crate) const LIST_TAGS: IamAction = "dynamodb:ListTagsOfResource";
/// Never called by itself: the service asks for it where a table is created with tags.
pub(crate) const TAG_RESOURCE: IamAction = "dynamodb:TagResource";

/// The rights that no worker can do without, on the table.
pub(crate) const NEEDED: [IamAction; 5] = [GET_ITEM, PUT_ITEM, UPDATE_ITEM, DELETE_ITEM, SCAN];

/// The table as IAM policies name it. The account is left open where only the service knows it.
pub(crate) fn table_arn(table: &str, region: Option<&str>) -> String {
    if table.starts_with("arn:") {
        return table.to_owned();
    }
    let region = region.unwrap_or("*");
    let partition = partition_of(region);
    format!("arn:{partition}:dynamodb:{region}:*:table/{table}")
}

/// The owner index of the table as IAM policies name it.
pub(crate) fn index_arn(table_arn: &str) -> String {
    format!("{table_arn}/index/{}", attributes::OWNER_INDEX)
}

/// The rights to grant so that a table with this partition key can be worked with.
pub(crate) fn advice_to_work(table_arn: &str, key: &str) -> String {
    let needed = format!("a worker needs {} on {table_arn}", NEEDED.join(", "));
    if key == attributes::KEY {
        format!("{needed}, and {QUERY} on {}", index_arn(table_arn))
    } else {
        needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_arn_is_that_of_its_partition() {
        let arn = |region| table_arn("app", region);
        assert_eq!(arn(Some("eu-west-1")), "arn:aws:dynamodb:eu-west-1:*:table/app");
        assert_eq!(
            arn(Some("cn-north-1")),
            "arn:aws-cn:dynamodb:cn-north-1:*:table/app"
        );
        assert_eq!(
            arn(Some("us-gov-west-1")),
            "arn:aws-us-gov:dynamodb:us-gov-west-1:*:table/app"
        );
        assert_eq!(arn(None), "arn:aws:dynamodb:*:*:table/app");
        let given = "arn:aws:dynamodb:eu-west-1:123456789012:table/app";
        assert_eq!(table_arn(given, Some("us-east-1")), given);
        assert_eq!(
            index_arn(given),
            "arn:aws:dynamodb:eu-west-1:123456789012:table/app/index/LeaseOwnerToLeaseKeyIndex"
        );
    }
}
