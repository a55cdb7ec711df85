//! Random sequences against the invariants of the pool: at least a million
//! steps. A failure names its seed; `FIRST` and `SEEDS` narrow a run.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SEEDS: u64 = 2_000;
const STEPS: u64 = 520;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to choose with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.next() % u64::from(n)).unwrap()
    }

    fn millis(&mut self, below: u32) -> Duration {
        Duration::from_millis(1 + u64::from(self.below(below)))
    }

    fn pick<T: Copy>(&mut self, from: impl ExactSizeIterator<Item = T>) -> Option<T> {
        let len = u32::try_from(from.len()).unwrap();
        if len == 0 { None } else { from.into_iter().nth(self.below(len) as usize) }
    }

    fn limits(&mut self) -> Limits {
        let max = 1 + self.below(4);
        Limits {
            min: if self.below(3) == 0 { self.below(max + 1) as usize } else { 0 },
            max: max as usize,
            concurrency: 1 + self.below(3),
            depth: self.below(6) as usize,
            idle: self.millis(40),
            wait: self.millis(30),
            cold: self.millis(30),
            failures_max: 1 + self.below(3),
            pause_min: self.millis(10),
            pause_max: Duration::from_millis(20),
        }
    }
}

/// What the world around the pool knows, kept apart from the pool's own books.
struct World {
    random: Random,
    pool: Pool,
    limits: Limits,
    now: Time,
    tickets: u64,
    /// Calls that wait, with the latest time at which they must have ended.
    waiting: BTreeMap<Ticket, Time>,
    ended: BTreeSet<Ticket>,
    starting: BTreeSet<InstanceId>,
    running: BTreeMap<InstanceId, Running>,
    /// Starts of the newest generation.
    fresh_starts: BTreeSet<InstanceId>,
    drained: bool,
}

