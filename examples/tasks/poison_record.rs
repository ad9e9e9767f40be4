//! Sets a broken record aside in a file, goes on behind it, and hands it to the mended processor later.
//!
//! `cargo run -p kcl-examples --example poison_record`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kinesis_client::dead_letter::{DeadLetterFiles, read_folder};
use kinesis_client::processor::{LastResort, Policy};
use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, Redrive, ShardContext,
    Worker, async_trait,
};

/// Adds numbers up. The first deployment does not know numbers with a decimal point.
struct Adder {
    is_mended: Arc<AtomicBool>,
}

#[async_trait]
impl RecordProcessor for Adder {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            let text = std::str::from_utf8(record.data())
                .map_err(|error| ProcessorError::poison(error).at(record))?;
            let is_known = self.is_mended.load(Ordering::SeqCst) || !text.contains('.');
            if !is_known {
                return Err(ProcessorError::poison("a number with a decimal point").at(record));
            }
            println!("added {text}");
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("poison-record-{}", std::process::id()));
    let stream = MemoryStream::builder("numbers").shards(1).build();
    for number in ["1", "2", "3.5", "4"] {
        stream.put("any", number)?;
    }
    let is_mended = Arc::new(AtomicBool::new(false));
    let adder = {
        let is_mended = Arc::clone(&is_mended);
        move |_: &ShardContext| Adder {
            is_mended: Arc::clone(&is_mended),
        }
    };
    let worker = Worker::builder("adder")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .error_policy(Policy::new(LastResort::DeadLetter))
        .dead_letters(DeadLetterFiles::open(&folder)?)
        .processor(adder.clone())
        .build()?
        .start();
    worker
        .wait_for(|status| {
            status
                .leases
                .values()
                .any(|lease| lease.records == 1 && lease.dead_letters == 1)
        })
        .await;
    worker.shutdown();
    worker.join().await?;

    let letters = read_folder(&folder)?;
    for line in &letters {
        println!(
            "set aside: {} ({})",
            line.letter.record.position(),
            line.letter.error
        );
    }
    is_mended.store(true, Ordering::SeqCst);
    let report = Redrive::new(adder)
        .run(letters.into_iter().map(|line| line.letter))
        .await;
    println!(
        "redriven: {} processed, {} left",
        report.processed.len(),
        report.left.len()
    );
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
