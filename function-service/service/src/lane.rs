//! A pool with its surroundings: the lock around [`Pool::step`], the instances
//! it counts, and the calls that wait.
//!
//! A call takes its place under one short lock, on its own task, and then
//! polls the guest itself; so it does with a start that it causes, which goes on
//! without it if it leaves. Other starts, stopping and the passing of time belong
//! to one task per lane, which lives only while there is something to tend.

mod tend;
mod wait;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use faas_model::FunctionName;
use faas_runtime::{Instance, RuntimeError};
use tokio::sync::{Notify, oneshot};

use crate::PoolStats;
use crate::meters::Meters;
use crate::pool::{Action, Farewell, Fate, Input, InstanceId, Pool, Refusal, Ticket, Time};
use crate::target::{Shared, Target};
use crate::tasks::Tasks;
use crate::tended::Tended;

use wait::Wait;

thread_local! {
    /// Room for the actions of one step; kept for its capacity.
    static SCRATCH: Cell<Vec<Action>> = const { Cell::new(Vec::new()) };
}

/// One alias of a function and its instances.
#[derive(Debug)]
pub(crate) struct Lane {
    function: FunctionName,
    shared: Arc<Shared>,
    tasks: Weak<Tasks>,
    state: Mutex<State>,
    /// Tells the task that there is something to do.
    poke: Notify,
    /// Tells that the task ended.
    rested: Notify,
    meters: OnceLock<Box<Meters>>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    target: Arc<Target>,
    instances: BTreeMap<InstanceId, Arc<Running>>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Verdict>>,
    commands: Vec<Command>,
    /// Stops that are decided and have not begun: no call may start another instance before them.
    stops: u32,
    ticket_next: u64,
    /// Whether the task runs.
    tended: bool,
    /// When the task wakes by itself.
    wake_at: Option<Time>,
    /// Boxed, as are the meters: there are thousands of lanes that never failed and were never called.
    last_failure: Option<Box<RuntimeError>>,
    starts: u64,
    start_failures: u64,
}

/// A started instance.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) instance: Arc<dyn Instance>,
    pub(crate) target: Arc<Target>,
    pub(crate) phases: Vec<(&'static str, Duration)>,
    /// When it was ready.
    pub(crate) since: Time,
}

/// A place on an instance.
#[derive(Debug)]
pub(crate) struct Place {
    lane: Arc<Lane>,
    id: InstanceId,
    pub(crate) running: Arc<Running>,
    /// Whether the call waited for this instance's start.
    pub(crate) cold: bool,
}

/// Why a call got no place.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The pool said no.
    By(Refusal),
    /// The start it waited for failed.
    Start(RuntimeError),
}

#[derive(Debug)]
enum Verdict {
    Assigned(InstanceId, Arc<Running>),
    Refused(Refused),
}

/// Work for the task.
#[derive(Debug)]
enum Command {
    Start(InstanceId, Arc<Target>),
    Stop(Arc<Running>),
}

impl Lane {
    pub(crate) fn new(shared: &Arc<Shared>, tasks: &Arc<Tasks>, target: Arc<Target>) -> Arc<Self> {
        let state = State {
            pool: Pool::new(target.limits(&shared.config)),
            instances: BTreeMap::new(),
            waiting: BTreeMap::new(),
            commands: Vec::new(),
            stops: 0,
            ticket_next: 0,
            tended: false,
            wake_at: None,
            last_failure: None,
            starts: 0,
            start_failures: 0,
            target,
        };
        let function = state.target.revision.function.clone();
        let lane = Self {
            function,
            shared: shared.clone(),
            tasks: Arc::downgrade(tasks),
            state: Mutex::new(state),
            poke: Notify::new(),
            rested: Notify::new(),
            meters: OnceLock::new(),
        };
        let lane = Arc::new(lane);
        // Starts what `scale.min` asks for.
        lane.input(Input::Tick);
        lane
    }

    /// Returns a place on an instance, as soon as there is one.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the wait, or the place.
    pub(crate) async fn place(self: &Arc<Self>) -> Result<Place, Refused> {
        let came = self.now();
        let mut wait = match self.arrive() {
            Arrival::Settled(verdict) => return self.settled(verdict, |_| false),
            Arrival::Waits(wait) => wait,
        };
        let verdict = poll_fn(|cx| wait.poll(cx)).await;
        // The sender is dropped unused only when the service itself is gone.
        let gone = || Verdict::Refused(Refused::By(Refusal::Ended(Farewell::Stopping)));
        self.settled(verdict.unwrap_or_else(|_| gone()), |running| running.since >= came)
    }

