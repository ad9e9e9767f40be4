//! The results of a run: a table, or files.

use std::path::Path;

use super::Sink;
use super::database::{Address, Database, Order};
use super::file_watch::{FileCounts, FileWatch};
use crate::testbed::{LeftOut, Postgres};

pub(super) enum Results {
    Table {
        address: Address,
        database: Box<Database>,
        /// Runs until it is dropped.
        _server: Option<Box<Postgres>>,
    },
    Files(FileWatch),
}

impl Results {
    /// Makes the tables, or the folder, which is in `folder`.
    ///
    /// # Errors
    ///
    /// [`LeftOut`] when the database cannot be had here.
    pub(super) async fn start(sink: Sink, folder: &Path) -> Result<Self, LeftOut> {
        let (address, server) = match sink {
            Sink::Files => {
                let watch = FileWatch::start(folder.join("files"));
                return Ok(Self::Files(watch.expect("a folder can be made")));
            }
            Sink::Sqlite => (Address::Sqlite(folder.join("orders.db")), None),
            Sink::Postgres => {
                let server = Postgres::start().await?;
                (Address::Postgres(server.url()), Some(Box::new(server)))
            }
        };
        let mut database = Box::new(Database::new(&address));
        database.create_tables().await.expect("the database takes tables");
        Ok(Self::Table {
            address,
            database,
            _server: server,
        })
    }

    /// The arguments with which a worker finds it.
    pub(super) fn arguments(&self) -> [String; 2] {
        match self {
            Self::Table { address, .. } => ["--database".to_owned(), address.to_string()],
            Self::Files(files) => ["--files".to_owned(), files.folder().display().to_string()],
        }
    }

    /// Does to it what happens to such a sink: a server ends sessions.
    pub(super) async fn disturb(&mut self) {
        if let Self::Table { database, .. } = self {
            let cut = database.cut_session().await;
            cut.unwrap_or_else(|error| panic!("the database does not answer: {error}"));
        }
    }

    /// Waits until one of these workers is in the middle of a write, and returns which; `None` where that cannot be seen.
    pub(super) async fn writer(&self, workers: &[&str]) -> Option<usize> {
        match self {
            Self::Table { .. } => None,
            Self::Files(files) => files.writer(workers).await,
        }
    }

    pub(super) async fn count(&mut self) -> Result<usize, String> {
        match self {
            Self::Table { database, .. } => database.count().await.map_err(|error| error.to_string()),
            Self::Files(files) => files.count(),
        }
    }

    /// Everything, in the order in which it was written.
    pub(super) async fn orders(&mut self) -> Result<Vec<Order>, String> {
        match self {
            Self::Table { database, .. } => database.orders().await.map_err(|error| error.to_string()),
            Self::Files(files) => files.orders().await,
        }
    }

    pub(super) fn files(&self) -> Option<FileCounts> {
        match self {
            Self::Table { .. } => None,
            Self::Files(files) => Some(files.counts()),
        }
    }
}
