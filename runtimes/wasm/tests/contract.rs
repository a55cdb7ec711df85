//! What a well-behaved component may rely on.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{Machine, code, guest, shared, trial, whole};
use faas_model::manifest::FunctionSpec;
use faas_model::{Body, BodyError, FunctionName, Name, Reason};
use faas_runtime::conformance::{self, Fixture};
use faas_runtime::logs::Stream;
use faas_runtime_wasm::Config;
use http_body_util::BodyExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wasm_runtime_passes_the_list() {
    let machine = Machine::new(Config { calls_max: 64, ..Config::default() });
    let function = FunctionName::in_default("trial").unwrap();
    let code = code(guest());
    let unit = machine.unit(&function, code.clone(), FunctionSpec::default());
    let bad_code = Some(machine.code(b"\0asm but not really"));
    conformance::check(&Fixture { runtime: machine.runtime.clone(), code, unit, bad_code }).await;
    assert!(machine.compiled().is_empty(), "forgotten code leaves nothing");
}

#[tokio::test]
async fn a_small_answer_comes_at_once_and_whole() {
    let trial = trial("plain", |_| {}).await;
    // A call that meets a tick of the clock may go on elsewhere, and then streams.
    let mut at_once = 0;
    for (path, bytes) in [("/hello", 5), ("/big?100000", 100_000)].repeat(10) {
        let body = trial.call(path, "").await.unwrap().into_body();
        at_once += u32::from(matches!(body, Body::Full(_)));
        assert_eq!(whole(body).await.unwrap().len(), bytes);
    }
    assert!(at_once > 10, "{at_once} of 20 came at once");
    assert_eq!(trial.call("/status?204", "").await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_large_answer_streams_whole() {
    let trial = trial("plain", |_| {}).await;
    let response = trial.call("/big?3000000", "").await.unwrap();
    assert!(matches!(response.body(), Body::Stream(_)));
    assert_eq!(whole(response.into_body()).await.unwrap().len(), 3_000_000);
}

#[tokio::test]
async fn a_stream_gives_each_part_when_it_is_written() {
    let trial = trial("plain", |_| {}).await;
    let mut body = trial.call("/sse", "").await.unwrap().into_body();
    let mut seen = Vec::new();
    while seen.len() < "tick 0\ntick 1\ntick 2\n".len() {
        seen.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(seen, b"tick 0\ntick 1\ntick 2\n");
}

#[tokio::test]
async fn every_call_begins_afresh() {
    let trial = trial("plain", |_| {}).await;
    for _ in 0..50 {
        assert_eq!(trial.text("/count").await.unwrap(), "1");
    }
}

#[tokio::test]
async fn the_request_comes_as_it_was_given() {
    let trial = trial("plain", |_| {}).await;
    let seen = trial.text("/headers?a=%20b&c").await.unwrap();
    assert!(seen.starts_with("Method::Post trial.default.faas.internal /headers?a=%20b&c\n"), "{seen}");
    assert!(seen.contains("x-given: value\n"), "{seen}");
}

#[tokio::test]
async fn a_request_body_that_breaks_off_is_no_whole_body_for_the_guest() {
    let trial = trial("plain", |_| {}).await;
    let parts = [Ok(http_body::Frame::data("part".into())), Err(BodyError::Broken("the client left".into()))];
    let body = Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter(parts)));
    let answer = match trial.call("/echo", body).await {
        Ok(response) => whole(response.into_body()).await.map_err(|_| ()),
        Err(_) => Err(()),
    };
    assert!(answer.is_err(), "an echo of a part is not an answer: {answer:?}");
    trial.is_well().await;
}

#[tokio::test]
async fn env_is_in_the_environment_and_in_both_configs_and_nothing_else_is() {
    let trial = trial("plain", |spec| {
        spec.env.insert("GREETING".into(), "hi".into());
    })
    .await;
    assert_eq!(trial.text("/env").await.unwrap(), "GREETING=hi\n");
    let both = r#"Some(Some("hi")) Some(Some("hi")) 1"#;
    assert_eq!(trial.text("/state/config?GREETING").await.unwrap(), both);
    assert_eq!(trial.text("/state/config?PATH").await.unwrap(), "Some(None) Some(None) 1");
}

#[tokio::test]
async fn output_goes_to_the_log_with_its_call() {
    let trial = trial("output", |_| {}).await;
    trial.text("/log").await.unwrap();
    let lines: Vec<_> = trial.log().await.into_iter().map(|line| (line.stream, line.text)).collect();
    let want = [
        (Stream::Stdout, "to standard output".to_owned()),
        (Stream::Stderr, "to standard error\\u{1b}[2J".to_owned()),
        (Stream::Stdout, "without an end".to_owned()),
    ];
    assert_eq!(lines, want);
}

fn granted(spec: &mut FunctionSpec) {
    spec.state.insert(Name::new("things").unwrap());
}

#[tokio::test]
async fn state_keeps_the_interfaces_promises() {
    let trial = trial("state-walk", granted).await;
    assert_eq!(trial.text("/state/walk?things").await.unwrap(), "right");
}

#[tokio::test]
async fn a_bucket_that_is_not_granted_does_not_exist() {
    let trial = trial("state-grants", granted).await;
    assert_eq!(trial.text("/state/open?things").await.unwrap(), "open");
    for other in ["", "other", "default", "Things", "../things"] {
        assert_eq!(trial.text(&format!("/state/open?{other}")).await.unwrap(), "no-such-store", "{other}");
    }
}

#[tokio::test]
async fn the_same_bucket_of_another_namespace_is_another_bucket() {
    let (one, two) = (trial("state-one", granted).await, trial("state-two", granted).await);
    assert_eq!(one.text("/state/increment?things").await.unwrap(), "1");
    assert_eq!(one.text("/state/increment?things").await.unwrap(), "2");
    assert_eq!(two.text("/state/increment?things").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_calls_lose_no_increment() {
    let trial = std::sync::Arc::new(trial("state-parallel", granted).await);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let trial = trial.clone();
        calls.spawn(async move { trial.text("/state/increment?things").await.unwrap().parse::<u64>().unwrap() });
    }
    let mut sums = calls.join_all().await;
    sums.sort_unstable();
    assert_eq!(sums, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn errors_of_the_state_carry_the_platforms_reasons() {
    let trial = trial("state-errors", granted).await;
    let long = trial.text("/state/long-key?things").await.unwrap();
    assert!(long.starts_with("other body_too_large: "), "{long}");
    let cursor = trial.text("/state/cursor?things").await.unwrap();
    assert!(cursor.starts_with("other bad_request: "), "{cursor}");
}

#[tokio::test]
async fn handles_of_a_swap_hold_no_value_and_still_notice_every_change() {
    let trial = trial("state-handles", granted).await;
    assert_eq!(trial.text("/state/fill?things").await.unwrap(), "filled");
    assert_eq!(trial.text("/state/handles?things").await.unwrap(), "Some(\"changed\") false");
}

#[tokio::test]
async fn a_large_value_read_a_thousand_times_at_once_is_refused() {
    let trial = trial("state-many", granted).await;
    assert_eq!(trial.text("/state/fill?things").await.unwrap(), "filled");
    let many = trial.text("/state/many?things").await.unwrap();
    assert!(many.starts_with("other body_too_large: "), "{many}");
}

#[tokio::test]
async fn a_guest_may_work_on_after_its_answer_until_run_is_over() {
    let quick = trial("after-quick", |_| {}).await;
    assert_eq!(quick.text("/after?50").await.unwrap(), "answered");
    assert!(quick.logged("worked after the answer").await);
    let cut = trial("after-cut", |spec| spec.timeout.run = faas_model::units::Millis(30)).await;
    assert_eq!(cut.text("/after?300").await.unwrap(), "answered");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!cut.log().await.iter().any(|line| line.text.contains("worked")), "work ends with timeout.run");
}

#[tokio::test]
async fn a_stop_ends_streams_and_refuses_calls() {
    let trial = trial("stops", |_| {}).await;
    let body = trial.call("/sse", "").await.unwrap().into_body();
    assert!(trial.instance.usage().memory_bytes > 0);
    trial.instance.stop().await;
    assert!(matches!(whole(body).await, Err(BodyError::Function(_))));
    assert!(trial.call("/hello", "").await.is_err());
    assert_eq!(trial.instance.usage().memory_bytes, 0);
}

#[tokio::test]
async fn a_start_names_its_phases_and_what_is_loaded_is_shared() {
    let (one, two) = (trial("share", |_| {}).await, trial("share", |_| {}).await);
    one.is_well().await;
    drop(one);
    two.is_well().await;
    let function = FunctionName::in_default("phases").unwrap();
    let unit = shared().unit(&function, code(guest()), FunctionSpec::default());
    use faas_runtime::Runtime as _;
    let started = shared().runtime.prepare(unit).unwrap().start().await.unwrap();
    assert_eq!(started.phases.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["load", "link", "instantiate"]);
}

#[tokio::test]
async fn a_start_takes_nothing_but_what_was_installed() {
    let machine = Machine::new(Config { calls_max: 4, ..Config::default() });
    let function = FunctionName::in_default("elsewhere").unwrap();
    use faas_runtime::Runtime as _;
    let code = code(guest());
    let prepared = machine.runtime.prepare(machine.unit(&function, code.clone(), FunctionSpec::default())).unwrap();
    let failure = prepared.start().await.unwrap_err();
    assert_eq!(failure.reason, Reason::StartFailed);
    assert!(failure.detail.contains("not installed") && !failure.detail.contains("compiled/"), "{failure}");
    machine.runtime.install(&code).await.unwrap();
    prepared.start().await.unwrap();
}
