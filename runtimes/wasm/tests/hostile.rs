//! Guests that take all they can get: each ends with its reason, and its neighbours go on.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{Machine, Trial, code, component, guest, shared, trial, whole};
use faas_model::manifest::FunctionSpec;
use faas_model::units::{ByteSize, Millis};
use faas_model::{BodyError, Reason};
use faas_runtime_wasm::Config;
use http_body_util::BodyExt;
use tokio::time::Instant;

/// A trial whose calls may compute for 100 ms.
async fn hurried(namespace: &str) -> Trial {
    trial(namespace, |spec| spec.limits.cpu = Millis(100)).await
}

#[tokio::test]
async fn endless_loops_end_at_their_cpu_limit() {
    let trial = hurried("loops").await;
    for path in ["/loop", "/host-loop"] {
        let begun = Instant::now();
        let failure = trial.failure(path).await;
        assert_eq!(failure.reason, Reason::CpuLimit, "{path}: {failure}");
        assert!(failure.detail.contains("limits.cpu = 100ms"), "{failure}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{path} took {:?}", begun.elapsed());
        trial.is_well().await;
    }
}

#[tokio::test]
async fn a_loop_after_the_head_breaks_the_body_off() {
    let trial = hurried("stream-loops").await;
    let outcome = match trial.call("/stream-loop", "").await {
        Ok(response) => whole(response.into_body()).await.unwrap_err(),
        Err(failure) => BodyError::Function(failure.detail),
    };
    assert!(matches!(&outcome, BodyError::Function(detail) if detail.contains("limits.cpu")), "{outcome:?}");
    trial.is_well().await;
}

