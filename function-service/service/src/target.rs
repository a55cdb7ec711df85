//! What an alias points to: a revision with its settings, ready to be started.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use faas_model::manifest::RuntimeKind;
use faas_model::{AliasSettings, Digest, Reason, Revision};
use faas_repo::{CodeRepo, RepoError};
use faas_runtime::logs::LogBook;
use faas_runtime::{Code, Prepared, Runtime, RuntimeError, Started, Unit};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use crate::Config;
use crate::install::Installs;
use crate::locks::Locks;
use crate::pool::Limits;
use crate::tended::Tended;

/// What every start needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) repo: Arc<dyn CodeRepo>,
    pub(crate) runtimes: HashMap<RuntimeKind, Arc<dyn Runtime>>,
    pub(crate) logs: LogBook,
    /// Held while code is installed, published or forgotten.
    pub(crate) codes: Locks<Digest>,
    /// What starts wait for.
    pub(crate) installs: Installs,
    /// The lanes that have instances.
    pub(crate) tended: Tended,
    /// Where the pools' time begins.
    pub(crate) epoch: Instant,
}

/// Why no instance started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// The start failed, or took too long.
    Failed(RuntimeError),
    /// It is nobody's fault and says nothing of the next start: its time went by while the code was
    /// made ready, which goes on, or the runtime is full.
    PutOff(RuntimeError),
}

/// One generation of a pool.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) revision: Arc<Revision>,
    pub(crate) settings: AliasSettings,
    /// Made by the first start.
    prepared: OnceCell<Arc<dyn Prepared>>,
}

impl Shared {
    /// Returns the runtime of that kind.
    pub(crate) fn runtime(&self, kind: RuntimeKind) -> Result<&Arc<dyn Runtime>, RuntimeError> {
        let missing = || RuntimeError::new(Reason::StartFailed, format!("this server has no {kind:?} runtime"));
        self.runtimes.get(&kind).ok_or_else(missing)
    }

    /// Returns whether starts need nothing more of the code. What they take is what was installed, so the
    /// code itself is neither read nor compared with its digest then.
    fn installed(&self, kind: RuntimeKind, digest: &Digest) -> Result<bool, RuntimeError> {
        Ok(self.runtime(kind)?.installed(digest))
    }

    /// Returns code in place and installed.
    pub(crate) async fn install(&self, kind: RuntimeKind, digest: Digest) -> Result<Code, RuntimeError> {
        let _turn = self.codes.lock(&digest).await;
        self.install_in_turn(kind, digest).await
    }

    /// Installs code unless starts need nothing more of it; waits for an install that runs.
    pub(crate) async fn make_ready(&self, kind: RuntimeKind, digest: Digest) -> Result<(), RuntimeError> {
        let _turn = self.codes.lock(&digest).await;
        if self.installed(kind, &digest)? { Ok(()) } else { self.install_in_turn(kind, digest).await.map(drop) }
    }

    async fn install_in_turn(&self, kind: RuntimeKind, digest: Digest) -> Result<Code, RuntimeError> {
        let path = self.repo.fetch(&digest).await.map_err(unfetched)?;
        let code = Code { digest, path };
        self.runtime(kind)?.install(&code).await?;
        Ok(code)
    }
}

impl Target {
    pub(crate) fn new(revision: Arc<Revision>, settings: AliasSettings) -> Self {
        Self { revision, settings, prepared: OnceCell::new() }
    }

    /// Returns a target that needs no preparation any more.
    pub(crate) fn ready(revision: Arc<Revision>, settings: AliasSettings, prepared: Arc<dyn Prepared>) -> Self {
        Self { revision, settings, prepared: OnceCell::new_with(Some(prepared)) }
    }

    /// Starts an instance within `timeout.cold`.
    pub(crate) async fn start(&self, shared: &Arc<Shared>) -> Result<Started, NotStarted> {
        let cold = self.revision.spec.timeout.cold.duration();
        let first = !self.prepared.initialized();
        match timeout(cold, self.start_unbounded(shared, first)).await {
            Ok(Err(full)) if full.reason == Reason::QueueFull => Err(NotStarted::PutOff(full)),
            Ok(started) => started.map_err(NotStarted::Failed),
            Err(_) => {
                let detail = format!("no instance started within timeout.cold = {} ms", cold.as_millis());
                let late = RuntimeError::new(Reason::ColdTimeout, detail);
                Err(if first { NotStarted::PutOff(late) } else { NotStarted::Failed(late) })
            }
        }
    }

    async fn start_unbounded(&self, shared: &Arc<Shared>, first: bool) -> Result<Started, RuntimeError> {
        let begin = Instant::now();
        let prepared = match self.prepared.get() {
            Some(prepared) => {
                self.install(shared).await?;
                prepared
            }
            // Starts that come meanwhile wait here, in their order.
            None => self.prepared.get_or_try_init(|| self.prepare(shared)).await?,
        };
        let prepare = begin.elapsed();
        let mut started = shared.tended.start(|| prepared.start()).await?;
        if first {
            started.phases.insert(0, ("prepare", prepare));
        }
        Ok(started)
    }

    /// Makes ready what starts take, where it is not there, or not any more.
    async fn install(&self, shared: &Arc<Shared>) -> Result<(), RuntimeError> {
        let (kind, digest) = (self.revision.spec.runtime, self.revision.code);
        if shared.installed(kind, &digest)? {
            return Ok(());
        }
        let own = shared.clone();
        let installing = async move { own.install(kind, digest).await };
        shared.installs.join(kind, digest, installing).await.map(drop).map_err(unusable)
    }

    async fn prepare(&self, shared: &Arc<Shared>) -> Result<Arc<dyn Prepared>, RuntimeError> {
        self.install(shared).await?;
        let revision = &self.revision;
        shared.runtime(revision.spec.runtime)?.prepare(Unit {
            function: revision.function.clone(),
            revision: revision.id,
            spec: Arc::new(revision.spec.clone()),
            code: revision.code,
            logs: shared.logs.writer(&revision.function),
        })
    }

    /// Returns the bounds of the pool.
    pub(crate) fn limits(&self, config: &Config) -> Limits {
        let (spec, scale) = (&self.revision.spec, &self.settings.scale);
        Limits {
            min: scale.min as usize,
            max: scale.max.max(1) as usize,
            concurrency: spec.reuse.concurrency(scale.concurrency),
            depth: spec.queue.depth as usize,
            idle: positive(scale.idle.duration()),
            wait: positive(spec.queue.wait.duration()),
            cold: positive(spec.timeout.cold.duration()),
            failures_max: config.start_failures_max.max(1),
            pause_min: positive(config.pause_min.duration()),
            pause_max: positive(config.pause_max.duration()),
        }
    }
}

/// A time of zero would make the pool ask for a tick that is over already.
fn positive(time: Duration) -> Duration {
    time.max(Duration::from_millis(1))
}

/// Code that was deployed once and is refused now is no fault of the call that wakes it:
/// the caller may try again, a message is not dead.
fn unusable(error: RuntimeError) -> RuntimeError {
    match error.reason {
        Reason::Unprocessable => RuntimeError::new(Reason::StartFailed, error.detail),
        _ => error,
    }
}

fn unfetched(error: RepoError) -> RuntimeError {
    tracing::error!(%error, "code cannot be fetched");
    let reason = if error.reason() == Reason::DiskFull { Reason::DiskFull } else { Reason::StartFailed };
    RuntimeError::new(reason, "the code of the revision cannot be fetched")
}
