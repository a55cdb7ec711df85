//! A broker in memory, for tests: queues with prefetch, delayed returns and dead letters.
//!
//! Time is tokio's, so paused time moves the pauses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::queue::{Channel, Delivery, Message, Opened, Plan, Queue, QueueError};

/// A broker of one process. Clones are the same broker.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<String, VecDeque<Stored>>,
    dead: BTreeMap<String, Vec<Message>>,
    sessions: BTreeMap<u64, Session>,
    last_session: u64,
    last_tag: u64,
    down: bool,
    refused: Option<QueueError>,
    opened: u64,
}

#[derive(Debug)]
struct Stored {
    due: Instant,
    redelivered: bool,
    fault: Option<&'static str>,
    message: Message,
}

#[derive(Debug)]
struct Session {
    queue: String,
    unsettled: BTreeMap<u64, Stored>,
    prefetch: usize,
    cancelled: bool,
    lost: watch::Sender<bool>,
}

impl MemoryQueue {
    /// Returns an empty broker.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a message into a queue.
    pub fn publish(&self, queue: &str, message: Message) {
        self.put(queue, message, None);
    }

    /// Puts a message into a queue that arrives as unreadable.
    pub fn publish_unreadable(&self, queue: &str, message: Message, fault: &'static str) {
        self.put(queue, message, Some(fault));
    }

    fn put(&self, queue: &str, message: Message, fault: Option<&'static str>) {
        let stored = Stored { due: Instant::now(), redelivered: false, fault, message };
        self.lock().queues.entry(queue.to_owned()).or_default().push_back(stored);
        self.changed.notify_waiters();
    }

    /// Returns the dead letters of an exchange.
    #[must_use]
    pub fn dead_letters(&self, exchange: &str) -> Vec<Message> {
        self.lock().dead.get(exchange).cloned().unwrap_or_default()
    }

    /// Returns the messages that wait in `queue`, due or not.
    #[must_use]
    pub fn waiting(&self, queue: &str) -> Vec<Message> {
        self.lock().queues.get(queue).into_iter().flatten().map(|stored| stored.message.clone()).collect()
    }

    /// Returns every message of `queue`: those that wait, due or not, and the unsettled ones.
    #[must_use]
    pub fn holds(&self, queue: &str) -> Vec<Message> {
        let mut all = self.waiting(queue);
        let state = self.lock();
        let sessions = state.sessions.values().filter(|s| s.queue == queue);
        all.extend(sessions.flat_map(|s| s.unsettled.values()).map(|stored| stored.message.clone()));
        all
    }

    /// Returns how many messages wait in `queue`, and how many are delivered and unsettled.
    #[must_use]
    pub fn depth(&self, queue: &str) -> (usize, usize) {
        let state = self.lock();
        let unsettled = state.sessions.values().filter(|s| s.queue == queue).map(|s| s.unsettled.len()).sum();
        (state.queues.get(queue).map_or(0, VecDeque::len), unsettled)
    }

    /// Returns how often a queue was opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// Breaks every connection; new ones fail until [`MemoryQueue::up`].
    pub fn down(&self) {
        let mut state = self.lock();
        state.down = true;
        let sessions: Vec<u64> = state.sessions.keys().copied().collect();
        sessions.into_iter().for_each(|id| state.end(id, true));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes connections again.
    pub fn up(&self) {
        self.lock().down = false;
    }

    /// Carries the broker over to another clock, as when its clients' process begins anew:
    /// what was due some time after `then` is due that time after now.
    ///
    /// `then` is the end of a former runtime's paused time, which this runtime's knows nothing of.
    pub fn carry_over(&self, then: Instant) {
        let now = Instant::now();
        for stored in self.lock().queues.values_mut().flatten() {
            stored.due = now + stored.due.saturating_duration_since(then);
        }
    }

    /// Lets every publication fail with `error`, or succeed again.
    pub fn refuse(&self, error: Option<QueueError>) {
        self.lock().refused = error;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next delivery of a session, or when to look again.
    fn poll(&self, id: u64) -> Result<Delivery, Option<Instant>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(session) = state.sessions.get_mut(&id).filter(|s| !s.cancelled) else { return Err(None) };
        if session.unsettled.len() >= session.prefetch {
            return Err(None);
        }
        let queue = state.queues.entry(session.queue.clone()).or_default();
        let now = Instant::now();
        let Some(at) = queue.iter().position(|s| s.due <= now) else {
            return Err(queue.iter().map(|s| s.due).min());
        };
        let Some(stored) = queue.remove(at) else { return Err(None) };
        state.last_tag += 1;
        let (tag, redelivered) = (state.last_tag, stored.redelivered);
        let delivery = Delivery { tag, redelivered, fault: stored.fault, message: stored.message.clone() };
        session.unsettled.insert(tag, stored);
        Ok(delivery)
    }

    async fn next(self, id: u64, mut lost: watch::Receiver<bool>) -> Option<(Result<Delivery, QueueError>, Self)> {
        loop {
            let changed = self.changed.clone();
            let changed = changed.notified();
            if *lost.borrow() {
                return Some((Err(QueueError::Lost("the broker went down".into())), self));
            }
            if self.lock().sessions.get(&id).is_none_or(|s| s.cancelled) {
                return None;
            }
            let due = match self.poll(id) {
                Ok(delivery) => return Some((Ok(delivery), self)),
                Err(due) => due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)),
            };
            tokio::select! {
                biased;
                () = changed => {}
                _ = lost.changed() => {}
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }
}

impl State {
    /// Ends a session; what it has not settled goes back to the front of the queue.
    fn end(&mut self, id: u64, lost: bool) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let mut back: Vec<(u64, Stored)> = session.unsettled.into_iter().collect();
        back.sort_by_key(|(tag, _)| std::cmp::Reverse(*tag));
        let queue = self.queues.entry(session.queue).or_default();
        for (_, stored) in back {
            queue.push_front(Stored { redelivered: true, ..stored });
        }
        session.lost.send_replace(lost);
    }

