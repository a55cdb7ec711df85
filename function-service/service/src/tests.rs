//! The service over a scripted runtime, a folder and a store in memory.

mod counts;
mod crowd;
mod deploys;
mod drains;
mod flaky;
mod life;
mod reuse;
mod sharing;
mod simple;
mod slow;
mod starts;
mod suite;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_invoke::{Dispatch, Invocation, InvokeError, Reply};
use faas_model::units::Millis;
use faas_model::{AliasSettings, Body, CallId, FunctionName, FunctionSpec, Name, Reason, TriggerKind};
use faas_repo::{Expect, FolderRepo};
use faas_runtime::logs::{LogBook, LogConfig};
use faas_runtime::scripted::{Act, Script, Scripted};
use faas_runtime::{Runtime, RuntimeError};
use faas_store::{Memory, Store};

use crate::{Config, Deploy, DeployError, Deployed, FunctionService};

/// A service with everything below it.
#[derive(Debug)]
struct Bench {
    service: FunctionService,
    runtime: Scripted,
    store: Arc<dyn Store>,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::over(Arc::new(Memory::new())).await
    }

    async fn over(store: Arc<dyn Store>) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Scripted::default());
        let service = open(folder.path(), store.clone(), Arc::new(runtime.clone())).await;
        Self { service, runtime, store, folder }
    }

    /// Opens the same data again, as after a crash.
    async fn reopen(self) -> Self {
        let Self { service, runtime, store, folder } = self;
        drop(service);
        let service = open(folder.path(), store.clone(), Arc::new(runtime.clone())).await;
        Self { service, runtime, store, folder }
    }

    fn follow(&self, act: Act) {
        self.runtime.follow(Script { act, ..Script::default() });
    }

    async fn deploy(&self, name: &str, code: &str) -> Result<Deployed, DeployError> {
        self.deploy_with(name, code, |_| {}).await
    }

    async fn deploy_with(
        &self,
        name: &str,
        code: &str,
        change: impl FnOnce(&mut Deploy),
    ) -> Result<Deployed, DeployError> {
        let mut upload = self.service.begin_upload().await.unwrap();
        upload.write(code.as_bytes()).await.unwrap();
        let mut deploy = Deploy {
            function: function(name),
            spec: FunctionSpec::default(),
            settings: AliasSettings::default(),
            upload,
            expected: Expect::Any,
        };
        change(&mut deploy);
        self.service.deploy(deploy).await
    }

    async fn call(&self, name: &str) -> Result<Reply, InvokeError> {
        self.service.dispatch(invocation(name)).await
    }

    async fn status(&self, name: &str) -> u16 {
        self.call(name).await.unwrap().response.status().as_u16()
    }

    async fn reason(&self, name: &str) -> Reason {
        self.call(name).await.unwrap_err().reason
    }

    /// Returns the names of all files of the code folder, temporary ones included.
    fn code_files(&self) -> Vec<PathBuf> {
        files(&self.folder.path().join("blobs"))
    }
}

async fn open(folder: &Path, store: Arc<dyn Store>, runtime: Arc<dyn Runtime>) -> FunctionService {
    let repo = FolderRepo::open(folder.join("blobs"), faas_repo::Config::default(), store).await.unwrap();
    let logs = LogBook::open(folder.join("logs"), LogConfig::default()).unwrap();
    FunctionService::open(Config::default(), Arc::new(repo), vec![runtime], logs).await.unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn function(name: &str) -> FunctionName {
    FunctionName::in_default(name).unwrap()
}

fn invocation(name: &str) -> Invocation {
    let request = http::Request::get(format!("http://{name}.default.faas.internal/hello")).body(Body::Empty).unwrap();
    let (call, alias, trigger) = (CallId::fresh(), Name::alias_live(), TriggerKind::Http);
    Invocation { call, function: function(name), alias, trigger, request }
}

fn failure(reason: Reason) -> RuntimeError {
    RuntimeError::new(reason, "as the script says")
}

/// Polls until `done`, on whatever clock there is.
async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came");
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
