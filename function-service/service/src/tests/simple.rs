//! A runtime that is one closure, where the scripted one says too little.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use faas_model::Digest;
use faas_model::manifest::RuntimeKind;
use faas_runtime::{Call, Code, Instance, Prepared, Started, Unit, Usage};
use futures_util::future::BoxFuture;

use super::*;

type Answer = dyn Fn(Call) -> Result<http::Response<Body>, RuntimeError> + Send + Sync;

/// Runtime, revision and instance in one.
#[derive(Clone)]
pub(super) struct Simple {
    pub(super) answer: Arc<Answer>,
    /// Whether every instance is broken after its first call.
    pub(super) broken: bool,
}

impl std::fmt::Debug for Simple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Simple")
    }
}

impl Runtime for Simple {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Wasm
    }

    fn install<'a>(&'a self, _: &'a Code) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn installed(&self, _: &Digest) -> bool {
        true
    }

    fn forget<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn prepare(&self, _: Unit) -> Result<Arc<dyn Prepared>, RuntimeError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Prepared for Simple {
    fn start(&self) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        let instance: Arc<dyn Instance> = Arc::new(self.clone());
        Box::pin(async { Ok(Started { instance, phases: vec![] }) })
    }
}

impl Instance for Simple {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<http::Response<Body>, RuntimeError>> {
        Box::pin(async { (self.answer)(call) })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn broken(&self) -> bool {
        self.broken
    }
}

/// The scripted runtime, with starts that panic when they are told to, and a memory of what it was told to forget.
#[derive(Debug, Clone, Default)]
pub(super) struct Odd {
    pub(super) inner: Scripted,
    pub(super) panics: Arc<AtomicBool>,
    pub(super) forgotten: Arc<Mutex<Vec<Digest>>>,
}

#[derive(Debug)]
struct OddStart {
    runtime: Odd,
    prepared: Arc<dyn Prepared>,
}

impl Runtime for Odd {
    fn kind(&self) -> RuntimeKind {
        self.inner.kind()
    }

    fn install<'a>(&'a self, code: &'a Code) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.inner.install(code)
    }

    fn installed(&self, code: &Digest) -> bool {
        self.inner.installed(code)
    }

    fn forget<'a>(&'a self, code: &'a Digest) -> BoxFuture<'a, ()> {
        self.forgotten.lock().unwrap().push(*code);
        self.inner.forget(code)
    }

    fn prepare(&self, unit: Unit) -> Result<Arc<dyn Prepared>, RuntimeError> {
        Ok(Arc::new(OddStart { runtime: self.clone(), prepared: self.inner.prepare(unit)? }))
    }
}

impl Prepared for OddStart {
    fn start(&self) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        Box::pin(async {
            assert!(!self.runtime.panics.load(Ordering::SeqCst), "the runtime has a fault");
            self.prepared.start().await
        })
    }
}
