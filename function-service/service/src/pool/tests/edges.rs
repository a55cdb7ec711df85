//! Each guard of the pool at its edge: with any of them taken out, a test here or beside it fails
//! (docs/simulation.md, "Guards").

use super::*;

fn broken(n: u64) -> Input {
    Input::Finished(id(n), Fate::Broken)
}

impl Bench {
    fn wake(&self, seconds: u64) -> Option<u64> {
        self.0.wake(Duration::from_secs(seconds)).map(|at| at.as_secs())
    }

    fn pauses(&self, seconds: u64) -> bool {
        self.0.counts(Duration::from_secs(seconds)).crash_loop
    }

    /// Lets one call come, and its start fail.
    fn fail(&mut self, seconds: u64, n: u64) {
        assert_eq!(self.at(seconds, arrive(n)), [start(n)]);
        assert_eq!(self.at(seconds, Input::StartFailed(id(n))), [Action::Fail(Ticket(n))]);
    }
}

#[test]
fn a_drained_pool_has_free_places_and_gives_none_away() {
    let mut pool = Bench::new(|_| {});
    pool.at(0, arrive(1));
    assert_eq!(pool.at(0, Input::Started(id(0))), [assign(1, 0)]);
    pool.at(0, Input::Drain(Farewell::Removed));
    assert_eq!(pool.at(0, arrive(2)), [reject(2, Refusal::Ended(Farewell::Removed))]);
    assert_eq!(pool.at(1, finished(0)), [Action::Stop(id(0))]);
}

#[test]
fn a_drained_pool_neither_wakes_nor_starts_for_its_minimum() {
    let mut pool = Bench::new(|l| (l.min, l.failures_max) = (1, 1));
    assert_eq!(pool.at(0, Input::Tick), [start(0)]);
    pool.at(0, Input::StartFailed(id(0)));
    assert_eq!(pool.wake(0), Some(1), "the pause is over then");
    pool.at(0, Input::Drain(Farewell::Stopping));
    assert_eq!(pool.wake(0), None);
    assert_eq!(pool.at(2, Input::Tick), []);
    assert!(pool.0.at_rest());
}

#[test]
fn a_call_that_waits_without_a_queue_stays_when_the_next_generation_has_none_either() {
    let none = || Limits { depth: 0, ..limits() };
    let mut pool = Bench::new(|l| l.depth = 0);
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    assert_eq!(pool.at(0, Input::Roll(none())), [start(1)]);
    assert_eq!(pool.at(0, Input::Started(id(1))), [assign(1, 1)]);
}

#[test]
fn a_busy_instance_wakes_as_if_it_fell_idle_now() {
    let mut pool = Bench::new(|_| {});
    pool.at(0, arrive(1));
    pool.at(0, Input::Started(id(0)));
    assert_eq!(pool.wake(5), Some(65));
    pool.at(10, finished(0));
    assert_eq!(pool.wake(10), Some(70), "not earlier than was told");
}

#[test]
fn the_minimum_is_of_instances_that_run() {
    let mut pool = Bench::new(|l| (l.min, l.concurrency) = (1, 1));
    assert_eq!(pool.at(0, Input::Tick), [start(0)]);
    pool.at(0, Input::Started(id(0)));
    pool.at(0, arrive(1));
    assert_eq!(pool.at(0, arrive(2)), [start(1)]);
    pool.at(0, finished(0));
    pool.at(0, finished(0));
    assert_eq!(pool.wake(0), None, "one runs idle, one starts");
    assert_eq!(pool.at(100, Input::Tick), []);
    assert_eq!(pool.at(100, Input::Evict), []);
    assert_eq!(pool.0.idle_since(), None);
    assert_eq!(pool.at(101, Input::Started(id(1))), [Action::Stop(id(0))]);
}

#[test]
fn the_end_of_a_pause_wakes_for_waiting_calls_and_for_nobody_else() {
    let mut pool = Bench::new(|l| (l.concurrency, l.failures_max) = (1, 1));
    pool.fail(0, 0);
    assert_eq!(pool.wake(0), None, "nobody waits");
    assert!(pool.pauses(0) && !pool.pauses(1), "of one second");
    assert_eq!(pool.at(1, arrive(1)), [start(1)]);
    pool.at(1, Input::Started(id(1)));
    assert_eq!(pool.at(1, arrive(2)), [start(2)]);
    assert_eq!(pool.at(1, Input::StartFailed(id(2))), []);
    assert_eq!(pool.wake(1), Some(3), "the second pause is of two seconds");
    assert_eq!(pool.at(1, arrive(3)), [], "an instance runs: the call waits for it");
    assert_eq!(pool.at(3, Input::Tick), [start(3)]);
}

