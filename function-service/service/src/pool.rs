//! The pure heart of a function's pool: who waits, which instance takes which
//! call, when instances start and stop.
//!
//! No await, no clock, no lock, no log: [`Pool::step`] takes the time and an
//! input, and appends what is to be done. The production path runs the same
//! code that the property test runs.
//!
//! Words: a *generation* is one revision with its settings. Only the newest
//! takes calls; instances of older ones finish what they run and stop.

mod check;
#[cfg(test)]
mod tests;
mod waiting;
mod words;

use waiting::Waiting;
pub(crate) use words::{Action, Counts, Farewell, Fate, Input, InstanceId, Limits, Refusal, Ticket, Time};

/// One function's instances and waiting calls.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: Limits,
    generation: u64,
    /// In the order of their ids.
    instances: Vec<Slot>,
    waiting: Waiting,
    instance_next: u64,
    failures: u32,
    /// No start before this time.
    paused_until: Option<Time>,
    ended: Option<Farewell>,
}

#[derive(Debug)]
struct Slot {
    id: InstanceId,
    generation: u64,
    /// Whether a call of it ended well.
    proven: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    /// Takes calls while its generation is the newest.
    Ready {
        busy: u32,
        idle_since: Time,
    },
    /// Takes no more calls.
    Broken {
        busy: u32,
    },
}

