//! What every [`Dispatch`] promises, as a suite that each implementation runs.
//!
//! The suite's function answers by path, like the guest of the runtimes' suite:
//! `/hello` says `hello`, `/echo` gives the request's body back, `/ticks` sends
//! three lines 20 ms apart, `/trap` crashes, `/nothing` gives no answer,
//! `/broken` ends in the middle of its body, `/never` does not answer, and all
//! else is 404.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Body, BodyError, CallId, Component, FunctionName, Name, Reason, TriggerKind};
use futures_util::future::{BoxFuture, join_all};
use futures_util::poll;
use tokio::time::{Instant, timeout};

use crate::{Dispatch, Invocation, InvokeError, Reply};

/// Bounds of the suite's function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Instances at most.
    pub instances_max: u32,
    /// Calls of one instance at most.
    pub concurrency: u32,
    /// Waiting calls at most.
    pub queue_depth: u32,
    /// Longest wait for a free instance.
    pub queue_wait: Duration,
    /// Longest time to the head of an answer.
    pub run: Duration,
    /// Longest answer, in bytes.
    pub response_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            instances_max: 1,
            concurrency: 1,
            queue_depth: 1,
            queue_wait: Duration::from_secs(5),
            run: Duration::from_secs(5),
            response_bytes: 1 << 20,
        }
    }
}

/// An implementation with the means to deploy the suite's function on it.
pub trait Stage: fmt::Debug + Send + Sync {
    /// Returns the implementation.
    fn dispatch(&self) -> &dyn Dispatch;

    /// Deploys the suite's function under a name that is used once.
    fn deploy<'a>(&'a self, function: &'a FunctionName, bounds: Bounds) -> BoxFuture<'a, ()>;
}

/// Longest time the suite waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait and run bounds of cases in which they fire.
const SHORT: Duration = Duration::from_millis(150);

/// Runs every case.
///
/// # Panics
/// When a promise is not kept; the message says which.
pub async fn run(stage: &dyn Stage) {
    let bench = Bench { stage };
    bench.a_call_is_answered_and_the_next_one_is_warm().await;
    bench.what_is_not_deployed_is_not_found().await;
    bench.the_functions_own_errors_are_answers_and_its_failures_are_reasons().await;
    bench.bodies_pass_both_ways_and_stream().await;
    bench.a_call_ends_at_its_run_bound_and_gives_its_place_back().await;
    bench.a_full_queue_refuses_at_once_and_a_wait_ends_at_its_bound().await;
    bench.dropping_a_call_gives_its_place_back().await;
    bench.dropping_a_waiting_call_leaves_the_queue().await;
    bench.a_body_holds_its_place_until_it_ends_or_is_dropped().await;
    bench.an_answer_over_its_bound_is_refused_or_cut().await;
    bench.a_body_that_breaks_gives_its_place_back().await;
    bench.each_call_ends_exactly_once_under_concurrency().await;
}

struct Bench<'s> {
    stage: &'s dyn Stage,
}

