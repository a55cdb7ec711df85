//! Consumers on a broker in memory: what is tried, how often, and where it ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use faas_invoke::{Dispatch, Invocation, InvokeError, Reply, Timings};
use faas_model::manifest::{AmqpTrigger, Retry};
use faas_model::units::Millis;
use faas_model::{
    AliasSettings, Body, BodyError, CallId, Catalogue, Component, Digest, Entry, FunctionName, FunctionSpec, Name,
    Reason, Revision,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::conformance::{self, Rig};
use super::queue::{Message, Plan, Queue, QueueError, Value};
use super::*;

mod faults;

/// Answers by script, then 200; remembers what it saw.
#[derive(Debug)]
struct Scripted {
    answers: Mutex<VecDeque<Result<u16, Reason>>>,
    seen: Mutex<Vec<Seen>>,
    /// Each call takes one permit before it answers.
    gate: Semaphore,
    /// How many answers break in their body.
    breaks: AtomicUsize,
    running: Mutex<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    call: String,
    id: String,
    attempts: String,
    at: Instant,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Result<u16, Reason>>) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.into_iter().collect()),
            seen: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            breaks: AtomicUsize::new(0),
            running: Mutex::default(),
        })
    }

    fn note(&self, invocation: &Invocation) {
        let header = |name: &str| invocation.request.headers()[name].to_str().unwrap().to_owned();
        let (id, attempts) = (header("ce-id"), header("x-faas-attempts"));
        let seen = Seen { call: invocation.call.to_string(), id, attempts, at: Instant::now() };
        self.seen.lock().unwrap().push(seen);
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn attempts(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.attempts).collect()
    }
}

impl Dispatch for Scripted {
    fn dispatch(&self, invocation: Invocation) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        Box::pin(async move {
            self.note(&invocation);
            {
                let mut running = self.running.lock().unwrap();
                running.0 += 1;
                running.1 = running.1.max(running.0);
            }
            self.gate.acquire().await.unwrap().forget();
            self.running.lock().unwrap().0 -= 1;
            match self.answers.lock().unwrap().pop_front().unwrap_or(Ok(200)) {
                Ok(status) => {
                    let broken = self.breaks.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                    let mut response = http::Response::new(if broken { breaking() } else { Body::from("done") });
                    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                    let revision = FunctionSpec::default().revision_id(&Digest::of(b""));
                    Ok(Reply { response, timings: Timings::default(), revision })
                }
                Err(reason) => Err(InvokeError::new(Component::Queue, reason, "scripted")),
            }
        })
    }
}

/// A body that ends before its end.
fn breaking() -> Body {
    let error = BodyError::Function("it crashed".into());
    Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter([Err(error)])))
}

fn trigger(declare: bool) -> AmqpTrigger {
    AmqpTrigger {
        broker: Name::namespace_default(),
        queue: "q".into(),
        declare,
        exchange: None,
        bindings: Vec::new(),
        dead_letter_exchange: None,
        prefetch: 4,
    }
}

fn catalogue(triggers: Vec<AmqpTrigger>) -> Arc<Catalogue> {
    catalogue_with(triggers, Retry { attempts: 3, ..Retry::default() })
}

fn catalogue_with(triggers: Vec<AmqpTrigger>, retry: Retry) -> Arc<Catalogue> {
    let mut spec = FunctionSpec { retry, ..FunctionSpec::default() };
    spec.trigger.amqp = triggers;
    let function = FunctionName::in_default("f").unwrap();
    let code = Digest::of(b"");
    let live = Arc::new(Revision {
        id: spec.revision_id(&code),
        function: function.clone(),
        version: 1,
        code,
        code_bytes: 0,
        created_ms: 0,
        spec,
    });
    let entry = Entry { function, live, settings: AliasSettings::default(), aliases: BTreeMap::new() };
    Arc::new(Catalogue::new([entry]))
}

struct World {
    broker: MemoryQueue,
    dispatch: Arc<Scripted>,
    catalogue: watch::Sender<Arc<Catalogue>>,
    consumers: Consumers,
}

