//! What a fresh call costs: printed, never asserted.

mod common;

use common::trial;

/// CPU time of this thread in nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_fresh_call_costs() {
    let trial = trial("costs", |_| {}).await;
    for path in ["/hello", "/count", "/big?20000"] {
        for _ in 0..200 {
            trial.text(path).await.unwrap();
        }
        let (calls, begun) = (2000, cpu_ns());
        for _ in 0..calls {
            trial.text(path).await.unwrap();
        }
        println!("{path}: {} ns of CPU per fresh call", (cpu_ns() - begun) / calls);
    }
}