    /// Replaces what is started from now on; old instances finish their calls.
    pub(crate) fn roll(self: &Arc<Self>, target: Arc<Target>) {
        let limits = target.limits(&self.shared.config);
        self.lock().target = target;
        self.input(Input::Roll(limits));
    }

    /// Ends the lane: waiting calls are refused, running ones end, then the instances stop.
    pub(crate) fn drain(self: &Arc<Self>, farewell: Farewell) {
        self.input(Input::Drain(farewell));
    }

    /// Stops every instance that runs no call.
    pub(crate) fn evict(self: &Arc<Self>) {
        self.input(Input::Evict);
    }

    /// Stops every instance that runs no call, waits until they are, and returns how many.
    pub(crate) async fn evict_now(self: &Arc<Self>) -> usize {
        let stopping = {
            let mut state = self.lock();
            self.step(&mut state, Input::Evict, None);
            let (stops, others) = mem::take(&mut state.commands).into_iter().partition(Command::is_stop);
            state.commands = others;
            // The task may have nothing left to tend.
            self.poke.notify_one();
            stops
        };
        let stopping: Vec<Command> = stopping;
        let stopped = stopping.len();
        for command in stopping {
            if let Command::Stop(running) = command {
                tend::stop(self.clone(), running).await;
            }
        }
        stopped
    }

    /// Returns since when the instance is idle that was unused longest; `None` when none could be stopped.
    pub(crate) fn idle_since(&self) -> Option<Time> {
        self.lock().pool.idle_since()
    }

    pub(crate) fn tended(&self) -> &Tended {
        &self.shared.tended
    }

    /// Waits until a drained lane has no instance left.
    pub(crate) async fn rested(&self) {
        loop {
            let rested = self.rested.notified();
            tokio::pin!(rested);
            rested.as_mut().enable();
            if !self.lock().tended {
                return;
            }
            rested.await;
        }
    }

    /// Cuts the running calls.
    pub(crate) async fn cut(&self) {
        let running: Vec<_> = self.lock().instances.values().cloned().collect();
        let stops = running.iter().map(|running| running.instance.stop());
        let all = futures_util::future::join_all(stops);
        if tokio::time::timeout(self.shared.config.stop.duration(), all).await.is_err() {
            tracing::warn!(function = %self.function, "instances did not stop in time");
        }
    }

    /// Returns what the newest generation is.
    pub(crate) fn target(&self) -> Arc<Target> {
        self.lock().target.clone()
    }

    pub(crate) fn function(&self) -> &FunctionName {
        &self.function
    }

    pub(crate) fn meters(&self) -> &Meters {
        self.meters.get_or_init(|| Box::new(Meters::new(&self.function)))
    }

    pub(crate) fn now(&self) -> Time {
        self.shared.epoch.elapsed()
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let state = self.lock();
        let counts = state.pool.counts(self.now());
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        PoolStats {
            instances: small(counts.instances),
            starting: small(counts.starting),
            busy: u32::try_from(counts.busy).unwrap_or(u32::MAX),
            waiting: small(counts.waiting),
            starts: state.starts,
            start_failures: state.start_failures,
            crash_loop: counts.crash_loop,
            memory_bytes: state.instances.values().map(|r| r.instance.usage().memory_bytes).sum(),
        }
    }