impl Pool {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            generation: 0,
            instances: Vec::new(),
            waiting: Waiting::default(),
            instance_next: 0,
            failures: 0,
            paused_until: None,
            ended: None,
        }
    }

    /// Takes one input and appends what is to be done. `now` never goes back.
    pub(crate) fn step(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Arrive(ticket) => {
                if self.waiting.is_empty()
                    && let Some(instance) = self.take_free()
                {
                    return actions.push(Action::Assign(ticket, instance));
                }
                self.arrive(now, ticket, actions);
            }
            Input::Finished(id, fate) => {
                if self.finished(now, id, fate) && self.waiting.is_empty() {
                    return;
                }
            }
            Input::Started(id) => self.started(now, id),
            Input::StartFailed(id) => self.start_failed(now, id, true, actions),
            Input::StartPutOff(id) => self.start_failed(now, id, false, actions),
            Input::Cancelled(ticket) => self.waiting.remove(ticket),
            Input::Roll(limits) => self.roll(limits, actions),
            Input::Evict => self.stop_idle(actions, |_| true),
            Input::Drain(farewell) => self.drain(farewell, actions),
            Input::Tick => {}
        }
        self.settle(now, actions);
    }

    /// Returns when the next `Tick` is due; `None` while nothing can happen by time alone.
    ///
    /// A busy instance counts as if it became idle now, so that the wake-up
    /// never has to be moved forward when a call ends.
    pub(crate) fn wake(&self, now: Time) -> Option<Time> {
        let idle = self.instances.iter().filter_map(|slot| match slot.state {
            State::Ready { busy: 0, idle_since } => Some(idle_since + self.limits.idle),
            State::Ready { .. } => Some(now + self.limits.idle),
            State::Starting | State::Broken { .. } => None,
        });
        // Instances that `min` keeps do not wake anybody.
        let idle = if self.stoppable() > 0 { idle.min() } else { None };
        let wanted = !self.waiting.is_empty() || self.current().count() < self.limits.min;
        let pause = self.paused_until.filter(|_| wanted && self.ended.is_none());
        [idle, pause, self.waiting.first_deadline()].into_iter().flatten().min()
    }

    /// Returns since when the instance is idle that was unused longest, if instances above `min` are.
    pub(crate) fn idle_since(&self) -> Option<Time> {
        let idle = self.instances.iter().filter_map(|slot| match slot.state {
            State::Ready { busy: 0, idle_since } => Some(idle_since),
            _ => None,
        });
        if self.stoppable() > 0 { idle.min() } else { None }
    }

    /// Returns whether nothing runs, starts, waits, or has to be kept.
    pub(crate) fn at_rest(&self) -> bool {
        let kept = self.limits.min > 0 && self.ended.is_none();
        self.instances.is_empty() && self.waiting.is_empty() && !kept
    }

    /// Returns instances, starting instances, running calls, waiting calls, and whether starts pause.
    pub(crate) fn counts(&self, now: Time) -> Counts {
        let starting = self.instances.iter().filter(|s| s.state == State::Starting).count();
        Counts {
            instances: self.instances.len() - starting,
            starting,
            busy: self.instances.iter().map(|s| u64::from(s.busy())).sum(),
            waiting: self.waiting.len(),
            crash_loop: self.paused_until.is_some_and(|until| until > now),
        }
    }

    /// Returns when the call's wait ends.
    #[cfg(test)]
    pub(crate) fn deadline(&self, ticket: Ticket) -> Option<Time> {
        self.waiting.deadline(ticket)
    }

    fn arrive(&mut self, now: Time, ticket: Ticket, actions: &mut Vec<Action>) {
        let refusal = match (self.ended, self.paused_until) {
            (Some(farewell), _) => Some(Refusal::Ended(farewell)),
            (None, Some(until)) if until > now && self.current().next().is_none() => {
                Some(Refusal::CrashLoop(until - now))
            }
            _ if self.waiting.len() >= self.limits.depth => Some(Refusal::QueueFull),
            _ => None,
        };
        // Depth 0 still lets a call wait for the start it causes: without a
        // place to wait, a function that scaled to zero could never be called.
        let first = self.waiting.is_empty() && (self.can_start(now) || self.starting() > 0);
        match refusal {
            Some(Refusal::QueueFull) if first => {}
            Some(refusal) => return actions.push(Action::Reject(ticket, refusal)),
            None => {}
        }
        let cold = !self.any_ready();
        self.waiting.push(ticket, now + if cold { self.limits.cold } else { self.limits.wait });
    }

    fn started(&mut self, now: Time, id: InstanceId) {
        let (generation, wait) = (self.generation, self.limits.wait);
        let Some(slot) = self.slot(id) else { return };
        slot.state = State::Ready { busy: 0, idle_since: now };
        if slot.generation == generation {
            // From now on the calls wait for a free place, not for a first instance.
            self.waiting.shorten(now + wait);
        }
    }

    fn start_failed(&mut self, now: Time, id: InstanceId, counts: bool, actions: &mut Vec<Action>) {
        let Some(at) = self.position(id) else { return };
        let slot = self.instances.remove(at);
        if slot.generation != self.generation {
            return;
        }
        if counts {
            self.count_failure(now);
        }
        if self.current().next().is_none() {
            self.waiting.drain(|ticket| actions.push(Action::Fail(ticket)));
        }
    }

    /// Returns whether nothing but the end of this call changed.
    fn finished(&mut self, now: Time, id: InstanceId, fate: Fate) -> bool {
        let (generation, ended) = (self.generation, self.ended.is_some());
        let Some(slot) = self.slot(id) else { return false };
        let newest = slot.generation == generation;
        let proven = slot.proven;
        slot.proven |= fate == Fate::Sound;
        let (busy, was_broken) = (slot.busy().saturating_sub(1), matches!(slot.state, State::Broken { .. }));
        if was_broken || fate == Fate::Broken {
            slot.state = State::Broken { busy };
            // An instance that breaks before any call ended well is as bad as one that never started.
            if newest && !proven && !was_broken {
                self.count_failure(now);
            }
            return false;
        }
        slot.state = State::Ready { busy, idle_since: now };
        if newest && !proven {
            (self.failures, self.paused_until) = (0, None);
            return false;
        }
        newest && !ended
    }

    /// Counts a start that led nowhere; from the bound on, starts pause.
    fn count_failure(&mut self, now: Time) {
        self.failures = self.failures.saturating_add(1);
        if let Some(over) = self.failures.checked_sub(self.limits.failures_max) {
            let pause = self.limits.pause_min.saturating_mul(1 << over.min(20)).min(self.limits.pause_max);
            self.paused_until = Some(now + pause);
        }
    }

    fn roll(&mut self, limits: Limits, actions: &mut Vec<Action>) {
        self.generation += 1;
        (self.failures, self.paused_until) = (0, None);
        self.limits = limits;
        while self.waiting.len() > self.limits.depth.max(1)
            && let Some(ticket) = self.waiting.last()
        {
            self.waiting.remove(ticket);
            actions.push(Action::Reject(ticket, Refusal::QueueFull));
        }
    }

    fn drain(&mut self, farewell: Farewell, actions: &mut Vec<Action>) {
        self.ended = Some(farewell);
        self.waiting.drain(|ticket| actions.push(Action::Reject(ticket, Refusal::Ended(farewell))));
    }

    /// Brings the pool to where it should be at `now`.
    fn settle(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        while let Some(next) = self.waiting.first() {
            let Some(instance) = self.take_free() else { break };
            self.waiting.remove(next);
            actions.push(Action::Assign(next, instance));
        }
        let refusal = if self.any_ready() { Refusal::QueueTimeout } else { Refusal::ColdTimeout };
        self.waiting.expire(now, |ticket| actions.push(Action::Reject(ticket, refusal)));
        self.start_needed(now, actions);
        let idle = self.limits.idle;
        self.stop_idle(actions, |idle_since| idle_since + idle <= now);
    }

    fn start_needed(&mut self, now: Time, actions: &mut Vec<Action>) {
        while self.can_start(now) {
            let served = self.starting().saturating_mul(self.limits.concurrency as usize);
            if self.waiting.len() <= served && self.current().count() >= self.limits.min {
                return;
            }
            let id = InstanceId(self.instance_next);
            self.instance_next += 1;
            self.instances.push(Slot { id, generation: self.generation, proven: false, state: State::Starting });
            actions.push(Action::Start(id));
        }
    }

    /// Stops old and broken instances without calls, and those above `min` that were idle long enough.
    fn stop_idle(&mut self, actions: &mut Vec<Action>, long_enough: impl Fn(Time) -> bool) {
        let (generation, ended) = (self.generation, self.ended.is_some());
        let mut spare = self.stoppable();
        self.instances.retain(|slot| {
            let stop = match slot.state {
                State::Starting => false,
                State::Broken { busy } => busy == 0,
                State::Ready { busy, .. } if ended || slot.generation != generation => busy == 0,
                State::Ready { busy, idle_since } => {
                    let stop = busy == 0 && spare > 0 && long_enough(idle_since);
                    spare -= usize::from(stop);
                    stop
                }
            };
            if stop {
                actions.push(Action::Stop(slot.id));
            }
            !stop
        });
    }

    /// Takes a place of the oldest instance that has one, so that the youngest fall idle.
    fn take_free(&mut self) -> Option<InstanceId> {
        let (generation, concurrency) = (self.generation, self.limits.concurrency);
        if self.ended.is_some() {
            return None;
        }
        self.instances.iter_mut().find_map(|slot| match &mut slot.state {
            State::Ready { busy, .. } if *busy < concurrency && slot.generation == generation => {
                *busy += 1;
                Some(slot.id)
            }
            _ => None,
        })
    }

    fn can_start(&self, now: Time) -> bool {
        let paused = self.paused_until.is_some_and(|until| until > now);
        self.ended.is_none() && !paused && self.current().count() < self.limits.max
    }

    /// Returns the instances that take calls, or will.
    fn current(&self) -> impl Iterator<Item = &Slot> {
        self.instances.iter().filter(|s| s.generation == self.generation && !matches!(s.state, State::Broken { .. }))
    }

    fn starting(&self) -> usize {
        self.current().filter(|s| s.state == State::Starting).count()
    }

    fn any_ready(&self) -> bool {
        self.current().any(|s| matches!(s.state, State::Ready { .. }))
    }

    /// Returns how many instances there are beyond `min`.
    fn stoppable(&self) -> usize {
        (self.current().count() - self.starting()).saturating_sub(self.limits.min)
    }

    fn position(&self, id: InstanceId) -> Option<usize> {
        self.instances.binary_search_by_key(&id, |s| s.id).ok()
    }

    fn slot(&mut self, id: InstanceId) -> Option<&mut Slot> {
        self.position(id).and_then(|at| self.instances.get_mut(at))
    }
}

impl Slot {
    fn busy(&self) -> u32 {
        match self.state {
            State::Starting => 0,
            State::Ready { busy, .. } | State::Broken { busy } => busy,
        }
    }
}
