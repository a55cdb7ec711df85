//! Follows the changes of other processes: each is made ready here first, then shown.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use faas_model::FunctionName;
use faas_model::units::Millis;
use faas_repo::{Coming, FunctionRecord, RepoError};
use metrics::{counter, gauge};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::ServiceError;
use crate::heard::Heard;
use crate::registry::{Function, Registry};

/// Functions that are made ready at once.
const AT_ONCE: usize = 4;
/// Shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(10);
/// Tries to show a function that changes meanwhile.
const TRIES_MAX: usize = 4;

/// How a look at a function ended, if one was looked at.
type Looked = Option<(FunctionName, Result<(), ServiceError>)>;

/// Listens until the registry is gone.
pub(crate) async fn follow(registry: Weak<Registry>) {
    let Some(config) = registry.upgrade().map(|registry| registry.shared.config.clone()) else { return };
    let (mut listening, mut tidying) = (every(config.follow), every(config.tidy));
    let mut looks = JoinSet::new();
    loop {
        let looked = tokio::select! {
            _ = listening.tick() => None,
            _ = tidying.tick() => {
                let Some(registry) = registry.upgrade() else { return };
                looks.spawn(async move { registry.tidy().await });
                continue;
            }
            Some(looked) = looks.join_next() => match looked.ok().flatten() {
                // No look at a function: there is nothing new to ask for.
                None => continue,
                looked => looked,
            },
        };
        let Some(registry) = registry.upgrade() else { return };
        match looked {
            Some((function, well)) => registry.looked(&function, well),
            None => {
                for coming in registry.listen().await {
                    let registry = registry.clone();
                    looks.spawn(async move { registry.prepare_for(&coming).await });
                }
            }
        }
        for function in registry.heard().take(AT_ONCE, Instant::now()) {
            let registry = registry.clone();
            looks.spawn(async move {
                let well = registry.refresh(&function).await;
                Some((function, well))
            });
        }
        gauge!("faas_functions_behind").set(registry.heard().behind().count() as f64);
    }
}

fn every(period: Millis) -> Interval {
    let mut every = interval(period.duration().max(SHORTEST));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}

impl Registry {
    pub(crate) fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks what changed; returns the code that is foretold.
    async fn listen(&self) -> Vec<Coming> {
        let upto = self.heard().upto();
        let heard = async {
            let news = self.shared.repo.news(upto).await?;
            let all = if news.lost { self.everything().await? } else { Vec::new() };
            Ok::<_, RepoError>((news, all))
        };
        let (outcome, now) = (heard.await, Instant::now());
        let mut heard = self.heard();
        if heard.listened(outcome.is_ok()) {
            match &outcome {
                Ok(_) => tracing::info!("the changes of other processes can be read again"),
                Err(error) => tracing::warn!(%error, "the changes of other processes cannot be read; tried again"),
            }
        }
        match outcome {
            Ok((news, all)) => {
                all.into_iter().for_each(|function| heard.note(function, now));
                heard.hear(news, now)
            }
            Err(_) => {
                counter!("faas_changes_unheard_total").increment(1);
                Vec::new()
            }
        }
    }

    /// Installs code that may be published soon.
    async fn prepare_for(&self, coming: &Coming) -> Looked {
        match self.shared.make_ready(coming.runtime, coming.code).await {
            Ok(()) => self.heard().made_ready(coming.code, Instant::now()),
            // Whoever deploys it is told so.
            Err(error) => tracing::debug!(code = %coming.code.short(), %error, "foretold code cannot be made ready"),
        }
        None
    }

    /// Returns every function that is recorded or shown.
    async fn everything(&self) -> Result<Vec<FunctionName>, RepoError> {
        tracing::warn!("changes were missed: every function is read anew");
        let mut all = self.names();
        let repo = &self.shared.repo;
        for namespace in repo.namespaces().await? {
            all.extend(repo.list(&namespace).await?.into_iter().map(|record| record.function));
        }
        Ok(all)
    }

