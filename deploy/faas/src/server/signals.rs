//! SIGTERM and SIGINT.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure, Outcome};

/// The signals that end the process; none is lost once this exists.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Outcome<Self> {
        let one = |kind| {
            signal(kind).map_err(|e| {
                Failure::new(
                    Exit::Refused,
                    format!("signals cannot be received: {e}"),
                    "check the limits of the process",
                )
            })
        };
        Ok(Self { terminate: one(SignalKind::terminate())?, interrupt: one(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