#[tokio::test]
async fn waiting_costs_no_cpu_time() {
    let trial = hurried("waits").await;
    // A hundred waits, each longer than a tick: ten times the limit if they were charged.
    assert_eq!(trial.text("/sleep-loop").await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_on_every_lane_thread_do_not_hold_up_neighbours() {
    let trial = std::sync::Arc::new(trial("neighbours", |spec| spec.limits.cpu = Millis::seconds(60)).await);
    trial.is_well().await;
    let mut loops = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let trial = trial.clone();
        loops.spawn(async move { trial.call("/loop", "").await });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut times = Vec::new();
    for _ in 0..300 {
        let begun = Instant::now();
        trial.is_well().await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("beside 8 loops: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    assert!(times[times.len() / 2] < Duration::from_millis(50), "{times:?}");
    drop(loops);
    // What was dropped has left its slot: as many calls as there are slots run again.
    trial.is_well().await;
}

#[tokio::test]
async fn a_long_computation_is_answered_from_the_lane() {
    let trial = trial("computes", |_| {}).await;
    assert_eq!(trial.text("/compute?100").await.unwrap(), "computed");
}

#[tokio::test]
async fn endless_recursion_is_a_trap() {
    let trial = trial("recursion", |_| {}).await;
    for _ in 0..20 {
        assert_eq!(trial.failure("/recurse").await.reason, Reason::Crashed);
    }
    trial.is_well().await;
    let module = r#"(func $f (param i32 i32) (call $f (local.get 0) (local.get 1))) (export "handle" (func $f))"#;
    let made = made(module, FunctionSpec::default()).await.unwrap();
    for _ in 0..20 {
        let failure = made.failure("/").await;
        assert!(failure.reason == Reason::Crashed && failure.detail.contains("call stack"), "{failure}");
    }
}

#[tokio::test]
async fn memory_is_bounded_and_the_bound_is_named() {
    let trial = trial("memory", |spec| spec.limits.memory = ByteSize::mib(16)).await;
    let failure = trial.failure("/memory").await;
    assert_eq!(failure.reason, Reason::MemoryLimit, "{failure}");
    assert!(failure.detail.contains("limits.memory = 16MiB"), "{failure}");
    assert_eq!(trial.text("/memory-polite").await.unwrap(), "denied");
    trial.is_well().await;
}

#[tokio::test]
async fn crashes_are_told_without_the_guests_words_which_go_to_the_log() {
    let trial = trial("crashes", |_| {}).await;
    for (path, reason) in [
        ("/trap", Reason::Crashed),
        ("/panic", Reason::Crashed),
        ("/exit?3", Reason::Crashed),
        ("/exit?0", Reason::BadReply),
        ("/nothing", Reason::BadReply),
        ("/error", Reason::BadReply),
        ("/status?101", Reason::BadReply),
    ] {
        let failure = trial.failure(path).await;
        assert_eq!(failure.reason, reason, "{path}: {failure}");
        assert!(!failure.detail.contains("words"), "{failure}");
        trial.is_well().await;
    }
    assert!(trial.logged("the guest's words").await);
    assert!(trial.logged("unreachable").await);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told_and_never_ended_cleanly() {
    let trial = trial("breaks", |_| {}).await;
    for path in ["/broken", "/unfinished", "/length-short", "/length-long"] {
        let outcome = match trial.call(path, "").await {
            Ok(response) => whole(response.into_body()).await.map_err(|_| ()),
            Err(_) => Err(()),
        };
        assert!(outcome.is_err(), "{path}: {outcome:?}");
        trial.is_well().await;
    }
    // Whole before the crash: the answer stands.
    assert_eq!(trial.text("/after-trap").await.unwrap(), "answered");
}

#[tokio::test]
async fn a_flood_is_taken_no_faster_than_it_is_read_and_ends_when_it_is_dropped() {
    let trial = trial("floods", |_| {}).await;
    let mut body = trial.call("/flood", "").await.unwrap().into_body();
    let mut taken = 0;
    while taken < 4 << 20 {
        taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    drop(body);
    trial.is_well().await;
    let limited = trial.call("/flood", "").await.unwrap().into_body().limited(1 << 20);
    assert_eq!(whole(limited).await, Err(BodyError::TooLarge { max: 1 << 20 }));
    trial.is_well().await;
}

#[tokio::test]
async fn a_flood_of_output_ends_at_its_bound() {
    let trial = trial("log-floods", |_| {}).await;
    assert_eq!(trial.text("/flood-log").await.unwrap(), "flooded");
    assert!(trial.logged("bytes of output were dropped").await);
    let bytes: usize = trial.log().await.iter().map(|line| line.text.len()).sum();
    assert!(bytes < 300 << 10, "{bytes}");
}

#[tokio::test]
async fn host_resources_are_bounded() {
    let trial = trial("resources", |_| {}).await;
    assert_eq!(trial.text("/random?1000000").await.unwrap(), "1000000");
    for path in ["/random?2000000", "/random?99999999999", "/resources"] {
        assert_eq!(trial.failure(path).await.reason, Reason::Crashed, "{path}");
        trial.is_well().await;
    }
    match trial.text("/fields").await {
        Ok(kept) => assert!(kept.parse::<u32>().unwrap() < 10, "{kept} fields of 8 KiB were kept"),
        Err(failure) => assert_eq!(failure.reason, Reason::Crashed),
    }
}

#[tokio::test]
async fn sockets_files_and_requests_are_refused() {
    let trial = trial("walls", |_| {}).await;
    let sockets = trial.text("/sockets").await.unwrap();
    assert!(sockets.ends_with("std refused true") && !sockets.contains("None"), "{sockets}");
    assert!(!sockets.contains("resolved"), "{sockets}");
    println!("{sockets}");
    assert_eq!(trial.text("/files").await.unwrap(), "refused true true true, preopens 0");
    assert_eq!(trial.text("/outgoing").await.unwrap(), "ErrorCode::HttpRequestDenied");
}

#[tokio::test]
async fn calls_that_are_cut_leave_their_slots() {
    let trial = trial("cuts", |_| {}).await;
    // More cuts than there are slots.
    for _ in 0..300 {
        let cut = tokio::time::timeout(Duration::from_millis(1), trial.call("/never", "")).await;
        assert!(cut.is_err());
    }
    trial.is_well().await;
}

#[tokio::test]
async fn more_calls_than_slots_are_refused_as_retryable() {
    let machine = Machine::new(Config { calls_max: 8, calls_per_function_max: 8, ..Config::default() });
    let started = machine.start("slots", code(guest()), FunctionSpec::default()).await;
    let trial = std::sync::Arc::new(started.unwrap());
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let trial = trial.clone();
        calls.spawn(async move { tokio::time::timeout(Duration::from_secs(2), trial.call("/never", "")).await });
    }
    let refused: Vec<_> = calls.join_all().await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(refused.len(), 12);
    for failure in refused {
        let failure = failure.unwrap_err();
        assert_eq!(failure.reason, Reason::QueueFull, "{failure}");
        assert!(failure.detail.contains("all 8"), "{failure}");
    }
    trial.is_well().await;
}

#[tokio::test]
async fn a_function_that_holds_all_it_may_leaves_its_neighbours_their_slots() {
    let machine = Machine::new(Config { calls_max: 8, ..Config::default() });
    let greedy = machine.start("greedy", code(guest()), FunctionSpec::default()).await.unwrap();
    let mut held: Vec<_> = (0..8).map(|_| Box::pin(greedy.call("/never", ""))).collect();
    let mut refused = Vec::new();
    for call in &mut held {
        refused.extend(tokio::time::timeout(Duration::from_millis(200), call).await.ok());
    }
    let refused: Vec<_> = refused.into_iter().map(|outcome| outcome.unwrap_err()).collect();
    assert!(refused.len() == 2 && refused.iter().all(|f| f.reason == Reason::QueueFull), "{refused:?}");
    // A neighbour starts and answers; one more start of the greedy one is refused as retryable.
    let neighbour = machine.start("neighbour", code(guest()), FunctionSpec::default()).await.unwrap();
    neighbour.is_well().await;
    let again = machine.start("greedy", code(guest()), FunctionSpec::default()).await.err().unwrap();
    assert_eq!(again.reason, Reason::QueueFull, "{again}");
    drop(held);
    greedy.is_well().await;
}

#[tokio::test]
async fn what_is_kept_for_first_calls_is_given_up_for_calls_that_come() {
    let machine = Machine::new(Config { calls_max: 2, calls_per_function_max: 2, ..Config::default() });
    let mut started = Vec::new();
    for name in ["one", "two", "three"] {
        started.push(machine.start(name, code(guest()), FunctionSpec::default()).await.unwrap());
    }
    let last = started.pop().unwrap();
    let mut held = Box::pin(last.call("/never", ""));
    assert!(futures_util::poll!(&mut held).is_pending());
    let mut beside = Box::pin(last.call("/never", ""));
    assert!(futures_util::poll!(&mut beside).is_pending(), "both slots are for calls");
    drop((held, beside));
    for one in started {
        assert_eq!((one.text("/count").await.unwrap(), one.text("/count").await.unwrap()), ("1".into(), "1".into()));
    }
}

#[tokio::test]
async fn all_guests_share_one_bound_of_memory_and_running_into_it_is_retryable() {
    let machine = Machine::new(Config { calls_max: 8, memory_total_max: ByteSize::mib(32), ..Config::default() });
    let trial = machine.start("total", code(guest()), FunctionSpec::default()).await.unwrap();
    // It may have 128 MiB by its own limit.
    let failure = trial.failure("/memory").await;
    assert_eq!(failure.reason, Reason::QueueFull, "{failure}");
    assert!(failure.detail.contains("memory for guests"), "{failure}");
    trial.is_well().await;
}

async fn made(module: &str, spec: FunctionSpec) -> Result<Trial, faas_runtime::RuntimeError> {
    let code = shared().code(&component(module));
    shared().start("made", code, spec).await
}

#[tokio::test]
async fn a_loop_while_starting_is_bounded_like_a_call() {
    let spec = FunctionSpec {
        limits: faas_model::manifest::Limits { cpu: Millis(50), ..Default::default() },
        ..FunctionSpec::default()
    };
    let module = r#"(func $loop (loop (br 0))) (start $loop) (func (export "handle") (param i32 i32))"#;
    let refused = made(module, spec).await.err().unwrap();
    assert_eq!(refused.reason, Reason::StartFailed);
    assert!(refused.detail.contains("limits.cpu = 50ms"), "{refused}");
}

#[tokio::test]
async fn tables_are_bounded() {
    let module = r#"(table $t 1 funcref)
        (func (export "handle") (param i32 i32)
            (loop (br_if 0 (i32.ne (i32.const -1) (table.grow $t (ref.null func) (i32.const 10000)))))
            unreachable)"#;
    let trial = made(module, FunctionSpec::default()).await.unwrap();
    assert_eq!(trial.failure("/").await.reason, Reason::Crashed);
    let trap = r#"(func $f unreachable) (start $f) (func (export "handle") (param i32 i32))"#;
    assert_eq!(made(trap, FunctionSpec::default()).await.err().unwrap().reason, Reason::StartFailed);
    let huge = made(r#"(table 5000000 funcref) (func (export "handle") (param i32 i32))"#, FunctionSpec::default());
    assert_eq!(huge.await.err().unwrap().reason, Reason::Unprocessable);
}

#[tokio::test]
async fn a_gibibyte_of_memory_at_the_start_is_refused_with_the_limit() {
    let module = r#"(memory 16384) (func (export "handle") (param i32 i32))"#;
    let refused = made(module, FunctionSpec::default()).await.err().unwrap();
    assert_eq!(refused.reason, Reason::StartFailed);
    assert!(refused.detail.contains("limits.memory = 128MiB"), "{refused}");
}
