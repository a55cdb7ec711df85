//! What happened, as text without anything that differs between two runs of a seed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The events of one seed, and the invariants that did not hold.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    lines: Vec<String>,
    broken: Vec<String>,
    /// Virtual time of the lives before this one.
    before: Duration,
    began: Option<Instant>,
}

impl Log {
    /// Begins a life: time goes on from where the last one ended.
    pub(crate) fn begin_life(&self) {
        self.book().began = Some(Instant::now());
    }

    pub(crate) fn end_life(&self) {
        let mut book = self.book();
        let lasted = book.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        book.before += lasted;
    }

    pub(crate) fn line(&self, text: impl fmt::Display) {
        let mut book = self.book();
        // After the power is off nothing happens: what is dropped then is dropped in no order.
        let Some(began) = book.began else { return };
        let now = book.before + began.elapsed();
        book.lines.push(format!("{:>10} {text}", now.as_millis()));
    }

    /// Notes an invariant that does not hold.
    pub(crate) fn broken(&self, what: impl fmt::Display) {
        self.line(format_args!("BROKEN {what}"));
        let mut book = self.book();
        if book.began.is_some() {
            book.broken.push(what.to_string());
        }
    }

    pub(crate) fn check(&self, holds: bool, what: impl fmt::Display) {
        if !holds {
            self.broken(what);
        }
    }

    pub(crate) fn first_broken(&self) -> Option<String> {
        self.book().broken.first().cloned()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.book().lines.clone()
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
