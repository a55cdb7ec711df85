//! The conformance suite of the seam, over both stores.

use faas_invoke::conformance::{self, Bounds, Stage};
use faas_store::{Embedded, EmbeddedConfig};
use futures_util::future::BoxFuture;

use super::*;

impl Stage for Bench {
    fn dispatch(&self) -> &dyn Dispatch {
        &self.service
    }

    fn deploy<'a>(&'a self, function: &'a FunctionName, bounds: Bounds) -> BoxFuture<'a, ()> {
        let millis = |time: Duration| Millis(u64::try_from(time.as_millis()).unwrap());
        Box::pin(async move {
            let deployed = self.deploy_with(function.name.as_str(), "the suite's function", |deploy| {
                deploy.settings.scale.max = bounds.instances_max;
                deploy.settings.scale.concurrency = bounds.concurrency;
                deploy.spec.queue.depth = bounds.queue_depth;
                deploy.spec.queue.wait = millis(bounds.queue_wait);
                deploy.spec.timeout.run = millis(bounds.run);
                deploy.spec.limits.response_bytes.0 = bounds.response_bytes;
            });
            deployed.await.unwrap();
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_keeps_the_promises_of_dispatch() {
    let bench = Bench::new().await;
    conformance::run(&bench).await;
    assert_eq!(bench.runtime.running(), 0, "no call is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_keeps_the_promises_of_dispatch_on_several_threads_over_the_embedded_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("store.redb"), EmbeddedConfig::default()).unwrap();
    let bench = Bench::over(Arc::new(store)).await;
    conformance::run(&bench).await;
}
