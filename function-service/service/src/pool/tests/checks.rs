//! The invariants themselves: each sees the state that it is there for, and none sees its edge.

use super::*;

const STARTING: State = State::Starting;

fn ready(busy: u32, idle_since: u64) -> State {
    State::Ready { busy, idle_since: Duration::from_secs(idle_since) }
}

fn broken(busy: u32) -> State {
    State::Broken { busy }
}

/// Returns a pool that no step led to: instances in these states, calls with these deadlines.
fn pool(instances: &[State], deadlines: &[u64]) -> Pool {
    let mut pool = Pool::new(limits());
    for (n, state) in (0..).zip(instances) {
        pool.instances.push(Slot { id: id(n), generation: 0, proven: false, state: *state });
    }
    for (n, deadline) in (0..).zip(deadlines) {
        pool.waiting.push(Ticket(n), Duration::from_secs(*deadline));
    }
    pool
}

fn old(mut pool: Pool) -> Pool {
    pool.generation = 1;
    pool
}

fn ended(mut pool: Pool) -> Pool {
    pool.ended = Some(Farewell::Stopping);
    pool
}

fn paused(mut pool: Pool) -> Pool {
    pool.paused_until = Some(Duration::from_secs(9));
    pool
}

fn min(min: usize, mut pool: Pool) -> Pool {
    pool.limits.min = min;
    pool
}

/// Looks at second 1: of `limits()`, two instances with two calls each, four waiting calls, idle for 60 s.
fn seen(pool: &Pool) -> Option<&'static str> {
    pool.deep_violation(Duration::from_secs(1))
}

#[test]
fn each_invariant_sees_what_it_is_there_for() {
    let cases = [
        ("an instance runs more calls than its concurrency", pool(&[ready(3, 0)], &[])),
        ("there are more instances than scale.max", pool(&[STARTING, ready(0, 0), ready(2, 0)], &[])),
        ("more calls wait than queue.depth", pool(&[STARTING], &[2, 2, 3, 3, 4])),
        ("calls wait although an instance has a free place", pool(&[ready(1, 0)], &[2])),
        ("calls wait for nothing", pool(&[], &[2])),
        ("calls wait for nothing", pool(&[broken(1)], &[2])),
        ("calls wait for nothing", old(pool(&[STARTING], &[2]))),
        ("a call waits past its deadline", pool(&[STARTING], &[2, 1])),
        ("calls wait in an ended pool", ended(pool(&[STARTING], &[2]))),
        ("an old or broken instance without calls is kept", pool(&[broken(0)], &[])),
        ("an old or broken instance without calls is kept", old(pool(&[ready(0, 0)], &[]))),
        ("an old or broken instance without calls is kept", ended(pool(&[ready(0, 0)], &[]))),
    ];
    for (what, pool) in cases {
        assert_eq!(seen(&pool), Some(what), "{pool:?}");
    }
}

#[test]
fn no_invariant_sees_what_may_be() {
    let fine = [
        pool(&[], &[]),
        pool(&[ready(2, 0), ready(2, 0)], &[2, 3, 4, 5]),
        pool(&[STARTING, ready(2, 0)], &[2]),
        pool(&[broken(1), broken(2), ready(0, 0), ready(0, 0)], &[]),
        paused(pool(&[], &[2])),
        old(pool(&[ready(1, 0), STARTING], &[])),
        ended(pool(&[ready(1, 0), STARTING], &[])),
    ];
    for pool in fine {
        assert_eq!(seen(&pool), None, "{pool:?}");
    }
}

#[test]
fn idle_past_its_time_is_above_the_minimum_and_to_the_second() {
    let at = |seconds, pool: &Pool| pool.violation(Duration::from_secs(seconds));
    let idle = || pool(&[ready(0, 1), ready(1, 0)], &[]);
    assert_eq!(at(60, &idle()), None);
    assert_eq!(at(61, &idle()), Some("an instance is idle past its time"));
    assert_eq!(at(61, &min(1, idle())), Some("an instance is idle past its time"));
    assert_eq!(at(61, &min(2, idle())), None);
}

#[test]
fn a_queue_of_no_depth_has_one_place() {
    let mut none = pool(&[STARTING], &[2]);
    none.limits.depth = 0;
    assert_eq!(seen(&none), None);
    none.waiting.push(Ticket(7), Duration::from_secs(2));
    assert_eq!(seen(&none), Some("more calls wait than queue.depth"));
}

#[test]
fn disorder_is_seen() {
    let mut disordered = pool(&[STARTING, STARTING], &[]);
    disordered.instances.swap(0, 1);
    assert_eq!(seen(&disordered), Some("instances are out of order"));
}
