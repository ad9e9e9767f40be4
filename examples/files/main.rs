//! Writes the records of a stream in memory into files, through a worker that is killed and its successor.
//!
//! `cargo run -p kcl-examples-files -- FOLDER`, by default in the folder for temporary files. Instead of a folder it takes a URL:
//! `AWS_REGION=eu-central-1 cargo run -p kcl-examples-files --features object_store/aws -- s3://bucket/folder`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kcl_examples_files::format::RecordFile;
use kcl_examples_files::{FileArchive, FileLimits};
use kinesis_client::clock::{Clock as _, ClockExt as _, TokioClock};
use kinesis_client::settings::Settings;
use kinesis_client::{MemoryLeaseStore, MemoryStream, Worker};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, parse_url_opts};

type Store = (Arc<dyn ObjectStore>, Path);

/// A bucket by its URL, with the settings of the environment; else a local folder.
fn open(place: &str) -> Result<Store, Box<dyn std::error::Error>> {
    if place.contains("://") {
        let (store, folder) = parse_url_opts(&place.parse()?, std::env::vars())?;
        return Ok((store.into(), folder));
    }
    std::fs::create_dir_all(place)?;
    // Synced before the checkpoint passes the file. By default, and through a `file:` URL, a put is not.
    let store = LocalFileSystem::new_with_prefix(place)?.with_fsync(true);
    Ok((Arc::new(store), Path::default()))
}

/// Returns how many records the files have, after reading each whole.
async fn count(store: &dyn ObjectStore, folder: &Path) -> Result<(usize, usize), Box<dyn std::error::Error>> {
    let (mut files, mut records) = (0, 0);
    let mut listing = store.list(Some(folder));
    while let Some(object) = listing.try_next().await? {
        let file = store.get(&object.location).await?.bytes().await?;
        files += 1;
        records += RecordFile::read(&file)?.records.len();
    }
    Ok((files, records))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = || std::env::temp_dir().join("kcl-files").display().to_string();
    let place = std::env::args().nth(1).unwrap_or_else(temporary);
    let (store, folder) = open(&place)?;
    let clock = TokioClock::new();
    // Another folder for each run: the stream in memory is another one each time, and its numbers begin again.
    let folder = folder.join(format!("run-{}", clock.wall().as_millis()));
    let stream = MemoryStream::builder("orders").shards(2).build();
    let leases = MemoryLeaseStore::new();
    let mut settings = Settings::default();
    settings.processing.tick_interval = Duration::from_millis(100);
    let limits = FileLimits {
        records: 40,
        age: Duration::from_millis(500),
        ..FileLimits::default()
    };
    for round in 1..=2 {
        for number in 0..100 {
            stream.put(
                format!("customer-{}", number % 10),
                format!("order {round}/{number}"),
            )?;
        }
        let archive = FileArchive {
            store: Arc::clone(&store),
            folder: folder.clone(),
            limits,
        };
        let worker = Worker::builder("orders-into-files")
            .stream(stream.clone())
            .lease_store(leases.clone())
            .settings(settings.clone())
            .processor(archive)
            .build()?
            .start();
        while count(&*store, &folder).await?.1 < 100 * round {
            clock.sleep(Duration::from_millis(20)).await;
        }
        // The worker drops what runs, and may not have stored its last checkpoints; the next one finds the files.
        worker.abort();
        worker.join().await?;
    }
    let (files, records) = count(&*store, &folder).await?;
    println!("{records} records in {files} files of {folder}, in {place}");
    Ok(())
}
