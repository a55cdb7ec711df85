//! What goes wrong around a call: panics, lost channels, holds without end, consumers replaced.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Panics as often as said, then goes on as the inner one.
#[derive(Debug)]
struct Panicking {
    left: AtomicUsize,
    inner: Arc<Scripted>,
}

impl Dispatch for Panicking {
    fn dispatch(&self, invocation: Invocation) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        Box::pin(async move {
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            assert!(left.is_err(), "a scripted panic");
            self.inner.dispatch(invocation).await
        })
    }
}

fn world_with(retry: Retry, trigger: AmqpTrigger, answers: &[Result<u16, Reason>]) -> World {
    let world = world(Scripted::new(answers.iter().copied()), vec![]);
    world.catalogue.send_replace(catalogue_with(vec![trigger], retry));
    world
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_one_try_and_no_delivery() {
    let inner = Scripted::new([]);
    let dispatch = Arc::new(Panicking { left: AtomicUsize::new(10), inner: inner.clone() });
    let broker = MemoryQueue::new();
    let (_catalogue, watch) = watch::channel(catalogue(vec![trigger(true)]));
    let queue: Arc<dyn Queue> = Arc::new(broker.clone());
    let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
    let brokers = BTreeMap::from([(
        Name::namespace_default(),
        Link { queue, reconnect_min: min, reconnect_max: max, jitter_seed: 1 },
    )]);
    let _consumers = start_on(brokers, dispatch, watch, CancellationToken::new());
    (0..8).for_each(|n| broker.publish("q", message(&n.to_string())));
    until("all are done", || broker.depth("q") == (0, 0)).await;
    assert_eq!(inner.seen().len(), 8);
    assert_eq!(broker.opened(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_due_time_at_the_end_of_the_world_is_rewritten_when_the_message_rests() {
    let world = world(Scripted::new([]), vec![trigger(true)]);
    let mut forged = message("1");
    forged.headers.insert("x-faas-not-before-ms".into(), (1_u64 << 60).into());
    world.broker.publish("q", forged);
    sleep(Duration::from_secs(1)).await;
    let waiting = world.broker.waiting("q");
    let due = waiting[0].headers["x-faas-not-before-ms"].as_u64().unwrap();
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    assert!(due <= now + 60_000, "{due} at {now}");
}

#[tokio::test(start_paused = true)]
async fn a_publishing_channel_that_is_lost_alone_costs_a_pause_and_no_message() {
    for answer in [422, 503] {
        let world = world(Scripted::new([Ok(answer)]), vec![trigger(true)]);
        world.broker.refuse(Some(QueueError::Lost("channel limit reached".into())));
        world.broker.publish("q", message("1"));
        sleep(Duration::from_secs(30)).await;
        assert_eq!((world.broker.depth("q"), world.dispatch.seen().len()), ((0, 1), 1));
        world.broker.refuse(None);
        world.settled().await;
        assert_eq!(world.broker.opened(), 1);
        assert_eq!(world.letters().len(), usize::from(answer == 422));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_for_long_is_given_back() {
    let world = world(Scripted::new([Ok(422)]), vec![AmqpTrigger { prefetch: 1, ..trigger(true) }]);
    world.broker.refuse(Some(QueueError::Lost("channel limit reached".into())));
    world.broker.publish("q", message("1"));
    world.broker.publish("q", message("2"));
    sleep(Duration::from_secs(40 * 60)).await;
    world.broker.refuse(None);
    world.settled().await;
    assert_eq!(world.dispatch.seen().iter().filter(|s| s.id == "1").count(), 1, "its settlement is remembered");
    assert_eq!(world.letters(), [("rejected".into(), Some(422), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_fails_for_longer_than_it_may_be_held_dies_of_what_it_failed_with() {
    let retry = Retry { attempts: 1000, min: Millis::seconds(60), max: Millis::seconds(60) };
    for (answer, reason, status) in
        [(Ok(503), "attempts_exhausted", Some(503)), (Err(Reason::Crashed), "crashed", Some(502))]
    {
        let world = world_with(retry.clone(), trigger(false), &[answer; 200]);
        world.broker.publish("q", message("1"));
        until("it is dead", || !world.letters().is_empty()).await;
        world.settled().await;
        let tries = world.dispatch.seen().len();
        assert_eq!(tries, 16, "one at once, one after each of 15 minutes");
        assert_eq!(world.letters(), [(reason.into(), status, 16)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_only_the_platform_refused_does_not_die_of_the_hold() {
    let world = world_with(Retry::default(), trigger(false), &[Err(Reason::QueueFull); 40]);
    world.broker.publish("q", message("1"));
    world.settled_after(41).await;
    assert!(world.letters().is_empty());
    assert!(world.dispatch.attempts().iter().all(|a| a == "0"));
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_with_its_channel_so_that_the_message_that_comes_back_finds_a_place() {
    let retry = Retry { attempts: 5, min: Millis::seconds(60), max: Millis::seconds(60) };
    let one = AmqpTrigger { prefetch: 1, ..trigger(false) };
    let world = world_with(retry, one, &[Ok(503)]);
    world.broker.publish("q", message("1"));
    until("the first try failed", || world.dispatch.seen().len() == 1).await;
    world.broker.down();
    world.broker.up();
    let back = Instant::now();
    until("it is tried again", || world.dispatch.seen().len() == 2).await;
    assert!(back.elapsed() < Duration::from_secs(5), "after {:?}", back.elapsed());
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_and_the_one_it_replaces_have_the_places_of_one() {
    for prefetch in [4, 6, 2] {
        let world = world(Scripted::new([]), vec![trigger(true)]);
        world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
        (0..20).for_each(|n| world.broker.publish("q", message(&n.to_string())));
        until("four run", || world.dispatch.seen().len() == 4).await;
        let retry = Retry { attempts: 7, ..Retry::default() };
        let next = AmqpTrigger { prefetch, ..trigger(true) };
        world.catalogue.send_replace(catalogue_with(vec![next], retry));
        until("the next one consumes", || world.broker.opened() == 2).await;
        sleep(Duration::from_secs(5)).await;
        let most = usize::from(prefetch.max(4));
        assert_eq!(world.dispatch.running.lock().unwrap().0, most);
        world.dispatch.gate.add_permits(4);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(world.dispatch.running.lock().unwrap().0, usize::from(prefetch));
        world.dispatch.gate.add_permits(1000);
        world.settled().await;
        assert_eq!(world.dispatch.running.lock().unwrap().1, most);
        assert_eq!(world.dispatch.seen().len(), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn another_message_of_the_same_message_id_is_not_taken_for_a_lost_settlement() {
    let world = world(Scripted::new([]), vec![AmqpTrigger { prefetch: 2, ..trigger(true) }]);
    world.dispatch.gate.forget_permits(Semaphore::MAX_PERMITS);
    for body in ["first", "second"] {
        world.broker.publish("q", Message { body: body.into(), ..message("same") });
    }
    until("both run", || world.dispatch.seen().len() == 2).await;
    let seen = world.dispatch.seen();
    assert_ne!(seen[0].call, seen[1].call);
    world.dispatch.gate.add_permits(1000);
    world.settled().await;
}

impl World {
    /// Waits until the queue is empty and so many calls were made.
    async fn settled_after(&self, calls: usize) {
        until("all calls were made", || self.dispatch.seen().len() >= calls).await;
        self.settled().await;
    }
}
