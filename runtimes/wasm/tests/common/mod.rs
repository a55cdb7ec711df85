//! What the tests share: the trial guest, built once, and a runtime to run it.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use faas_model::manifest::FunctionSpec;
use faas_model::{Body, BodyError, CallId, Digest, FunctionName, Name};
use faas_runtime::egress::{self, Egress};
use faas_runtime::logs::{LogBook, LogConfig, LogLine};
use faas_runtime::{Call, Code, Instance, Runtime, RuntimeError, Unit};
use faas_runtime_wasm::{CompileCommand, Config, WasmRuntime};
use faas_store::Memory;
use faas_store::bucket::Buckets;

pub const LONG: Duration = Duration::from_secs(30);

pub fn compiler() -> CompileCommand {
    CompileCommand { program: env!("CARGO_BIN_EXE_faas-wasm-compile").into(), args: Vec::new() }
}

/// A way out with the settings of the platform.
pub fn egress() -> Egress {
    Egress::open(egress::Config::default()).unwrap()
}

/// Returns the trial guest of WASI 0.2.
pub fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| build("guests", "trial"))
}

/// Returns the trial guest of WASI 0.3.
pub fn service() -> &'static Path {
    static SERVICE: OnceLock<PathBuf> = OnceLock::new();
    SERVICE.get_or_init(|| build("guests/service", "service"))
}

/// Builds a guest once per test binary; cargo itself knows when nothing is to be done.
fn build(folder: &str, name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--target", "wasm32-wasip2", "--target-dir"])
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .unwrap();
    assert!(status.success(), "the trial guest builds (rustup target add wasm32-wasip2)");
    target.join(format!("wasm32-wasip2/release/{name}.wasm"))
}

pub fn code(path: &Path) -> Code {
    Code { digest: Digest::of(&std::fs::read(path).unwrap()), path: path.into() }
}

/// A folder and a runtime of its own.
pub struct Machine {
    pub dir: tempfile::TempDir,
    pub runtime: Arc<WasmRuntime>,
    pub book: LogBook,
}

impl Machine {
    pub fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let compiled = dir.path().join("compiled");
        let buckets = Buckets::new(Arc::new(Memory::default()));
        let runtime = WasmRuntime::new(config, compiled, compiler(), buckets, egress()).unwrap();
        let book = LogBook::open(dir.path().join("logs"), LogConfig::default()).unwrap();
        Self { dir, runtime, book }
    }

    /// Writes code into the folder.
    pub fn code(&self, bytes: &[u8]) -> Code {
        let digest = Digest::of(bytes);
        let path = self.dir.path().join(digest.to_string());
        std::fs::write(&path, bytes).unwrap();
        Code { digest, path }
    }

    pub fn unit(&self, function: &FunctionName, code: Code, spec: FunctionSpec) -> Unit {
        let logs = self.book.writer(function);
        Unit {
            function: function.clone(),
            revision: spec.revision_id(&code.digest),
            spec: Arc::new(spec),
            code: code.digest,
            logs,
        }
    }

    pub async fn start(&self, namespace: &str, code: Code, spec: FunctionSpec) -> Result<Trial, RuntimeError> {
        let function = FunctionName::new(Name::new(namespace).unwrap(), Name::new("trial").unwrap());
        self.runtime.install(&code).await?;
        let prepared = self.runtime.prepare(self.unit(&function, code, spec))?;
        let instance = prepared.start().await?.instance;
        Ok(Trial { instance, book: self.book.clone(), function })
    }

    pub fn compiled(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("compiled")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The machine that tests share: compiling the guest takes a while.
pub fn shared() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| Machine::new(Config { calls_max: 128, ..Config::default() }))
}

/// A started trial guest.
pub struct Trial {
    pub instance: Arc<dyn Instance>,
    pub book: LogBook,
    pub function: FunctionName,
}

pub async fn trial(namespace: &str, change: impl FnOnce(&mut FunctionSpec)) -> Trial {
    let mut spec = FunctionSpec::default();
    change(&mut spec);
    shared().start(namespace, code(guest()), spec).await.unwrap()
}

impl Trial {
    pub async fn call(&self, path: &str, body: impl Into<Body>) -> Result<http::Response<Body>, RuntimeError> {
        let uri = format!("http://trial.default.faas.internal{path}");
        let request = http::Request::post(uri).header("x-given", "value").body(body.into()).unwrap();
        let call = Call { id: CallId::fresh(), request };
        tokio::time::timeout(LONG, self.instance.invoke(call)).await.expect("a call ends")
    }

    /// Calls and collects the text of the answer.
    pub async fn text(&self, path: &str) -> Result<String, RuntimeError> {
        let response = self.call(path, "").await?;
        assert_eq!(response.status(), 200, "{path}");
        let bytes = whole(response.into_body()).await.expect("the answer is whole");
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Calls and returns the failure.
    pub async fn failure(&self, path: &str) -> RuntimeError {
        match self.call(path, "").await {
            Err(failure) => failure,
            Ok(response) => panic!("{path} answered {response:?}"),
        }
    }

    /// Says that a neighbour's call works.
    pub async fn is_well(&self) {
        assert_eq!(self.text("/hello").await.unwrap(), "hello");
    }

    pub async fn log(&self) -> Vec<LogLine> {
        self.book.tail(&self.function, 100_000).await.unwrap()
    }

    /// Waits until the log holds a line.
    pub async fn logged(&self, text: &str) -> bool {
        for _ in 0..200 {
            if self.log().await.iter().any(|line| line.text.contains(text)) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

pub async fn whole(body: Body) -> Result<Bytes, BodyError> {
    tokio::time::timeout(LONG, body.collect(1 << 30)).await.expect("a body ends")
}

/// A component whose handler is `handle` of the core module `module`.
pub fn component(module: &str) -> Vec<u8> {
    component_beside("", module)
}

/// The same beside `parts` of its own.
pub fn component_beside(parts: &str, module: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component {parts}
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $module {module})
            (core instance $core (instantiate $module))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $core "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    ))
    .unwrap()
}
