//! `kcl`, the command: looks at a running fleet of Kinesis consumers, and says what it does and why.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arguments;
mod commands;
mod connection;
#[cfg(test)]
mod documentation;
mod failure;
mod look;
mod measure;
mod output;
#[cfg(test)]
mod samples;
mod views;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};
use commands::{
    doctor, estimate, export, fleet, held, lag, list, orders, records, redrive, replay, reset, scaler, serve,
    top,
};
use connection::Connection;
use failure::{Exit, Failure};
use kcl_core::lease_store::WorkerOrder;
use output::{Printer, complain, wants_colours};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(run(arguments))),
        Err(error) => Err(error.into()),
    };
    let exit = ended.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            complain(&failure.to_string());
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}

async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, common } = arguments;
    let printer = Printer {
        format: common.output,
        colours: wants_colours(),
        is_watching: common.watch.is_some(),
    };
    if let Command::Estimate(options) = &command {
        return estimate::run(options, printer);
    }
    let connection = Connection::open(&common).await;
    match command {
        Command::List(options) => list::list(&connection, &common, &options, printer).await,
        Command::Status(options) => fleet::status(&connection, &common, &options, printer).await,
        Command::Workers(options) => fleet::workers(&connection, &common, &options, printer).await,
        Command::Why(options) => fleet::why(&connection, &common, &options, printer).await,
        Command::Top(options) => top::top(&connection, &common, &options).await,
        Command::Serve(options) => serve::serve(connection, &common, options).await,
        Command::Lag(options) if options.scaler.is_some() => {
            scaler::serve(connection, &common, options).await
        }
        Command::Lag(options) => lag::lag(&connection, &common, &options, printer).await,
        Command::Estimate(options) => estimate::run(&options, printer),
        Command::Doctor(options) => doctor::doctor(&connection, &common, &options, printer).await,
        Command::Tail(options) => records::tail(&connection, &options, printer).await,
        Command::Held(options) => held::held(&connection, &common, &options, printer).await,
        Command::Redrive(options) => redrive::redrive(&connection, &options, printer).await,
        Command::Replay(options) => replay::replay(&connection, &options, printer).await,
        Command::Put(options) => records::put(&connection, &options, printer).await,
        Command::Export(options) => export::export(&connection, &common, &options, printer).await,
        Command::Pause(options) => orders::pause(&connection, &common, &options, printer).await,
        Command::Resume(options) => orders::resume(&connection, &common, &options, printer).await,
        Command::Limit(options) => orders::limit(&connection, &common, &options, printer).await,
        Command::Move(options) => orders::move_to(&connection, &common, &options, printer).await,
        Command::Release(options) => orders::release(&connection, &common, &options, printer).await,
        Command::Skip(options) => orders::skip(&connection, &common, &options, printer).await,
        Command::Reset(options) => reset::reset(&connection, &common, &options, printer).await,
        Command::Undo(options) => reset::undo(&connection, &common, &options, printer).await,
        Command::Import(options) => reset::import(&connection, &common, &options, printer).await,
        Command::Exclude(options) => {
            orders::worker_order(&connection, &common, &options, WorkerOrder::Exclude, printer).await
        }
        Command::Drain(options) => {
            orders::worker_order(&connection, &common, &options, WorkerOrder::Drain, printer).await
        }
        Command::Include(options) => {
            orders::worker_order(&connection, &common, &options, WorkerOrder::Include, printer).await
        }
    }
}
