//! A deploy: check, upload, compile, probe, publish. Whatever fails leaves
//! nothing behind, and `live` goes on answering until the last step.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use faas_model::manifest::ManifestError;
use faas_model::{
    AliasSettings, Body, CallId, Entry, FunctionName, FunctionSpec, Name, Reason, RevisionId, TriggerKind, headers,
};
use faas_repo::{Expect, Kept, Published, RepoError, Turn};
use faas_runtime::{Call, Code, Instance, Prepared, Unit};
use fail::fail_point;
use http::{HeaderValue, Request, header};
use tokio::time::{Instant, timeout};

use crate::registry::Registry;
use crate::target::Target;
use crate::{Deploy, DeployError, DeployPhase, Deployed, ServiceError};

/// How long each phase took, in order.
struct Clock {
    since: Instant,
    phases: Vec<(DeployPhase, Duration)>,
}

impl Clock {
    fn end(&mut self, phase: DeployPhase) {
        let now = Instant::now();
        self.phases.push((phase, now - self.since));
        self.since = now;
    }
}

/// What is deployed, without its code.
struct Plan {
    function: FunctionName,
    spec: FunctionSpec,
    settings: AliasSettings,
    expected: Expect,
}

impl Registry {
    pub(crate) async fn deploy(&self, deploy: Deploy) -> Result<Deployed, DeployError> {
        let Deploy { function, spec, settings, upload, expected } = deploy;
        let plan = Plan { function, spec, settings, expected };
        let _turn = self.changing.lock(&plan.function).await;
        let mut clock = Clock { since: Instant::now(), phases: Vec::new() };
        self.check(&plan).await.map_err(|e| e.at(DeployPhase::Check))?;
        clock.end(DeployPhase::Check);
        let kept = async { self.shared.repo.keep(upload.finish().await?).await };
        let kept = kept.await.map_err(|e: RepoError| ServiceError::from(e).at(DeployPhase::Upload))?;
        clock.end(DeployPhase::Upload);
        let code = kept.digest();
        let outcome = self.install_and_publish(&plan, &kept, &mut clock).await;
        drop(kept);
        match outcome {
            Ok(deployed) => Ok(deployed),
            Err(error) => {
                tracing::info!(function = %plan.function, phase = %error.phase, problem = %error.problem, "deploy failed");
                self.forget(&code).await;
                Err(error)
            }
        }
    }

    async fn check(&self, plan: &Plan) -> Result<(), ServiceError> {
        let bounds = |e: ManifestError| ServiceError::new(Reason::Unprocessable, e.to_string());
        plan.spec.check().map_err(bounds)?;
        plan.settings.check().map_err(bounds)?;
        plan.spec.check_with(&plan.settings).map_err(bounds)?;
        let unknown = |_| {
            let detail = format!("this server has no {:?} runtime", plan.spec.runtime);
            ServiceError::new(Reason::Unprocessable, detail)
        };
        self.shared.runtime(plan.spec.runtime).map_err(unknown)?;
        self.check_routes(&plan.function, &plan.spec).await?;
        let current = self.live_revision(&plan.function).await?;
        if plan.expected.holds(current) { Ok(()) } else { Err(RepoError::Conflict { current }.into()) }
    }

    async fn install_and_publish(&self, plan: &Plan, kept: &Kept, clock: &mut Clock) -> Result<Deployed, DeployError> {
        let id = plan.spec.revision_id(&kept.digest());
        let before = self.live_revision(&plan.function).await.map_err(|e| e.at(DeployPhase::Compile))?;
        // The revision that `live` points to compiled and answered once.
        let prepared = if before == Some(id) {
            None
        } else {
            if let Err(error) = self.shared.repo.foretell(plan.spec.runtime, kept).await {
                tracing::warn!(%error, "other processes cannot be told of the code; they make it ready later");
            }
            let unit = self.compile(plan, kept).await.map_err(|e| e.at(DeployPhase::Compile))?;
            clock.end(DeployPhase::Compile);
            fail_point!("probe-begin");
            let prepared = self.probe(unit).await.map_err(|e| e.at(DeployPhase::Probe))?;
            fail_point!("probe-done");
            clock.end(DeployPhase::Probe);
            Some(prepared)
        };
        let published = self.go_live(plan, kept, prepared).await.map_err(|e| e.at(DeployPhase::Publish))?;
        clock.end(DeployPhase::Publish);
        let revision = &published.revision;
        if published.moved {
            tracing::info!(function = %plan.function, revision = %revision.id.0.short(), version = revision.version, "deployed");
        }
        Ok(Deployed {
            revision: revision.id,
            version: revision.version,
            created: published.created,
            moved: published.moved,
            previous: before.filter(|_| published.moved),
            timings: std::mem::take(&mut clock.phases),
        })
    }

    async fn compile(&self, plan: &Plan, kept: &Kept) -> Result<Unit, ServiceError> {
        let code = Code { digest: kept.digest(), path: kept.path().to_owned() };
        {
            // Not held during the probe: starts of a live revision may need the same code.
            let _turn = self.shared.codes.lock(&code.digest).await;
            self.shared.runtime(plan.spec.runtime)?.install(&code).await?;
        }
        Ok(Unit {
            function: plan.function.clone(),
            revision: plan.spec.revision_id(&code.digest),
            spec: Arc::new(plan.spec.clone()),
            code: code.digest,
            logs: self.shared.logs.writer(&plan.function),
        })
    }

