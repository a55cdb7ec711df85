//! The service's background tasks: all of one set, ended with it.

use std::future::{Future, poll_fn};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Tasks that are aborted when this value is dropped.
#[derive(Debug)]
pub(crate) struct Tasks {
    set: Mutex<JoinSet<()>>,
    /// A place may be given back outside of any runtime, and wake its lane.
    handle: Handle,
}

impl Tasks {
    /// Returns an empty set on the current runtime.
    pub(crate) fn new() -> Self {
        Self { set: Mutex::default(), handle: Handle::current() }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.lock();
        while set.try_join_next().is_some() {}
        set.spawn_on(task, &self.handle);
    }

    /// Waits until no task is left, of those spawned meanwhile either.
    pub(crate) async fn ended(&self) {
        while poll_fn(|cx| self.lock().poll_join_next(cx)).await.is_some() {}
    }

    /// Aborts all tasks and waits for their end.
    pub(crate) async fn shutdown(&self) {
        let mut all = std::mem::take(&mut *self.lock());
        all.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
