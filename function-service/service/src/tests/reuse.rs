//! What `reuse` means for the pool: how many calls an instance takes.

use faas_model::manifest::Reuse;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_instance_with_sequential_reuse_takes_one_call_at_a_time() {
    let bench = Arc::new(Bench::new().await);
    let change = |d: &mut Deploy| {
        (d.spec.reuse, d.settings.scale.max) = (Reuse::Sequential, 3);
    };
    bench.deploy_with("f", "one", change).await.unwrap();
    bench.follow(Act::Wait);
    let (before, calls) = (bench.runtime.starts(), 8);
    let waiting: Vec<_> = (0..calls)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.status("f").await })
        })
        .collect();
    until(|| bench.runtime.running() == 3).await;
    let stats = bench.service.describe(&function("f")).await.unwrap().aliases[&Name::alias_live()].pool;
    assert_eq!((stats.instances, stats.busy, stats.waiting), (3, 3, 5));
    bench.runtime.release(calls);
    for call in waiting {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(bench.runtime.starts() - before, 3, "calls go to the instances that there are");
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_asks_for_more_is_refused_with_what_to_do() {
    let bench = Bench::new().await;
    let refused = bench.deploy_with("f", "one", |d| {
        (d.spec.reuse, d.settings.scale.concurrency) = (Reuse::Sequential, 8);
    });
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.problem.reason, Reason::Unprocessable);
    let text = refused.problem.detail;
    assert!(text.contains("scale.concurrency = 8") && text.contains("scale.max"), "{text}");
}
