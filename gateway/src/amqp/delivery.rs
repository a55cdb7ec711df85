//! One delivery: its calls, its pauses and its settlement.
//!
//! A message leaves the queue only after its outcome is durable: done, or
//! published with confirm to wait or to rest. Whatever happens to a delivery,
//! a panic included, it is settled or given back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use faas_model::manifest::Retry;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::attempt::Tried;
use super::backoff::{Backoff, mixed};
use super::consumer::Consumer;
use super::convert::{self, Epitaph};
use super::meters::Held;
use super::queue::{Channel, Delivery, Message, QueueError};
use super::settle::{Death, Outcome, Past, Settlement, death, settle};

/// Longest single pause of a message that is held unacknowledged.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(60);
/// Longest time a message is held unacknowledged in all; below the broker's own bound of 30 min.
pub(super) const HOLD_TOTAL_MAX: Duration = Duration::from_secs(15 * 60);
/// Pause before a delivery whose call panicked is given back: a panic may come with every try.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// An opened queue as its deliveries see it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) channel: Arc<dyn Channel>,
    /// Cancelled when the deliveries ended by themselves: what is unsettled is delivered again.
    pub(super) lost: CancellationToken,
}

/// How a delivery left our hands.
type Settled = Result<(), QueueError>;

impl Consumer {
    /// Settles the delivery, or gives it back.
    pub(super) async fn take(self: Arc<Self>, session: Session, delivery: Delivery) {
        let Ok(_slot) = self.slots.acquire().await else { return };
        if self.stop.is_cancelled() {
            return;
        }
        if session.lost.is_cancelled() {
            // It waited for its place while its channel went: the broker delivers it again.
            return self.give_back(&session, delivery.tag).await;
        }
        let _in_flight = Held::new(&self.meters.in_flight);
        if delivery.redelivered {
            self.meters.redelivered.increment(1);
        }
        let tag = delivery.tag;
        match AssertUnwindSafe(self.handle(&session, delivery)).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                self.meters.failures.increment(1);
                debug!(function = %self.id.function, %error, "a settlement did not reach the broker");
            }
            Err(_) => {
                self.meters.panics.increment(1);
                error!(function = %self.id.function, queue = self.id.queue, "the call of a message panicked");
                self.wait(&session, PANIC_PAUSE).await;
            }
        }
        self.give_back(&session, tag).await;
    }

    /// Nothing is lost: the broker delivers it again, also if this fails because the channel is.
    async fn give_back(&self, session: &Session, tag: u64) {
        if let Err(error) = session.channel.requeue(tag).await {
            debug!(function = %self.id.function, %error, "a delivery could not be given back");
        }
    }

    /// Waits; returns whether to the end, neither stopped nor with a lost channel.
    async fn wait(&self, session: &Session, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = session.lost.cancelled() => false,
            () = sleep(pause) => true,
        }
    }

    /// Tries the delivery until it is settled; where nothing may be declared the pauses are waited out here.
    async fn handle(&self, session: &Session, delivery: Delivery) -> Settled {
        let Delivery { tag, redelivered, fault, mut message } = delivery;
        if let Some(rest) = self.too_early(&mut message) {
            self.publish(session, tag, || session.channel.retry(message.clone(), rest)).await?;
            return session.channel.ack(tag).await;
        }
        let mut held = Duration::ZERO;
        let mut failed = None;
        loop {
            let mut tried = self.attempt(fault, redelivered, &message).await;
            let pause = match tried.settlement {
                Settlement::Retry { pause } | Settlement::Hold { pause } if !self.trigger.declare => {
                    pause.min(HOLD_MAX)
                }
                _ => return self.finish(session, tag, message, &tried).await,
            };
            if matches!(tried.settlement, Settlement::Retry { .. }) {
                failed = tried.death;
            }
            if let Some(death) = failed.filter(|_| held + pause > HOLD_TOTAL_MAX) {
                // Given back it would start anew, without its count of tries, and never die.
                tried.dies(death);
                return self.finish(session, tag, message, &tried).await;
            }
            self.tries.settled(&tried, true);
            held += pause;
            let waited = self.wait(session, pause).await;
            if session.lost.is_cancelled() {
                return Err(QueueError::Lost("the channel was lost while the message was held".into()));
            }
            if !waited || held > HOLD_TOTAL_MAX {
                self.meters.returned.increment(1);
                return session.channel.requeue(tag).await;
            }
            self.count(tried.settlement);
            message = convert::for_retry(message, tried.next(), tried.fresh_id.clone(), now_ms());
        }
    }

    /// Returns how long a message of a pause above the longest tier still has to wait.
    fn too_early(&self, message: &mut Message) -> Option<Duration> {
        let longest = self.policy.max.duration().max(Retry::default().max.duration());
        self.trigger.declare.then(|| convert::rest(message, now_ms(), longest)).flatten()
    }

    async fn attempt(&self, fault: Option<&'static str>, redelivered: bool, message: &Message) -> Tried {
        let past = Past::of(message);
        let event = match fault {
            Some(fault) => Err(fault),
            None => self.source.event(message),
        };
        match event {
            Ok(event) => {
                let (call, fresh_id) = (event.call, event.fresh_id.clone());
                let known = fresh_id.is_none();
                if let Some(settlement) = self.tries.known(call, redelivered && known).await {
                    return Tried { call, fresh_id, detail: None, death: None, past, settlement, known: None };
                }
                let running = known.then(|| self.tries.begin(call));
                let outcome = super::attempt::run(&*self.dispatch, &self.id.function, event).await;
                debug!(function = %self.id.function, %call, ?outcome, attempts = past.attempts, "message tried");
                let (settlement, death) = (settle(&outcome, past, &self.policy), Some(death(&outcome)));
                Tried { call, fresh_id, detail: None, death, past, settlement, known: running }
            }
            Err(detail) => {
                let settlement = settle(&Outcome::Malformed(detail), past, &self.policy);
                let call = self.source.malformed_call(message);
                debug!(function = %self.id.function, %call, detail, "message is malformed");
                Tried { call, fresh_id: None, detail: Some(detail), death: None, past, settlement, known: None }
            }
        }
    }

    /// Settles, and notes whether the broker has it.
    async fn finish(&self, session: &Session, tag: u64, message: Message, tried: &Tried) -> Settled {
        let done = self.settle(session, tag, message, tried).await;
        self.tries.settled(tried, done.is_ok());
        done
    }

    /// Makes the outcome durable, then takes the message out of the queue.
    async fn settle(&self, session: &Session, tag: u64, message: Message, tried: &Tried) -> Settled {
        let channel = &session.channel;
        match tried.settlement {
            Settlement::Ack => {}
            Settlement::Return => {
                self.meters.returned.increment(1);
                return channel.requeue(tag).await;
            }
            Settlement::Retry { pause } | Settlement::Hold { pause } => {
                let mut again = convert::for_retry(message, tried.next(), tried.fresh_id.clone(), now_ms());
                if pause > HOLD_MAX {
                    let due = now_ms().saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                    again.headers.insert(convert::own::NOT_BEFORE_MS.into(), due.into());
                }
                self.publish(session, tag, || channel.retry(again.clone(), pause)).await?;
            }
            Settlement::DeadLetter { death, status } => {
                let counted = u32::from(!matches!(death, Death::Malformed));
                let attempts = tried.past.attempts.saturating_add(counted);
                let (call, source) = (tried.call, &self.source);
                let epitaph = Epitaph { death, status, detail: tried.detail, attempts, call, source };
                let letter = convert::for_death(message, &epitaph, now_ms());
                self.publish(session, tag, || channel.dead_letter(letter.clone())).await?;
            }
        }
        channel.ack(tag).await?;
        self.count(tried.settlement);
        Ok(())
    }

    /// Publishes until the broker has it; what is unsettled meanwhile stays in the queue.
    ///
    /// A channel to publish on may be lost alone: only with the deliveries it is of no more use to try.
    async fn publish<'a>(&self, session: &Session, tag: u64, again: impl Fn() -> BoxFuture<'a, Settled>) -> Settled {
        let mut backoff = Backoff::new(Duration::from_secs(1), HOLD_MAX, mixed(self.jitter_seed, tag));
        let began = Instant::now();
        loop {
            let Err(error) = again().await else { return Ok(()) };
            if began.elapsed() > HOLD_TOTAL_MAX || session.lost.is_cancelled() {
                return Err(error);
            }
            if !matches!(error, QueueError::Lost(_)) {
                self.meters.failures.increment(1);
                warn!(function = %self.id.function, queue = self.id.queue, %error, "a message cannot be passed on");
            }
            if !self.wait(session, backoff.next()).await {
                return Err(error);
            }
        }
    }

    fn count(&self, settlement: Settlement) {
        let meters = &self.meters;
        match settlement {
            Settlement::Ack => &meters.acked,
            Settlement::Retry { .. } => &meters.retried,
            Settlement::Hold { .. } => &meters.held,
            Settlement::Return => &meters.returned,
            Settlement::DeadLetter { death: Death::Malformed, .. } => &meters.malformed,
            Settlement::DeadLetter { .. } => &meters.dead,
        }
        .increment(1);
    }
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
