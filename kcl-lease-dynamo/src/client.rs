//! The calls on rows, each with one attempt and a deadline of ours.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Region;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use kcl_aws::{Attempt, Caller, UnsentReason};
use kcl_core::clock::{Clock, PerRuntime};
use kcl_core::lease_store::{Certainty, StoreError, StoreErrorKind};

use crate::attributes;
use crate::codec::{Item, s};
use crate::errors::{Failure, Request, says_not_granted};
use crate::expression::{Operation, Write};
use crate::permissions;

/// Longer than any call may take.
const NO_CONNECT_TIMEOUT: Duration = Duration::from_secs(3600);

/// How a conditional write ended.
#[derive(Debug)]
pub(crate) enum WriteOutcome {
    /// The write was made; the row after an update, before a deletion, and none after a put.
    Applied(Option<Item>),
    /// The condition did not hold; the row as it was, where the server shows it.
    Refused(Option<Item>),
}

/// One page of a scan.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) next: Option<Item>,
}

/// The keys that the index names, or the news that it cannot be asked.
#[derive(Debug)]
pub(crate) enum IndexPage {
    Page(Page),
    NoIndex,
    Denied,
}

/// One table behind the SDK.
#[derive(Clone)]
pub(crate) struct TableClient {
    /// The connections of one runtime, which another must not use: code may block its threads.
    clients: Arc<PerRuntime<(Client, Caller)>>,
    region: Option<Region>,
    pub(crate) table: String,
    /// The name of the partition key: here and nowhere else, it is not that of the lease table.
    key: &'static str,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) request_timeout: Duration,
}

impl fmt::Debug for TableClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableClient")
            .field("table", &self.table)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

impl TableClient {
    /// Takes over the client but for its retries and timeouts.
    ///
    /// A conditional write that the SDK repeats after a lost reply is refused because of its own first attempt, so there is one
    /// attempt. The environment can neither bring the retries back nor stretch the deadline.
    pub(crate) fn new(sdk: &Client, table: String, clock: Arc<dyn Clock>, request_timeout: Duration) -> Self {
        let config = sdk.config().clone();
        let region = config.region().cloned();
        let client = move |runtime: u64| {
            // An HTTP client that was given has a pool of connections for each connect timeout. Ours never fires.
            let caller = Caller::default();
            let connect = NO_CONNECT_TIMEOUT + Duration::from_millis(runtime);
            let timeouts = TimeoutConfig::disabled().to_builder().connect_timeout(connect);
            let config = config
                .to_builder()
                .retry_config(RetryConfig::disabled())
                .timeout_config(timeouts.build())
                // A caller that waits for credentials waits for the runtime of whoever asked for them first.
                .identity_cache(caller.credentials.clone());
            (Client::from_conf(config.build()), caller)
        };
        Self {
            clients: Arc::new(PerRuntime::new(client)),
            region,
            table,
            key: attributes::KEY,
            clock,
            request_timeout,
        }
    }

