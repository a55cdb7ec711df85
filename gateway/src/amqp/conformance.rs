//! The list that every form of [`Queue`] passes.
//!
//! A form gives a [`Rig`]: the queue under test and a way to publish to it from
//! outside and to look at its dead letters. Every check uses a queue of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::queue::{Channel, Deliveries, Delivery, Message, Plan, Queue, Value};

/// Longest wait for what must come.
const SOON: Duration = Duration::from_secs(20);
/// Wait for what must not come.
const QUIET: Duration = Duration::from_millis(400);

/// A queue under test and its surroundings.
pub trait Rig: Send + Sync + fmt::Debug {
    /// Returns the form under test.
    fn queue(&self) -> Arc<dyn Queue>;
    /// Returns a queue name that nothing else uses; begins with `label`.
    fn name(&self, label: &str) -> String;
    /// Publishes to the named work queue, as a stranger does.
    fn publish(&self, queue: String, message: Message) -> BoxFuture<'_, ()>;
    /// Takes the dead letters of the plan's exchange.
    fn dead_letters(&self, plan: Plan) -> BoxFuture<'_, Vec<Message>>;
}

/// Runs every check.
///
/// # Panics
/// When the form breaks a promise of the seam.
pub async fn all(rig: &dyn Rig) {
    a_message_arrives_as_it_was_published(rig).await;
    no_more_is_delivered_than_the_prefetch(rig).await;
    what_is_not_acked_comes_back(rig).await;
    a_retry_comes_back_after_its_pause_and_not_before(rig).await;
    dead_letters_rest_at_the_exchange(rig).await;
    a_cancelled_consumer_can_still_settle(rig).await;
}

struct Open {
    plan: Plan,
    deliveries: Deliveries,
    channel: Arc<dyn Channel>,
}

async fn open(rig: &dyn Rig, label: &str, prefetch: u16) -> Open {
    let queue = rig.name(label);
    let plan = Plan {
        dead_letter_exchange: format!("{queue}.dlx"),
        queue,
        prefetch,
        declare: true,
        exchange: None,
        bindings: Vec::new(),
        consumer: "conformance".into(),
    };
    reopen(rig, plan).await
}

async fn reopen(rig: &dyn Rig, plan: Plan) -> Open {
    let (deliveries, channel) = rig.queue().open(plan.clone()).await.expect("the queue opens");
    Open { plan, deliveries, channel }
}

impl Open {
    async fn next(&mut self) -> Delivery {
        let next = timeout(SOON, self.deliveries.next()).await.expect("a delivery comes");
        next.expect("deliveries go on").expect("a delivery is no error")
    }

    async fn quiet(&mut self) {
        let came = timeout(QUIET, self.deliveries.next()).await;
        assert!(came.is_err(), "nothing may come now: {came:?}");
    }
}

fn message(text: &str) -> Message {
    Message { body: text.to_owned().into(), ..Message::default() }
}

async fn a_message_arrives_as_it_was_published(rig: &dyn Rig) {
    let mut open = open(rig, "arrives", 10).await;
    let nested = Value::Table([("k".to_owned(), Value::List(vec![Value::Bool(true), Value::Int(-7)]))].into());
    let headers =
        [("text", "ä".into()), ("nested", nested), ("time", Value::Time(1_700_000_000)), ("void", Value::Void)];
    let sent = Message {
        headers: headers.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        content_type: Some("text/plain".into()),
        message_id: Some("m-1".into()),
        correlation_id: Some("c-1".into()),
        kind: Some("order".into()),
        timestamp_s: Some(1_700_000_000),
        body: "hello".into(),
        ..Message::default()
    };
    rig.publish(open.plan.queue.clone(), sent.clone()).await;
    let got = open.next().await;
    assert_eq!((got.message, got.redelivered, got.fault), (sent, false, None));
    open.channel.ack(got.tag).await.expect("ack");
    open.quiet().await;
    open.channel.close().await;
}

async fn no_more_is_delivered_than_the_prefetch(rig: &dyn Rig) {
    let mut open = open(rig, "prefetch", 2).await;
    for text in ["1", "2", "3"] {
        rig.publish(open.plan.queue.clone(), message(text)).await;
    }
    let (first, second) = (open.next().await, open.next().await);
    open.quiet().await;
    open.channel.ack(first.tag).await.expect("ack");
    assert_eq!(open.next().await.message.body, "3");
    open.channel.ack(second.tag).await.expect("ack");
    open.channel.close().await;
}

async fn what_is_not_acked_comes_back(rig: &dyn Rig) {
    let mut first = open(rig, "back", 10).await;
    rig.publish(first.plan.queue.clone(), message("a")).await;
    let got = first.next().await;
    first.channel.requeue(got.tag).await.expect("requeue");
    let again = first.next().await;
    assert!(again.redelivered);
    first.channel.close().await;
    let mut second = reopen(rig, first.plan.clone()).await;
    let again = second.next().await;
    assert!(again.redelivered);
    assert_eq!(again.message.body, "a");
    assert!(first.channel.ack(again.tag).await.is_err(), "a closed channel settles nothing");
    second.channel.ack(again.tag).await.expect("ack");
    second.channel.close().await;
}

async fn a_retry_comes_back_after_its_pause_and_not_before(rig: &dyn Rig) {
    let mut open = open(rig, "retry", 10).await;
    rig.publish(open.plan.queue.clone(), message("late")).await;
    let got = open.next().await;
    let mut again = got.message.clone();
    again.headers.insert("x-faas-attempts".into(), 1_u64.into());
    let began = Instant::now();
    open.channel.retry(again.clone(), Duration::from_millis(900)).await.expect("retry");
    open.channel.ack(got.tag).await.expect("ack");
    let back = open.next().await;
    assert!(began.elapsed() >= Duration::from_millis(990), "came after {:?}", began.elapsed());
    assert_eq!(back.message.headers.get("x-faas-attempts").and_then(Value::as_u64), Some(1));
    assert_eq!(back.message.body, "late");
    open.channel.ack(back.tag).await.expect("ack");
    open.channel.close().await;
}

async fn dead_letters_rest_at_the_exchange(rig: &dyn Rig) {
    let mut open = open(rig, "dead", 10).await;
    rig.publish(open.plan.queue.clone(), message("bad")).await;
    let got = open.next().await;
    let mut letter = got.message.clone();
    letter.headers.insert("x-faas-reason".into(), "malformed".into());
    open.channel.dead_letter(letter.clone()).await.expect("dead letter");
    open.channel.ack(got.tag).await.expect("ack");
    open.quiet().await;
    assert_eq!(rig.dead_letters(open.plan.clone()).await, [letter]);
    open.channel.close().await;
}

async fn a_cancelled_consumer_can_still_settle(rig: &dyn Rig) {
    let mut open = open(rig, "cancel", 10).await;
    rig.publish(open.plan.queue.clone(), message("a")).await;
    let got = open.next().await;
    open.channel.cancel().await.expect("cancel");
    rig.publish(open.plan.queue.clone(), message("b")).await;
    let end = timeout(SOON, open.deliveries.next()).await.expect("deliveries end");
    assert!(end.is_none(), "{end:?}");
    open.channel.ack(got.tag).await.expect("ack");
    open.channel.close().await;
    let mut again = reopen(rig, open.plan.clone()).await;
    let next = again.next().await;
    assert_eq!(next.message.body, "b");
    again.channel.ack(next.tag).await.expect("ack");
    again.channel.close().await;
}
