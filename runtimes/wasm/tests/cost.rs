//! What a call costs, fresh and in a store that is kept: printed, never asserted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, and a report")]

mod common;

use std::path::Path;

use common::{Trial, code, guest, service, shared};
use faas_model::manifest::{FunctionSpec, Reuse};

/// CPU time of this thread in nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

async fn costs(trial: &Trial, what: &str, paths: &[&str]) {
    for path in paths {
        for _ in 0..200 {
            trial.text(path).await.unwrap();
        }
        let (calls, begun) = (2000, cpu_ns());
        for _ in 0..calls {
            trial.text(path).await.unwrap();
        }
        println!("{what} {path}: {} ns of CPU per call", (cpu_ns() - begun) / calls);
    }
}

async fn trial(guest: &Path, reuse: Reuse) -> Trial {
    let spec = FunctionSpec { reuse, ..FunctionSpec::default() };
    shared().start("costs", code(guest), spec).await.unwrap()
}

#[tokio::test]
#[ignore = "a measurement: run it alone, with --release"]
async fn a_call_costs() {
    for reuse in [Reuse::Never, Reuse::Sequential] {
        costs(&trial(guest(), reuse).await, &format!("0.2 {reuse:?}"), &["/hello", "/count", "/big?20000"]).await;
    }
    // One thread: what the driver of a shared store costs is counted with its callers.
    for reuse in [Reuse::Never, Reuse::Sequential, Reuse::Concurrent] {
        costs(&trial(service(), reuse).await, &format!("0.3 {reuse:?}"), &["/hello", "/count", "/big?20000"]).await;
    }
}

#[tokio::test]
#[ignore = "a measurement: run it alone, with --release"]
async fn a_further_instance_costs() {
    use faas_runtime::Runtime as _;

    let function = faas_model::FunctionName::in_default("starts").unwrap();
    let spec = FunctionSpec { reuse: Reuse::Sequential, ..FunctionSpec::default() };
    let code = code(guest());
    let unit = shared().unit(&function, code.clone(), spec);
    shared().runtime.install(&code).await.unwrap();
    let prepared = shared().runtime.prepare(unit).unwrap();
    let _first = prepared.start().await.unwrap();
    let (starts, begun) = (50_000, cpu_ns());
    for _ in 0..starts {
        prepared.start().await.unwrap().instance.stop().await;
    }
    println!("{} ns of CPU per further start and stop", (cpu_ns() - begun) / starts);
}