    fn looked(&self, function: &FunctionName, well: Result<(), ServiceError>) {
        let pause = self.heard().ended(function, well.is_ok(), Instant::now());
        if let (Err(error), Some(pause)) = (well, pause) {
            tracing::warn!(%function, %error, ms = pause.as_millis(), "a change cannot be shown yet; tried again later");
        }
    }

    /// Shows a function as it is recorded, once its code is ready here.
    pub(crate) async fn refresh(self: &Arc<Self>, name: &FunctionName) -> Result<(), ServiceError> {
        for _ in 0..TRIES_MAX {
            let record = self.recorded(name).await?;
            if let Some(record) = &record {
                self.make_ready(record).await?;
            }
            if self.show_if_still(name, record).await? {
                return Ok(());
            }
        }
        Err(RepoError::Conflict { current: None }.into())
    }

    /// Reads a function's record; `None` where there is none.
    pub(crate) async fn recorded(&self, name: &FunctionName) -> Result<Option<FunctionRecord>, RepoError> {
        match self.shared.repo.function(name).await {
            Ok(record) => Ok(Some(record)),
            Err(RepoError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Installs the code of revisions that are not shown yet.
    async fn make_ready(&self, record: &FunctionRecord) -> Result<(), ServiceError> {
        let shown = self.function(&record.function).ok();
        for (alias, at) in &record.aliases {
            let same = shown.as_ref().and_then(|f| f.alias(alias)).is_some_and(|a| a.at.revision == at.revision);
            if !same {
                let revision = self.shared.repo.revision(&record.function, &at.revision).await?;
                self.shared.make_ready(revision.spec.runtime, revision.code).await?;
            }
        }
        Ok(())
    }

    /// Shows a record unless there is another one by now; tells which.
    async fn show_if_still(
        self: &Arc<Self>,
        name: &FunctionName,
        record: Option<FunctionRecord>,
    ) -> Result<bool, ServiceError> {
        // Whoever changes the function here shows it under this lock: what is read in it is never older.
        let _publishing = self.publishing.lock().await;
        if self.is_leaving(name) {
            return Err(ServiceError::new(faas_model::Reason::Conflict, "the function is being removed"));
        }
        if self.recorded(name).await? != record {
            return Ok(false);
        }
        let shown = self.function(name).ok();
        match record {
            Some(record) if shown.as_ref().is_some_and(|f| f.record() == record) => {}
            Some(record) => {
                self.apply(record, None).await?;
                self.publish_one(name);
                tracing::info!(function = %name, "another process changed the function");
            }
            None => {
                if let Some(function) = self.take(name) {
                    self.publish_one(name);
                    tracing::info!(function = %name, "another process removed the function");
                    let registry = self.clone();
                    self.tasks.spawn(async move { registry.bury(&function).await });
                }
            }
        }
        Ok(true)
    }

    /// Ends the instances of a function that another process removed, and removes what is left of it here.
    async fn bury(&self, function: &Function) {
        function.leave().await;
        // Its records are gone, and with them which code it used.
        match self.shared.repo.orphans().await {
            Ok(orphans) => {
                for code in &orphans {
                    self.forget(code).await;
                }
            }
            Err(error) => tracing::warn!(%error, "unused code could not be removed; the next start does it"),
        }
        if self.function(function.name()).is_err() {
            self.remove_logs(function.name()).await;
        }
    }

    async fn tidy(&self) -> Looked {
        let in_vain = self.heard().in_vain(Instant::now());
        for code in &in_vain {
            self.forget(code).await;
        }
        match self.shared.repo.tidy().await {
            Ok(collected) if collected.code.is_empty() => {}
            Ok(collected) => {
                tracing::info!(removed = collected.code.len(), "removed shared code that no revision uses")
            }
            Err(error) => tracing::warn!(%error, "shared code cannot be tidied up; tried again later"),
        }
        None
    }
}