impl Bench<'_> {
    async fn function(&self, name: &str, bounds: Bounds) -> FunctionName {
        let function = FunctionName::in_default(name).expect("the suite's names are valid");
        self.stage.deploy(&function, bounds).await;
        function
    }

    fn call(&self, function: &FunctionName, path: &str, body: Body) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        self.call_alias(function, Name::alias_live(), path, body)
    }

    fn call_alias(
        &self,
        function: &FunctionName,
        alias: Name,
        path: &str,
        body: Body,
    ) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        let uri = format!("http://{function}.faas.internal{path}");
        let request = http::Request::post(uri).body(body).expect("the suite's requests are valid");
        let (call, trigger) = (CallId::fresh(), TriggerKind::Http);
        self.stage.dispatch().dispatch(Invocation { call, function: function.clone(), alias, trigger, request })
    }

    async fn says_hello(&self, function: &FunctionName) {
        let reply = timeout(PATIENCE, self.call(function, "/hello", Body::Empty)).await.expect("a call ends");
        assert_eq!(text(reply.expect("/hello answers")).await, "hello");
    }

    async fn reason(&self, function: &FunctionName, path: &str) -> Reason {
        let ended = timeout(PATIENCE, self.call(function, path, Body::Empty)).await.expect("a call ends");
        ended.expect_err("no answer is expected").reason
    }

    async fn a_call_is_answered_and_the_next_one_is_warm(&self) {
        let function = self.function("suite-warm", Bounds::default()).await;
        let first = self.call(&function, "/hello", Body::Empty).await.expect("the first call is answered");
        assert!(!first.timings.cold.is_empty(), "the first call waits for a cold start");
        let revision = first.revision;
        assert_eq!(text(first).await, "hello");
        let second = self.call(&function, "/hello", Body::Empty).await.expect("the second call is answered");
        assert!(second.timings.cold.is_empty(), "the second call finds a warm instance");
        assert_eq!(second.revision, revision);
    }

    async fn what_is_not_deployed_is_not_found(&self) {
        let nobody = FunctionName::in_default("suite-nobody").expect("a valid name");
        assert_eq!(self.reason(&nobody, "/hello").await, Reason::NotFound);
        let function = self.function("suite-alias", Bounds::default()).await;
        let alias = Name::new("no-such-alias").expect("a valid name");
        let error = self.call_alias(&function, alias, "/hello", Body::Empty).await.expect_err("there is no such alias");
        assert_eq!(error.reason, Reason::NotFound);
    }

    async fn the_functions_own_errors_are_answers_and_its_failures_are_reasons(&self) {
        let function = self.function("suite-errors", Bounds::default()).await;
        let reply = self.call(&function, "/elsewhere", Body::Empty).await.expect("a 404 of the function is an answer");
        assert_eq!(reply.response.status(), 404);
        drop(reply);
        let trap = self.call(&function, "/trap", Body::Empty).await.expect_err("a crash is no answer");
        assert_eq!((trap.reason, trap.component), (Reason::Crashed, Component::Function));
        assert_eq!(self.reason(&function, "/nothing").await, Reason::BadReply);
        self.says_hello(&function).await;
    }

    async fn bodies_pass_both_ways_and_stream(&self) {
        let function = self.function("suite-bodies", Bounds::default()).await;
        let large = Bytes::from(vec![7; 300_000]);
        let reply = self.call(&function, "/echo", large.clone().into()).await.expect("/echo answers");
        assert_eq!(reply.response.into_body().collect(1 << 20).await.expect("the body comes whole"), large);
        let reply = self.call(&function, "/ticks", Body::Empty).await.expect("/ticks answers");
        assert_eq!(text(reply).await, "tick 0\ntick 1\ntick 2\n");
    }

    async fn a_call_ends_at_its_run_bound_and_gives_its_place_back(&self) {
        let function = self.function("suite-run", Bounds { run: SHORT, ..Bounds::default() }).await;
        self.says_hello(&function).await;
        let began = Instant::now();
        assert_eq!(self.reason(&function, "/never").await, Reason::RunTimeout);
        assert!(began.elapsed() >= SHORT, "a call has the whole of its time");
        self.says_hello(&function).await;
    }

    async fn a_full_queue_refuses_at_once_and_a_wait_ends_at_its_bound(&self) {
        let function = self.function("suite-queue", Bounds { queue_wait: SHORT, ..Bounds::default() }).await;
        self.says_hello(&function).await;
        let mut busy = self.call(&function, "/never", Body::Empty);
        assert!(poll!(&mut busy).is_pending());
        let began = Instant::now();
        let mut waits = self.call(&function, "/hello", Body::Empty);
        assert!(poll!(&mut waits).is_pending());
        assert_eq!(self.reason(&function, "/hello").await, Reason::QueueFull);
        let error = timeout(PATIENCE, waits).await.expect("a wait ends").expect_err("no place became free");
        assert_eq!(error.reason, Reason::QueueTimeout);
        assert!(began.elapsed() >= SHORT, "a wait has the whole of its time");
    }

    async fn dropping_a_call_gives_its_place_back(&self) {
        let function = self.function("suite-drop", Bounds::default()).await;
        self.says_hello(&function).await;
        let mut busy = self.call(&function, "/never", Body::Empty);
        assert!(poll!(&mut busy).is_pending());
        drop(busy);
        self.says_hello(&function).await;
    }

    async fn dropping_a_waiting_call_leaves_the_queue(&self) {
        let function = self.function("suite-leave", Bounds::default()).await;
        self.says_hello(&function).await;
        let mut busy = self.call(&function, "/never", Body::Empty);
        assert!(poll!(&mut busy).is_pending());
        let mut leaves = self.call(&function, "/hello", Body::Empty);
        assert!(poll!(&mut leaves).is_pending());
        drop(leaves);
        let mut waits = self.call(&function, "/hello", Body::Empty);
        assert!(poll!(&mut waits).is_pending(), "the one place to wait is free again");
        drop(busy);
        let reply = timeout(PATIENCE, waits).await.expect("a wait ends").expect("the place came free");
        assert_eq!(text(reply).await, "hello");
    }

    async fn a_body_holds_its_place_until_it_ends_or_is_dropped(&self) {
        let function = self.function("suite-hold", Bounds { queue_wait: SHORT, ..Bounds::default() }).await;
        let held = self.call(&function, "/ticks", Body::Empty).await.expect("/ticks answers");
        assert_eq!(self.reason(&function, "/hello").await, Reason::QueueTimeout);
        drop(held);
        self.says_hello(&function).await;
        let mut read = self.call(&function, "/ticks", Body::Empty).await.expect("/ticks answers");
        let body = std::mem::take(read.response.body_mut());
        assert!(body.collect(1 << 10).await.is_ok());
        self.says_hello(&function).await;
    }

    async fn an_answer_over_its_bound_is_refused_or_cut(&self) {
        let function = self.function("suite-large", Bounds { response_bytes: 15, ..Bounds::default() }).await;
        let within =
            self.call(&function, "/echo", "fifteen bytes..".into()).await.expect("the bound itself is allowed");
        assert_eq!(text(within).await, "fifteen bytes..");
        match self.call(&function, "/echo", "sixteen bytes...".into()).await {
            Err(error) => assert_eq!((error.reason, error.component), (Reason::ReplyTooLarge, Component::Function)),
            Ok(reply) => cut(reply).await,
        }
        cut(self.call(&function, "/ticks", Body::Empty).await.expect("the head comes before the length is known"))
            .await;
        self.says_hello(&function).await;
    }

    async fn a_body_that_breaks_gives_its_place_back(&self) {
        let function = self.function("suite-broken", Bounds::default()).await;
        let reply = self.call(&function, "/broken", Body::Empty).await.expect("the head comes");
        let body = reply.response.into_body().collect(1 << 10).await;
        assert!(matches!(body, Err(BodyError::Function(_))), "{body:?}");
        self.says_hello(&function).await;
    }

    async fn each_call_ends_exactly_once_under_concurrency(&self) {
        let bounds = Bounds { instances_max: 2, concurrency: 4, queue_depth: 1000, ..Bounds::default() };
        let function = self.function("suite-many", bounds).await;
        let calls = (0..200).map(|n| {
            let function = &function;
            async move {
                let sent = format!("call {n}");
                let reply = self.call(function, "/echo", sent.clone().into()).await.expect("every call is answered");
                let got = text(reply).await;
                assert_eq!(got, sent, "the answer belongs to its call");
                got
            }
        });
        let answers = timeout(PATIENCE, join_all(calls)).await.expect("every call ends");
        assert_eq!(answers.into_iter().collect::<HashSet<_>>().len(), 200);
    }
}

async fn text(reply: Reply) -> String {
    let body = timeout(PATIENCE, reply.response.into_body().collect(1 << 20)).await.expect("a body ends");
    String::from_utf8_lossy(&body.expect("the body comes whole")).into_owned()
}

async fn cut(reply: Reply) {
    let body = timeout(PATIENCE, reply.response.into_body().collect(1 << 20)).await.expect("a body ends");
    assert_eq!(body, Err(BodyError::TooLarge { max: 15 }));
}
