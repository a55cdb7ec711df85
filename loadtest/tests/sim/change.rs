//! Changes of functions: deploys, rollbacks, removals, each checked against what was promised.

use std::collections::BTreeSet;

use faas_function_service::{Deploy, FunctionService, ServiceError};
use faas_model::manifest::{AmqpTrigger, Scale};
use faas_model::units::Millis;
use faas_model::{AliasSettings, Digest, FunctionName, FunctionSpec, Name, Reason, RevisionId};
use faas_repo::Expect;

use crate::chance::Chance;
use crate::log::Log;
use crate::world::{Durable, Life, Models};

/// A change of one function, decided beforehand.
pub(crate) enum Change {
    Deploy { spec: Box<FunctionSpec>, scale: Scale, code: String },
    Rollback,
    Remove,
}

/// Runs a change and keeps the books about it.
pub(crate) struct Changing {
    pub(crate) function: FunctionName,
    pub(crate) change: Change,
    pub(crate) log: Log,
    pub(crate) models: Models,
    pub(crate) service: FunctionService,
}

/// Returns what chance makes of the next revision of a function.
pub(crate) fn deploy(chance: &Chance, function: &FunctionName, number: u64) -> Change {
    let mut spec = FunctionSpec { probe: chance.one_in(2).then(|| "/probe".into()), ..FunctionSpec::default() };
    spec.env.insert("number".into(), number.to_string());
    match chance.below(12) {
        0 => {
            spec.env.insert("fault".into(), "start".into());
        }
        1 if spec.probe.is_some() => {
            spec.env.insert("fault".into(), "probe".into());
        }
        _ => {}
    }
    spec.queue.depth = chance.below(12) as u32;
    spec.queue.wait = Millis(100 + chance.below(5000));
    spec.timeout.cold = Millis(500 + chance.below(5000));
    spec.timeout.run = Millis(200 + chance.below(5000));
    spec.timeout.idle = Millis(100 + chance.below(1000));
    spec.timeout.stream = Millis(1000 + chance.below(4000));
    spec.timeout.grace = Millis(chance.below(2000));
    // The name decides whether it has a queue, so that a queue keeps its consumer over deploys.
    if function.name.as_str() != "alpha" {
        spec.trigger.amqp.push(AmqpTrigger {
            broker: Name::namespace_default(),
            queue: function.name.to_string(),
            declare: function.name.as_str() == "beta",
            exchange: None,
            bindings: Vec::new(),
            dead_letter_exchange: None,
            prefetch: 1 + chance.below(6) as u16,
        });
    }
    let scale = Scale {
        min: if chance.one_in(5) { 1 } else { 0 },
        max: 1 + chance.below(4) as u32,
        concurrency: 1 + chance.below(4) as u32,
        idle: Millis(20 + chance.below(5000)),
    };
    Change::Deploy { spec: Box::new(spec), scale, code: format!("code {number}") }
}

impl Changing {
    /// Returns the change, with the books opened for it; nothing if one is under way.
    pub(crate) fn begin(world: &Durable, life: &Life, function: &FunctionName, change: Change) -> Option<Self> {
        let mut model = world.models.of(function);
        if model.changing {
            return None;
        }
        model.changing = true;
        let known: BTreeSet<_> = model.revisions.keys().copied().map(Some).collect();
        match &change {
            Change::Deploy { spec, scale, code } => {
                let id = spec.revision_id(&Digest::of(code.as_bytes()));
                model.widen(spec);
                model.queue = spec.trigger.amqp.first().cloned();
                if spec.env.contains_key("fault") {
                    model.bad.insert(id);
                } else {
                    model.live.insert(Some(id));
                }
                life.stage.allow(function, scale);
            }
            Change::Rollback => {
                let bad = model.bad.clone();
                model.live.extend(known.into_iter().filter(|id| id.is_some_and(|id| !bad.contains(&id))));
            }
            Change::Remove => {
                model.live.insert(None);
            }
        }
        let (log, models, service) = (world.log.clone(), world.models.clone(), life.service.clone());
        drop(model);
        Some(Self { function: function.clone(), change, log, models, service })
    }

    pub(crate) async fn run(self, before: BTreeSet<Option<RevisionId>>) {
        let function = &self.function;
        let outcome = match self.change {
            Change::Deploy { spec, scale, code } => {
                self.log.line(format_args!("{function} deploy begins, {code}"));
                deployed(&self.service, function, *spec, scale, &code).await.map(Some)
            }
            Change::Rollback => {
                self.log.line(format_args!("{function} rollback begins"));
                self.service.rollback(function).await.map(|pointed| Some(pointed.revision))
            }
            Change::Remove => {
                self.log.line(format_args!("{function} removal begins"));
                self.service.remove(function).await.map(|()| None)
            }
        };
        let mut model = self.models.of(function);
        model.changing = false;
        match outcome {
            Ok(live) => {
                self.log.line(format_args!("{function} changed, live {}", shown(live)));
                let bad = live.is_some_and(|id| model.bad.contains(&id));
                self.log.check(!bad, format_args!("live moves only after the probe: {function}"));
                model.live = [live].into();
                if live.is_none() {
                    model.revisions.clear();
                }
            }
            Err(error) => {
                self.log.line(format_args!("{function} did not change: {}", error.reason));
                let unknown = [Reason::OutcomeUnknown, Reason::StoreUnavailable, Reason::Draining, Reason::Internal];
                if !unknown.contains(&error.reason) {
                    model.live = before;
                }
            }
        }
    }
}

async fn deployed(
    service: &FunctionService,
    function: &FunctionName,
    spec: FunctionSpec,
    scale: Scale,
    code: &str,
) -> Result<RevisionId, ServiceError> {
    let mut upload = service.begin_upload().await?;
    upload.write(code.as_bytes()).await?;
    let (function, settings) = (function.clone(), AliasSettings { scale });
    let deploy = Deploy { function, spec, settings, upload, expected: Expect::Any };
    let done = service.deploy(deploy).await.map_err(|error| error.problem)?;
    Ok(done.revision)
}

pub(crate) fn shown(live: Option<RevisionId>) -> String {
    live.map_or_else(|| "nowhere".into(), |id| id.0.short())
}
