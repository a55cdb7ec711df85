use faas_model::manifest::FunctionSpec;
use faas_model::{CallId, FunctionName};

use super::*;
use crate::conformance::{self, Fixture};
use crate::logs::LogWriter;

fn unit() -> Unit {
    let spec = FunctionSpec::default();
    let digest = Digest::of(b"code");
    Unit {
        function: FunctionName::in_default("scripted").unwrap(),
        revision: spec.revision_id(&digest),
        spec: Arc::new(spec),
        code: digest,
        logs: LogWriter::discard(),
    }
}

fn call(path: &str) -> Call {
    let request = http::Request::get(format!("http://scripted.default.faas.internal{path}")).body(Body::Empty);
    Call { id: CallId::fresh(), request: request.unwrap() }
}

#[tokio::test(start_paused = true)]
async fn the_scripted_runtime_passes_the_list() {
    let runtime = Scripted::default();
    let code = Code { digest: unit().code, path: "code".into() };
    conformance::check(&Fixture { runtime: Arc::new(runtime.clone()), code, unit: unit(), bad_code: None }).await;
    assert_eq!((runtime.starts(), runtime.stops(), runtime.running()), (2, 2, 0));
    assert!(runtime.running_most() >= 32);
}

#[tokio::test(start_paused = true)]
async fn starts_and_installs_fail_as_the_script_says_and_take_their_time() {
    let failure = RuntimeError::new(Reason::StartFailed, "no");
    let script = Script {
        start_delay: Duration::from_secs(3),
        start_failure: Some(failure.clone()),
        install_failure: Some(RuntimeError::new(Reason::Unprocessable, "bad")),
        ..Script::default()
    };
    let runtime = Scripted::new(script);
    let begun = tokio::time::Instant::now();
    let started = runtime.prepare(unit()).unwrap().start().await;
    assert_eq!(started.unwrap_err(), failure);
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
    let code = Code { digest: unit().code, path: "code".into() };
    assert_eq!(runtime.install(&code).await.unwrap_err().reason, Reason::Unprocessable);
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_answer_when_they_are_released_and_count_until_then() {
    let runtime = Scripted::new(Script { act: Act::Wait, ..Script::default() });
    let instance = runtime.prepare(unit()).unwrap().start().await.unwrap().instance;
    let mut one = instance.invoke(call("/"));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut one).await.is_err());
    assert_eq!(runtime.running(), 1);
    runtime.release(1);
    assert_eq!(one.await.unwrap().status(), 200);
    assert_eq!((runtime.running(), runtime.calls()), (0, 1));
    drop(instance.invoke(call("/")));
    assert_eq!(runtime.running(), 0);
}
