//! `serve`: the dashboard, one page with what `status`, `workers` and `why` say, live; and orders where they are allowed.
//!
//! One reader looks at each table for all browsers, and only while one watches. Each browser gets whole states as server-sent events: one that reads
//! slowly misses states in between, and nothing piles up for it.

mod board;
mod gate;
mod request;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kcl_core::clock::Rng;
use kcl_http::internals::{ServerLimits, serve_connections};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::watch::interrupted;
use crate::arguments::{CommonOptions, LookOptions, ServeOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::Looker;
use crate::output::complain;

use board::Board;
use gate::Gate;
use request::Clerk;
use routes::{Dashboard, routes};

/// The connections that are served at a time; a stream of states is one.
const CONNECTIONS: usize = 64;
/// The time for a request line and its headers.
const HEAD_WITHIN: Duration = Duration::from_secs(2);
/// The longest that a connection lasts: a browser opens its stream of states again.
const CONNECTION_WITHIN: Duration = Duration::from_secs(600);

/// Serves until interrupted.
pub(crate) async fn serve(
    connection: Connection,
    common: &CommonOptions,
    options: ServeOptions,
) -> Result<Exit, Failure> {
    if common.table.is_some() && options.applications.len() > 1 {
        return Err(Failure::usage(
            "--table names the table of one application: serve the others by a command of their own",
        ));
    }
    // They live as long as the process, and tasks of the server refer to them.
    let connection: &'static Connection = Box::leak(Box::new(connection));
    let mut boards = Vec::new();
    let mut readers = Vec::new();
    for application in &options.applications {
        let look: &'static LookOptions = Box::leak(Box::new(LookOptions {
            application: application.clone(),
            stream: options.stream.clone(),
            measure_lag: options.measure_lag,
            lagging_after: options.lagging_after,
        }));
        let looker = Looker::open(connection, common.table.as_deref(), look).await?;
        let board = Arc::new(Board::new(application.as_str()));
        readers.push((Arc::clone(&board), looker.quiet()));
        boards.push(board);
    }
    let clerk = Clerk::new(connection, common.clone(), &options)?;
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(|error| Failure::usage(format!("{}: {error}", options.listen)))?;
    let bound = listener.local_addr()?;
    let gate = Gate::new(
        bound.ip(),
        &options.hosts,
        options.allow_orders,
        Rng::from_entropy().bytes(),
    );
    announce(bound, &options);
    let stop = CancellationToken::new();
    let dashboard = Dashboard::new(boards, gate, options.interval, Arc::new(clerk), stop.clone());
    let limits = ServerLimits {
        connections: CONNECTIONS,
        head: HEAD_WITHIN,
        connection: CONNECTION_WITHIN,
    };
    let served = serve_connections(listener, routes(dashboard), limits, stop.clone());
    let clock = Arc::clone(&connection.clock);
    let reads = readers.into_iter().map(async |(board, mut looker)| {
        board.read(&clock, options.interval, &mut looker).await;
    });
    let mut served = Box::pin(served);
    tokio::select! {
        biased;
        () = interrupted() => {}
        () = &mut served => {}
        _ = join_all(reads) => {}
    }
    stop.cancel();
    // An order that waits for its answer has its time; a second interrupt ends that, too.
    tokio::select! {
        biased;
        () = interrupted() => {}
        () = served => {}
    }
    Ok(Exit::Fine)
}

fn announce(bound: std::net::SocketAddr, options: &ServeOptions) {
    let names: Vec<String> = options.applications.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    complain(&format!("serving the dashboard of {names} at http://{bound}/"));
    match (options.allow_orders, bound.ip().is_loopback()) {
        (true, false) => complain(&format!(
            "all that reach {bound} can give orders: guard it by a proxy that knows people"
        )),
        (true, true) => complain("orders are allowed"),
        (false, _) => complain("the page gives no orders; --allow-orders lets it"),
    }
}

#[cfg(test)]
mod tests;
