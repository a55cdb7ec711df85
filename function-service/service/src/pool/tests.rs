//! The pool by example, and its invariants under random sequences.

mod checks;
mod edges;
mod model;

use std::time::Duration;

use super::*;

fn limits() -> Limits {
    Limits {
        min: 0,
        max: 2,
        concurrency: 2,
        depth: 4,
        idle: Duration::from_secs(60),
        wait: Duration::from_secs(10),
        cold: Duration::from_secs(30),
        failures_max: 3,
        pause_min: Duration::from_secs(1),
        pause_max: Duration::from_secs(8),
    }
}

/// A pool and a shorthand for steps at given seconds.
struct Bench(Pool);

impl Bench {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = limits();
        change(&mut limits);
        Self(Pool::new(limits))
    }

    fn at(&mut self, seconds: u64, input: Input) -> Vec<Action> {
        let (now, mut actions) = (Duration::from_secs(seconds), Vec::new());
        self.0.step(now, input, &mut actions);
        assert_eq!(self.0.deep_violation(now), None);
        actions
    }
}

fn arrive(n: u64) -> Input {
    Input::Arrive(Ticket(n))
}

fn start(n: u64) -> Action {
    Action::Start(InstanceId(n))
}

fn assign(ticket: u64, instance: u64) -> Action {
    Action::Assign(Ticket(ticket), InstanceId(instance))
}

fn reject(ticket: u64, refusal: Refusal) -> Action {
    Action::Reject(Ticket(ticket), refusal)
}

fn finished(n: u64) -> Input {
    Input::Finished(InstanceId(n), Fate::Sound)
}

const fn id(n: u64) -> InstanceId {
    InstanceId(n)
}

#[test]
fn the_first_call_starts_an_instance_and_the_next_reuses_it() {
    let mut pool = Bench::new(|_| {});
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    assert_eq!(pool.at(1, Input::Started(id(0))), [assign(1, 0)]);
    assert_eq!(pool.at(2, finished(0)), []);
    assert_eq!(pool.at(3, arrive(2)), [assign(2, 0)]);
}

#[test]
fn a_burst_starts_as_many_instances_as_its_concurrency_needs_and_no_more() {
    let mut pool = Bench::new(|l| l.max = 10);
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    assert_eq!(pool.at(0, arrive(2)), []);
    assert_eq!(pool.at(0, arrive(3)), [start(1)]);
    assert_eq!(pool.at(0, arrive(4)), []);
    assert_eq!(pool.at(1, Input::Started(id(1))), [assign(1, 1), assign(2, 1)]);
    assert_eq!(pool.at(1, Input::Started(id(0))), [assign(3, 0), assign(4, 0)]);
}

#[test]
fn instances_stop_at_their_bound_and_calls_at_the_queue_bound() {
    let mut pool = Bench::new(|l| (l.max, l.concurrency, l.depth) = (1, 1, 2));
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    assert_eq!(pool.at(0, Input::Started(id(0))), [assign(1, 0)]);
    assert_eq!(pool.at(0, arrive(2)), []);
    assert_eq!(pool.at(0, arrive(3)), []);
    assert_eq!(pool.at(0, arrive(4)), [reject(4, Refusal::QueueFull)]);
    assert_eq!(pool.at(1, finished(0)), [assign(2, 0)]);
}

#[test]
fn without_a_queue_a_call_still_waits_for_the_start_it_causes() {
    let mut pool = Bench::new(|l| (l.max, l.concurrency, l.depth) = (1, 1, 0));
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    assert_eq!(pool.at(0, arrive(2)), [reject(2, Refusal::QueueFull)]);
    assert_eq!(pool.at(0, Input::Started(id(0))), [assign(1, 0)]);
    assert_eq!(pool.at(0, arrive(3)), [reject(3, Refusal::QueueFull)]);
}

#[test]
fn a_wait_ends_by_the_queue_bound_when_instances_run_and_by_the_cold_bound_when_none_does() {
    let mut pool = Bench::new(|l| (l.max, l.concurrency) = (1, 1));
    pool.at(0, arrive(1));
    assert_eq!(pool.0.wake(Duration::ZERO), Some(Duration::from_secs(30)));
    assert_eq!(pool.at(30, Input::Tick), [reject(1, Refusal::ColdTimeout)]);
    pool.at(31, arrive(2));
    pool.at(31, arrive(3));
    assert_eq!(pool.at(32, Input::Started(id(0))), [assign(2, 0)]);
    assert_eq!(pool.0.deadline(Ticket(3)), Some(Duration::from_secs(42)), "queue.wait counts from the start on");
    assert_eq!(pool.at(42, Input::Tick), [reject(3, Refusal::QueueTimeout)]);
}

