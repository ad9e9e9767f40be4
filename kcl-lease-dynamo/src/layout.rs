//! In which tables the rows are: a pure decision over what a start found, and the tables that follow from it.

use kcl_core::lease_store::{StoreError, StoreErrorKind};
use kcl_core::types::ApplicationName;

use crate::client::TableClient;
use crate::codec::{self, Item};
use crate::expression::WorkerRowPlacement;
use crate::options::TableLayout;
use crate::{attributes, ownership_check};

/// The layouts of the Java KCL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Everything in the lease table.
    One,
    /// The leader lock with the client version, and the workers, in a table each.
    Three,
}

/// The findings of a start, as far as the layout depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExistingTables<'a> {
    /// Whether there is a coordinator table.
    pub(crate) coordinator: bool,
    /// The state of the coordinator table's migration into the lease table.
    pub(crate) table_migration: Option<&'a str>,
    /// The client version in the lease table.
    pub(crate) in_lease_table: Option<&'a Item>,
    /// The client version in the coordinator table.
    pub(crate) in_coordinator_table: Option<&'a Item>,
    /// Whether the lease table holds leases.
    pub(crate) leases: bool,
    /// Whether the lease table holds rows of workers or of a leader.
    pub(crate) others: bool,
    /// Whether it holds the row of a worker of ours: a fleet of an earlier build, which kept everything there.
    pub(crate) workers_of_ours: bool,
}

/// The layout of the application. A decision of a worker of ours stays: a coordinator table that an accidental start of an older
/// Java worker leaves behind must not divide a fleet.
pub(crate) fn decide(wanted: TableLayout, found: ExistingTables<'_>) -> Result<Layout, StoreError> {
    if let Some(marked) = marked(found)? {
        return Ok(marked);
    }
    // Another layout beside these would divide the fleet.
    if found.workers_of_ours {
        return Ok(Layout::One);
    }
    if found.coordinator {
        return Ok(Layout::Three);
    }
    let is_of_2x = found.leases && !found.others;
    Ok(match wanted {
        _ if found.in_lease_table.is_some() => Layout::One,
        TableLayout::ThreeTables => Layout::Three,
        TableLayout::OneTable => Layout::One,
        TableLayout::AsFound if is_of_2x => Layout::Three,
        TableLayout::AsFound => Layout::One,
    })
}

/// The layout that a mark in one of the tables names, whatever rows there are; `None` without such a mark.
pub(crate) fn marked(found: ExistingTables<'_>) -> Result<Option<Layout>, StoreError> {
    let is_marked = |row: Option<&Item>| row.and_then(codec::application).is_some();
    match found.table_migration {
        _ if is_marked(found.in_lease_table) => Ok(Some(Layout::One)),
        Some(attributes::TABLE_MIGRATION_COMPLETE) => Ok(Some(Layout::One)),
        Some(attributes::TABLE_MIGRATION_PENDING) => Err(moving()),
        _ => Ok(is_marked(found.in_coordinator_table).then_some(Layout::Three)),
    }
}

/// Refuses three tables where the application's name makes no names of tables: none other is made up.
pub(crate) fn check_names(layout: Layout, application: &ApplicationName) -> Result<(), StoreError> {
    if layout == Layout::One || ownership_check::can_name_tables(application.as_str()) {
        return Ok(());
    }
    let table = ownership_check::coordinator_table(application.as_str());
    let message = format!(
        "the layout of three tables names two of them by the application, and no table can be named {table:?}: that takes 3 to 255 characters of \
         a-z, A-Z, 0-9, _, . and -. Choose TableLayout::OneTable, or another name for the application; nothing was written"
    );
    Err(StoreError::definite(StoreErrorKind::Invalid, message))
}

fn moving() -> StoreError {
    let message = "the Java KCL 3.5 is moving the three tables of this application into one, and has not finished: let it finish \
                   (TableMigration3.5 then says TABLE_MIGRATION_STATUS_COMPLETE), and start again; nothing was written";
    StoreError::definite(StoreErrorKind::Foreign, message)
}

/// The tables of an application.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) layout: Layout,
    pub(crate) leases: TableClient,
    pub(crate) workers: TableClient,
    pub(crate) coordinator: TableClient,
}

impl Tables {
    /// Everything in the lease table.
    pub(crate) fn one(leases: &TableClient) -> Self {
        Self {
            layout: Layout::One,
            leases: leases.clone(),
            workers: leases.clone(),
            coordinator: leases.clone(),
        }
    }

    /// The tables of the Java KCL 3.0 to 3.4.
    pub(crate) fn three(leases: &TableClient, application: &ApplicationName) -> Self {
        let application = application.as_str();
        Self {
            layout: Layout::Three,
            leases: leases.clone(),
            workers: leases.sibling(
                ownership_check::worker_table(application),
                attributes::WORKER_TABLE_KEY,
            ),
            coordinator: leases.sibling(
                ownership_check::coordinator_table(application),
                attributes::COORDINATOR_TABLE_KEY,
            ),
        }
    }

