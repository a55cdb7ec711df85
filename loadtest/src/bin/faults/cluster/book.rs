//! What went wrong for callers and when, beside the faults that were made and when: the judge of what was promised.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::sides::{Answered, Sent};

/// Longest time from the end of a fault until everything works again (issue bound, as in SPECIFICATION.md).
pub(crate) const RECOVERY: Duration = Duration::from_secs(10);

/// Why a state call may fail while a fault of the store lasts.
const STORE_REASONS: [&str; 2] = ["store_unavailable", "outcome_unknown"];

/// One fault.
#[derive(Debug, Clone)]
struct Window {
    /// Whether it is one of the store's nodes.
    store: bool,
    begun: Instant,
    ended: Option<Instant>,
}

#[derive(Debug)]
struct Failure {
    load: &'static str,
    begun: Instant,
    took: Duration,
    what: String,
    /// Whether the store was the reason, and said so.
    store: bool,
}

#[derive(Debug, Default)]
struct State {
    windows: Vec<Window>,
    failures: Vec<Failure>,
    recoveries: Vec<(String, Duration)>,
}

/// Shared by all loads and the maker of faults.
#[derive(Debug)]
pub(crate) struct Book {
    begun: Instant,
    state: Mutex<State>,
    killed: AtomicU64,
    pub(crate) answered: AtomicU64,
}

impl Book {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), state: Mutex::default(), killed: AtomicU64::new(0), answered: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Notes that a fault begins.
    pub(crate) fn fault(&self, store: bool) {
        let window = Window { store, begun: Instant::now(), ended: None };
        self.state().windows.push(window);
    }

    /// Notes that the last fault is over; returns that time.
    pub(crate) fn fault_over(&self) -> Instant {
        let now = Instant::now();
        if let Some(last) = self.state().windows.last_mut() {
            last.ended = Some(now);
        }
        now
    }

    pub(crate) fn recovered(&self, name: &str, after: Duration) {
        self.state().recoveries.push((name.to_owned(), after));
    }

    /// Notes how a request ended that began at `begun`; returns its answer if it is one of `expected`.
    pub(crate) fn note(&self, load: &'static str, begun: Instant, expected: &[u16], sent: Sent) -> Option<Answered> {
        let (what, store, took) = match sent {
            Sent::Answered(answer) if expected.contains(&answer.status) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return Some(answer);
            }
            Sent::Answered(answer) => {
                let text = answer.text();
                let store = [503, 504].contains(&answer.status)
                    && STORE_REASONS.iter().any(|reason| text.contains(reason) || text.contains("store unavailable"));
                (format!("{} {text}", answer.status), store, answer.took)
            }
            Sent::Killed => {
                self.killed.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Sent::Cut(error) => (format!("cut {error}"), false, begun.elapsed()),
        };
        self.state().failures.push(Failure { load, begun, took, what, store });
        None
    }

    /// Prints and judges what went wrong; `limit` is how long a state call may take to be refused.
    pub(crate) fn judge(&self, limit: Duration) -> Vec<String> {
        let state = self.state();
        let mut broken = Vec::new();
        let (mut kinds, mut late, mut longest) = (BTreeMap::<_, u64>::new(), 0_u64, Duration::ZERO);
        for failure in &state.failures {
            let what: String = failure.what.chars().take(300).collect();
            if failure.store {
                longest = longest.max(failure.took);
                late += u64::from(failure.took > limit);
            }
            let excused = failure.store && state.windows.iter().any(|window| window.excuses(failure));
            if !excused {
                let at = (failure.begun - self.begun).as_secs_f64();
                broken.push(format!("{} at {at:.1} s, after {:?}: {what}", failure.load, failure.took));
            }
            *kinds.entry((failure.load, what.chars().take(3).collect::<String>())).or_default() += 1;
        }
        println!(
            "requests: {} answered, {} cut by a kill of their process; refused or failed: {kinds:?}, the longest wait for a refusal of state {longest:.1?}",
            self.answered.load(Ordering::Relaxed),
            self.killed.load(Ordering::Relaxed)
        );
        if late > 0 {
            broken.push(format!("{late} state calls were refused only after more than {limit:?}"));
        }
        for (name, after) in &state.recoveries {
            if *after > RECOVERY {
                broken.push(format!("{name}: it took {after:.1?} until state worked again, over {RECOVERY:?}"));
            }
        }
        let worst = state.recoveries.iter().map(|(_, after)| *after).max().unwrap_or_default();
        println!("faults: {} made, state worked again after {worst:.1?} at worst", state.windows.len());
        broken
    }

    /// Returns how many requests failed so far.
    pub(crate) fn failed(&self) -> usize {
        self.state().failures.len()
    }
}

