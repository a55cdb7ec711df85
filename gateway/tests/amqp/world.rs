//! Consumers over a real broker, with a function that is a Rust closure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faas_gateway::amqp::queue::{Message, Value};
use faas_gateway::amqp::{self, Broker, Config, Consumers, RabbitQueue};
use faas_invoke::{Dispatch, Invocation, InvokeError, Reply, Timings};
use faas_model::manifest::{AmqpTrigger, Retry};
use faas_model::{
    AliasSettings, Body, Catalogue, Component, Digest, Entry, FunctionName, FunctionSpec, Name, Reason, Revision,
};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

type Answer = Box<dyn Fn(&Seen) -> Result<u16, Reason> + Send + Sync>;

/// What the function saw of a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) call: String,
    pub(crate) id: String,
    pub(crate) attempts: u32,
    pub(crate) headers: http::HeaderMap,
    pub(crate) at: Instant,
}

/// A function that is a closure; every call takes a permit of the gate first.
pub(crate) struct Function {
    answer: Answer,
    pub(crate) gate: Semaphore,
    seen: Mutex<Vec<Seen>>,
    running: Mutex<(usize, usize)>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Function")
    }
}

impl Function {
    pub(crate) fn new(answer: impl Fn(&Seen) -> Result<u16, Reason> + Send + Sync + 'static) -> Arc<Self> {
        let (seen, running) = (Mutex::default(), Mutex::default());
        Arc::new(Self { answer: Box::new(answer), gate: Semaphore::new(Semaphore::MAX_PERMITS), seen, running })
    }

    pub(crate) fn shut(self: Arc<Self>) -> Arc<Self> {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
        self
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The most calls that ran at once.
    pub(crate) fn peak(&self) -> usize {
        self.running.lock().unwrap().1
    }

    fn note(&self, invocation: &Invocation) -> Seen {
        let headers = invocation.request.headers().clone();
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let (id, attempts) = (text("ce-id"), text("x-faas-attempts").parse().unwrap());
        let seen = Seen { call: invocation.call.to_string(), id, attempts, headers, at: Instant::now() };
        self.seen.lock().unwrap().push(seen.clone());
        let mut running = self.running.lock().unwrap();
        running.0 += 1;
        running.1 = running.1.max(running.0);
        seen
    }
}

impl Dispatch for Function {
    fn dispatch(&self, invocation: Invocation) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        Box::pin(async move {
            let seen = self.note(&invocation);
            self.gate.acquire().await.unwrap().forget();
            self.running.lock().unwrap().0 -= 1;
            let status = (self.answer)(&seen).map_err(|r| InvokeError::new(Component::Runtime, r, "scripted"))?;
            let response = http::Response::builder().status(status).body(Body::from("done")).unwrap();
            let revision = FunctionSpec::default().revision_id(&Digest::of(b""));
            Ok(Reply { response, timings: Timings::default(), revision })
        })
    }
}

/// A queue name of its own for a test.
pub(crate) fn unique(label: &str) -> String {
    format!("{label}.{}", uuid::Uuid::new_v4())
}

pub(crate) fn trigger(queue: &str) -> AmqpTrigger {
    AmqpTrigger {
        broker: Name::namespace_default(),
        queue: queue.to_owned(),
        declare: true,
        exchange: None,
        bindings: Vec::new(),
        dead_letter_exchange: None,
        prefetch: 4,
    }
}

/// Consumers, and a broker's client to look from outside.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) function: Arc<Function>,
    pub(crate) consumers: Consumers,
    pub(crate) client: Arc<RabbitQueue>,
    _catalogue: watch::Sender<Arc<Catalogue>>,
}

pub(crate) fn client(url: &str) -> Arc<RabbitQueue> {
    Arc::new(RabbitQueue::new(Name::new("client").unwrap(), Broker::at(url.parse().unwrap())))
}

fn entry(name: &str, triggers: Vec<AmqpTrigger>) -> Entry {
    let mut spec = FunctionSpec { retry: Retry { attempts: 3, ..Retry::default() }, ..FunctionSpec::default() };
    spec.limits.request_bytes = faas_model::units::ByteSize::mib(1);
    spec.trigger.amqp = triggers;
    let function = FunctionName::in_default(name).unwrap();
    let code = Digest::of(b"");
    let id = spec.revision_id(&code);
    let live = Revision { id, function: function.clone(), version: 1, code, code_bytes: 0, created_ms: 0, spec };
    Entry { function, live: Arc::new(live), settings: AliasSettings::default(), aliases: BTreeMap::new() }
}

impl World {
    pub(crate) fn start(url: &str, function: Arc<Function>, triggers: Vec<AmqpTrigger>) -> Self {
        let (sender, watch) = watch::channel(Arc::new(Catalogue::new([entry("f", triggers)])));
        let brokers = BTreeMap::from([(Name::namespace_default(), Broker::at(url.parse().unwrap()))]);
        let consumers = amqp::start(Config { brokers }, function.clone(), watch, CancellationToken::new());
        Self { function, consumers, client: client(url), _catalogue: sender }
    }

    pub(crate) async fn consuming(&self) {
        until("every queue is consumed", || {
            let states = self.consumers.status().snapshot();
            !states.is_empty() && states.iter().all(|(_, s)| *s == amqp::State::Consuming)
        })
        .await;
    }

    pub(crate) async fn publish(&self, queue: &str, message: Message) {
        self.client.publish("", queue, &message).await.unwrap();
    }

    /// Takes `count` dead letters of `queue`, and checks that there is no other.
    pub(crate) async fn letters(&self, queue: &str, count: usize) -> Vec<Message> {
        let mut letters = Vec::new();
        let began = Instant::now();
        while letters.len() < count {
            match self.client.take(&format!("{queue}.dlq")).await.unwrap() {
                Some(letter) => letters.push(letter),
                None => sleep(Duration::from_millis(20)).await,
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{} of {count} letters came", letters.len());
        }
        assert_eq!(self.client.take(&format!("{queue}.dlq")).await.unwrap(), None);
        letters
    }
}

pub(crate) fn message(id: &str) -> Message {
    let (message_id, content_type) = (Some(id.to_owned()), Some("application/json".to_owned()));
    Message { message_id, content_type, body: "{}".into(), ..Message::default() }
}

pub(crate) fn text(message: &Message, header: &str) -> String {
    message.headers.get(header).and_then(Value::as_text).unwrap_or_default()
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