#[test]
fn a_call_that_ends_well_ends_the_pause_and_forgets_the_failures() {
    let mut pool = Bench::new(|l| (l.concurrency, l.failures_max) = (1, 2));
    pool.fail(0, 0);
    pool.at(0, arrive(1));
    pool.at(0, Input::Started(id(1)));
    assert_eq!(pool.at(0, arrive(2)), [start(2)]);
    assert_eq!(pool.at(0, Input::StartFailed(id(2))), []);
    assert!(pool.pauses(0));
    assert_eq!(pool.at(0, finished(1)), [assign(2, 1)]);
    assert!(!pool.pauses(0));
    pool.at(0, finished(1));
    pool.at(0, Input::Evict);
    pool.fail(0, 3);
    assert!(!pool.pauses(0), "it is the first failure again");
    pool.fail(0, 4);
    assert!(pool.pauses(0));
}

#[test]
fn an_instance_that_breaks_counts_once_and_only_if_it_never_served() {
    let mut pool = Bench::new(|l| l.failures_max = 2);
    pool.at(0, arrive(1));
    pool.at(0, arrive(2));
    assert_eq!(pool.at(0, Input::Started(id(0))), [assign(1, 0), assign(2, 0)]);
    assert_eq!(pool.at(0, broken(0)), []);
    assert_eq!(pool.at(0, broken(0)), [Action::Stop(id(0))]);
    assert!(!pool.pauses(0), "two calls of one instance are one failure");

    let mut pool = Bench::new(|l| l.failures_max = 1);
    pool.at(0, arrive(1));
    pool.at(0, Input::Started(id(0)));
    pool.at(0, finished(0));
    pool.at(0, arrive(2));
    assert_eq!(pool.at(0, broken(0)), [Action::Stop(id(0))]);
    assert!(!pool.pauses(0), "it had served");
}

#[test]
fn an_instance_that_broke_stays_broken_when_its_other_call_ends_well() {
    let mut pool = Bench::new(|l| l.max = 1);
    pool.at(0, arrive(1));
    pool.at(0, arrive(2));
    pool.at(0, Input::Started(id(0)));
    pool.at(0, broken(0));
    assert_eq!(pool.at(0, arrive(3)), [start(1)], "it is replaced while its last call runs");
    assert_eq!(pool.at(1, finished(0)), [Action::Stop(id(0))]);
}

#[test]
fn what_old_instances_do_says_nothing_of_the_new_generation() {
    let next = || Limits { failures_max: 1, ..limits() };
    let old = || {
        let mut pool = Bench::new(|l| l.failures_max = 1);
        pool.at(0, arrive(1));
        pool.at(0, Input::Started(id(0)));
        pool.at(0, Input::Roll(next()));
        pool
    };
    let mut pool = old();
    assert_eq!(pool.at(0, broken(0)), [Action::Stop(id(0))]);
    assert!(!pool.pauses(0), "an old one broke");

    let mut pool = old();
    pool.fail(0, 1);
    assert_eq!(pool.at(0, finished(0)), [Action::Stop(id(0))]);
    assert!(pool.pauses(0), "an old one served");
}

#[test]
fn a_start_of_the_old_generation_shortens_no_wait() {
    let mut pool = Bench::new(|_| {});
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    assert_eq!(pool.at(0, Input::Roll(limits())), [start(1)]);
    assert_eq!(pool.at(1, Input::Started(id(0))), [Action::Stop(id(0))]);
    assert_eq!(pool.0.deadline(Ticket(1)), Some(Duration::from_secs(30)));
}

#[test]
fn without_a_queue_a_call_waits_for_a_start_that_was_another_calls() {
    let mut pool = Bench::new(|l| (l.max, l.depth) = (1, 0));
    assert_eq!(pool.at(0, arrive(1)), [start(0)]);
    pool.at(0, Input::Cancelled(Ticket(1)));
    assert_eq!(pool.at(0, arrive(2)), []);
    assert_eq!(pool.at(0, Input::Started(id(0))), [assign(2, 0)]);
}

#[test]
fn a_call_that_comes_while_an_instance_runs_waits_for_queue_wait_and_is_served_at_its_last_moment() {
    let mut pool = Bench::new(|l| (l.max, l.concurrency) = (1, 1));
    pool.at(0, arrive(1));
    pool.at(0, Input::Started(id(0)));
    assert_eq!(pool.at(5, arrive(2)), []);
    assert_eq!(pool.0.deadline(Ticket(2)), Some(Duration::from_secs(15)));
    assert_eq!(pool.at(15, finished(0)), [assign(2, 0)]);
}

#[test]
fn without_a_queue_a_call_starts_an_instance_in_the_moment_a_pause_ends() {
    let mut pool = Bench::new(|l| (l.depth, l.failures_max) = (0, 1));
    pool.fail(0, 0);
    assert_eq!(pool.at(1, arrive(1)), [start(1)]);
}