impl Window {
    /// Says whether a state call may fail that was under way while a node was away, or began before it is due that
    /// all is well again.
    fn excuses(&self, failure: &Failure) -> bool {
        let too_late = self.ended.is_some_and(|ended| failure.begun > ended + RECOVERY);
        self.store && failure.begun + failure.took >= self.begun && !too_late
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(6);

    fn answer(status: u16, body: &'static str, took: Duration) -> Sent {
        let body = Bytes::from_static(body.as_bytes());
        Sent::Answered(Answered { status, etag: None, revision: String::new(), retry_after: false, body, took })
    }

    fn refused() -> Sent {
        answer(503, r#"{"reason":"store_unavailable"}"#, Duration::from_secs(1))
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn state_may_be_refused_while_a_node_is_away_and_until_the_recovery_is_due() {
        let book = Book::new();
        pass(100).await;
        let before = Instant::now();
        pass(1).await;
        book.fault(true);
        book.note("write", before, &[204], refused());
        book.note("write", Instant::now(), &[204], refused());
        pass(5).await;
        book.fault_over();
        pass(10).await;
        book.note("write", Instant::now(), &[204], refused());
        assert_eq!(book.judge(LIMIT), [""; 0]);
        pass(1).await;
        book.note("write", Instant::now(), &[204], refused());
        assert_eq!(book.judge(LIMIT).len(), 1, "11 s after the fault");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_of_a_process_or_another_failure_excuses_nothing() {
        let book = Book::new();
        book.fault(false);
        book.note("write", Instant::now(), &[204], refused());
        assert_eq!(book.judge(LIMIT).len(), 1, "no node was away");
        book.fault(true);
        book.note("stateless request", Instant::now(), &[200], answer(502, "crashed", Duration::ZERO));
        book.note("write", Instant::now(), &[204], Sent::Cut("reset".into()));
        book.note("write", Instant::now(), &[204], answer(500, "store_unavailable", Duration::ZERO));
        assert_eq!(book.judge(LIMIT).len(), 4 - 1, "the first one overlaps the store's fault now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_of_its_process_explains_a_cut_and_what_was_expected_is_handed_on() {
        let book = Book::new();
        assert!(book.note("write", Instant::now(), &[204], Sent::Killed).is_none());
        assert!(book.note("write", Instant::now(), &[204, 412], answer(412, "", Duration::ZERO)).is_some());
        assert_eq!(book.judge(LIMIT), [""; 0]);
        assert_eq!(book.failed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_refusal_and_a_slow_recovery_are_told() {
        let book = Book::new();
        book.fault(true);
        let second = Duration::from_secs(1);
        let text = r#"{"reason":"store_unavailable"}"#;
        book.note("write", Instant::now(), &[204], answer(503, text, LIMIT));
        book.recovered("a fault", RECOVERY);
        assert_eq!(book.judge(LIMIT), [""; 0]);
        book.note("write", Instant::now(), &[204], answer(503, text, LIMIT + second));
        book.recovered("another fault", RECOVERY + second);
        let told = book.judge(LIMIT);
        assert!(told.len() == 2 && told[0].contains("more than 6s") && told[1].contains("another fault"), "{told:?}");
    }
}
