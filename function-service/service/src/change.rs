//! Changes of deployed functions without new code: pointing an alias, going
//! back, removing.

use faas_model::{FunctionName, Name, Reason, RevisionId};
use faas_repo::{Expect, RepoError, RevisionRef};
use fail::fail_point;
use tokio::time::timeout;

use crate::pool::Farewell;
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
        let _publishing = self.publishing.lock().await;
        if *alias == Name::alias_live() {
            self.check_routes(function, &revision.spec)?;
        }
        let before = self.function(function)?.alias(alias).map(|alias| alias.at.revision);
        fail_point!("alias-move");
        let at = repo.promote(function, alias, &id, None, expected).await?;
        fail_point!("alias-moved");
        let target = Target::new(revision, at.settings.clone());
        self.show(function, alias, at.clone(), target).await?;
        tracing::info!(%function, %alias, revision = %id.0.short(), version = at.version, "alias points to a revision");
        let previous = before.filter(|before| *before != id);
        Ok(Pointed { alias: alias.clone(), revision: id, version: at.version, previous })
    }

    pub(crate) async fn remove(&self, name: &FunctionName) -> Result<(), ServiceError> {
        let _turn = self.changing.lock(name).await;
        let function = self.function(name)?;
        self.vanish(name).await;
        let grace = function.lanes().map(|l| l.target().revision.spec.timeout.grace.duration()).max();
        for lane in function.lanes() {
            lane.drain(Farewell::Removed);
        }
        for lane in function.lanes() {
            if timeout(grace.unwrap_or_default(), lane.rested()).await.is_err() {
                lane.cut().await;
            }
        }
        fail_point!("remove-begin");
        let code = match self.shared.repo.remove(name).await {
            Ok(code) => code,
            // The records are gone, by another hand: so be it.
            Err(RepoError::NotFound(_)) => Vec::new(),
            Err(error) => {
                let _publishing = self.publishing.lock().await;
                self.reinstate(&function);
                self.publish_one(name);
                return Err(error.into());
            }
        };
        fail_point!("remove-recorded");
        for digest in &code {
            self.forget(digest).await;
        }
        if let Err(error) = self.shared.logs.remove(name).await {
            tracing::warn!(function = %name, kind = ?error.kind(), "logs could not be removed");
        }
        tracing::info!(function = %name, "removed");
        Ok(())
    }

    /// Takes a function's triggers away.
    async fn vanish(&self, name: &FunctionName) {
        let _publishing = self.publishing.lock().await;
        self.take(name);
        self.publish_one(name);
    }
}
