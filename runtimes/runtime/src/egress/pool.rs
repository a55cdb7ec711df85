//! Connections between two requests: each belongs to one function, one scheme,
//! one host and one port, and is never given to another.
//!
//! Never more than `idle_per_function_max` of one function and `idle_max` of
//! all are kept, and none longer than `keep_alive`; the oldest goes first. One
//! task watches their ages, only while there are any.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use faas_model::FunctionName;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::config::Config;
use super::connect::Connection;
use super::policy::Target;

/// Whose connection, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) function: FunctionName,
    pub(super) target: Target,
}

/// The kept connections.
#[derive(Debug)]
pub(super) struct Pool {
    config: Arc<Config>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one kept longest first.
    idle: Vec<Idle>,
    watch: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Idle {
    key: Key,
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config, state: Mutex::default() }
    }

    /// Takes the connection that was kept last, if its address is still `permitted`.
    pub(super) async fn take(&self, key: &Key, permitted: impl Fn(IpAddr) -> bool) -> Option<Connection> {
        loop {
            let mut connection = {
                let mut state = self.lock();
                let at = state.idle.iter().rposition(|idle| idle.key == *key)?;
                state.idle.remove(at).connection
            };
            // A revision with another list may use what one before it opened.
            if permitted(connection.address) && connection.is_ready().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn put(self: &Arc<Self>, key: Key, connection: Connection) {
        let (per_function, all) = (self.config.idle_per_function_max.min(1000), self.config.idle_max.min(10_000));
        if connection.sender.is_closed() || per_function == 0 || all == 0 {
            return;
        }
        let mut dropped = Vec::new();
        let mut state = self.lock();
        let own = |idle: &Idle| idle.key.function == key.function;
        if state.idle.iter().filter(|idle| own(idle)).count() >= per_function
            && let Some(at) = state.idle.iter().position(own)
        {
            dropped.push(state.idle.remove(at));
        }
        if state.idle.len() >= all {
            dropped.push(state.idle.remove(0));
        }
        state.idle.push(Idle { key, connection, since: Instant::now() });
        // A watch that ended with its tokio runtime is none.
        if state.watch.as_ref().is_none_or(JoinHandle::is_finished) {
            state.watch = tokio::runtime::Handle::try_current().ok().map(|tokio| tokio.spawn(watch(Arc::clone(self))));
        }
        drop(state);
        drop(dropped);
    }

    /// Closes what is kept too long; returns when the next will be, `None` when nothing is kept.
    fn expire(&self) -> Option<Instant> {
        let keep = self.config.keep_alive.duration();
        let mut state = self.lock();
        let due = state.idle.iter().take_while(|idle| idle.since.elapsed() >= keep).count();
        let expired: Vec<Idle> = state.idle.drain(..due).collect();
        let next = state.idle.first().map(|idle| idle.since + keep);
        if next.is_none() {
            // Under the lock: a connection that comes now starts a watch of its own.
            state.watch = None;
        }
        drop(state);
        drop(expired);
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().idle.len()
    }

    #[cfg(test)]
    pub(super) fn is_watched(&self) -> bool {
        self.lock().watch.is_some()
    }
}

/// Closes connections as they come of age, and ends with the last.
async fn watch(pool: Arc<Pool>) {
    while let Some(next) = pool.expire() {
        sleep_until(next).await;
    }
}
