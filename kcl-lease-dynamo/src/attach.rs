//! Looking at an application that is there, by reads alone: nothing is created, marked or claimed.

use kcl_core::lease_store::{StoreError, StoreErrorKind};
use kcl_core::types::ApplicationName;

use crate::client::TableClient;
use crate::codec::Item;
use crate::layout::{Layout, Tables};
use crate::options::table_name_problem;
use crate::prepare::{self, JavaTables};
use crate::table::TableState;
use crate::{DynamoLeaseStore, TableLayout, attributes, codec, layout, ownership_check, permissions, scan};

/// The report of [`DynamoLeaseStore::attach`]: where an application keeps its rows, and which marks it left there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachedTable {
    /// The tables that the rows are in: [`OneTable`](TableLayout::OneTable) or [`ThreeTables`](TableLayout::ThreeTables).
    pub layout: TableLayout,
    /// The application that a worker of this library marked the table with; `None` where only the Java KCL wrote.
    pub application: Option<ApplicationName>,
    /// The state of the client version, in the words of the Java KCL 3.x, such as `CLIENT_VERSION_3X`; `None` in a table of 2.x.
    pub client_version: Option<String>,
    /// Whether the owner index is there and filled; `None` where the table may not be described.
    pub has_owner_index: Option<bool>,
}

impl DynamoLeaseStore {
    /// Finds the tables of an application that is there, so that [`scan`](kcl_core::lease_store::LeaseStore::scan) and
    /// [`read_lock`](kcl_core::lease_store::LeaseStore::read_lock) see all of them. Nothing is written: for tools that look, where
    /// [`prepare`](kcl_core::lease_store::LeaseStore::prepare) is for workers.
    ///
    /// Works on the tables of a Java application too, whether its workers run or not. It takes `dynamodb:GetItem` and `dynamodb:Scan` on the
    /// tables, and `dynamodb:DescribeTable` to say what is wrong with one.
    ///
    /// # Errors
    ///
    /// [`Missing`](StoreErrorKind::Missing) when there is no such table here, [`Foreign`](StoreErrorKind::Foreign) when it has another key than a
    /// lease table's, is marked by another application or is being moved by a Java KCL 3.5, and every other kind. The message says what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the storage.
    pub async fn attach(&self, application: &ApplicationName) -> Result<AttachedTable, StoreError> {
        let client = &self.client;
        if let Some(problem) = table_name_problem(&client.table, client.region()) {
            return Err(StoreError::definite(StoreErrorKind::Invalid, problem));
        }
        let state = existing_table(client).await?;
        state.check_key(&client.table)?;
        let in_lease_table = client.get(attributes::CLIENT_VERSION_KEY).await;
        let in_lease_table = in_lease_table.map_err(|failure| reading_error(client, failure.into()))?;
        let found = Tables::three(client, application);
        let (layout, mark) = if ownership_check::is_claimed(in_lease_table.as_ref()) {
            (Layout::One, in_lease_table)
        } else {
            self.unmarked_layout(application, in_lease_table).await?
        };
        let marked = marked_application(mark.as_ref());
        if let Some(other) = marked.as_ref().filter(|marked| *marked != application) {
            return Err(of_another_application(&client.table, other, application));
        }
        let tables = match layout {
            Layout::One => Tables::one(client),
            Layout::Three => found,
        };
        self.remember_tables(tables);
        Ok(AttachedTable {
            layout: match layout {
                Layout::One => TableLayout::OneTable,
                Layout::Three => TableLayout::ThreeTables,
            },
            application: marked,
            client_version: mark.as_ref().map(codec::client_version).map(str::to_owned),
            has_owner_index: state.features.is_some().then(|| state.index.may_be_queried()),
        })
    }

    /// The application that a worker of this library marked the lease table with; `None` where there is no mark in it, as in a layout of three
    /// tables or where only the Java KCL wrote. Nothing is written.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the storage.
    pub async fn marked_application(&self) -> Result<Option<ApplicationName>, StoreError> {
        let row = self.client.get(attributes::CLIENT_VERSION_KEY).await;
        let row = row.map_err(|failure| reading_error(&self.client, failure.into()))?;
        Ok(marked_application(row.as_ref()))
    }

    /// The layout where no mark in the lease table names it, with the row of the client version that belongs to it.
    async fn unmarked_layout(
        &self,
        application: &ApplicationName,
        in_lease_table: Option<Item>,
    ) -> Result<(Layout, Option<Item>), StoreError> {
        let client = &self.client;
        let java = JavaTables::read(client, application).await?;
        let found = java.existing(in_lease_table.as_ref());
        let layout = match layout::marked(found)? {
            Some(marked) => marked,
            None => {
                let rows = scan::scan(client, self.scan_segments).await;
                let rows = rows.map_err(|failure| reading_error(client, failure.into()))?;
                let decided = layout::decide(TableLayout::AsFound, prepare::with_rows(found, &rows))?;
                // Nothing but leases is in the table of a Java KCL 2.x, and there are no other tables.
                if java.is_there { decided } else { Layout::One }
            }
        };
        Ok(match layout {
            Layout::One => (Layout::One, in_lease_table),
            Layout::Three => (Layout::Three, java.migration),
        })
    }
}

fn marked_application(row: Option<&Item>) -> Option<ApplicationName> {
    row.and_then(codec::application)
        .and_then(|name| name.parse().ok())
}

/// The lease table, unless it is missing or cannot be read now.
async fn existing_table(client: &TableClient) -> Result<TableState, StoreError> {
    let described = prepare::describe_table(client).await;
    let found = described.map_err(|error| reading_error(client, error))?;
    let Some(state) = found else {
        let region = client.region().unwrap_or("no region");
        let message = format!(
            "there is no table {} in {region} for these credentials: is it another region or account, or has the lease table another name than the \
             application?",
            client.table
        );
        return Err(StoreError::definite(StoreErrorKind::Missing, message));
    };
    if state.usable {
        return Ok(state);
    }
    let message = format!("table {} cannot be read: it is {}", client.table, state.status);
    Err(StoreError::definite(StoreErrorKind::Unavailable, message))
}

/// An error with the rights that reading takes, where one is missing. Those of a worker would be too many.
fn reading_error(client: &TableClient, error: StoreError) -> StoreError {
    if error.kind() != StoreErrorKind::Denied {
        return error;
    }
    let actions = [
        permissions::DESCRIBE_TABLE,
        permissions::GET_ITEM,
        permissions::SCAN,
    ];
    let message = format!(
        "{error}; looking at an application takes {} on {}",
        actions.join(", "),
        client.arn()
    );
    StoreError::definite(StoreErrorKind::Denied, message).with_source(error)
}

fn of_another_application(table: &str, marked: &ApplicationName, asked: &ApplicationName) -> StoreError {
    let message = format!(
        "table {table} belongs to the application {:?}, and {:?} was asked for: name that application, or the table of the other",
        marked.as_str(),
        asked.as_str()
    );
    StoreError::definite(StoreErrorKind::Foreign, message)
}
