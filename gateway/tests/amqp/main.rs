//! The message trigger over a real RabbitMQ.
//!
//! All tests share one broker: the one of `FAAS_TEST_AMQP_URL`, or one that is
//! started for this run. Those that kill a broker start one of their own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

mod broker;
mod raw;
mod world;

use std::sync::Arc;
use std::time::Duration;

use faas_gateway::amqp::conformance::{self, Rig};
use faas_gateway::amqp::queue::{Message, Plan, Queue, Value};
use faas_gateway::amqp::{RabbitQueue, State};
use faas_model::Reason;
use faas_model::manifest::AmqpTrigger;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use world::{Function, World, client, message, text, trigger, unique, until};

#[derive(Debug)]
struct RabbitRig(Arc<RabbitQueue>);

impl Rig for RabbitRig {
    fn queue(&self) -> Arc<dyn Queue> {
        self.0.clone()
    }

    fn name(&self, label: &str) -> String {
        unique(label)
    }

    fn publish(&self, queue: String, message: Message) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.publish("", &queue, &message).await.unwrap() })
    }

    fn dead_letters(&self, plan: Plan) -> BoxFuture<'_, Vec<Message>> {
        Box::pin(async move {
            let mut letters = Vec::new();
            while let Some(letter) = self.0.take(&format!("{}.dlq", plan.queue)).await.unwrap() {
                letters.push(letter);
            }
            letters
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_passes_the_list() {
    conformance::all(&RabbitRig(client(broker::shared()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_leaves_the_queue_only_after_its_call() {
    let (url, queue) = (broker::shared(), unique("after"));
    let first = World::start(url, Function::new(|_| Ok(200)).shut(), vec![trigger(&queue)]);
    first.consuming().await;
    first.publish(&queue, message("1")).await;
    until("the call runs", || first.function.seen().len() == 1).await;
    assert!(!first.consumers.drained(Duration::from_millis(100)).await, "the call was cut");
    let second = World::start(url, Function::new(|_| Ok(200)), vec![trigger(&queue)]);
    until("it came back", || second.function.seen().len() == 1).await;
    assert!(second.consumers.drained(Duration::from_secs(10)).await);
    assert_eq!(second.client.take(&queue).await.unwrap(), None);
    assert_eq!(second.function.seen()[0].call, first.function.seen()[0].call, "the same try has the same call id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiers_count_attempts_exactly_and_the_letter_tells_why() {
    let queue = unique("tiers");
    let function = Function::new(|seen| match seen.id.as_str() {
        "twice" if seen.attempts < 2 => Ok(503),
        "crash" => Err(Reason::Crashed),
        "no" => Ok(422),
        _ => Ok(204),
    });
    let world = World::start(broker::shared(), function, vec![trigger(&queue)]);
    world.consuming().await;
    for id in ["twice", "crash", "no", "good"] {
        world.publish(&queue, message(id)).await;
    }
    let mut letters = world.letters(&queue, 2).await;
    letters.sort_by_key(|l| l.message_id.clone());
    let told = |l: &Message| {
        ["x-faas-reason", "x-faas-status", "x-faas-attempts", "x-faas-function"].map(|name| text(l, name))
    };
    assert_eq!(told(&letters[0]), ["crashed", "502", "3", "f.default"]);
    assert_eq!(told(&letters[1]), ["rejected", "422", "1", "f.default"]);
    assert_eq!(letters[0].body, "{}");
    until("twice is done", || world.function.seen().iter().any(|s| s.id == "twice" && s.attempts == 2)).await;
    let attempts =
        |id: &str| -> Vec<u32> { world.function.seen().iter().filter(|s| s.id == id).map(|s| s.attempts).collect() };
    assert_eq!((attempts("twice"), attempts("crash")), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_eq!((attempts("no"), attempts("good")), (vec![0], vec![0]));
    let crashes: Vec<_> = world.function.seen().into_iter().filter(|s| s.id == "crash").collect();
    assert_eq!(text(&letters[0], "x-faas-call-id"), crashes[2].call);
    assert!(crashes[1].at - crashes[0].at >= Duration::from_millis(990));
    assert!(crashes[2].at - crashes[1].at >= Duration::from_millis(1990));
    assert!(world.consumers.drained(Duration::from_secs(10)).await);
    assert_eq!(world.client.take(&queue).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_rest_with_their_reason_and_stop_nobody() {
    let (url, queue) = (broker::shared(), unique("malformed"));
    let world = World::start(url, Function::new(|_| Ok(200)), vec![trigger(&queue)]);
    world.consuming().await;
    let mut raw = raw::Raw::connect(url).await;
    let key = queue.as_bytes();
    const GOOD: usize = 2004;
    // The broker itself takes its time over deep nesting.
    for levels in [20, 1_000, 14_000] {
        raw.publish("", key, raw::HEADERS, &raw::nested(levels), b"{}").await;
    }
    let kinds: [(u16, &[u8], &str); 6] = [
        (raw::HEADERS, &raw::nested(30), "{}"),
        (raw::MESSAGE_ID, b"\x03\xff\xfe\xfd", "{}"),
        (raw::HEADERS, b"\x00\x00\x00\x04\x02\xc3\x28V", "{}"),
        (raw::HEADERS, b"\x00\x00\x00\x0c\x05ce-idS\x00\x00\x00\x01\xff", "{}"),
        (raw::CONTENT_TYPE, b"\x22application/cloudevents-batch+json", "[]"),
        (raw::CONTENT_TYPE, b"\x1capplication/cloudevents+json", "{\"specversion\":"),
    ];
    for n in 0..GOOD {
        let id = format!("good-{n}");
        let id = [&[u8::try_from(id.len()).unwrap()], id.as_bytes()].concat();
        raw.publish("", key, raw::MESSAGE_ID, &id, b"{}").await;
        let (flags, properties, body) = kinds[n % kinds.len()];
        raw.publish("", key, flags, properties, format!("{body}{n}").as_bytes()).await;
    }
    raw.publish("", key, 0, b"", &vec![b'x'; (1 << 20) + 1]).await;
    let letters = world.letters(&queue, GOOD + 4).await;
    assert!(letters.iter().all(|l| text(l, "x-faas-reason") == "malformed"));
    assert!(letters.iter().all(|l| !text(l, "x-faas-call-id").is_empty()));
    let kept = |l: &&Message| matches!(l.headers.get("x-faas-original-properties"), Some(Value::Bytes(_)));
    assert_eq!(letters.iter().filter(kept).count(), GOOD / 2 + 3, "unreadable properties are kept as bytes");
    assert_eq!(letters.iter().filter(|l| l.body.len() > 1 << 20).count(), 1);
    until("all good are done", || world.function.seen().len() == GOOD).await;
    assert!(world.consumers.drained(Duration::from_secs(10)).await);
    assert_eq!(world.client.take(&queue).await.unwrap(), None);
    assert_eq!(world.function.seen().len(), GOOD, "no good message came twice");
}

/// A headers table with one array of `count` numbers of 1 byte, as the property's bytes.
fn bytes_array(kind: u8, byte: u8, count: usize) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
    let array = [kind, byte].repeat(count);
    let table = [&b"\x01nA"[..], &length(array.len()), &array].concat();
    [&length(table.len())[..], &table].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_grow_when_they_are_published_again_break_no_connection() {
    let (url, queue) = (broker::shared(), unique("grow"));
    let world =
        World::start(url, Function::new(|seen| Ok(if seen.attempts == 0 { 503 } else { 422 })), vec![trigger(&queue)]);
    world.consuming().await;
    let mut raw = raw::Raw::connect(url).await;
    for (kind, byte, count) in [(b'b', 0xff, 30_000), (b'B', 0xff, 30_000), (b'b', 1, 50_000)] {
        raw.publish("", queue.as_bytes(), raw::HEADERS, &bytes_array(kind, byte, count), b"{}").await;
    }
    // Numbers of every width come back as they went.
    let widths = [-128, 255, -32_768, 65_535, -2_147_483_648, 4_294_967_295, 1 << 40];
    let numbers = [
        ("n".to_owned(), Value::List(vec![Value::Int(1); 1])),
        ("w".to_owned(), Value::List(widths.map(Value::Int).into())),
    ];
    let filler = [
        ("filler".to_owned(), Value::Text("x".repeat(96_000))),
        ("more".to_owned(), Value::List(vec![Value::Int(5); 1_000])),
    ];
    let wide = Message { headers: numbers.into_iter().chain(filler).collect(), ..message("wide") };
    world.publish(&queue, wide.clone()).await;
    let letters = world.letters(&queue, 4).await;
    assert!(letters.iter().all(|l| text(l, "x-faas-reason") == "rejected" && text(l, "x-faas-attempts") == "2"));
    let counts: Vec<_> = letters
        .iter()
        .filter_map(|l| if let Some(Value::List(n)) = l.headers.get("n") { Some(n.len()) } else { None })
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 30_000 * 2 + 50_000 + 1, "no number is lost");
    let letter = letters.iter().find(|l| l.message_id.as_deref() == Some("wide")).unwrap();
    assert_eq!(letter.headers["w"], wide.headers["w"]);
    assert_eq!(world.function.seen().len(), 8, "no connection was lost, so no message came twice");
    assert!(world.consumers.drained(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_routing_key_breaks_no_connection() {
    let (url, queue) = (broker::shared(), unique("keys"));
    let bound = AmqpTrigger { exchange: Some(format!("{queue}.in")), bindings: vec!["#".into()], ..trigger(&queue) };
    let world = World::start(url, Function::new(|_| Ok(200)), vec![bound]);
    world.consuming().await;
    let mut raw = raw::Raw::connect(url).await;
    raw.publish(&format!("{queue}.in"), b"\xff\xfe.k", 0, b"", b"{}").await;
    until("it is done", || world.function.seen().len() == 1).await;
    assert!(world.consumers.drained(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_calls_run_than_the_prefetch() {
    let queue = unique("prefetch");
    let world = World::start(broker::shared(), Function::new(|_| Ok(200)).shut(), vec![trigger(&queue)]);
    world.consuming().await;
    for n in 0..20 {
        world.publish(&queue, message(&n.to_string())).await;
    }
    until("four run", || world.function.seen().len() == 4).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.function.seen().len(), 4);
    world.function.gate.add_permits(1000);
    until("all ran", || world.function.seen().len() == 20).await;
    assert_eq!(world.function.peak(), 4);
    assert!(world.consumers.drained(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_declared_messages_are_held() {
    let (url, queue) = (broker::shared(), unique("held"));
    // Somebody else declares the queue and its dead letters.
    let maker = World::start(url, Function::new(|_| Ok(200)), vec![trigger(&queue)]);
    maker.consuming().await;
    assert!(maker.consumers.drained(Duration::from_secs(10)).await);
    let held = AmqpTrigger { declare: false, ..trigger(&queue) };
    let world = World::start(url, Function::new(|_| Ok(503)), vec![held]);
    world.consuming().await;
    world.publish(&queue, message("1")).await;
    let letters = world.letters(&queue, 1).await;
    assert_eq!(text(&letters[0], "x-faas-reason"), "attempts_exhausted");
    let attempts: Vec<u32> = world.function.seen().iter().map(|s| s.attempts).collect();
    assert_eq!(attempts, [0, 1, 2]);
    assert!(world.client.take(&format!("faas.retry.{queue}.1000")).await.is_err(), "no tier was declared");
    assert!(world.consumers.drained(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_settings_is_named_and_the_others_are_consumed() {
    let (queue, other) = (unique("mismatch"), unique("fine"));
    // The dead-letter exchange belongs to the queue's settings.
    let make = |exchange: &str| AmqpTrigger { dead_letter_exchange: Some(exchange.into()), ..trigger(&queue) };
    let maker = World::start(broker::shared(), Function::new(|_| Ok(200)), vec![make(&unique("a"))]);
    maker.consuming().await;
    assert!(maker.consumers.drained(Duration::from_secs(10)).await);
    let triggers = vec![make(&unique("b")), trigger(&other)];
    let world = World::start(broker::shared(), Function::new(|_| Ok(200)), triggers);
    let state = |name: &str| {
        let states = world.consumers.status().snapshot();
        states.into_iter().find(|(id, _)| id.queue == name).map(|(_, s)| s)
    };
    until("the mismatch is shown", || matches!(state(&queue), Some(State::Waiting { .. }))).await;
    let Some(State::Waiting { detail }) = state(&queue) else { panic!("it waits") };
    assert!(detail.contains("x-dead-letter-exchange") && detail.contains(&queue), "{detail}");
    until("the other is consumed", || state(&other) == Some(State::Consuming)).await;
    world.publish(&other, message("1")).await;
    until("it is done", || world.function.seen().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_starts_late_or_is_killed_is_found_within_ten_seconds() {
    let (own, queue) = (Arc::new(broker::Broker::new()), unique("kill"));
    let function = Function::new(|_| Ok(200));
    let world = World::start(&own.url(), function, vec![trigger(&queue)]);
    sleep(Duration::from_secs(1)).await;
    assert!(matches!(world.consumers.status().snapshot()[0].1, State::Waiting { .. }));
    for round in 1..=3_usize {
        let starting = own.clone();
        tokio::task::spawn_blocking(move || starting.start()).await.unwrap();
        let began = Instant::now();
        world.consuming().await;
        assert!(began.elapsed() < Duration::from_secs(10), "back after {:?}", began.elapsed());
        for n in 0..50 {
            world.publish(&queue, message(&format!("{round}-{n}"))).await;
        }
        let done = |round: usize| {
            let seen = world.function.seen();
            (0..50).all(|n| seen.iter().any(|s| s.id == format!("{round}-{n}")))
        };
        if round == 2 {
            // Killed in the middle of the messages: the rest comes after the restart.
            until("some are done", || world.function.seen().len() > 60).await;
        } else {
            until("all are done", || done(round)).await;
        }
        if round == 1 {
            // RabbitMQ 3.10 notes a new quorum queue on disk only after a while, and a kill before
            // that leaves one that answers nobody. There is nothing to see from outside.
            sleep(Duration::from_secs(3)).await;
        }
        let killing = own.clone();
        tokio::task::spawn_blocking(move || killing.kill()).await.unwrap();
        until("the loss is seen", || matches!(world.consumers.status().snapshot()[0].1, State::Waiting { .. })).await;
    }
    let starting = own.clone();
    tokio::task::spawn_blocking(move || starting.start()).await.unwrap();
    until("nothing is lost", || {
        let seen = world.function.seen();
        (1..=3).all(|round| (0..50).all(|n| seen.iter().any(|s| s.id == format!("{round}-{n}"))))
    })
    .await;
    assert!(world.consumers.drained(Duration::from_secs(10)).await);
}