fn world(dispatch: Arc<Scripted>, triggers: Vec<AmqpTrigger>) -> World {
    let broker = MemoryQueue::new();
    let (catalogue, watch) = watch::channel(catalogue(triggers));
    let link = Link {
        queue: Arc::new(broker.clone()),
        reconnect_min: Duration::from_millis(100),
        reconnect_max: Duration::from_secs(1),
        jitter_seed: 1,
    };
    let brokers = BTreeMap::from([(Name::namespace_default(), link)]);
    let consumers = start_on(brokers, dispatch.clone(), watch, CancellationToken::new());
    World { broker, dispatch, catalogue, consumers }
}

fn message(id: &str) -> Message {
    Message { message_id: Some(id.into()), body: Bytes::from_static(b"{}"), ..Message::default() }
}

/// Waits for a condition in paused time, for at most an hour of it.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..72_000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

impl World {
    async fn settled(&self) {
        until("the queue is empty", || self.broker.depth("q") == (0, 0)).await;
    }

    fn letters(&self) -> Vec<(String, Option<u64>, u64)> {
        let text = |m: &Message, name: &str| m.headers[name].as_text().unwrap();
        let number = |m: &Message, name: &str| m.headers.get(name).and_then(Value::as_u64);
        let letters = self.broker.dead_letters("q.dlx");
        letters
            .iter()
            .map(|m| (text(m, "x-faas-reason"), number(m, "x-faas-status"), number(m, "x-faas-attempts").unwrap()))
            .collect()
    }
}

#[derive(Debug)]
struct MemoryRig(MemoryQueue);

