//! Installs that take time, and what happens beside them.

use std::collections::HashSet;
use std::sync::Mutex;

use faas_model::Digest;
use faas_model::manifest::RuntimeKind;
use faas_runtime::{Code, Prepared, Unit};
use futures_util::future::BoxFuture;

use super::*;

/// The scripted runtime behind an install that takes a minute, unless it was done; cut off, it leaves nothing.
#[derive(Debug, Clone)]
struct Slow {
    inner: Scripted,
    installed: Arc<Mutex<HashSet<Digest>>>,
    forgotten: Arc<Mutex<Vec<Digest>>>,
}

impl Slow {
    /// Opens the bench's data over a runtime that lost all it had installed.
    async fn open(bench: &mut Bench) -> Self {
        let slow = Self { inner: bench.runtime.clone(), installed: Arc::default(), forgotten: Arc::default() };
        bench.service = open(bench.folder.path(), bench.store.clone(), Arc::new(slow.clone())).await;
        slow
    }
}

impl Runtime for Slow {
    fn kind(&self) -> RuntimeKind {
        self.inner.kind()
    }

    fn install<'a>(&'a self, code: &'a Code) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            if self.installed.lock().unwrap().contains(&code.digest) {
                return Ok(());
            }
            self.inner.install(code).await?;
            tokio::time::sleep(seconds(60)).await;
            self.installed.lock().unwrap().insert(code.digest);
            Ok(())
        })
    }

    fn installed(&self, code: &Digest) -> bool {
        self.installed.lock().unwrap().contains(code)
    }

    fn forget<'a>(&'a self, code: &'a Digest) -> BoxFuture<'a, ()> {
        self.forgotten.lock().unwrap().push(*code);
        self.inner.forget(code)
    }

    fn prepare(&self, unit: Unit) -> Result<Arc<dyn Prepared>, RuntimeError> {
        self.inner.prepare(unit)
    }
}

fn impatient(deploy: &mut Deploy) {
    deploy.spec.timeout.cold = Millis::seconds(2);
}

#[tokio::test(start_paused = true)]
async fn an_install_that_takes_longer_than_a_start_may_goes_on_once_and_no_start_counts_as_failed() {
    let mut bench = Bench::new().await;
    bench.deploy_with("f", "one", impatient).await.unwrap();
    bench.deploy_with("g", "one", impatient).await.unwrap();
    Slow::open(&mut bench).await;
    let before = bench.runtime.installs();
    for _ in 0..6 {
        let (f, g) = tokio::join!(bench.reason("f"), bench.reason("g"));
        assert_eq!((f, g), (Reason::ColdTimeout, Reason::ColdTimeout));
        tokio::time::sleep(seconds(1)).await;
    }
    assert_eq!(bench.runtime.installs(), before + 1, "both functions wait for one install");
    let stats = bench.service.describe(&function("f")).await.unwrap().aliases[&Name::alias_live()].pool;
    assert_eq!((stats.crash_loop, stats.start_failures), (false, 0));
    tokio::time::sleep(seconds(60)).await;
    assert_eq!((bench.status("f").await, bench.status("g").await), (200, 200));
    assert_eq!(bench.runtime.installs(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn an_install_that_fails_is_a_failed_start_and_is_tried_again() {
    let mut bench = Bench::new().await;
    bench.deploy_with("f", "one", impatient).await.unwrap();
    Slow::open(&mut bench).await;
    bench.runtime.follow(Script { install_failure: Some(failure(Reason::DiskFull)), ..Script::default() });
    assert_eq!(bench.reason("f").await, Reason::DiskFull);
    bench.follow(Act::Routes);
    assert_eq!(bench.reason("f").await, Reason::ColdTimeout);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(bench.status("f").await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_counts_as_failed_once_its_code_is_there() {
    let mut bench = Bench::new().await;
    bench.deploy_with("f", "one", impatient).await.unwrap();
    bench = bench.reopen().await;
    bench.runtime.follow(Script { start_delay: seconds(60), ..Script::default() });
    for _ in 0..4 {
        assert_eq!(bench.reason("f").await, Reason::ColdTimeout);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.reason("f").await, Reason::CrashLoop);
}

#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_the_install_of_its_code_and_then_forgets_it() {
    let mut bench = Bench::new().await;
    bench.deploy_with("f", "one", impatient).await.unwrap();
    let slow = Slow::open(&mut bench).await;
    assert_eq!(bench.reason("f").await, Reason::ColdTimeout);
    bench.service.remove(&function("f")).await.unwrap();
    assert_eq!(*slow.forgotten.lock().unwrap(), [Digest::of(b"one")]);
    assert!(slow.installed.lock().unwrap().contains(&Digest::of(b"one")), "forgotten after it was made");
    assert_eq!(bench.code_files(), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_goes_away_takes_its_installs_along() {
    let mut bench = Bench::new().await;
    bench.deploy_with("f", "one", impatient).await.unwrap();
    let slow = Slow::open(&mut bench).await;
    assert_eq!(bench.reason("f").await, Reason::ColdTimeout);
    bench.service.drain(seconds(1)).await;
    tokio::time::sleep(seconds(600)).await;
    assert!(slow.installed.lock().unwrap().is_empty());
    let slow = Slow::open(&mut bench).await;
    assert_eq!(bench.reason("f").await, Reason::ColdTimeout);
    drop(bench);
    tokio::time::sleep(seconds(600)).await;
    assert!(slow.installed.lock().unwrap().is_empty(), "without a drain, too");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_stops_no_start_of_the_live_revision_with_the_same_code() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    let bench = bench.reopen().await;
    let hangs = |d: &mut Deploy| d.spec.probe = Some("/never".into());
    let mut redeploy = Box::pin(bench.deploy_with("f", "one", hangs));
    until(|| futures_util::FutureExt::now_or_never(&mut redeploy).is_none() && bench.runtime.calls() == 1).await;
    let began = tokio::time::Instant::now();
    assert_eq!(bench.status("f").await, 200);
    assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());
    assert_eq!(redeploy.await.unwrap_err().phase, crate::DeployPhase::Probe);
    assert_eq!(bench.status("f").await, 200);
    assert_eq!(bench.code_files().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_removal_cut_off_between_its_records_loses_its_compiled_code_too() {
    use faas_store::{Change, Logged, Partition, Require, Space, Write, WriteId};
    let mut bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    // The first slice of a long removal takes the aliases.
    let partition = Partition { namespace: Name::namespace_default(), space: Space::Catalog, name: "f".into() };
    let changes = vec![Change::Delete { sort: "a/live".into(), require: Require::Present }];
    let write = Write { partition, id: WriteId::fresh(), changes, log: Logged::Values };
    bench.store.write(write, tokio::time::Instant::now() + faas_store::PATIENCE).await.unwrap();
    let slow = Slow::open(&mut bench).await;
    assert_eq!(*slow.forgotten.lock().unwrap(), [Digest::of(b"one")]);
    assert_eq!(bench.code_files(), Vec::<PathBuf>::new());
}