    fn settle(&mut self, id: u64, tag: u64) -> Result<Stored, QueueError> {
        let session = self.sessions.get_mut(&id).ok_or_else(|| QueueError::Lost("the channel is closed".into()))?;
        session.unsettled.remove(&tag).ok_or_else(|| QueueError::Refused(format!("delivery {tag} is not unsettled")))
    }

    fn publishable(&self, id: u64) -> Result<(), QueueError> {
        match &self.refused {
            _ if !self.sessions.contains_key(&id) => Err(QueueError::Lost("the channel is closed".into())),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl Queue for MemoryQueue {
    fn open(&self, plan: Plan) -> BoxFuture<'_, Result<Opened, QueueError>> {
        Box::pin(async move {
            let (lost, receiver) = watch::channel(false);
            let mut state = self.lock();
            if state.down {
                return Err(QueueError::Lost("the broker is down".into()));
            }
            state.opened += 1;
            state.last_session += 1;
            let id = state.last_session;
            let session = Session {
                queue: plan.queue.clone(),
                unsettled: BTreeMap::new(),
                prefetch: usize::from(plan.prefetch),
                cancelled: false,
                lost,
            };
            state.sessions.insert(id, session);
            drop(state);
            let broker = self.clone();
            let deliveries = futures_util::stream::unfold(Some(broker), move |broker| {
                let lost = receiver.clone();
                async move {
                    let (item, broker) = broker?.next(id, lost).await?;
                    let again = item.is_ok().then_some(broker);
                    Some((item, again))
                }
            });
            let channel = MemoryChannel { broker: self.clone(), id, plan };
            Ok((deliveries.boxed(), Arc::new(channel) as Arc<dyn Channel>))
        })
    }
}

#[derive(Debug)]
struct MemoryChannel {
    broker: MemoryQueue,
    id: u64,
    plan: Plan,
}

impl MemoryChannel {
    fn with<'a, T: Send + 'a>(
        &'a self,
        act: impl FnOnce(&mut State) -> Result<T, QueueError> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, QueueError>> {
        Box::pin(async move {
            let result = act(&mut self.broker.lock());
            self.broker.changed.notify_waiters();
            result
        })
    }
}

impl Channel for MemoryChannel {
    fn ack(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        self.with(move |state| state.settle(self.id, tag).map(|_| ()))
    }

    fn requeue(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        self.with(move |state| {
            let stored = state.settle(self.id, tag)?;
            let queue = state.queues.entry(self.plan.queue.clone()).or_default();
            queue.push_front(Stored { redelivered: true, ..stored });
            Ok(())
        })
    }

    fn retry(&self, message: Message, pause: Duration) -> BoxFuture<'_, Result<(), QueueError>> {
        self.with(move |state| {
            state.publishable(self.id)?;
            let pause = Duration::from_millis(super::settle::tier_ms(pause));
            let stored = Stored { due: Instant::now() + pause, redelivered: false, fault: None, message };
            state.queues.entry(self.plan.queue.clone()).or_default().push_back(stored);
            Ok(())
        })
    }

    fn dead_letter(&self, message: Message) -> BoxFuture<'_, Result<(), QueueError>> {
        self.with(move |state| {
            state.publishable(self.id)?;
            state.dead.entry(self.plan.dead_letter_exchange.clone()).or_default().push(message);
            Ok(())
        })
    }

    fn cancel(&self) -> BoxFuture<'_, Result<(), QueueError>> {
        self.with(move |state| {
            let session = state.sessions.get_mut(&self.id);
            session.ok_or_else(|| QueueError::Lost("the channel is closed".into()))?.cancelled = true;
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.broker.lock().end(self.id, false);
            self.broker.changed.notify_waiters();
        })
    }
}

impl Drop for MemoryChannel {
    fn drop(&mut self) {
        self.broker.lock().end(self.id, false);
        self.broker.changed.notify_waiters();
    }
}