    /// Starts an instance beside the pool and asks it for the probe path, if there is one.
    async fn probe(&self, unit: Unit) -> Result<Arc<dyn Prepared>, ServiceError> {
        let (function, spec) = (unit.function.clone(), unit.spec.clone());
        let prepared = self.shared.runtime(spec.runtime)?.prepare(unit).map_err(|e| refused(e.reason, &e.detail))?;
        let cold = spec.timeout.cold.duration();
        let started = match timeout(cold, self.shared.tended.start(|| prepared.start())).await {
            Ok(started) => started.map_err(|e| refused(e.reason, &e.detail))?,
            Err(_) => return Err(refused(Reason::ColdTimeout, &format!("timeout.cold = {} ms", cold.as_millis()))),
        };
        let answer = match &spec.probe {
            Some(path) => ask(&*started.instance, &function, &spec, path).await,
            None => Ok(()),
        };
        if timeout(self.shared.config.stop.duration(), started.instance.stop()).await.is_err() {
            tracing::warn!(%function, "the probed instance did not stop in time");
        }
        answer.map(|()| prepared)
    }

    async fn go_live(
        &self,
        plan: &Plan,
        kept: &Kept,
        prepared: Option<Arc<dyn Prepared>>,
    ) -> Result<Published, ServiceError> {
        let turn = self.shared.repo.turn(&plan.function).await?;
        let published = self.publish_in_turn(&turn, plan, kept, prepared).await;
        self.end(turn, published.as_ref().err()).await;
        published
    }

    async fn publish_in_turn(
        &self,
        turn: &Turn,
        plan: &Plan,
        kept: &Kept,
        prepared: Option<Arc<dyn Prepared>>,
    ) -> Result<Published, ServiceError> {
        let _publishing = self.publishing.lock().await;
        // Another function may have taken a route since the first check.
        self.check_routes(&plan.function, &plan.spec).await?;
        let repo = &self.shared.repo;
        fail_point!("publish-begin");
        let published = repo.publish(turn, &plan.spec, &plan.settings, kept, plan.expected).await?;
        fail_point!("publish-recorded");
        let (revision, at) = (published.revision.clone(), published.alias.clone());
        let target = match prepared {
            Some(prepared) => Target::ready(revision, at.settings.clone(), prepared),
            None => Target::new(revision, at.settings.clone()),
        };
        self.show(&plan.function, &Name::alias_live(), at, target).await?;
        Ok(published)
    }

    /// Returns the recorded revision of `live`.
    async fn live_revision(&self, name: &FunctionName) -> Result<Option<RevisionId>, ServiceError> {
        let record = self.recorded(name).await?;
        Ok(record.and_then(|record| Some(record.aliases.get(&Name::alias_live())?.revision)))
    }

    /// Refuses a revision whose routes another function holds, as far as is known;
    /// in a turn that is all there is to know.
    pub(crate) async fn check_routes(&self, function: &FunctionName, spec: &FunctionSpec) -> Result<(), ServiceError> {
        let mut catalogue = self.catalogue();
        for name in self.unheard().await?.iter().filter(|name| *name != function) {
            catalogue = Arc::new(match self.shared.repo.resolve(name, &Name::alias_live()).await {
                Ok((at, live)) => catalogue.with(Entry {
                    function: name.clone(),
                    live,
                    settings: at.settings,
                    aliases: Default::default(),
                }),
                Err(RepoError::NotFound(_)) => catalogue.without(name),
                Err(error) => return Err(error.into()),
            });
        }
        let Some((route, holder)) = catalogue.route_conflict(function, &spec.trigger.http) else { return Ok(()) };
        Err(ServiceError::new(Reason::Conflict, format!("route {} belongs to function {holder} already", route.route)))
    }

    /// Returns the functions that other processes changed and that are not shown here yet.
    async fn unheard(&self) -> Result<BTreeSet<FunctionName>, ServiceError> {
        if !self.shared.repo.shared() {
            return Ok(BTreeSet::new());
        }
        let upto = self.heard().upto();
        let news = self.shared.repo.news(upto).await?;
        if news.lost {
            let detail = "this process has missed changes of others and reads them now: try again";
            return Err(ServiceError::new(Reason::StoreUnavailable, detail));
        }
        Ok(self.heard().behind().cloned().chain(news.changed).collect())
    }
}

async fn ask(
    instance: &dyn Instance,
    function: &FunctionName,
    spec: &FunctionSpec,
    path: &str,
) -> Result<(), ServiceError> {
    let bound = spec.timeout.run.duration();
    let host = format!("{function}.faas.internal");
    let request = Request::get(format!("http://{host}{path}"))
        .header(header::HOST, &host)
        .header(headers::TRIGGER, TriggerKind::Control.as_str())
        .header(headers::DEADLINE_MS, HeaderValue::from(crate::call::unix_ms(bound)))
        .body(Body::Empty)
        .map_err(|e| ServiceError::new(Reason::Unprocessable, format!("probe = {path:?}: {e}")))?;
    match timeout(bound, instance.invoke(Call { id: CallId::fresh(), request })).await {
        Ok(Ok(answer)) if answer.status().as_u16() < 500 => Ok(()),
        Ok(Ok(answer)) => {
            let detail = format!("the probe GET {path} answered {}, wanted below 500", answer.status().as_u16());
            Err(ServiceError::new(Reason::Unprocessable, detail))
        }
        Ok(Err(error)) => Err(refused(error.reason, &error.detail)),
        Err(_) => {
            Err(refused(Reason::RunTimeout, &format!("the probe GET {path}: timeout.run = {} ms", bound.as_millis())))
        }
    }
}

/// A start or an answer that fails at the probe is the code's fault: the same deploy fails again.
fn refused(reason: Reason, detail: &str) -> ServiceError {
    match reason {
        Reason::DiskFull | Reason::Internal | Reason::Unprocessable => ServiceError::new(reason, detail),
        _ => ServiceError::new(Reason::Unprocessable, format!("{reason}: {detail}")),
    }
}
