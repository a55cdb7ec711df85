//! Starts that the call which caused them carries out on its own task.

use tokio::time::Instant;

use super::*;

/// A function at rest whose next start takes five seconds.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.runtime.follow(Script { start_delay: seconds(5), ..Script::default() });
    bench
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_does_not_end_the_start_that_it_causes() {
    let bench = bench().await;
    let (began, before) = (Instant::now(), bench.runtime.starts());
    assert!(tokio::time::timeout(seconds(2), bench.call("f")).await.is_err());
    assert_eq!(bench.status("f").await, 200);
    assert_eq!(began.elapsed().as_secs(), 5, "the second call waits for what the first one began");
    assert_eq!(bench.runtime.starts(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_only_caller_left_makes_an_instance_that_stops_when_it_is_idle() {
    let bench = bench().await;
    let before = bench.runtime.starts();
    assert!(tokio::time::timeout(seconds(2), bench.call("f")).await.is_err());
    until(|| bench.runtime.starts() == before + 1).await;
    until(|| bench.runtime.stops() == bench.runtime.starts()).await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_a_start_that_a_call_carries_out() {
    let bench = bench().await;
    let began = Instant::now();
    let (called, removed) = tokio::join!(bench.call("f"), async {
        tokio::time::sleep(seconds(1)).await;
        bench.service.remove(&function("f")).await
    });
    assert_eq!(called.unwrap_err().reason, Reason::NotFound);
    removed.unwrap();
    assert_eq!(began.elapsed().as_secs(), 5, "its code is not taken away under it");
    assert_eq!(bench.runtime.stops(), bench.runtime.starts());
}

#[tokio::test(start_paused = true)]
async fn others_wait_for_a_start_that_a_call_carries_out_and_leave_at_their_own_bounds() {
    let bench = bench().await;
    let first = bench.call("f");
    let other = async {
        tokio::time::sleep(seconds(1)).await;
        let began = Instant::now();
        assert!(tokio::time::timeout(seconds(1), bench.call("f")).await.is_err());
        assert_eq!((began.elapsed().as_secs(), bench.status("f").await), (1, 200));
    };
    let (first, ()) = tokio::join!(first, other);
    assert_eq!(first.unwrap().response.status(), 200);
}
