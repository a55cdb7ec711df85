//! Stores that take more than one call: what they keep, and when they are let go.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{LONG, Machine, Trial, code, component, guest, service, shared, whole};
use faas_model::manifest::{FunctionSpec, Reuse};
use faas_model::units::{ByteSize, Millis};
use faas_model::{Body, BodyError, FunctionName, Name, Reason};
use faas_runtime::Runtime;
use faas_runtime::conformance::{self, Fixture};
use faas_runtime_wasm::Config;
use http_body_util::BodyExt;
use tokio::time::timeout;

fn spec(reuse: Reuse) -> FunctionSpec {
    FunctionSpec { reuse, ..FunctionSpec::default() }
}

async fn trial(namespace: &str, guest: &Path, spec: FunctionSpec) -> Trial {
    shared().start(namespace, code(guest), spec).await.unwrap()
}

async fn passes_the_list(guest: &Path, reuse: Reuse) {
    let machine = Machine::new(Config { calls_max: 64, ..Config::default() });
    let function = FunctionName::in_default("trial").unwrap();
    let code = code(guest);
    let unit = machine.unit(&function, code.clone(), spec(reuse));
    let bad_code = Some(machine.code(b"\0asm but not really"));
    conformance::check(&Fixture { runtime: machine.runtime.clone(), code, unit, bad_code }).await;
    assert!(machine.compiled().is_empty(), "forgotten code leaves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_passed_by_0_2_sequential() {
    passes_the_list(guest(), Reuse::Sequential).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_passed_by_0_3_never() {
    passes_the_list(service(), Reuse::Never).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_passed_by_0_3_sequential() {
    passes_the_list(service(), Reuse::Sequential).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_passed_by_0_3_concurrent() {
    passes_the_list(service(), Reuse::Concurrent).await;
}

#[tokio::test]
async fn a_kept_store_counts_on_and_a_fresh_one_does_not() {
    for (name, guest) in [("kept-02", guest()), ("kept-03", service())] {
        let never = trial(name, guest, spec(Reuse::Never)).await;
        for _ in 0..3 {
            assert_eq!(never.text("/count").await.unwrap(), "1");
        }
        let kept = trial(name, guest, spec(Reuse::Sequential)).await;
        for n in 1..=20 {
            assert_eq!(kept.text("/count").await.unwrap(), n.to_string());
        }
        let other = trial(name, guest, spec(Reuse::Sequential)).await;
        assert_eq!(other.text("/count").await.unwrap(), "1", "another revision or function has a store of its own");
    }
    let concurrent = trial("kept-con", service(), spec(Reuse::Concurrent)).await;
    for n in 1..=20 {
        assert_eq!(concurrent.text("/count").await.unwrap(), n.to_string());
    }
}

#[tokio::test]
async fn a_store_takes_as_many_calls_as_it_may() {
    let machine = Machine::new(Config { calls_max: 16, reuse_calls_max: 3, ..Config::default() });
    for (reuse, guest) in [(Reuse::Sequential, guest()), (Reuse::Sequential, service()), (Reuse::Concurrent, service())]
    {
        let trial = machine.start("bounded", code(guest), spec(reuse)).await.unwrap();
        for n in ["1", "2", "3", "1", "2", "3", "1"] {
            assert_eq!(trial.text("/count").await.unwrap(), n, "{reuse:?}");
        }
    }
}

/// Says that the store is another one than before.
async fn begins_afresh(trial: &Trial, after: &str) {
    assert_eq!(trial.text("/count").await.unwrap(), "1", "after {after}");
    assert_eq!(trial.text("/count").await.unwrap(), "2", "after {after}");
}

#[tokio::test]
async fn a_call_that_fails_takes_its_store_with_it() {
    for (name, guest) in [("fails-02", guest()), ("fails-03", service())] {
        let mut spec = spec(Reuse::Sequential);
        (spec.limits.memory, spec.limits.cpu) = (ByteSize::mib(16), Millis(100));
        let trial = trial(name, guest, spec).await;
        begins_afresh(&trial, "the start").await;
        for (path, reason) in
            [("/trap", Reason::Crashed), ("/memory", Reason::MemoryLimit), ("/loop", Reason::CpuLimit)]
        {
            assert_eq!(trial.failure(path).await.reason, reason, "{name}{path}");
            begins_afresh(&trial, path).await;
        }
        assert_eq!(trial.text("/memory-polite").await.unwrap(), "denied");
        begins_afresh(&trial, "memory that was denied").await;
        assert!(!trial.instance.broken(), "the instance replaced its store itself");
    }
}

#[tokio::test]
async fn a_call_that_is_cut_takes_its_store_with_it() {
    for (name, guest) in [("cut-02", guest()), ("cut-03", service())] {
        let trial = trial(name, guest, spec(Reuse::Sequential)).await;
        begins_afresh(&trial, "the start").await;
        assert!(timeout(Duration::from_millis(50), trial.call("/never", "")).await.is_err());
        begins_afresh(&trial, "a call cut before its head").await;
        let mut body = trial.call("/sse", "").await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        drop(body);
        begins_afresh(&trial, "a body cut in the middle").await;
    }
}

#[tokio::test]
async fn a_body_that_its_guest_forgot_is_no_answer_and_holds_nobody_up() {
    let trial = trial("forgot", guest(), spec(Reuse::Sequential)).await;
    for _ in 0..3 {
        let outcome = timeout(Duration::from_secs(5), async {
            match trial.call("/leak-body", "").await {
                Ok(response) => whole(response.into_body()).await.map(drop).map_err(drop),
                Err(_) => Err(()),
            }
        });
        assert_eq!(outcome.await.expect("it does not wait for what never comes"), Err(()));
        trial.is_well().await;
    }
}

#[tokio::test]
async fn the_next_call_waits_for_work_after_an_answer() {
    for (name, guest) in [("after-02", guest()), ("after-03", service())] {
        let trial = trial(name, guest, spec(Reuse::Sequential)).await;
        assert_eq!(trial.text("/count").await.unwrap(), "1");
        assert_eq!(trial.text("/after?100").await.unwrap(), "answered");
        assert_eq!(trial.text("/count").await.unwrap(), "2", "the store is the same");
        assert!(trial.logged("worked after the answer").await);
    }
}

#[tokio::test]
async fn output_belongs_to_the_call_that_wrote_it() {
    for (name, guest) in [("logs-02", guest()), ("logs-03", service())] {
        let trial = trial(name, guest, spec(Reuse::Sequential)).await;
        for _ in 0..3 {
            trial.text("/log").await.unwrap();
        }
        assert!(trial.logged("to standard output").await);
        let lines = trial.log().await;
        let calls: std::collections::HashSet<_> =
            lines.iter().filter(|line| line.text == "to standard output").map(|line| line.call).collect();
        assert_eq!(calls.len(), 3, "{name}: each line has its own call");
    }
}

#[tokio::test]
async fn a_kept_store_holds_its_slot_until_it_is_stopped() {
    let machine = Machine::new(Config { calls_max: 2, calls_per_function_max: 2, ..Config::default() });
    let one = machine.start("one", code(guest()), spec(Reuse::Sequential)).await.unwrap();
    let two = machine.start("two", code(service()), spec(Reuse::Sequential)).await.unwrap();
    one.is_well().await;
    two.is_well().await;
    assert!(one.instance.usage().memory_bytes > 1 << 20, "a guest's memory counts while it is kept");
    let refused = machine.start("three", code(guest()), spec(Reuse::Sequential)).await.err().unwrap();
    assert!(refused.reason == Reason::QueueFull && refused.detail.contains("all 2"), "{refused}");
    one.instance.stop().await;
    machine.start("three", code(guest()), spec(Reuse::Sequential)).await.unwrap().is_well().await;
    assert!(one.call("/hello", "").await.is_err(), "a stopped instance takes no call");
}

#[tokio::test]
async fn further_instances_share_what_the_first_one_linked() {
    let function = FunctionName::in_default("shares").unwrap();
    let code = code(guest());
    let unit = shared().unit(&function, code.clone(), spec(Reuse::Sequential));
    shared().runtime.install(&code).await.unwrap();
    let prepared = shared().runtime.prepare(unit).unwrap();
    let phases = |started: &faas_runtime::Started| started.phases.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let first = prepared.start().await.unwrap();
    assert_eq!(phases(&first), ["load", "link", "instantiate"]);
    let second = prepared.start().await.unwrap();
    assert_eq!(phases(&second), ["share"]);
    first.instance.stop().await;
    second.instance.stop().await;
    drop((first, second));
    assert_eq!(phases(&prepared.start().await.unwrap()).len(), 3, "nothing is held for a function at rest");
}

#[tokio::test]
async fn concurrent_reuse_of_a_component_of_0_2_is_refused_with_what_to_do() {
    let refused = shared().start("refused", code(guest()), spec(Reuse::Concurrent)).await.err().unwrap();
    assert_eq!(refused.reason, Reason::Unprocessable);
    for words in ["wasi:http/incoming-handler 0.2", "reuse = \"sequential\"", "WASI 0.3"] {
        assert!(refused.detail.contains(words), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_run_side_by_side_only_with_concurrent_reuse() {
    for (reuse, most) in [(Reuse::Never, 1), (Reuse::Sequential, 1), (Reuse::Concurrent, 10)] {
        let trial = Arc::new(trial("side", service(), spec(reuse)).await);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let trial = Arc::clone(&trial);
            calls.spawn(async move { trial.text("/most?200").await.unwrap().parse::<u32>().unwrap() });
        }
        let seen = calls.join_all().await;
        assert_eq!(seen.iter().max(), Some(&most), "{reuse:?}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_left_do_not_end_their_neighbours() {
    let trial = Arc::new(trial("left", service(), spec(Reuse::Concurrent)).await);
    let neighbour = tokio::spawn({
        let trial = Arc::clone(&trial);
        async move { trial.text("/wait?1500").await }
    });
    let mut stream = trial.call("/sse", "").await.unwrap().into_body();
    // More than a store holds on to: it takes no further call, and another one does.
    let mut counts = Vec::new();
    for _ in 0..40 {
        assert!(timeout(Duration::from_millis(5), trial.call("/never", "")).await.is_err());
        counts.push(trial.text("/count").await.unwrap().parse::<u32>().unwrap());
    }
    assert_eq!(counts.iter().filter(|n| **n == 1).count(), 2, "one store took the place of the other: {counts:?}");
    assert_eq!(neighbour.await.unwrap().unwrap(), "waited");
    assert!(stream.frame().await.unwrap().is_ok(), "a stream goes on in the old store");
}

#[tokio::test]
async fn a_trap_ends_the_calls_of_its_store_with_a_reason_and_the_next_one_runs() {
    let trial = Arc::new(trial("trap-con", service(), spec(Reuse::Concurrent)).await);
    let beside = trial.call("/sse", "").await.unwrap().into_body();
    let failure = trial.failure("/trap").await;
    assert!(failure.reason == Reason::Crashed && failure.detail.contains("trapped"), "{failure}");
    let broken = whole(beside).await;
    assert!(matches!(&broken, Err(BodyError::Function(detail)) if detail.contains("trapped")), "{broken:?}");
    begins_afresh(&trial, "a trap").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_beside_others_ends_at_the_cpu_limit() {
    let mut spec = spec(Reuse::Concurrent);
    spec.limits.cpu = Millis(100);
    let trial = trial("loop-con", service(), spec).await;
    trial.is_well().await;
    let failure = trial.failure("/loop").await;
    assert!(failure.reason == Reason::CpuLimit && failure.detail.contains("limits.cpu = 100ms"), "{failure}");
    trial.is_well().await;
}

#[tokio::test]
async fn bodies_of_0_3_stream_both_ways() {
    for reuse in [Reuse::Never, Reuse::Sequential, Reuse::Concurrent] {
        let trial = trial("streams", service(), spec(reuse)).await;
        let response = trial.call("/big?3000000", "").await.unwrap();
        assert_eq!(whole(response.into_body()).await.unwrap().len(), 3_000_000, "{reuse:?}");
        for path in ["/echo", "/pass"] {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Result<_, BodyError>>(1);
            let parts = futures_util::stream::unfold(receiver, |mut receiver| async move {
                receiver.recv().await.map(|part| (part, receiver))
            });
            let body = Body::stream(http_body_util::StreamBody::new(parts));
            let part = |text: &'static str| Ok(http_body::Frame::data(bytes::Bytes::from_static(text.as_bytes())));
            sender.send(part("first")).await.unwrap();
            let mut echoed = trial.call(path, body).await.unwrap().into_body();
            let first = timeout(LONG, echoed.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(first.into_data().unwrap(), "first", "{reuse:?}{path}: a part comes before the next is sent");
            sender.send(part("second")).await.unwrap();
            drop(sender);
            assert_eq!(whole(echoed).await.unwrap(), "second", "{reuse:?}{path}");
        }
    }
}

#[tokio::test]
async fn a_component_of_0_3_reaches_state_and_environment() {
    for reuse in [Reuse::Never, Reuse::Sequential, Reuse::Concurrent] {
        let mut spec = spec(reuse);
        spec.state.insert(Name::new("things").unwrap());
        spec.env.insert("GREETING".into(), "hi".into());
        let namespace = format!("state-{reuse:?}").to_lowercase();
        let trial = trial(&namespace, service(), spec).await;
        assert_eq!(trial.text("/increment?things").await.unwrap(), "1");
        assert_eq!(trial.text("/increment?things").await.unwrap(), "2");
        assert_eq!(trial.text("/increment?other").await.unwrap(), "no bucket");
        assert_eq!(trial.text("/env").await.unwrap(), "GREETING=hi\n");
    }
}

#[tokio::test]
async fn a_component_for_a_later_wasi_is_refused_with_both_versions() {
    let later = r#"(component (instance $i) (export "wasi:http/handler@0.3.2" (instance $i)))"#;
    let code = shared().code(&wat::parse_str(later).unwrap());
    let refused = shared().runtime.install(&code).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Unprocessable);
    assert!(refused.detail.contains("0.3.2") && refused.detail.contains("WASI 0.3.0"), "{refused}");
    // A plain component beside it still installs.
    let good = shared().code(&component(r#"(func $f (param i32 i32)) (export "handle" (func $f))"#));
    shared().runtime.install(&good).await.unwrap();
}