#[derive(Default)]
struct Running {
    busy: u32,
    /// Of an older generation, or broken: takes no more calls.
    retired: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let limits = random.limits();
        Self {
            random,
            pool: Pool::new(limits.clone()),
            limits,
            now: Duration::ZERO,
            tickets: 0,
            waiting: BTreeMap::new(),
            ended: BTreeSet::new(),
            starting: BTreeSet::new(),
            running: BTreeMap::new(),
            fresh_starts: BTreeSet::new(),
            drained: false,
        }
    }

    /// Takes a step; returns whether it led to anything.
    fn step(&mut self, input: Input) -> bool {
        let mut actions = Vec::new();
        self.pool.step(self.now, input, &mut actions);
        let acted = !actions.is_empty();
        for action in actions {
            self.act(action);
        }
        assert_eq!(self.pool.deep_violation(self.now), None);
        self.compare();
        acted
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(id) => {
                assert!(self.starting.insert(id) && !self.drained);
                self.fresh_starts.insert(id);
            }
            Action::Assign(ticket, id) => {
                self.end(ticket);
                assert!(!self.drained, "an ended pool gives no place away");
                let running = self.running.get_mut(&id).expect("calls go to running instances");
                running.busy += 1;
                assert!(!running.retired, "calls go to sound instances of the newest generation");
                assert!(running.busy <= self.limits.concurrency, "busy is bounded");
            }
            Action::Reject(ticket, _) | Action::Fail(ticket) => self.end(ticket),
            Action::Stop(id) => {
                let running = self.running.remove(&id).expect("only running instances stop");
                assert_eq!(running.busy, 0, "no call is cut");
                let kept = self.running.values().filter(|r| !r.retired).count();
                assert!(running.retired || self.drained || kept >= self.limits.min, "the minimum is kept");
            }
        }
    }

    fn end(&mut self, ticket: Ticket) {
        let latest = self.waiting.remove(&ticket).expect("each call ends once");
        assert!(self.now <= latest, "a call ended after its deadline");
        assert!(self.ended.insert(ticket));
    }

    /// Compares the pool's books with the world's.
    fn compare(&self) {
        let counts = self.pool.counts(self.now);
        assert_eq!(counts.waiting, self.waiting.len());
        assert_eq!(counts.starting, self.starting.len());
        assert_eq!(counts.instances, self.running.len());
        assert_eq!(counts.busy, self.running.values().map(|r| u64::from(r.busy)).sum::<u64>());
        let newest = self.running.values().filter(|r| !r.retired).count();
        assert!(newest + self.fresh_starts.len() <= self.limits.max, "instances are bounded");
    }

    /// Lets time pass, with a tick at every time the pool asked for.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(wake) = self.pool.wake(self.now).filter(|wake| *wake <= until) {
            assert!(wake > self.now, "the pool asks for a time that is over: {wake:?}");
            self.now = wake;
            self.step(Input::Tick);
        }
        self.now = until;
    }

    fn arrive(&mut self) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, self.now + self.limits.wait.max(self.limits.cold));
        self.step(Input::Arrive(ticket));
    }

    fn finish(&mut self, fate: Fate) {
        let busy: Vec<_> = self.running.iter().filter(|(_, r)| r.busy > 0).map(|(id, _)| *id).collect();
        if let Some(id) = self.random.pick(busy.into_iter()) {
            self.running.entry(id).and_modify(|r| {
                r.busy -= 1;
                r.retired |= fate == Fate::Broken;
            });
            let told = self.pool.wake(self.now);
            let acted = self.step(Input::Finished(id, fate));
            // The shell looks at nothing then.
            if fate == Fate::Sound && !acted {
                let earlier = self.pool.wake(self.now).is_some_and(|wake| told.is_none_or(|told| wake < told));
                assert!(!earlier, "the end of a call moves the wake-up forward");
            }
        }
    }

    fn start_ends(&mut self, end: fn(InstanceId) -> Input) {
        if let Some(id) = self.random.pick(self.starting.clone().into_iter().collect::<Vec<_>>().into_iter()) {
            self.starting.remove(&id);
            let newest = self.fresh_starts.remove(&id);
            let ended = end(id);
            if matches!(ended, Input::Started(_)) {
                self.running.insert(id, Running { busy: 0, retired: !newest });
            }
            self.step(ended);
        }
    }

    fn roll(&mut self) {
        self.limits = self.random.limits();
        self.fresh_starts.clear();
        self.running.values_mut().for_each(|r| r.retired = true);
        self.step(Input::Roll(self.limits.clone()));
    }

    fn random_step(&mut self) {
        match self.random.below(100) {
            0..35 => self.arrive(),
            35..55 => self.finish(Fate::Sound),
            55..58 => self.finish(Fate::Broken),
            58..72 => self.start_ends(Input::Started),
            72..75 => self.start_ends(Input::StartFailed),
            75..76 => self.start_ends(Input::StartPutOff),
            76..81 => {
                if let Some(ticket) = self.random.pick(self.waiting.keys().copied().collect::<Vec<_>>().into_iter()) {
                    self.waiting.remove(&ticket);
                    self.step(Input::Cancelled(ticket));
                }
            }
            81..83 => self.roll(),
            83..84 => {
                self.step(Input::Evict);
            }
            84..86 => {
                self.step(Input::Tick);
            }
            _ => {
                let time = Duration::from_millis(self.random.below(8).into());
                self.pass(time);
            }
        }
    }

    /// Ends everything that runs and waits; nothing may be left.
    fn rest(&mut self) {
        if self.random.below(4) == 0 {
            self.drained = true;
            self.step(Input::Drain(Farewell::Stopping));
            for _ in 0..self.random.below(40) {
                self.random_step();
            }
        }
        for _ in 0..2_000 {
            self.start_ends(Input::Started);
            self.finish(Fate::Sound);
            self.pass(Duration::from_millis(1));
            if self.pool.at_rest() {
                break;
            }
        }
        assert!(self.waiting.is_empty(), "a call never ended");
        let kept = if self.drained { 0 } else { self.limits.min };
        assert_eq!(
            self.running.len() + self.starting.len(),
            kept,
            "exactly the minimum is left at rest: {:?}",
            self.pool
        );
        assert_eq!(self.pool.at_rest(), kept == 0);
        assert_eq!(self.ended.iter().filter(|t| t.0 > self.tickets).count(), 0);
    }
}

#[test]
fn the_invariants_hold_after_each_of_a_million_random_steps() {
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.random_step();
            }
            world.rest();
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