    fn arrive(self: &Arc<Self>) -> Arrival<'_> {
        let mut state = self.lock();
        let ticket = Ticket(state.ticket_next);
        state.ticket_next += 1;
        let verdict = self.step(&mut state, Input::Arrive(ticket), Some(ticket));
        match verdict {
            // The warm path: nothing else can have changed.
            Some(verdict @ Verdict::Assigned(..)) => Arrival::Settled(verdict),
            Some(verdict) => {
                self.look_after(&mut state);
                Arrival::Settled(verdict)
            }
            None => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                self.meters().waiting.increment(1.0);
                let stops = state.stops;
                let start = state.commands.pop_if(|command| stops == 0 && command.is_start());
                if start.is_none() {
                    self.look_after(&mut state);
                }
                Arrival::Waits(Wait::new(self, ticket, receiver, start))
            }
        }
    }

    fn settled(self: &Arc<Self>, verdict: Verdict, cold: impl FnOnce(&Running) -> bool) -> Result<Place, Refused> {
        match verdict {
            Verdict::Assigned(id, running) => Ok(Place { lane: self.clone(), id, cold: cold(&running), running }),
            Verdict::Refused(refused) => Err(refused),
        }
    }

    fn finished(self: &Arc<Self>, id: InstanceId, fate: Fate) {
        let mut state = self.lock();
        self.step(&mut state, Input::Finished(id, fate), None);
        // A sound end moves no wake-up forward, see `Pool::wake`.
        if fate == Fate::Broken || !state.commands.is_empty() {
            self.look_after(&mut state);
        }
    }

    fn abandoned(self: &Arc<Self>, ticket: Ticket, verdict: &mut oneshot::Receiver<Verdict>) {
        let mut state = self.lock();
        // Verdicts are sent under this lock: there is one, or there will be none.
        let input = match verdict.try_recv() {
            Ok(Verdict::Assigned(id, _)) => Input::Finished(id, Fate::Sound),
            Ok(Verdict::Refused(_)) | Err(oneshot::error::TryRecvError::Closed) => return,
            Err(oneshot::error::TryRecvError::Empty) => {
                self.leave(&mut state, ticket);
                Input::Cancelled(ticket)
            }
        };
        self.step(&mut state, input, None);
        self.look_after(&mut state);
    }

    fn input(self: &Arc<Self>, input: Input) {
        let mut state = self.lock();
        self.step(&mut state, input, None);
        self.look_after(&mut state);
    }

    /// Takes a step and hands out its actions; returns the verdict about `own`.
    fn step(&self, state: &mut State, input: Input, own: Option<Ticket>) -> Option<Verdict> {
        self.step_at(self.now(), state, input, own)
    }

    fn step_at(&self, now: Time, state: &mut State, input: Input, own: Option<Ticket>) -> Option<Verdict> {
        let (mut actions, mut verdict) = (SCRATCH.take(), None);
        state.pool.step(now, input, &mut actions);
        for action in actions.drain(..) {
            let (ticket, given) = match action {
                Action::Start(id) => {
                    state.commands.push(Command::Start(id, state.target.clone()));
                    continue;
                }
                Action::Stop(id) => {
                    if let Some(running) = state.instances.remove(&id) {
                        self.meters().instances.decrement(1.0);
                        state.commands.push(Command::Stop(running));
                        state.stops += 1;
                    }
                    continue;
                }
                Action::Assign(ticket, id) => match state.instances.get(&id) {
                    Some(running) => (ticket, Verdict::Assigned(id, running.clone())),
                    None => continue,
                },
                Action::Reject(ticket, refusal) => (ticket, Verdict::Refused(Refused::By(refusal))),
                Action::Fail(ticket) => {
                    let failure = state.last_failure.as_deref().cloned().unwrap_or_else(unknown_failure);
                    (ticket, Verdict::Refused(Refused::Start(failure)))
                }
            };
            if Some(ticket) == own {
                verdict = Some(given);
            } else if let Some(sender) = self.leave(state, ticket) {
                // A receiver goes away only after it left, see `abandoned`.
                drop(sender.send(given));
            }
        }
        SCRATCH.set(actions);
        verdict
    }

    fn leave(&self, state: &mut State, ticket: Ticket) -> Option<oneshot::Sender<Verdict>> {
        let sender = state.waiting.remove(&ticket)?;
        self.meters().waiting.decrement(1.0);
        Some(sender)
    }

    /// Wakes or spawns the task if it has something to do, now or earlier than it wakes by itself.
    fn look_after(self: &Arc<Self>, state: &mut State) {
        let wake = state.pool.wake(self.now());
        let earlier = wake.is_some_and(|wake| state.wake_at.is_none_or(|at| wake < at));
        if state.commands.is_empty() && !earlier {
            return;
        }
        if state.tended {
            self.poke.notify_one();
        } else if let Some(tasks) = self.tasks.upgrade() {
            state.tended = true;
            tasks.spawn(tend::tend(Tended::enter(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Command {
    fn is_stop(&self) -> bool {
        matches!(self, Self::Stop(_))
    }

    fn is_start(&self) -> bool {
        matches!(self, Self::Start(..))
    }
}

enum Arrival<'l> {
    Settled(Verdict),
    Waits(Wait<'l>),
}

impl Drop for Place {
    fn drop(&mut self) {
        let fate = if self.running.instance.broken() { Fate::Broken } else { Fate::Sound };
        self.lane.finished(self.id, fate);
    }
}

fn unknown_failure() -> RuntimeError {
    RuntimeError::new(faas_model::Reason::StartFailed, "the start failed")
}