impl Rig for MemoryRig {
    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.0.clone())
    }

    fn name(&self, label: &str) -> String {
        format!("{label}.{}", uuid::Uuid::new_v4())
    }

    fn publish(&self, queue: String, message: Message) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.publish(&queue, message) })
    }

    fn dead_letters(&self, plan: Plan) -> BoxFuture<'_, Vec<Message>> {
        Box::pin(async move { self.0.dead_letters(&plan.dead_letter_exchange) })
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_form_passes_the_list() {
    conformance::all(&MemoryRig(MemoryQueue::new())).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_gone_only_after_its_call_has_ended() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
    world.broker.publish("q", message("1"));
    until("the call runs", || world.dispatch.seen().len() == 1).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.broker.depth("q"), (0, 1));
    world.dispatch.gate.add_permits(1);
    world.settled().await;
    assert_eq!(world.dispatch.seen().len(), 1);
    assert!(world.letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_is_tried_as_often_as_the_policy_says_then_dead() {
    let world = world(Scripted::new([Ok(503), Err(Reason::Crashed), Ok(500)]), vec![trigger(true)]);
    world.broker.publish("q", message("1"));
    until("it is dead", || world.letters().len() == 1).await;
    world.settled().await;
    assert_eq!(world.dispatch.attempts(), ["0", "1", "2"]);
    assert_eq!(world.letters(), [("attempts_exhausted".into(), Some(500), 3)]);
    let seen = world.dispatch.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(1));
    assert!(seen[2].at - seen[1].at >= Duration::from_secs(2));
    let letter = &world.broker.dead_letters("q.dlx")[0];
    assert_eq!(letter.headers["x-faas-call-id"].as_text().unwrap(), seen[2].call);
    assert_eq!(letter.body, "{}");
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_platform_are_no_attempts() {
    let refused = [Err(Reason::QueueFull), Err(Reason::StoreUnavailable), Err(Reason::ColdTimeout)];
    for declare in [true, false] {
        let script = refused.into_iter().cycle().take(30).chain([Ok(500), Ok(200)]);
        let world = world(Scripted::new(script), vec![trigger(declare)]);
        world.broker.publish("q", message("1"));
        until("it is done", || world.dispatch.seen().len() >= 12).await;
        let attempts = world.dispatch.attempts();
        assert!(attempts.iter().all(|a| a == "0"), "{attempts:?}");
        if declare {
            until("it is done", || world.dispatch.seen().len() == 32).await;
            world.settled().await;
            assert_eq!(world.dispatch.attempts().last().unwrap(), "1");
        }
        assert!(world.letters().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_messages_are_dead_at_once_and_the_others_are_not_disturbed() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    for n in 0..50 {
        world.broker.publish("q", message(&format!("good-{n}")));
        let bad = Message { content_type: Some("application/cloudevents+json".into()), ..message(&format!("bad-{n}")) };
        world.broker.publish("q", bad);
        world.broker.publish_unreadable("q", Message::default(), "its headers cannot be read");
    }
    until("all bad are dead", || world.letters().len() == 100).await;
    world.settled().await;
    assert!(world.letters().iter().all(|l| *l == ("malformed".into(), None, 0)));
    assert_eq!(world.dispatch.seen().len(), 50);
    assert_eq!(world.broker.opened(), 1, "the consumer never restarted");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_be_declared_the_pause_is_held_and_counted() {
    let world = world(Scripted::new([Ok(503), Ok(503), Ok(503)]), vec![trigger(false)]);
    world.broker.publish("q", message("1"));
    until("the first try failed", || world.dispatch.seen().len() == 1).await;
    assert_eq!(world.broker.depth("q"), (0, 1), "it is held, not published");
    until("it is dead", || world.letters().len() == 1).await;
    world.settled().await;
    assert_eq!(world.dispatch.attempts(), ["0", "1", "2"]);
    assert_eq!(world.letters(), [("attempts_exhausted".into(), Some(503), 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_above_the_longest_tier_is_named_on_the_message() {
    let world = world(Scripted::new([Ok(503)]), vec![]);
    let retry = Retry { attempts: 3, min: Millis::seconds(150), max: Millis::seconds(200) };
    world.catalogue.send_replace(catalogue_with(vec![trigger(true)], retry));
    world.broker.publish("q", message("1"));
    until("the first try failed", || world.dispatch.seen().len() == 1 && world.broker.depth("q") == (1, 0)).await;
    // The due time is wall time, which paused time does not move: each tier leads to the next, without a try.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.dispatch.seen().len(), 1);
    assert_eq!(world.broker.depth("q"), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_run_than_the_prefetch_also_over_a_lost_connection() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
    (0..20).for_each(|n| world.broker.publish("q", message(&n.to_string())));
    until("four run", || world.dispatch.seen().len() == 4).await;
    world.broker.down();
    world.broker.up();
    until("it is open again", || world.broker.depth("q").1 == 4).await;
    world.dispatch.gate.add_permits(1000);
    world.settled().await;
    assert_eq!(world.dispatch.running.lock().unwrap().1, 4);
}

#[tokio::test(start_paused = true)]
async fn messages_without_an_id_that_come_again_wait_for_the_calls_of_the_lost_connection() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
    (0..8).for_each(|_| world.broker.publish("q", Message { message_id: None, ..message("") }));
    until("four run", || world.dispatch.seen().len() == 4).await;
    world.broker.down();
    world.broker.up();
    until("it is open again", || world.broker.depth("q").1 == 4).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.dispatch.seen().len(), 4);
    world.dispatch.gate.add_permits(1000);
    world.settled().await;
    assert_eq!(world.dispatch.running.lock().unwrap().1, 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_in_its_body_is_a_failed_try() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    world.dispatch.breaks.store(1, SeqCst);
    world.broker.publish("q", message("1"));
    until("it was tried again", || world.dispatch.seen().len() == 2).await;
    world.settled().await;
    assert_eq!(world.dispatch.attempts(), ["0", "1"]);
    world.dispatch.breaks.store(3, SeqCst);
    world.broker.publish("q", message("2"));
    until("it is dead", || world.letters().len() == 1).await;
    assert_eq!(world.letters(), [("crashed".into(), Some(502), 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_held_for_a_bounded_time_and_then_given_back() {
    let world = world(Scripted::new((0..100).map(|_| Err(Reason::QueueFull))), vec![trigger(false)]);
    world.broker.publish("q", message("1"));
    until("it was refused for half an hour", || world.dispatch.seen().len() == 40).await;
    let seen = world.dispatch.seen();
    let pauses: Vec<_> = seen.windows(2).map(|two| (two[1].at - two[0].at).as_secs()).collect();
    let back = pauses.iter().skip(1).position(|pause| *pause <= 1).expect("it never began anew") + 1;
    let held: u64 = pauses[..back].iter().sum();
    assert!((14 * 60..=16 * 60).contains(&held), "it was held for {held} s: {pauses:?}");
}

#[tokio::test]
async fn no_more_tries_are_remembered_than_their_bound() {
    let tries = super::attempt::Tries::default();
    let mut running: Vec<_> = (0..4096).map(|_| tries.begin(CallId::fresh())).collect();
    let over = CallId::fresh();
    running.push(tries.begin(over));
    assert_eq!(tries.known(over, true).now_or_never(), Some(None), "a redelivery of it runs again");
    running.clear();
    let next = CallId::fresh();
    let running = tries.begin(next);
    assert_eq!(tries.known(next, true).now_or_never(), None, "what ended was forgotten for it");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_try_whose_settlement_was_lost_is_not_run_again() {
    let world = world(Scripted::new([Ok(200), Ok(422)]), vec![trigger(true)]);
    world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
    world.broker.publish("q", message("1"));
    world.broker.publish("q", message("2"));
    until("both run", || world.dispatch.seen().len() == 2).await;
    world.broker.down();
    world.broker.up();
    until("both are delivered again", || world.broker.opened() == 2 && world.broker.depth("q").1 == 2).await;
    world.dispatch.gate.add_permits(1000);
    world.settled().await;
    assert_eq!(world.dispatch.seen().len(), 2);
    assert_eq!(world.letters(), [("rejected".into(), Some(422), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_comes_back_is_found_within_ten_seconds() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    for round in 1..=20 {
        world.broker.down();
        sleep(Duration::from_secs(60)).await;
        let states = world.consumers.status().snapshot();
        assert!(matches!(states[0].1, State::Waiting { .. }), "{states:?}");
        world.broker.up();
        world.broker.publish("q", message(&round.to_string()));
        let back = Instant::now();
        world.settled().await;
        assert!(back.elapsed() <= Duration::from_secs(10));
        assert_eq!(world.consumers.status().snapshot()[0].1, State::Consuming);
    }
    assert_eq!(world.dispatch.seen().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_nobody_takes_keeps_its_message_in_the_queue() {
    let world = world(Scripted::new([Ok(422)]), vec![trigger(true)]);
    world.broker.refuse(Some(QueueError::Unroutable("q.dlx".into())));
    world.broker.publish("q", message("1"));
    sleep(Duration::from_secs(300)).await;
    assert_eq!(world.broker.depth("q"), (0, 1), "unsettled, not lost");
    world.broker.refuse(None);
    until("it is dead", || world.letters().len() == 1).await;
    world.settled().await;
    assert_eq!(world.dispatch.seen().len(), 1, "the call is not repeated for it");
}

#[tokio::test(start_paused = true)]
async fn consumers_follow_the_catalogue() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    until("it consumes", || world.broker.opened() == 1).await;
    world.catalogue.send_replace(catalogue(vec![trigger(true)]));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.broker.opened(), 1, "the same terms restart nothing");
    world.catalogue.send_replace(catalogue(vec![AmqpTrigger { prefetch: 5, ..trigger(true) }]));
    until("new terms", || world.broker.opened() == 2).await;
    let elsewhere = AmqpTrigger { broker: Name::new("elsewhere").unwrap(), ..trigger(true) };
    world.catalogue.send_replace(catalogue(vec![elsewhere]));
    until("unknown", || world.consumers.status().snapshot().iter().any(|(_, s)| *s == State::UnknownBroker)).await;
    world.catalogue.send_replace(catalogue(vec![]));
    until("nothing is left", || world.consumers.status().snapshot().is_empty()).await;
    world.broker.publish("q", message("1"));
    sleep(Duration::from_secs(5)).await;
    assert!(world.dispatch.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_calls_end_and_gives_the_rest_back() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
    (0..6).for_each(|n| world.broker.publish("q", message(&n.to_string())));
    until("four run", || world.dispatch.seen().len() == 4).await;
    let World { broker, dispatch, consumers, .. } = world;
    let drained = tokio::spawn(consumers.drained(Duration::from_secs(10)));
    sleep(Duration::from_secs(1)).await;
    dispatch.gate.add_permits(1000);
    assert!(drained.await.unwrap());
    assert_eq!(broker.depth("q"), (2, 0));
    assert_eq!(dispatch.seen().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_stop_cuts_what_outlasts_the_grace_and_gives_it_back() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
    world.broker.publish("q", message("1"));
    until("it runs", || world.dispatch.seen().len() == 1).await;
    let World { broker, consumers, .. } = world;
    assert!(!consumers.drained(Duration::from_secs(10)).await);
    until("it is back", || broker.depth("q") == (1, 0)).await;
}
