//! A function that takes what it is told to: memory, computation, time.
//!
//! `GET /?touch_kib=512&rounds=10000&sleep_us=2000` writes one byte into every
//! page of 512 KiB, computes 10,000 rounds and then waits 2 ms. A count of
//! rounds, and not a time, is what makes computing scarce: two calls that share
//! a core both take twice as long, where two that watch the clock would not.
//!
//! **Never knows** the platform: it exports `wasi:http/incoming-handler` and nothing else.

#[cfg(target_arch = "wasm32")]
mod component;

/// Most memory that is touched, in KiB.
pub const TOUCH_KIB_MAX: u64 = 1 << 20;
/// Most rounds of one call.
pub const ROUNDS_MAX: u64 = 10_000_000_000;
/// Longest wait of one call, in microseconds.
pub const SLEEP_US_MAX: u64 = 900_000_000;

const PAGE_BYTES: usize = 4096;

/// What one call shall take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    /// Memory to write to, in KiB.
    pub touch_kib: u64,
    /// Rounds to compute.
    pub rounds: u64,
    /// Time to wait, in microseconds.
    pub sleep_us: u64,
}

/// Returns the order in the query of `path_with_query`.
///
/// # Errors
/// With a sentence when a key is unknown, or a value no number or above its bound.
pub fn order(path_with_query: &str) -> Result<Order, String> {
    let query = path_with_query.split_once('?').map_or("", |(_, query)| query);
    let mut order = Order::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (slot, max) = match key {
            "touch_kib" => (&mut order.touch_kib, TOUCH_KIB_MAX),
            "rounds" => (&mut order.rounds, ROUNDS_MAX),
            "sleep_us" => (&mut order.sleep_us, SLEEP_US_MAX),
            // A number that makes each request another one for caches on the way.
            "n" => continue,
            _ => return Err(format!("unknown key {key:?}; there are touch_kib, rounds, sleep_us and n\n")),
        };
        *slot = match value.parse() {
            Ok(number) if number <= max => number,
            _ => return Err(format!("{key} is {value:?}, not a number up to {max}\n")),
        };
    }
    Ok(order)
}

/// Writes into every page of `kib` KiB and returns the memory, so that it is held for the call.
#[must_use]
pub fn touch(kib: u64) -> Vec<u8> {
    let bytes = usize::try_from(kib.min(TOUCH_KIB_MAX)).unwrap_or_default() << 10;
    let mut memory = vec![0; bytes];
    for page in memory.iter_mut().step_by(PAGE_BYTES) {
        *page = 1;
    }
    std::hint::black_box(memory)
}

/// Computes `rounds` rounds (xorshift) and returns what came out.
#[must_use]
pub fn compute(rounds: u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..rounds {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    std::hint::black_box(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_from_the_query() {
        assert_eq!(order("/").unwrap(), Order::default());
        assert_eq!(order("/?").unwrap(), Order::default());
        let all = Order { touch_kib: 512, rounds: 10, sleep_us: 2000 };
        assert_eq!(order("/x?touch_kib=512&rounds=10&sleep_us=2000&n=7").unwrap(), all);
        assert_eq!(order(&format!("/?sleep_us={SLEEP_US_MAX}")).unwrap().sleep_us, SLEEP_US_MAX);
    }

    #[test]
    fn an_order_beyond_a_bound_or_unreadable_is_refused_by_name() {
        for (query, named) in [
            (format!("/?sleep_us={}", SLEEP_US_MAX + 1), "sleep_us"),
            (format!("/?touch_kib={}", TOUCH_KIB_MAX + 1), "touch_kib"),
            (format!("/?rounds={}", ROUNDS_MAX + 1), "rounds"),
            ("/?rounds=-1".into(), "rounds"),
            ("/?rounds".into(), "rounds"),
            ("/?sleep=1".into(), "sleep"),
        ] {
            assert!(order(&query).unwrap_err().contains(named), "{query}");
        }
    }

    #[test]
    fn touching_writes_every_page_and_computing_depends_on_the_rounds() {
        let memory = touch(12);
        assert_eq!(memory.len(), 12 << 10);
        assert_eq!(memory.iter().filter(|b| **b == 1).count(), 3);
        assert_ne!(compute(1), compute(2));
    }
}