#[test]
fn a_call_that_left_takes_no_instance() {
    let mut pool = Bench::new(|l| l.max = 1);
    pool.at(0, arrive(1));
    pool.at(0, arrive(2));
    assert_eq!(pool.at(0, Input::Cancelled(Ticket(1))), []);
    assert_eq!(pool.at(1, Input::Started(id(0))), [assign(2, 0)]);
}

#[test]
fn idle_instances_stop_at_their_time_down_to_the_minimum() {
    let mut pool = Bench::new(|l| (l.min, l.concurrency) = (1, 1));
    assert_eq!(pool.at(0, Input::Tick), [start(0)]);
    pool.at(0, Input::Started(id(0)));
    pool.at(0, arrive(1));
    assert_eq!(pool.at(0, arrive(2)), [start(1)]);
    pool.at(1, Input::Started(id(1)));
    pool.at(2, finished(0));
    pool.at(3, finished(1));
    assert_eq!(pool.0.wake(Duration::from_secs(3)), Some(Duration::from_secs(62)));
    assert_eq!(pool.at(62, Input::Tick), [Action::Stop(id(0))]);
    assert_eq!(pool.0.wake(Duration::from_secs(62)), None, "the minimum stays");
    assert_eq!(pool.at(10_000, Input::Tick), []);
    assert!(!pool.0.at_rest());
}

#[test]
fn eviction_stops_idle_instances_at_once_but_no_busy_one() {
    let mut pool = Bench::new(|l| l.concurrency = 1);
    pool.at(0, arrive(1));
    pool.at(0, arrive(2));
    pool.at(0, Input::Started(id(0)));
    pool.at(0, Input::Started(id(1)));
    pool.at(0, finished(0));
    assert_eq!(pool.0.idle_since(), Some(Duration::ZERO));
    assert_eq!(pool.at(0, Input::Evict), [Action::Stop(id(0))]);
    assert_eq!(pool.0.idle_since(), None, "the other one is busy");
    assert_eq!(pool.at(1, finished(1)), []);
    assert_eq!(pool.at(1, Input::Evict), [Action::Stop(id(1))]);
    assert!(pool.0.at_rest());
}

#[test]
fn failed_starts_fail_their_waiters_then_pause_longer_and_longer() {
    let mut pool = Bench::new(|_| {});
    for n in 0..3 {
        assert_eq!(pool.at(0, arrive(n)), [start(n)]);
        assert_eq!(pool.at(0, Input::StartFailed(id(n))), [Action::Fail(Ticket(n))]);
    }
    let pause = |s| Refusal::CrashLoop(Duration::from_secs(s));
    assert_eq!(pool.at(0, arrive(3)), [reject(3, pause(1))]);
    assert_eq!(pool.at(1, arrive(4)), [start(3)]);
    assert_eq!(pool.at(1, Input::StartFailed(id(3))), [Action::Fail(Ticket(4))]);
    assert_eq!(pool.at(1, arrive(5)), [reject(5, pause(2))]);
    assert_eq!(pool.at(3, arrive(6)), [start(4)]);
    pool.at(3, Input::Started(id(4)));
    pool.at(3, finished(4));
    assert!(!pool.0.counts(Duration::from_secs(3)).crash_loop);
}

#[test]
fn starts_that_were_put_off_fail_their_waiters_but_never_pause() {
    let mut pool = Bench::new(|_| {});
    for n in 0..10 {
        assert_eq!(pool.at(n, arrive(n)), [start(n)]);
        assert_eq!(pool.at(n, Input::StartPutOff(id(n))), [Action::Fail(Ticket(n))]);
    }
    assert_eq!(pool.at(10, arrive(10)), [start(10)]);
    assert_eq!(pool.at(10, Input::Started(id(10))), [assign(10, 10)]);
}

#[test]
fn the_pause_between_failing_starts_has_a_bound() {
    let mut pool = Bench::new(|_| {});
    let mut now = 0;
    let longest = std::iter::repeat_n(8, 60);
    for (n, pause) in [0, 0, 1, 2, 4].into_iter().chain(longest).enumerate() {
        assert_eq!(pool.at(now, arrive(n as u64)), [start(n as u64)]);
        pool.at(now, Input::StartFailed(id(n as u64)));
        now += pause;
    }
}

