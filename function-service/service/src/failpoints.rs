//! Steps of a change (`fail_point!` in this crate, the repository, the runtime
//! and the store) at which the fault suite ends the process, as `kill -9` would.
//!
//! Without the feature `failpoints` they are compiled to nothing.

/// Ends the process when it comes to a step for the n-th time: `STEP` or `STEP=N`.
///
/// # Panics
/// When N is no number above 0.
#[cfg(feature = "failpoints")]
pub fn arm(text: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    let (step, nth) = text.split_once('=').unwrap_or((text, "1"));
    let nth: u32 = nth.parse().ok().filter(|n| *n > 0).expect("FAILPOINTS is STEP or STEP=N");
    let left = AtomicU32::new(nth);
    fail::cfg_callback(step, move || {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // No destructor runs, no buffer is flushed.
            std::process::abort();
        }
    })
    .expect("a callback is a valid action");
    eprintln!("faas dies at step {step}, pass {nth}");
}

#[cfg(all(test, not(feature = "failpoints")))]
mod tests {
    #[test]
    fn an_ordinary_build_has_no_step_to_die_at() {
        assert!(!fail::has_failpoints());
    }
}