    /// The region of the client, if it has one.
    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_ref().map(AsRef::as_ref)
    }

    /// The client of the current runtime.
    pub(crate) fn sdk(&self) -> Client {
        self.clients.get().0
    }

    /// Another table of the same account, with its own name for the partition key. Its rows are given and taken as if the key had
    /// the lease table's name.
    pub(crate) fn sibling(&self, table: String, key: &'static str) -> Self {
        Self {
            table,
            key,
            ..self.clone()
        }
    }

    /// The name of the partition key.
    pub(crate) fn key(&self) -> &'static str {
        self.key
    }

    /// The row under the table's own name for the key.
    fn with_table_key(&self, mut item: Item) -> Item {
        if self.key != attributes::KEY
            && let Some(value) = item.remove(attributes::KEY)
        {
            item.insert(self.key.to_owned(), value);
        }
        item
    }

    /// The row under the lease table's name for the key.
    fn with_lease_key<M>(&self, attributes: Option<M>) -> Option<Item>
    where
        M: IntoIterator<Item = (String, aws_sdk_dynamodb::types::AttributeValue)>,
    {
        let mut item = as_item(attributes)?;
        if self.key != attributes::KEY
            && let Some(value) = item.remove(self.key)
        {
            item.insert(attributes::KEY.to_owned(), value);
        }
        Some(item)
    }

    /// The table as IAM policies name it.
    pub(crate) fn arn(&self) -> String {
        permissions::table_arn(&self.table, self.region())
    }

    /// The same table with another deadline for each call.
    pub(crate) fn with_request_timeout(&self, request_timeout: Duration) -> Self {
        Self {
            request_timeout,
            ..self.clone()
        }
    }

    /// Checks what was configured, as far as that needs no answer of the service.
    fn check(&self) -> Result<(), StoreError> {
        if self.region.is_some() {
            return Ok(());
        }
        let message = format!(
            "table {} cannot be used: there is no region; {}",
            self.table,
            UnsentReason::NoRegion.advice()
        );
        Err(StoreError::definite(StoreErrorKind::Denied, message))
    }

    /// A call that ended in time, whichever way.
    pub(crate) async fn attempt_once<T, E, F>(
        &self,
        request: Request<'_>,
        call: impl FnMut(Attempt) -> F,
    ) -> Result<Result<T, SdkError<E>>, Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        self.check()?;
        let limit = self.request_timeout;
        let (_, caller) = self.clients.get();
        let ended = caller.call(self.clock.as_ref(), limit, call).await;
        ended.map_err(|late| request.late(late, limit))
    }

    /// A call of which every error is an error.
    pub(crate) async fn call<T, E, F>(
        &self,
        request: Request<'_>,
        call: impl FnMut(Attempt) -> F,
    ) -> Result<T, Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        self.attempt_once(request, call)
            .await?
            .map_err(|error| request.failed(error))
    }

    pub(crate) fn request(&self, action: permissions::IamAction) -> Request<'_> {
        Request {
            action,
            table: &self.table,
        }
    }

    /// Makes one conditional write.
    pub(crate) async fn write(&self, write: Write) -> Result<WriteOutcome, Failure> {
        let named = write.names.into_iter().map(|(placeholder, name)| {
            let is_key = name == attributes::KEY;
            (placeholder, if is_key { self.key.to_owned() } else { name })
        });
        let names = Some(named.collect());
        let condition = (!write.condition.is_empty()).then_some(write.condition);
        let values = (!write.values.is_empty()).then(|| write.values.into_iter().collect());
        let show = ReturnValuesOnConditionCheckFailure::AllOld;
        match write.action {
            Operation::Put(item) => {
                let call = self
                    .sdk()
                    .put_item()
                    .table_name(&self.table)
                    .set_item(Some(self.with_table_key(item).into_iter().collect()))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(show);
                let request = self.request(permissions::PUT_ITEM);
                match self
                    .attempt_once(request, |attempt| {
                        call.clone().customize().interceptor(attempt).send()
                    })
                    .await?
                {
                    Ok(_) => Ok(WriteOutcome::Applied(None)),
                    Err(error) => refused(request, error, |error| {
                        let PutItemError::ConditionalCheckFailedException(failed) = error else {
                            return None;
                        };
                        Some(self.with_lease_key(failed.item.clone()))
                    }),
                }
            }
            Operation::Update(expression) => {
                let expression = (!expression.is_empty()).then_some(expression);
                let call = self
                    .sdk()
                    .update_item()
                    .table_name(&self.table)
                    .key(self.key, s(write.key))
                    .set_update_expression(expression)
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values(ReturnValue::AllNew)
                    .return_values_on_condition_check_failure(show);
                let request = self.request(permissions::UPDATE_ITEM);
                match self
                    .attempt_once(request, |attempt| {
                        call.clone().customize().interceptor(attempt).send()
                    })
                    .await?
                {
                    Ok(done) => Ok(WriteOutcome::Applied(self.with_lease_key(done.attributes))),
                    Err(error) => refused(request, error, |error| {
                        let UpdateItemError::ConditionalCheckFailedException(failed) = error else {
                            return None;
                        };
                        Some(self.with_lease_key(failed.item.clone()))
                    }),
                }
            }
            Operation::Delete => {
                let call = self
                    .sdk()
                    .delete_item()
                    .table_name(&self.table)
                    .key(self.key, s(write.key))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values(ReturnValue::AllOld)
                    .return_values_on_condition_check_failure(show);
                let request = self.request(permissions::DELETE_ITEM);
                match self
                    .attempt_once(request, |attempt| {
                        call.clone().customize().interceptor(attempt).send()
                    })
                    .await?
                {
                    Ok(done) => Ok(WriteOutcome::Applied(self.with_lease_key(done.attributes))),
                    Err(error) => refused(request, error, |error| {
                        let DeleteItemError::ConditionalCheckFailedException(failed) = error else {
                            return None;
                        };
                        Some(self.with_lease_key(failed.item.clone()))
                    }),
                }
            }
        }
    }

    /// Reads one row, strongly consistent.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Item>, Failure> {
        let call = self
            .sdk()
            .get_item()
            .table_name(&self.table)
            .key(self.key, s(key))
            .consistent_read(true);
        let got = self
            .call(self.request(permissions::GET_ITEM), |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        Ok(self.with_lease_key(got.item))
    }

    /// Reads one page of one of `segments` parts of the table, eventually consistent.
    pub(crate) async fn scan_page(
        &self,
        segment: i32,
        segments: i32,
        start: Option<Item>,
    ) -> Result<Page, Failure> {
        let parallel = segments > 1;
        let call = self
            .sdk()
            .scan()
            .table_name(&self.table)
            .set_segment(parallel.then_some(segment))
            .set_total_segments(parallel.then_some(segments))
            .set_exclusive_start_key(start.map(|key| key.into_iter().collect()));
        let page = self
            .call(self.request(permissions::SCAN), |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        Ok(Page {
            items: page
                .items
                .into_iter()
                .flatten()
                .filter_map(|item| self.with_lease_key(Some(item)))
                .collect(),
            next: as_item(page.last_evaluated_key).filter(|key| !key.is_empty()),
        })
    }

    /// Reads one page of the leases that the index shows for an owner.
    pub(crate) async fn owned_page(&self, owner: &str, start: Option<Item>) -> Result<IndexPage, Failure> {
        let call = self
            .sdk()
            .query()
            .table_name(&self.table)
            .index_name(attributes::OWNER_INDEX)
            .key_condition_expression("#owner = :owner")
            .expression_attribute_names("#owner", attributes::OWNER)
            .expression_attribute_values(":owner", s(owner))
            .set_exclusive_start_key(start.map(|key| key.into_iter().collect()));
        let request = self.request(permissions::QUERY);
        match self
            .attempt_once(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?
        {
            Ok(page) => Ok(IndexPage::Page(Page {
                items: page
                    .items
                    .into_iter()
                    .flatten()
                    .map(|item| item.into_iter().collect())
                    .collect(),
                next: as_item(page.last_evaluated_key).filter(|key| !key.is_empty()),
            })),
            // An index that is missing or still being filled is a fault of the request, in the service's eyes; one that the
            // worker may not ask is of no use.
            Err(error) if error.code() == Some("ValidationException") => Ok(IndexPage::NoIndex),
            Err(error) if says_not_granted(&error) => Ok(IndexPage::Denied),
            Err(error) => Err(self.index_error(request.failed(error).into()).into()),
        }
    }

    /// An error of a look-up in the index, which has a capacity of its own.
    fn index_error(&self, error: StoreError) -> StoreError {
        let (index, table) = (attributes::OWNER_INDEX, &self.table);
        let message = if error.kind() == StoreErrorKind::Throttled {
            format!(
                "the index {index} of table {table} is throttled: raise its read capacity, or make the table on-demand"
            )
        } else {
            format!("the index {index} of table {table} cannot be asked")
        };
        let index_error = match error.certainty() {
            Certainty::Definite => StoreError::definite(error.kind(), message),
            Certainty::Unknown => StoreError::unknown(error.kind(), message),
        };
        index_error.with_source(error)
    }
}

/// A failed condition is an outcome; every other error is one.
fn refused<E>(
    request: Request<'_>,
    error: SdkError<E>,
    current: impl Fn(&E) -> Option<Option<Item>>,
) -> Result<WriteOutcome, Failure>
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    match error.as_service_error().and_then(current) {
        Some(row) => Ok(WriteOutcome::Refused(row)),
        None => Err(request.failed(error)),
    }
}

fn as_item<M>(attributes: Option<M>) -> Option<Item>
where
    M: IntoIterator<Item = (String, aws_sdk_dynamodb::types::AttributeValue)>,
{
    attributes.map(|attributes| attributes.into_iter().collect())
}