#[test]
fn a_new_generation_is_not_held_up_by_the_failures_of_the_old_one() {
    let mut pool = Bench::new(|l| l.failures_max = 1);
    pool.at(0, arrive(1));
    assert_eq!(pool.at(0, Input::StartFailed(id(0))), [Action::Fail(Ticket(1))]);
    assert!(pool.0.counts(Duration::ZERO).crash_loop);
    let next = || Limits { failures_max: 1, ..limits() };
    pool.at(0, Input::Roll(next()));
    assert_eq!(pool.at(0, arrive(2)), [start(1)], "the pause was the old generation's");
    assert_eq!(pool.at(0, Input::Roll(next())), [start(2)]);
    assert_eq!(pool.at(0, Input::StartFailed(id(1))), [], "nobody waits for the old start");
    assert!(!pool.0.counts(Duration::ZERO).crash_loop);
    assert_eq!(pool.at(0, Input::Started(id(2))), [assign(2, 2)]);
}

#[test]
fn a_failed_start_beside_a_running_instance_fails_nobody() {
    let mut pool = Bench::new(|l| l.concurrency = 1);
    pool.at(0, arrive(1));
    pool.at(0, Input::Started(id(0)));
    assert_eq!(pool.at(0, arrive(2)), [start(1)]);
    assert_eq!(pool.at(0, Input::StartFailed(id(1))), [start(2)]);
    assert_eq!(pool.at(0, Input::StartFailed(id(2))), [start(3)]);
    assert_eq!(pool.at(0, Input::StartFailed(id(3))), [], "the third failure pauses");
    assert_eq!(pool.at(1, finished(0)), [assign(2, 0)]);
}

#[test]
fn a_broken_instance_is_replaced_and_one_that_never_served_counts_as_a_failed_start() {
    let mut pool = Bench::new(|l| l.max = 1);
    let broken = |n| Input::Finished(id(n), Fate::Broken);
    for n in 0..3 {
        assert_eq!(pool.at(n, arrive(n)), [start(n)]);
        assert_eq!(pool.at(n, Input::Started(id(n))), [assign(n, n)]);
        assert_eq!(pool.at(n, broken(n)), [Action::Stop(id(n))]);
    }
    assert_eq!(pool.at(2, arrive(9)), [reject(9, Refusal::CrashLoop(Duration::from_secs(1)))]);
    pool.at(3, arrive(10));
    pool.at(3, Input::Started(id(3)));
    pool.at(3, finished(3));
    pool.at(3, arrive(11));
    assert_eq!(pool.at(3, broken(3)), [Action::Stop(id(3))]);
    assert_eq!(pool.at(3, arrive(12)), [start(4)], "it had served: no failure");
}

#[test]
fn a_new_generation_takes_the_calls_and_the_old_instances_finish_and_stop() {
    let mut pool = Bench::new(|l| l.max = 1);
    pool.at(0, arrive(1));
    pool.at(0, Input::Started(id(0)));
    assert_eq!(pool.at(1, Input::Roll(limits())), []);
    assert_eq!(pool.at(1, arrive(2)), [start(1)], "the old instance has a place, but is old");
    assert_eq!(pool.at(2, Input::Started(id(1))), [assign(2, 1)]);
    assert_eq!(pool.at(3, finished(0)), [Action::Stop(id(0))]);
}

#[test]
fn a_start_of_the_old_generation_is_stopped_when_it_is_ready_and_waiters_get_the_new_one() {
    let mut pool = Bench::new(|_| {});
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    assert_eq!(pool.at(0, Input::Roll(limits())), [start(1)]);
    assert_eq!(pool.at(1, Input::Started(id(0))), [Action::Stop(id(0))]);
    assert_eq!(pool.at(1, Input::Started(id(1))), [assign(1, 1)]);
}

#[test]
fn a_smaller_queue_refuses_the_newest_calls() {
    let mut pool = Bench::new(|_| {});
    for n in 1..=4 {
        pool.at(0, arrive(n));
    }
    let mut smaller = limits();
    smaller.depth = 3;
    assert_eq!(pool.at(0, Input::Roll(smaller))[0], reject(4, Refusal::QueueFull));
}

#[test]
fn a_drained_pool_refuses_waiters_and_newcomers_and_lets_running_calls_end() {
    let mut pool = Bench::new(|l| (l.max, l.concurrency) = (1, 1));
    pool.at(0, arrive(1));
    pool.at(0, Input::Started(id(0)));
    pool.at(0, arrive(2));
    let ended = Refusal::Ended(Farewell::Stopping);
    assert_eq!(pool.at(0, Input::Drain(Farewell::Stopping)), [reject(2, ended)]);
    assert_eq!(pool.at(0, arrive(3)), [reject(3, ended)]);
    assert!(!pool.0.at_rest());
    assert_eq!(pool.at(1, finished(0)), [Action::Stop(id(0))]);
    assert!(pool.0.at_rest());
}
