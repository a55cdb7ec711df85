//! A runtime whose instances do what chance says, and which knows on its own
//! account how many there are and how much they run.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use faas_model::manifest::{RuntimeKind, Scale};
use faas_model::{Body, Digest, FunctionName, Reason};
use faas_runtime::{Call, Code, Instance, Prepared, Runtime, RuntimeError, Started, Unit, Usage};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::guest::Guest;
use crate::log::Log;

/// The stage of one life. Clones share it.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) log: Log,
    pub(crate) chance: Chance,
    pub(crate) guest: Guest,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    generations: u64,
    last_seat: u64,
    seats: BTreeMap<u64, Seat>,
    /// The widest bounds that were in force for each function in this life.
    bounds: BTreeMap<FunctionName, Scale>,
    /// When something of the function last ran, started or was asked for.
    active: BTreeMap<FunctionName, Instant>,
    calm: bool,
    installed: HashSet<Digest>,
}

/// An instance from the begin of its start to its stop.
struct Seat {
    function: FunctionName,
    generation: u64,
    busy: u32,
    starting: bool,
    /// Takes no more calls: the pool may replace it while its last calls run.
    broken: bool,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stage")
    }
}

impl Stage {
    pub(crate) fn new(log: Log, chance: Chance, guest: Guest) -> Self {
        Self { log, chance, guest, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Widens the bounds that instances of the function are held to.
    pub(crate) fn allow(&self, function: &FunctionName, scale: &Scale) {
        let mut state = self.state();
        let old = state.bounds.entry(function.clone()).or_insert_with(|| scale.clone());
        old.min = old.min.max(scale.min);
        old.max = old.max.max(scale.max);
        old.concurrency = old.concurrency.max(scale.concurrency);
        old.idle.0 = old.idle.0.max(scale.idle.0);
    }

    /// Lets everything go well from now on.
    pub(crate) fn calm(&self) {
        self.state().calm = true;
        self.guest.calm();
    }

    /// Notes that the function is wanted now.
    pub(crate) fn touch(&self, function: &FunctionName) {
        self.state().active.insert(function.clone(), Instant::now());
    }

    /// Returns how many instances there are, starting ones included, and how many calls they run.
    pub(crate) fn totals(&self) -> (usize, u32) {
        let state = self.state();
        (state.seats.len(), state.seats.values().map(|s| s.busy).sum())
    }

    /// Returns how many instances of the function there are.
    pub(crate) fn instances(&self, function: &FunctionName) -> usize {
        self.state().seats.values().filter(|s| s.function == *function).count()
    }

    /// Checks that functions which nobody used for their idle time have no more instances than their minimum.
    pub(crate) fn check_idle(&self, wanted: impl Fn(&FunctionName) -> bool) {
        let now = Instant::now();
        let mut state = self.state();
        let busy: Vec<_> =
            state.seats.values().filter(|s| s.busy > 0 || s.starting).map(|s| s.function.clone()).collect();
        let asked: Vec<_> = state.bounds.keys().filter(|f| wanted(f)).cloned().collect();
        for function in busy.into_iter().chain(asked) {
            state.active.insert(function, now);
        }
        for (function, bounds) in &state.bounds {
            let since = state.active.get(function).map_or(Duration::ZERO, |at| now - *at);
            let left = state.seats.values().filter(|s| s.function == *function).count();
            if since > bounds.idle.duration() + Duration::from_millis(20) && left > bounds.min as usize {
                let idle = bounds.idle.0;
                self.log.broken(format_args!(
                    "idle past its time means stopped: {function} has {left} instances, {} ms after its last use (idle {idle} ms)",
                    since.as_millis()
                ));
            }
        }
    }

    /// Takes a seat for a start.
    fn seat(&self, function: &FunctionName, generation: u64) -> Taken {
        let mut state = self.state();
        state.last_seat += 1;
        let id = state.last_seat;
        let seat = Seat { function: function.clone(), generation, busy: 0, starting: true, broken: false };
        state.seats.insert(id, seat);
        let same = state.seats.values().filter(|s| s.generation == generation && !s.broken).count();
        let max = state.bounds.get(function).map_or(u32::MAX, |b| b.max) as usize;
        state.active.insert(function.clone(), Instant::now());
        drop(state);
        self.log.line(format_args!("{function} starts i{id} of g{generation}"));
        self.log
            .check(same <= max, format_args!("instances <= max: {function} has {same} of g{generation}, max {max}"));
        Taken { stage: self.clone(), id, kept: false }
    }

    fn leave(&self, id: u64, how: &str) {
        let mut state = self.state();
        if let Some(seat) = state.seats.remove(&id) {
            state.active.insert(seat.function.clone(), Instant::now());
            drop(state);
            self.log.line(format_args!("{} {how} i{id}", seat.function));
        }
    }
}

impl Runtime for Stage {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Wasm
    }

    fn install<'a>(&'a self, code: &'a Code) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            sleep(self.chance.millis(0, 200)).await;
            let fails = !self.state().calm && self.chance.one_in(20);
            if fails {
                return Err(RuntimeError::new(Reason::Unprocessable, "as chance says"));
            }
            self.state().installed.insert(code.digest);
            Ok(())
        })
    }

    fn installed(&self, code: &Digest) -> bool {
        self.state().installed.contains(code)
    }

    fn forget<'a>(&'a self, code: &'a Digest) -> BoxFuture<'a, ()> {
        self.state().installed.remove(code);
        Box::pin(std::future::ready(()))
    }

    fn prepare(&self, unit: Unit) -> Result<Arc<dyn Prepared>, RuntimeError> {
        let mut state = self.state();
        state.generations += 1;
        Ok(Arc::new(Play { stage: self.clone(), generation: state.generations, unit }))
    }
}

