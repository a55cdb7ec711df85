//! Changes of deployed functions without new code: pointing an alias, going
//! back, removing.

use std::sync::Arc;

use faas_model::{Digest, FunctionName, Name, Reason, Revision, RevisionId};
use faas_repo::{Expect, RevisionRef, Turn};
use fail::fail_point;

use crate::registry::Registry;
use crate::target::Target;
use crate::{Pointed, ServiceError};

impl Registry {
    pub(crate) async fn point(
        &self,
        function: &FunctionName,
        alias: &Name,
        to: &RevisionRef,
        expected: Option<RevisionId>,
    ) -> Result<Pointed, ServiceError> {
        let _turn = self.changing.lock(function).await;
        let expected = expected.map_or(Expect::Any, Expect::Revision);
        let revision = self.shared.repo.find(function, to).await?;
        self.point_at(function, alias, revision.id, expected).await
    }

    pub(crate) async fn rollback(&self, function: &FunctionName) -> Result<Pointed, ServiceError> {
        let _turn = self.changing.lock(function).await;
        let live = Name::alias_live();
        let (at, _) = self.shared.repo.resolve(function, &live).await?;
        let none = || ServiceError::new(Reason::Conflict, format!("{function} has no version before this one"));
        let previous = at.previous.ok_or_else(none)?;
        self.point_at(function, &live, previous, Expect::Revision(at.revision)).await
    }

    /// The caller holds the function's turn.
    async fn point_at(
        &self,
        function: &FunctionName,
        alias: &Name,
        id: RevisionId,
        expected: Expect,
    ) -> Result<Pointed, ServiceError> {
        let repo = &self.shared.repo;
        let revision = repo.revision(function, &id).await?;
        // Compiled before anything moves: a rollback must not end in failing starts.
        self.shared.install(revision.spec.runtime, revision.code).await?;
        let turn = repo.turn(function).await?;
        let pointed = self.point_in_turn(&turn, alias, revision, expected).await;
        self.end(turn, pointed.as_ref().err()).await;
        pointed
    }

    async fn point_in_turn(
        &self,
        turn: &Turn,
        alias: &Name,
        revision: Arc<Revision>,
        expected: Expect,
    ) -> Result<Pointed, ServiceError> {
        let (repo, function, id) = (&self.shared.repo, turn.function(), revision.id);
        let _publishing = self.publishing.lock().await;
        if *alias == Name::alias_live() {
            self.check_routes(function, &revision.spec).await?;
        }
        let before = repo.function(function).await?.aliases.get(alias).map(|at| at.revision);
        fail_point!("alias-move");
        let at = repo.promote(turn, alias, &id, None, expected).await?;
        fail_point!("alias-moved");
        let target = Target::new(revision, at.settings.clone());
        self.show(function, alias, at.clone(), target).await?;
        tracing::info!(%function, %alias, revision = %id.0.short(), version = at.version, "alias points to a revision");
        let previous = before.filter(|before| *before != id);
        Ok(Pointed { alias: alias.clone(), revision: id, version: at.version, previous })
    }

    pub(crate) async fn remove(&self, name: &FunctionName) -> Result<(), ServiceError> {
        let _turn = self.changing.lock(name).await;
        let _leaving = self.mark_leaving(name);
        let function = self.function(name);
        // Another process may have made it, which is not heard of yet.
        if !self.shared.repo.shared() {
            function.as_ref().map_err(Clone::clone)?;
        }
        self.vanish(name).await;
        if let Ok(function) = &function {
            function.leave().await;
        }
        fail_point!("remove-begin");
        let code = match self.remove_records(name).await {
            Ok(code) => code,
            // The records are gone, by another hand: so be it.
            Err(error) if error.reason == Reason::NotFound && function.is_ok() => Vec::new(),
            Err(error) => {
                let _publishing = self.publishing.lock().await;
                if let Ok(function) = &function {
                    self.reinstate(function);
                    self.publish_one(name);
                }
                return Err(error);
            }
        };
        fail_point!("remove-recorded");
        for digest in &code {
            self.forget(digest).await;
        }
        self.remove_logs(name).await;
        tracing::info!(function = %name, "removed");
        Ok(())
    }

    async fn remove_records(&self, name: &FunctionName) -> Result<Vec<Digest>, ServiceError> {
        let turn = self.shared.repo.turn(name).await?;
        let removed = self.shared.repo.remove(&turn).await.map_err(ServiceError::from);
        self.end(turn, removed.as_ref().err()).await;
        removed
    }

    /// Ends a turn, unless it is not known what became of its change: others settle that then.
    pub(crate) async fn end(&self, turn: Turn, failed: Option<&ServiceError>) {
        let open = |e: &ServiceError| matches!(e.reason, Reason::OutcomeUnknown | Reason::StoreUnavailable);
        if failed.is_some_and(open) {
            return;
        }
        if let Err(error) = self.shared.repo.done(turn).await {
            tracing::warn!(%error, "the end of a change could not be told; others see it a little later");
        }
    }

    pub(crate) async fn remove_logs(&self, name: &FunctionName) {
        if let Err(error) = self.shared.logs.remove(name).await {
            tracing::warn!(function = %name, kind = ?error.kind(), "logs could not be removed");
        }
    }

    /// Takes a function's triggers away.
    async fn vanish(&self, name: &FunctionName) {
        let _publishing = self.publishing.lock().await;
        self.take(name);
        self.publish_one(name);
    }
}
