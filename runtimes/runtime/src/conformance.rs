//! The list that every [`Runtime`] passes.
//!
//! The code under test answers by path:
//!
//! | path | what it does |
//! |---|---|
//! | `/hello` | answers 200 `hello` |
//! | `/echo` | answers with the request's body |
//! | `/ticks` | answers `tick 0` to `tick 2`, a line each, 20 ms apart |
//! | `/trap` | crashes before it answers |
//! | `/nothing` | ends without an answer |
//! | `/broken` | sends the head and `part`, then crashes |
//! | `/never` | never answers, and waits rather than computes |

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Body, BodyError, CallId, Reason};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::{Call, Code, Instance, Runtime, RuntimeError, Unit};

/// What the list needs.
#[derive(Debug)]
pub struct Fixture {
    /// The runtime under test.
    pub runtime: Arc<dyn Runtime>,
    /// Code that answers as the module says.
    pub code: Code,
    /// A revision of that code.
    pub unit: Unit,
    /// Code that the runtime cannot run; `None` if it runs everything.
    pub bad_code: Option<Code>,
}

const LONG: Duration = Duration::from_secs(20);

/// Runs the whole list.
///
/// # Panics
/// At the first broken promise, which it names.
pub async fn check(fixture: &Fixture) {
    installing(fixture).await;
    let prepared = fixture.runtime.prepare(fixture.unit.clone()).expect("a good unit is prepared");
    let started = timeout(LONG, prepared.start()).await.expect("a start ends").expect("good code starts");
    assert!(!started.phases.is_empty(), "a start names its phases");
    let instance = started.instance;
    answering(&*instance).await;
    failing(&*instance).await;
    cutting(&*instance).await;
    parallel(&instance).await;
    stopping(&instance).await;
    let again = timeout(LONG, prepared.start()).await.expect("a start ends").expect("a revision starts again");
    hello(&*again.instance).await;
    again.instance.stop().await;
    fixture.runtime.forget(&fixture.unit.code).await;
    fixture.runtime.forget(&fixture.unit.code).await;
    assert!(!fixture.runtime.installed(&fixture.unit.code), "what is forgotten is not there");
}

async fn installing(fixture: &Fixture) {
    for _ in 0..2 {
        timeout(10 * LONG, fixture.runtime.install(&fixture.code))
            .await
            .expect("an install ends")
            .expect("good code installs, again and again");
        assert!(fixture.runtime.installed(&fixture.unit.code), "what is installed is there");
    }
    if let Some(bad) = &fixture.bad_code {
        let refused = fixture.runtime.install(bad).await.expect_err("bad code is refused");
        assert_eq!(refused.reason, Reason::Unprocessable, "bad code is the author's fault: {refused}");
    }
}

async fn invoke(
    instance: &dyn Instance,
    path: &str,
    body: impl Into<Body>,
) -> Result<http::Response<Body>, RuntimeError> {
    let request = http::Request::post(format!("http://trial.default.faas.internal{path}"))
        .body(body.into())
        .expect("the request is well formed");
    timeout(LONG, instance.invoke(Call { id: CallId::fresh(), request })).await.expect("a call ends")
}

async fn text(response: http::Response<Body>) -> Result<Bytes, BodyError> {
    timeout(LONG, response.into_body().collect(1 << 30)).await.expect("a body ends")
}

async fn hello(instance: &dyn Instance) {
    let response = invoke(instance, "/hello", "").await.expect("a good call is answered");
    assert_eq!(response.status(), 200);
    assert_eq!(text(response).await.expect("the body is whole"), "hello");
}

async fn answering(instance: &dyn Instance) {
    hello(instance).await;
    for size in [0, 1, 65_536, 3_000_000] {
        let sent = Bytes::from((0..size).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect::<Vec<u8>>());
        let response = invoke(instance, "/echo", sent.clone()).await.expect("an echo is answered");
        assert!(text(response).await.expect("the body is whole") == sent, "{size} bytes come back as they went");
    }
    let response = invoke(instance, "/ticks", "").await.expect("a stream begins");
    let whole = text(response).await.expect("a stream ends");
    assert_eq!(whole, "tick 0\ntick 1\ntick 2\n");
}

async fn failing(instance: &dyn Instance) {
    for (path, reason) in [("/trap", Reason::Crashed), ("/nothing", Reason::BadReply)] {
        let failure = invoke(instance, path, "").await.expect_err("a failed call is no answer");
        assert_eq!(failure.reason, reason, "{path}: {failure}");
        hello(instance).await;
    }
    let broken = text(invoke(instance, "/broken", "").await.expect("the head comes first")).await;
    assert!(matches!(broken, Err(BodyError::Function(_))), "a cut body is told, not ended: {broken:?}");
    hello(instance).await;
}

async fn cutting(instance: &dyn Instance) {
    for _ in 0..20 {
        let request = http::Request::get("http://trial.default.faas.internal/never").body(Body::Empty);
        let call = Call { id: CallId::fresh(), request: request.expect("the request is well formed") };
        let cut = timeout(Duration::from_millis(5), instance.invoke(call)).await;
        assert!(cut.is_err(), "a call without an answer waits");
    }
    let mut response = invoke(instance, "/ticks", "").await.expect("a stream begins");
    let first = timeout(LONG, response.body_mut().frame()).await.expect("a first part comes");
    assert!(matches!(first, Some(Ok(_))));
    drop(response);
    hello(instance).await;
}

async fn parallel(instance: &Arc<dyn Instance>) {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let instance = Arc::clone(instance);
        calls.spawn(async move {
            text(invoke(&*instance, "/ticks", "").await.expect("a stream begins")).await.expect("a stream ends")
        });
    }
    for whole in calls.join_all().await {
        assert_eq!(whole, "tick 0\ntick 1\ntick 2\n", "parallel calls do not mix");
    }
}

async fn stopping(instance: &Arc<dyn Instance>) {
    let held = {
        let instance = Arc::clone(instance);
        tokio::spawn(async move { invoke(&*instance, "/never", "").await })
    };
    // The call has begun once it has been polled.
    tokio::time::sleep(Duration::from_millis(50)).await;
    instance.stop().await;
    instance.stop().await;
    let cut = timeout(LONG, held).await.expect("a stop cuts calls").expect("no panic");
    assert!(cut.is_err(), "a cut call is no answer");
    assert!(instance.usage().memory_bytes < 1 << 40);
}
