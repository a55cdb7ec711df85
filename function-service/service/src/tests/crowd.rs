//! A runtime that has room for a few instances only.

use super::*;

const ROOM: u64 = 4;

async fn bench(functions: usize) -> Bench {
    let bench = Bench::new().await;
    for n in 0..functions {
        bench.deploy(&name(n), "one").await.unwrap();
    }
    bench.runtime.follow(crowded(Act::Routes));
    bench
}

fn crowded(act: Act) -> Script {
    Script { act, instances_max: Some(ROOM), ..Script::default() }
}

fn name(n: usize) -> String {
    format!("f{n}")
}

/// Returns which functions have an instance.
async fn alive(bench: &Bench, functions: usize) -> Vec<usize> {
    let mut alive = Vec::new();
    for n in 0..functions {
        let described = bench.service.describe(&function(&name(n))).await.unwrap();
        if described.aliases[&Name::alias_live()].pool.instances > 0 {
            alive.push(n);
        }
    }
    alive
}

#[tokio::test(start_paused = true)]
async fn a_start_without_room_stops_the_instance_that_is_unused_longest() {
    let bench = bench(6).await;
    for n in [0, 1, 2, 3, 0] {
        assert_eq!(bench.status(&name(n)).await, 200);
        tokio::time::sleep(seconds(1)).await;
    }
    assert_eq!(alive(&bench, 6).await, [0, 1, 2, 3]);
    assert_eq!(bench.status("f4").await, 200);
    assert_eq!(alive(&bench, 6).await, [0, 2, 3, 4], "f0 was used again, so f1 is the oldest");
    assert_eq!(bench.status("f5").await, 200);
    assert_eq!(alive(&bench, 6).await, [0, 3, 4, 5]);
    let stats = bench.service.describe(&function("f5")).await.unwrap().aliases[&Name::alias_live()].pool;
    assert_eq!((stats.crash_loop, stats.start_failures), (false, 0));
}

#[tokio::test(start_paused = true)]
async fn a_deploy_finds_room_for_its_probe_too() {
    let bench = bench(4).await;
    for n in 0..4 {
        assert_eq!(bench.status(&name(n)).await, 200);
        tokio::time::sleep(seconds(1)).await;
    }
    bench.deploy("f4", "two").await.unwrap();
    assert_eq!(alive(&bench, 5).await, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn busy_instances_are_not_stopped_and_the_bound_is_told() {
    let bench = bench(6).await;
    bench.runtime.follow(crowded(Act::Wait));
    let calls = (0..4).map(|n| {
        let service = bench.service.clone();
        tokio::spawn(async move { service.dispatch(invocation(&name(n))).await.unwrap().response.status() })
    });
    let calls: Vec<_> = calls.collect();
    until(|| bench.runtime.running() == ROOM).await;
    let refused = bench.call("f4").await.unwrap_err();
    assert_eq!((refused.reason, refused.detail.as_str()), (Reason::QueueFull, "all 4 instances are alive"));
    bench.runtime.release(5);
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(bench.status("f4").await, 200, "a refusal is no crash loop");
}

#[tokio::test(start_paused = true)]
async fn instances_that_scale_min_keeps_are_not_stopped() {
    let bench = Bench::new().await;
    for n in 0..4 {
        bench.deploy_with(&name(n), "one", |d| d.settings.scale.min = 1).await.unwrap();
    }
    bench.deploy("f4", "one").await.unwrap();
    until(|| bench.runtime.starts() == 9).await;
    bench.runtime.follow(crowded(Act::Routes));
    assert_eq!(bench.reason("f4").await, Reason::QueueFull);
    assert_eq!(alive(&bench, 5).await, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn starts_at_once_share_the_room_that_is_made() {
    let bench = bench(40).await;
    for n in 0..40 {
        assert_eq!(bench.status(&name(n)).await, 200);
    }
    let names: Vec<_> = (0..4).map(name).collect();
    let calls = futures_util::future::join_all(names.iter().map(|name| bench.status(name)));
    assert!(calls.await.iter().all(|status| *status == 200));
}
