//! The handle that everybody holds.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use faas_invoke::{CatalogueWatch, Dispatch, Invocation, InvokeError, Reply};
use faas_model::{FunctionName, Name, Reason, Revision, RevisionId};
use faas_repo::{CodeRepo, News, RevisionRef, Upload};
use faas_runtime::Runtime;
use faas_runtime::logs::LogBook;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::call::{self, not_found};
use crate::follow::follow;
use crate::install::Installs;
use crate::locks::Locks;
use crate::registry::Registry;
use crate::target::Shared;
use crate::tasks::Tasks;
use crate::tended::Tended;
use crate::{
    Config, Deploy, DeployError, DeployPhase, Deployed, Description, OpenError, Pointed, ServiceError, Summary,
};

/// Deploys functions and invokes them. Clones share everything; the last one ends the background tasks.
#[derive(Debug, Clone)]
pub struct FunctionService {
    pub(crate) registry: Arc<Registry>,
}

impl FunctionService {
    /// Reads the records, removes code that nobody uses, and publishes the catalogue.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn open(
        config: Config,
        repo: Arc<dyn CodeRepo>,
        runtimes: Vec<Arc<dyn Runtime>>,
        logs: LogBook,
    ) -> Result<Self, OpenError> {
        let mut by_kind = HashMap::new();
        for runtime in runtimes {
            let kind = runtime.kind();
            if by_kind.insert(kind, runtime).is_some() {
                return Err(OpenError::Runtimes(format!("{kind:?}")));
            }
        }
        let (codes, epoch, installing) = (Locks::default(), Instant::now(), Arc::new(Tasks::new()));
        let installs = Installs::new(&installing);
        let tended = Tended::default();
        let shared = Shared { config, repo, runtimes: by_kind, logs, codes, installs, tended, epoch };
        let registry = Registry::new(shared, installing);
        let sharing = registry.shared.repo.shared();
        if sharing {
            // Before the records are read: what changes later is heard of.
            let news = registry.shared.repo.news(0).await?;
            drop(registry.heard().hear(News { changed: Default::default(), ..news }, Instant::now()));
        }
        registry.collect().await?;
        let repo = registry.shared.repo.clone();
        for namespace in repo.namespaces().await? {
            for record in repo.list(&namespace).await? {
                registry.apply(record, None).await?;
            }
        }
        registry.publish();
        let registry = Arc::new(registry);
        if sharing {
            registry.following.spawn(follow(Arc::downgrade(&registry)));
        }
        Ok(Self { registry })
    }

    /// Returns the deployed functions, replaced whole at every change.
    #[must_use]
    pub fn catalogue(&self) -> CatalogueWatch {
        self.registry.watch()
    }

    /// Returns the functions' output.
    #[must_use]
    pub fn logs(&self) -> &LogBook {
        &self.registry.shared.logs
    }

    /// Begins an upload for [`deploy`](Self::deploy). Dropping it removes what was written.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn begin_upload(&self) -> Result<Upload, ServiceError> {
        Ok(self.registry.shared.repo.begin().await?)
    }

    /// Deploys a revision and points `live` at it; the old one answers until then.
    ///
    /// The same content again is the same revision: nothing is compiled, nothing moves.
    ///
    /// # Errors
    /// [`DeployError`] names the phase; nothing of the deploy is left.
    ///
    /// # Cancel safety
    /// A dropped future does not stop the deploy.
    pub async fn deploy(&self, deploy: Deploy) -> Result<Deployed, DeployError> {
        let registry = self.registry.clone();
        let done = self.detached(async move { registry.deploy(deploy).await }).await;
        done.unwrap_or_else(|stopping| Err(stopping.at(DeployPhase::Publish)))
    }

    /// Describes a function.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn describe(&self, function: &FunctionName) -> Result<Description, ServiceError> {
        let missing = || ServiceError::new(Reason::NotFound, format!("there is no function {function}"));
        self.registry.function(function)?.describe().ok_or_else(missing)
    }

    /// Lists the functions of a namespace, in the order of their names.
    pub async fn list(&self, namespace: &Name) -> Vec<Summary> {
        self.registry.summaries(namespace)
    }

    /// Lists every revision of a function, oldest version first.
    ///
    /// # Errors
    /// `not_found`, or what the store failed with.
    pub async fn revisions(&self, function: &FunctionName) -> Result<Vec<Revision>, ServiceError> {
        Ok(self.registry.shared.repo.revisions(function).await?)
    }

    /// Points an alias at a published revision, if it points to `expected` now (`None` is anywhere).
    ///
    /// # Errors
    /// `not_found`, `precondition_failed`, `conflict` for a route that another function holds.
    ///
    /// # Cancel safety
    /// A dropped future does not stop the change.
    pub async fn point(
        &self,
        function: &FunctionName,
        alias: &Name,
        to: RevisionRef,
        expected: Option<RevisionId>,
    ) -> Result<Pointed, ServiceError> {
        let (registry, function, alias) = (self.registry.clone(), function.clone(), alias.clone());
        self.detached(async move { registry.point(&function, &alias, &to, expected).await }).await.flatten()
    }

    /// Points `live` at the revision it pointed to before.
    ///
    /// # Errors
    /// `not_found`; `conflict` when there is no revision before.
    ///
    /// # Cancel safety
    /// A dropped future does not stop the change.
    pub async fn rollback(&self, function: &FunctionName) -> Result<Pointed, ServiceError> {
        let (registry, function) = (self.registry.clone(), function.clone());
        self.detached(async move { registry.rollback(&function).await }).await.flatten()
    }

    /// Removes a function: its triggers first, then its instances, records, code and logs.
    ///
    /// Running calls may go on for the function's `timeout.grace`.
    ///
    /// # Errors
    /// `not_found`, or what the store failed with; the function then stays.
    ///
    /// # Cancel safety
    /// A dropped future does not stop the removal.
    pub async fn remove(&self, function: &FunctionName) -> Result<(), ServiceError> {
        let (registry, function) = (self.registry.clone(), function.clone());
        self.detached(async move { registry.remove(&function).await }).await.flatten()
    }

    /// Stops every instance that runs no call, to give memory back.
    pub fn evict_idle(&self) {
        self.registry.lanes().iter().for_each(|lane| lane.evict());
    }

    /// Refuses new calls with `draining`, waits for running ones, and cuts them after `grace`.
    pub async fn drain(&self, grace: Duration) {
        let Registry { shared, tasks, installing, following, .. } = &*self.registry;
        self.registry.start_draining();
        following.shutdown().await;
        if timeout(grace, tasks.ended()).await.is_err() {
            tracing::warn!("calls still run after the grace period and are cut");
            // Calls of removed functions as well, which the registry does not know any more.
            let lanes = shared.tended.lanes();
            join_all(lanes.iter().map(|lane| lane.cut())).await;
        }
        tasks.shutdown().await;
        installing.shutdown().await;
    }

    /// Runs a change to its end even if the caller leaves.
    async fn detached<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let (done, outcome) = oneshot::channel();
        self.registry.tasks.spawn(async move {
            // Nobody listens when the caller left.
            drop(done.send(change.await));
        });
        outcome.await.map_err(|_| ServiceError::new(Reason::Draining, "the platform is stopping"))
    }
}

impl Dispatch for FunctionService {
    fn dispatch(&self, invocation: Invocation) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        Box::pin(async move {
            match self.registry.lane(&invocation.function, &invocation.alias) {
                Some(lane) => call::run(lane, invocation).await,
                None => Err(not_found(format_args!("{}:{}", invocation.function, invocation.alias))),
            }
        })
    }
}
