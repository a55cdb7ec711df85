//! The task of a lane: starts and stops instances and lets time pass.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use faas_model::Reason;
use faas_runtime::{RuntimeError, Started};
use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Command, Lane, Running, State};
use crate::pool::{Input, InstanceId, Time};
use crate::target::{NotStarted, Target};
use crate::tended::Entered;

/// A start that ended.
pub(super) type Start = (InstanceId, Arc<Target>, Result<Started, NotStarted>);

/// Tends a lane until it is at rest.
pub(super) async fn tend(entered: Entered) {
    let lane = entered.lane();
    let (mut starts, mut stops) = (JoinSet::new(), JoinSet::new());
    while let Some(wake) = lane.tick(&mut starts, &mut stops) {
        tokio::select! {
            biased;
            () = lane.poke.notified() => {}
            // A start never panics and is aborted only together with this task.
            Some(Ok(start)) = starts.join_next() => lane.start_ended(&mut lane.lock(), start),
            Some(_) = stops.join_next() => {}
            () = until(lane.shared.epoch, wake) => {}
        }
    }
    lane.rested.notify_waiters();
}

impl Lane {
    /// Lets time pass and carries commands out; returns when to wake, or `None` when there is nothing to tend.
    #[expect(clippy::option_option, reason = "the outer says whether to go on, the inner whether to wake by itself")]
    fn tick(self: &Arc<Self>, starts: &mut JoinSet<Start>, stops: &mut JoinSet<()>) -> Option<Option<Time>> {
        let mut state = self.lock();
        let now = self.now();
        self.step_at(now, &mut state, Input::Tick, None);
        if let Some(what) = state.pool.violation(now) {
            self.meters().violated(what);
        }
        for command in std::mem::take(&mut state.commands) {
            match command {
                Command::Start(id, target) => drop(starts.spawn(start(self.clone(), id, target))),
                Command::Stop(running) => drop(stops.spawn(stop(self.clone(), running))),
            }
        }
        if state.pool.at_rest() && starts.is_empty() && stops.is_empty() {
            (state.tended, state.wake_at) = (false, None);
            return None;
        }
        state.wake_at = state.pool.wake(now);
        Some(state.wake_at)
    }

    fn stop_begins(&self) {
        let mut state = self.lock();
        state.stops = state.stops.saturating_sub(1);
    }

    /// Takes in a start that a call carried out.
    pub(super) fn own_start_ended(self: &Arc<Self>, start: Start) {
        let mut state = self.lock();
        self.start_ended(&mut state, start);
        self.look_after(&mut state);
    }

    fn start_ended(&self, state: &mut State, (id, target, started): Start) {
        match started {
            Ok(started) => self.started(state, id, target, started),
            Err(NotStarted::PutOff(cause)) => {
                tracing::info!(function = %self.function, reason = %cause.reason, detail = cause.detail, "start put off");
                state.last_failure = Some(Box::new(cause));
                self.step(state, Input::StartPutOff(id), None);
            }
            Err(NotStarted::Failed(failure)) => {
                tracing::warn!(function = %self.function, reason = %failure.reason, detail = failure.detail, "start failed");
                self.meters().start_failures.increment(1);
                state.start_failures += 1;
                state.last_failure = Some(Box::new(failure));
                self.step(state, Input::StartFailed(id), None);
            }
        }
    }

    fn started(&self, state: &mut State, id: InstanceId, target: Arc<Target>, started: Started) {
        // There may be thousands a second.
        tracing::debug!(function = %self.function, revision = %target.revision.id.0.short(), "instance started");
        self.meters().starts.increment(1);
        self.meters().instances.increment(1.0);
        state.starts += 1;
        let (instance, phases, since) = (started.instance, started.phases, self.now());
        state.instances.insert(id, Arc::new(Running { instance, target, phases, since }));
        self.step(state, Input::Started(id), None);
    }
}

/// Starts an instance; never panics.
pub(super) async fn start(lane: Arc<Lane>, id: InstanceId, target: Arc<Target>) -> Start {
    let begin = Instant::now();
    let started = AssertUnwindSafe(target.start(&lane.shared)).catch_unwind().await;
    let panicked = |_| {
        let detail = "the runtime panicked while starting";
        Err(NotStarted::Failed(RuntimeError::new(Reason::Internal, detail)))
    };
    let started = started.unwrap_or_else(panicked);
    lane.meters().start_duration.record(begin.elapsed().as_secs_f64());
    (id, target, started)
}

pub(super) async fn stop(lane: Arc<Lane>, running: Arc<Running>) {
    lane.stop_begins();
    tracing::debug!(function = %lane.function, revision = %running.target.revision.id.0.short(), "instance stops");
    if timeout(lane.shared.config.stop.duration(), running.instance.stop()).await.is_err() {
        tracing::warn!(function = %lane.function, "instance did not stop in time");
    }
}

async fn until(epoch: Instant, wake: Option<Time>) {
    match wake {
        Some(wake) => sleep_until(epoch + wake).await,
        None => std::future::pending().await,
    }
}
