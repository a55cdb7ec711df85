//! The life of instances: starts, idle stops, crash loops, bodies.

use super::simple::{Odd, Simple};
use super::*;

async fn pool(bench: &Bench) -> crate::PoolStats {
    bench.service.describe(&function("f")).await.unwrap().aliases[&Name::alias_live()].pool
}

#[tokio::test(start_paused = true)]
async fn an_idle_function_scales_to_zero_and_back() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    let probed = bench.runtime.stops();
    let first = bench.call("f").await.unwrap();
    assert_eq!(first.timings.cold.len(), 1, "prepared by the deploy: {:?}", first.timings.cold);
    drop(first);
    assert_eq!(pool(&bench).await.instances, 1);
    until(|| bench.runtime.stops() == probed + 1).await;
    assert_eq!(pool(&bench).await.instances, 0);
    assert!(!bench.call("f").await.unwrap().timings.cold.is_empty());
    assert_eq!(pool(&bench).await.starts, 2);
}

#[tokio::test(start_paused = true)]
async fn no_call_fails_while_the_function_scales_to_zero_and_back() {
    let bench = Bench::new().await;
    let short = |d: &mut Deploy| d.settings.scale.idle = Millis(50);
    bench.deploy_with("f", "one", short).await.unwrap();
    for n in 0..300 {
        assert_eq!(bench.status("f").await, 200);
        tokio::time::sleep(Duration::from_millis(48 + n % 5)).await;
    }
    assert!(pool(&bench).await.starts > 50, "it did scale to zero");
}

#[tokio::test(start_paused = true)]
async fn a_minimum_is_started_at_once_and_kept() {
    let bench = Bench::new().await;
    bench.deploy_with("f", "one", |d| d.settings.scale.min = 2).await.unwrap();
    until(|| bench.runtime.starts() == 3).await;
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(pool(&bench).await.instances, 2);
    let bench = bench.reopen().await;
    until(|| bench.runtime.starts() == 5).await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_first_calls_shares_one_cold_start() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.runtime.follow(Script { start_delay: seconds(1), ..Script::default() });
    let before = bench.runtime.starts();
    let calls = futures_util::future::join_all((0..100).map(|_| bench.status("f")));
    assert!(calls.await.iter().all(|status| *status == 200));
    assert_eq!(bench.runtime.starts(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_leaves_as_it_is_given_a_place_gives_it_back() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.runtime.follow(Script { start_delay: seconds(1), ..Script::default() });
    // The first carries out the start that the second waits for, too.
    let (mut first, mut call) = (Box::pin(bench.call("f")), Box::pin(bench.call("f")));
    assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut call).is_pending());
    drop(first.await);
    let lane = bench.service.registry.lane(&function("f"), &Name::alias_live()).unwrap();
    assert_eq!(lane.stats().busy, 1, "the place is the call's, which does not know it yet");
    drop(call);
    assert_eq!(lane.stats().busy, 0);
}

#[tokio::test(start_paused = true)]
async fn starts_that_keep_failing_pause_and_recover_by_themselves() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.deploy("other", "other").await.unwrap();
    bench.runtime.follow(Script { start_failure: Some(failure(Reason::StartFailed)), ..Script::default() });
    for _ in 0..3 {
        assert_eq!(bench.reason("f").await, Reason::StartFailed);
    }
    let starts = bench.runtime.starts();
    assert_eq!(bench.reason("f").await, Reason::CrashLoop);
    assert_eq!(bench.runtime.starts(), starts, "no start during the pause");
    assert!(pool(&bench).await.crash_loop);
    bench.follow(Act::Routes);
    assert_eq!(bench.status("other").await, 200);
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(bench.status("f").await, 200);
    assert!(!pool(&bench).await.crash_loop);
}

#[tokio::test(start_paused = true)]
async fn code_that_is_refused_after_its_deploy_is_a_failed_start() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    let bench = bench.reopen().await;
    bench.runtime.forget(&faas_model::Digest::of(b"one")).await;
    let install_failure = Some(failure(Reason::Unprocessable));
    bench.runtime.follow(Script { install_failure, ..Script::default() });
    assert_eq!(bench.reason("f").await, Reason::StartFailed);
}

