//! The end of the service: what runs ends, or is cut, and nothing is left.

use super::flaky::Flaky;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_drain_refuses_new_calls_and_waits_for_running_ones() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.follow(Act::Wait);
    let service = bench.service.clone();
    let call = tokio::spawn(async move { service.dispatch(invocation("f")).await.unwrap().response.status() });
    until(|| bench.runtime.running() == 1).await;
    let service = bench.service.clone();
    let drain = tokio::spawn(async move { service.drain(seconds(10)).await });
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(bench.reason("f").await, Reason::Draining);
    assert!(!drain.is_finished());
    bench.runtime.release(1);
    assert_eq!(call.await.unwrap(), 200);
    drain.await.unwrap();
    assert_eq!(bench.runtime.stops(), bench.runtime.starts());
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_deployed_while_the_platform_stops_takes_no_call() {
    let bench = Bench::new().await;
    bench.service.drain(seconds(1)).await;
    bench.deploy("f", "one").await.unwrap();
    assert_eq!(bench.reason("f").await, Reason::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_drain_cuts_what_runs_after_the_grace_period() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.follow(Act::Hang);
    let service = bench.service.clone();
    let call = tokio::spawn(async move { service.dispatch(invocation("f")).await.unwrap_err().reason });
    until(|| bench.runtime.running() == 1).await;
    let began = tokio::time::Instant::now();
    bench.service.drain(seconds(3)).await;
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(call.await.unwrap(), Reason::Crashed);
}

/// Found by seed 4271 of the simulation: the registry does not know a removed function's lane any more.
#[tokio::test(start_paused = true)]
async fn a_drain_cuts_the_calls_of_a_function_that_is_being_removed() {
    let bench = Bench::new().await;
    bench.deploy_with("f", "one", |d| d.spec.timeout.grace = Millis::seconds(20)).await.unwrap();
    bench.follow(Act::Hang);
    let service = bench.service.clone();
    let call = tokio::spawn(async move { service.dispatch(invocation("f")).await.unwrap_err().reason });
    until(|| bench.runtime.running() == 1).await;
    let service = bench.service.clone();
    let removal = tokio::spawn(async move { service.remove(&function("f")).await.unwrap_err().reason });
    until(|| bench.service.registry.function(&function("f")).is_err()).await;
    bench.service.drain(seconds(3)).await;
    assert_eq!(call.await.unwrap(), Reason::Crashed);
    assert_eq!(removal.await.unwrap(), Reason::Draining);
    assert_eq!(bench.runtime.stops(), bench.runtime.starts());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_starts_of_a_function_whose_removal_fails_meanwhile() {
    let store = Flaky::new();
    let bench = Bench::over(store.clone()).await;
    let bounds = |d: &mut Deploy| (d.spec.timeout.grace, d.settings.scale.min) = (Millis::seconds(2), 1);
    bench.deploy_with("f", "one", bounds).await.unwrap();
    until(|| bench.runtime.starts() == 2).await;
    bench.runtime.follow(Script { act: Act::Hang, start_delay: seconds(1), ..Script::default() });
    let service = bench.service.clone();
    let call = tokio::spawn(async move { service.dispatch(invocation("f")).await.unwrap_err().reason });
    until(|| bench.runtime.running() == 1).await;
    store.away(true);
    let service = bench.service.clone();
    let removal = tokio::spawn(async move { service.remove(&function("f")).await.unwrap_err().reason });
    until(|| bench.service.registry.function(&function("f")).is_err()).await;
    bench.service.drain(seconds(10)).await;
    assert_eq!(call.await.unwrap(), Reason::Crashed, "cut by the removal");
    assert_eq!(removal.await.unwrap(), Reason::StoreUnavailable);
    assert_eq!(bench.runtime.starts(), 3, "the function is back, and its minimum was started");
    assert_eq!(bench.runtime.stops(), 3);
    assert_eq!(bench.reason("f").await, Reason::Draining);
}
