//! Doing something once, or again and again.

use std::io::IsTerminal as _;
use std::time::Duration;

use kcl_core::clock::Clock as _;

use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::{complain, print};

/// Moves the cursor of a terminal to the upper left, and clears what is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// Waits for an interrupt from the terminal, or for the signal with which a platform ends a process.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Prints what `render` returns: once, or every so long until interrupted. Returns the exit code of the last time.
///
/// A look that fails ends a single run, and is said and tried again while watching.
pub(crate) async fn repeat(
    connection: &Connection,
    every: Option<Duration>,
    mut render: impl AsyncFnMut() -> Result<(String, Exit), Failure>,
) -> Result<Exit, Failure> {
    let clears = every.is_some() && std::io::stdout().is_terminal();
    let mut stop = Box::pin(interrupted());
    let mut last = Exit::Fine;
    loop {
        let next = every.map(|every| connection.clock.now() + every);
        let rendered = tokio::select! {
            biased;
            () = &mut stop, if next.is_some() => return Ok(last),
            rendered = render() => rendered,
        };
        last = match rendered {
            Ok((text, exit)) => {
                print(&if clears { format!("{CLEAR}{text}") } else { text })?;
                exit
            }
            Err(failure) if next.is_none() => return Err(failure),
            Err(failure) => {
                complain(&failure.to_string());
                failure.exit
            }
        };
        let Some(next) = next else { return Ok(last) };
        tokio::select! {
            biased;
            () = &mut stop => return Ok(last),
            () = connection.clock.sleep_until(next) => {}
        }
    }
}