/// A prepared revision.
struct Play {
    stage: Stage,
    generation: u64,
    unit: Unit,
}

impl fmt::Debug for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Play")
    }
}

/// A seat that is left on drop unless its instance lives.
struct Taken {
    stage: Stage,
    id: u64,
    kept: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.kept {
            self.stage.leave(self.id, "did not start");
        }
    }
}

impl Prepared for Play {
    fn start(&self) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        Box::pin(async move {
            let (stage, chance) = (&self.stage, &self.stage.chance);
            let mut taken = stage.seat(&self.unit.function, self.generation);
            let calm = stage.state().calm;
            let failure = |reason| Err(RuntimeError::new(reason, "as chance says"));
            match if calm { 99 } else { chance.below(24) } {
                0 => sleep(Duration::from_secs(3600)).await,
                1 => sleep(chance.millis(1000, 6000)).await,
                2..8 => {}
                _ => sleep(chance.millis(1, 150)).await,
            }
            if self.unit.spec.env.get("fault").is_some_and(|fault| fault == "start") {
                return failure(Reason::StartFailed);
            }
            match if calm { 99 } else { chance.below(20) } {
                0 | 1 => return failure(Reason::StartFailed),
                2 => return failure(Reason::QueueFull),
                _ => {}
            }
            taken.kept = true;
            if let Some(seat) = stage.state().seats.get_mut(&taken.id) {
                seat.starting = false;
            }
            stage.touch(&self.unit.function);
            let instance = Actor {
                stage: stage.clone(),
                id: taken.id,
                unit: self.unit.clone(),
                stopped: Semaphore::new(0),
                broken: OnceLock::new(),
            };
            Ok(Started { instance: Arc::new(instance), phases: vec![("stage", Duration::ZERO)] })
        })
    }
}

struct Actor {
    stage: Stage,
    id: u64,
    unit: Unit,
    /// Closed by the stop. Wakes in the order of waiting, unlike a watch.
    stopped: Semaphore,
    /// Since when it is broken.
    broken: OnceLock<Instant>,
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Actor")
    }
}

/// Counts a call until it is dropped, its body included.
pub(crate) struct Busy {
    stage: Stage,
    id: u64,
}

impl Busy {
    fn new(actor: &Actor) -> Self {
        let (stage, id, function) = (&actor.stage, actor.id, &actor.unit.function);
        let mut state = stage.state();
        let concurrency = state.bounds.get(function).map_or(u32::MAX, |b| b.concurrency);
        let busy = state.seats.get_mut(&id).map(|seat| {
            seat.busy += 1;
            seat.busy
        });
        drop(state);
        match busy {
            None => stage.log.broken(format_args!("a stopped instance takes no call: i{id} of {function}")),
            Some(busy) => stage.log.check(
                busy <= concurrency,
                format_args!("busy <= concurrency: i{id} of {function} runs {busy}, bound {concurrency}"),
            ),
        }
        // A call that was assigned when the instance broke may still begin in that instant.
        let sound = actor.broken.get().is_none_or(|since| *since == Instant::now());
        stage.log.check(sound, format_args!("a broken instance takes no call: i{id} of {function}"));
        Self { stage: stage.clone(), id }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.stage.state();
        if let Some(seat) = state.seats.get_mut(&self.id) {
            seat.busy -= 1;
            let function = seat.function.clone();
            state.active.insert(function, Instant::now());
        }
    }
}

impl Instance for Actor {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<http::Response<Body>, RuntimeError>> {
        let busy = Busy::new(self);
        Box::pin(async move {
            let (reply, breaks) = tokio::select! {
                biased;
                played = self.stage.guest.play(&self.unit, call, busy) => played,
                _ = self.stopped.acquire() => {
                    (Err(RuntimeError::new(Reason::Crashed, "the instance was stopped")), false)
                }
            };
            if breaks {
                self.broken.get_or_init(Instant::now);
                if let Some(seat) = self.stage.state().seats.get_mut(&self.id) {
                    seat.broken = true;
                }
            }
            reply
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.stopped.close();
            self.stage.leave(self.id, "stops");
            match self.stage.chance.below(20) {
                0 if !self.stage.state().calm => sleep(Duration::from_secs(3600)).await,
                1..5 => sleep(self.stage.chance.millis(1, 500)).await,
                _ => {}
            }
        })
    }

    fn usage(&self) -> Usage {
        Usage { memory_bytes: 1 << 20 }
    }

    fn broken(&self) -> bool {
        self.broken.get().is_some()
    }
}