    /// The tables of this layout.
    pub(crate) fn of(layout: Layout, leases: &TableClient, application: &ApplicationName) -> Self {
        match layout {
            Layout::One => Self::one(leases),
            Layout::Three => Self::three(leases, application),
        }
    }

    /// Where the rows of the workers are.
    pub(crate) fn worker_rows(&self) -> WorkerRowPlacement {
        match self.layout {
            Layout::One => WorkerRowPlacement::Shared,
            Layout::Three => WorkerRowPlacement::Separate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::s;

    fn row(ours: bool) -> Item {
        let mut row = Item::from([(
            attributes::CLIENT_VERSION.to_owned(),
            s(attributes::CLIENT_VERSION_3X),
        )]);
        if ours {
            row.insert(attributes::APPLICATION.to_owned(), s("app"));
        }
        row
    }

    fn layout(found: ExistingTables<'_>) -> Layout {
        decide(TableLayout::AsFound, found).unwrap()
    }

    #[test]
    fn new_application_gets_the_layout_asked_for() {
        let new = |wanted| decide(wanted, ExistingTables::default()).unwrap();
        assert_eq!(new(TableLayout::AsFound), Layout::One);
        assert_eq!(new(TableLayout::OneTable), Layout::One);
        assert_eq!(new(TableLayout::ThreeTables), Layout::Three);
    }

    #[test]
    fn three_tables_need_an_application_that_names_tables() {
        let check = |layout, name: &str| check_names(layout, &ApplicationName::new(name).unwrap());
        assert!(check(Layout::One, "my trucks").is_ok());
        assert!(check(Layout::Three, "trucks").is_ok());
        let refused = check(Layout::Three, "my trucks").unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Invalid);
        let text = refused.to_string();
        assert!(
            text.contains("my trucks-CoordinatorState") && text.contains("OneTable"),
            "{text}"
        );
    }

    #[test]
    fn three_tables_stay_three() {
        let (java, ours) = (row(false), row(true));
        for in_coordinator_table in [None, Some(&java), Some(&ours)] {
            let found = ExistingTables {
                coordinator: true,
                in_coordinator_table,
                ..ExistingTables::default()
            };
            assert_eq!(layout(found), Layout::Three);
            assert_eq!(decide(TableLayout::OneTable, found).unwrap(), Layout::Three);
        }
    }

    #[test]
    fn accidental_coordinator_table_changes_no_layout_of_ours() {
        let (java, ours) = (row(false), row(true));
        let found = ExistingTables {
            coordinator: true,
            in_lease_table: Some(&ours),
            in_coordinator_table: Some(&java),
            leases: true,
            others: true,
            ..ExistingTables::default()
        };
        assert_eq!(layout(found), Layout::One);
    }

    #[test]
    fn fleet_of_an_earlier_build_is_not_divided() {
        let (java, ours) = (row(false), row(true));
        let found = |in_coordinator_table| ExistingTables {
            coordinator: true,
            in_coordinator_table: Some(in_coordinator_table),
            leases: true,
            others: true,
            workers_of_ours: true,
            ..ExistingTables::default()
        };
        assert_eq!(layout(found(&java)), Layout::One);
        assert_eq!(layout(found(&ours)), Layout::Three);
    }

    #[test]
    fn tables_that_java_moved_into_one_are_one() {
        let ours = row(true);
        let moved = |table_migration| ExistingTables {
            coordinator: true,
            table_migration: Some(table_migration),
            in_coordinator_table: Some(&ours),
            leases: true,
            ..ExistingTables::default()
        };
        assert_eq!(layout(moved(attributes::TABLE_MIGRATION_COMPLETE)), Layout::One);
        assert_eq!(layout(moved("TABLE_MIGRATION_STATUS_DEPLOYED")), Layout::Three);
        let refusal = decide(TableLayout::AsFound, moved(attributes::TABLE_MIGRATION_PENDING));
        assert_eq!(refusal.unwrap_err().kind(), StoreErrorKind::Foreign);
    }

    #[test]
    fn lease_table_of_2x_gets_nothing_but_leases() {
        let found = ExistingTables {
            leases: true,
            ..ExistingTables::default()
        };
        assert_eq!(layout(found), Layout::Three);
        assert_eq!(decide(TableLayout::OneTable, found).unwrap(), Layout::One);
        let java = row(false);
        let of_3_5 = ExistingTables {
            in_lease_table: Some(&java),
            ..found
        };
        assert_eq!(layout(of_3_5), Layout::One);
        let with_workers = ExistingTables {
            others: true,
            ..found
        };
        assert_eq!(layout(with_workers), Layout::One);
    }
}