#[tokio::test(start_paused = true)]
async fn a_full_runtime_refuses_and_is_no_crash_loop() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.runtime.follow(Script { start_failure: Some(failure(Reason::QueueFull)), ..Script::default() });
    for _ in 0..10 {
        assert_eq!(bench.reason("f").await, Reason::QueueFull);
    }
    assert!(!pool(&bench).await.crash_loop);
    bench.follow(Act::Routes);
    assert_eq!(bench.status("f").await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_is_a_cold_timeout() {
    let bench = Bench::new().await;
    bench.deploy_with("f", "one", |d| d.spec.timeout.cold = Millis::seconds(2)).await.unwrap();
    bench.runtime.follow(Script { start_delay: seconds(60), ..Script::default() });
    let began = tokio::time::Instant::now();
    assert_eq!(bench.reason("f").await, Reason::ColdTimeout);
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_gives_its_place_up_at_the_cold_bound() {
    let bench = Bench::new().await;
    let bounds = |d: &mut Deploy| (d.spec.timeout.cold, d.settings.scale.max) = (Millis::seconds(2), 1);
    bench.deploy_with("f", "one", bounds).await.unwrap();
    bench.runtime.follow(Script { start_delay: seconds(3600), ..Script::default() });
    assert_eq!(bench.reason("f").await, Reason::ColdTimeout);
    bench.follow(Act::Routes);
    assert_eq!(bench.status("f").await, 200);
    assert_eq!(pool(&bench).await.start_failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_panics_is_a_failed_start() {
    let (mut bench, odd) = (Bench::new().await, Odd::default());
    bench.service = open(bench.folder.path(), bench.store.clone(), Arc::new(odd.clone())).await;
    bench.deploy("f", "one").await.unwrap();
    odd.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(bench.reason("f").await, Reason::Internal);
    odd.panics.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(bench.status("f").await, 200);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_too_slowly_ends_at_its_whole_bound() {
    let mut bench = Bench::new().await;
    let chunks = || futures_util::stream::repeat_with(|| Ok(http_body::Frame::data(Bytes::from_static(b"x"))));
    let endless = move || Body::stream(http_body_util::StreamBody::new(chunks()));
    let runtime = Simple { broken: false, answer: Arc::new(move |_| Ok(http::Response::new(endless()))) };
    bench.service = open(bench.folder.path(), bench.store.clone(), Arc::new(runtime)).await;
    bench.deploy_with("f", "one", |d| d.spec.timeout.stream = Millis::seconds(20)).await.unwrap();
    let mut body = bench.call("f").await.unwrap().response.into_body();
    for _ in 0..4 {
        assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_ok());
        tokio::time::sleep(seconds(5)).await;
    }
    let late = http_body_util::BodyExt::frame(&mut body).await.unwrap();
    assert_eq!(late.unwrap_err(), faas_model::BodyError::Deadline { ms: 20_000 });
    assert_eq!(pool(&bench).await.busy, 0, "the reader keeps the body, not the place");
}

#[tokio::test(start_paused = true)]
async fn a_silent_body_ends_at_its_idle_bound_and_an_endless_one_at_its_whole_bound() {
    let bench = Bench::new().await;
    let bounds =
        |d: &mut Deploy| (d.spec.timeout.idle, d.spec.timeout.stream) = (Millis::seconds(5), Millis::seconds(20));
    bench.deploy_with("f", "one", bounds).await.unwrap();
    let chunks = |n| vec![Bytes::from_static(b"x"); n];
    bench.follow(Act::Reply { chunks: chunks(1), pause: seconds(6) });
    let body = bench.call("f").await.unwrap().response.into_body().collect(100).await;
    assert_eq!(body, Err(faas_model::BodyError::Idle { ms: 5000 }));
    bench.follow(Act::Reply { chunks: chunks(50), pause: seconds(4) });
    let body = bench.call("f").await.unwrap().response.into_body().collect(100).await;
    assert_eq!(body, Err(faas_model::BodyError::Deadline { ms: 20_000 }));
    assert_eq!(pool(&bench).await.busy, 0);
    assert_eq!(bench.runtime.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn eviction_stops_idle_instances_before_their_time() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    assert_eq!(bench.status("f").await, 200);
    bench.service.evict_idle();
    assert_eq!(pool(&bench).await.instances, 0);
    until(|| bench.runtime.stops() == bench.runtime.starts()).await;
}

#[tokio::test(start_paused = true)]
async fn a_function_at_rest_has_no_task_and_little_memory() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    assert_eq!(bench.status("f").await, 200);
    until(|| bench.runtime.stops() == bench.runtime.starts()).await;
    bench.service.registry.tasks.ended().await;
    let own = size_of::<crate::lane::Lane>() + size_of::<crate::registry::Function>();
    let shared = size_of::<crate::target::Target>() + size_of::<faas_model::Revision>();
    assert!(own + shared < 3 << 10, "{own} + {shared} bytes beside names and the map's own");
}

/// A runtime whose instances break at each call, and show what they were asked.
#[derive(Debug, Default)]
struct Fragile {
    asked: std::sync::Mutex<Vec<http::HeaderMap>>,
}

impl Fragile {
    fn runtime(self: &Arc<Self>) -> Arc<dyn Runtime> {
        let asked = self.clone();
        Arc::new(Simple {
            broken: true,
            answer: Arc::new(move |call| {
                asked.asked.lock().unwrap().push(call.request.headers().clone());
                Err(failure(Reason::Crashed))
            }),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn instances_that_break_at_once_are_replaced_until_starts_pause() {
    let (mut bench, fragile) = (Bench::new().await, Arc::new(Fragile::default()));
    bench.service = open(bench.folder.path(), bench.store.clone(), fragile.runtime()).await;
    bench.deploy("f", "one").await.unwrap();
    for _ in 0..3 {
        assert_eq!(bench.reason("f").await, Reason::Crashed);
    }
    assert_eq!(bench.reason("f").await, Reason::CrashLoop);
    assert_eq!(fragile.asked.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_function_is_told_when_the_platform_gives_up() {
    let (mut bench, fragile) = (Bench::new().await, Arc::new(Fragile::default()));
    bench.service = open(bench.folder.path(), bench.store.clone(), fragile.runtime()).await;
    bench.deploy("f", "one").await.unwrap();
    let now = crate::call::unix_ms(Duration::ZERO);
    assert_eq!(bench.reason("f").await, Reason::Crashed);
    let asked = fragile.asked.lock().unwrap();
    let deadline: u64 = asked[0][faas_model::headers::DEADLINE_MS].to_str().unwrap().parse().unwrap();
    assert!((now + 30_000..now + 35_000).contains(&deadline), "timeout.run is 30 s by default");
}

/// Real threads and real time: races between ends, drops, starts and stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_race_with_cancellations_and_deploys_leave_nothing_behind() {
    let bench = Arc::new(Bench::new().await);
    let bounds = |d: &mut Deploy| {
        (d.settings.scale.max, d.settings.scale.concurrency, d.settings.scale.idle) = (3, 4, Millis(2));
    };
    bench.deploy_with("f", "code 0", bounds).await.unwrap();
    let callers = (0..32_u64).map(|caller| {
        let bench = bench.clone();
        tokio::spawn(async move {
            for n in 0..100 {
                let patience = Duration::from_micros((caller * 31 + n * 17) % 3000);
                let call = async {
                    bench.call("f").await?.response.into_body().collect(100).await.map_err(|_| unreachable!())
                };
                let ended: Result<Result<_, InvokeError>, _> = tokio::time::timeout(patience, call).await;
                assert!(!matches!(ended, Ok(Err(_))), "{ended:?}");
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for n in 1..10 {
        bench.deploy_with("f", &format!("code {n}"), bounds).await.unwrap();
    }
    for caller in callers {
        caller.await.unwrap();
    }
    until(|| bench.runtime.stops() == bench.runtime.starts()).await;
    let stats = pool(&bench).await;
    assert_eq!((stats.instances, stats.starting, stats.busy, stats.waiting), (0, 0, 0, 0));
    assert_eq!(bench.runtime.running(), 0);
    assert!(bench.runtime.running_most() > 1);
}

/// Tells, when it is dropped, how many calls its function runs.
struct Witness(Arc<std::sync::OnceLock<FunctionService>>, Arc<std::sync::Mutex<Vec<u32>>>);

impl Drop for Witness {
    fn drop(&mut self) {
        let lane = self.0.get().unwrap().registry.lane(&function("f"), &Name::alias_live()).unwrap();
        self.1.lock().unwrap().push(lane.stats().busy);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_keeps_its_place_until_the_guest_is_gone() {
    let (service, seen) = (Arc::default(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let (of, told) = (Arc::clone(&service), seen.clone());
    let answer = move |_| {
        let witness = Witness(Arc::clone(&of), told.clone());
        let data = Bytes::from_static(b"too much");
        let frames = futures_util::stream::repeat_with(move || {
            let _held = &witness;
            Ok(http_body::Frame::data(data.clone()))
        });
        Ok(http::Response::new(Body::stream(http_body_util::StreamBody::new(frames))))
    };
    let mut bench = Bench::new().await;
    let endless = Simple { answer: Arc::new(answer), broken: false };
    bench.service = open(bench.folder.path(), bench.store.clone(), Arc::new(endless)).await;
    service.set(bench.service.clone()).unwrap();
    bench.deploy_with("f", "one", |d| d.spec.limits.response_bytes.0 = 10).await.unwrap();
    let body = bench.call("f").await.unwrap().response.into_body().collect(100).await;
    assert_eq!(body, Err(faas_model::BodyError::TooLarge { max: 10 }));
    assert_eq!(*seen.lock().unwrap(), [1]);
    assert_eq!(pool(&bench).await.busy, 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_no_body_may_announce_any_length() {
    let mut bench = Bench::new().await;
    let answer = |call: faas_runtime::Call| {
        let status = call.request.headers()["status"].to_str().unwrap().parse::<u16>().unwrap();
        let told = http::Response::builder().status(status).header(http::header::CONTENT_LENGTH, 1_000_000);
        Ok(told.body(Body::Empty).unwrap())
    };
    let told = Simple { answer: Arc::new(answer), broken: false };
    bench.service = open(bench.folder.path(), bench.store.clone(), Arc::new(told)).await;
    bench.deploy_with("f", "one", |d| d.spec.limits.response_bytes.0 = 10).await.unwrap();
    for (status, refused) in [(304, false), (204, false), (205, false), (200, true)] {
        let mut call = invocation("f");
        call.request.headers_mut().insert("status", status.into());
        let reply = bench.service.dispatch(call).await;
        assert_eq!(reply.err().map(|e| e.reason), refused.then_some(Reason::ReplyTooLarge), "{status}");
    }
}
