//! Code made ready for starts, each by a task of its own: a start that gives
//! up does not end the compiler, and the next one finds what it made.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use faas_model::manifest::RuntimeKind;
use faas_model::{Digest, Reason};
use faas_runtime::{Code, RuntimeError};
use tokio::sync::watch;

use crate::tasks::Tasks;

type Outcome = Result<Code, RuntimeError>;
type Installing = watch::Sender<Option<Outcome>>;

/// The installs that run: one per code at most.
#[derive(Debug)]
pub(crate) struct Installs {
    /// The tasks hold the senders.
    running: Mutex<HashMap<(RuntimeKind, Digest), Weak<Installing>>>,
    tasks: Weak<Tasks>,
}

impl Installs {
    /// Returns no installs, which are to run among `tasks`.
    pub(crate) fn new(tasks: &Arc<Tasks>) -> Self {
        Self { running: Mutex::default(), tasks: Arc::downgrade(tasks) }
    }

    /// Waits for the install of the code that runs, or for `install`, which then begins.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the install running.
    pub(crate) async fn join(
        &self,
        kind: RuntimeKind,
        code: Digest,
        install: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        let mut installing = self.subscribe(kind, code, install);
        let outcome = installing.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(RuntimeError::new(Reason::Internal, "the install of the code was cut off")))
    }

    fn subscribe(
        &self,
        kind: RuntimeKind,
        code: Digest,
        install: impl Future<Output = Outcome> + Send + 'static,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, installing| installing.strong_count() > 0);
        if let Some(installing) = running.get(&(kind, code)).and_then(Weak::upgrade) {
            return installing.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        running.insert((kind, code), Arc::downgrade(&sender));
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.spawn(async move {
                let outcome = install.await;
                if let Err(error) = &outcome {
                    tracing::warn!(code = %code.short(), %error, "code could not be installed");
                }
                sender.send_replace(Some(outcome));
            });
        }
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_install_of_a_code_runs_at_a_time_and_a_failed_one_may_be_tried_again() {
        let tasks = Arc::new(Tasks::new());
        let (installs, code) = (Installs::new(&tasks), Digest::of(b"code"));
        let failed = || Err(RuntimeError::new(Reason::DiskFull, "as the test says"));
        let (go, gate) = tokio::sync::oneshot::channel::<()>();
        let first = installs.join(RuntimeKind::Wasm, code, async move {
            gate.await.ok();
            failed()
        });
        tokio::pin!(first);
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        let second = installs.join(RuntimeKind::Wasm, code, async { unreachable!("one runs") });
        go.send(()).unwrap();
        assert_eq!(tokio::join!(first, second), (failed(), failed()));
        tokio::task::yield_now().await;
        let done = Code { digest: code, path: "code".into() };
        let again = done.clone();
        assert_eq!(installs.join(RuntimeKind::Wasm, code, async { Ok(again) }).await, Ok(done));
        drop(tasks);
        let late = installs.join(RuntimeKind::Wasm, code, async move { failed() }).await;
        assert_eq!(late.unwrap_err().reason, Reason::Internal, "nothing begins once the service is gone");
    }
}
