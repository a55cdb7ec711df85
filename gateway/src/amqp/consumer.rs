//! One consumer: opens its queue again and again, and takes what is delivered.
//!
//! Never more calls than the prefetch of the trigger, over all opened queues and
//! over the consumer that this one replaces.

use std::sync::Arc;
use std::time::Duration;

use faas_invoke::Dispatch;
use faas_model::manifest::{AmqpTrigger, Retry};
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::attempt::Tries;
use super::backoff::Backoff;
use super::convert::Source;
use super::delivery::Session;
use super::meters::{Held, Meters};
use super::queue::{Deliveries, Plan, Queue};
use super::status::{ConsumerId, State, StatusBoard};

/// An opened queue that lasted this long was no failure.
const STABLE: Duration = Duration::from_secs(5);

/// What a consumer is made of.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) id: ConsumerId,
    pub(super) trigger: AmqpTrigger,
    pub(super) policy: Retry,
    pub(super) source: Source,
    pub(super) dispatch: Arc<dyn Dispatch>,
    pub(super) board: StatusBoard,
    pub(super) meters: Meters,
    pub(super) tries: Tries,
    /// Calls of an earlier connection, or of the consumer before this one, may still run when the next delivers.
    pub(super) slots: Arc<Semaphore>,
    /// What the jitter of its pauses is drawn from.
    pub(super) jitter_seed: u64,
    pub(super) stop: CancellationToken,
}

impl Consumer {
    /// Runs until stopped, then until the last call has ended and is settled.
    pub(super) async fn run(self: Arc<Self>, queue: Arc<dyn Queue>, mut backoff: Backoff) {
        let mut calls = JoinSet::new();
        let mut last = None;
        while !self.stop.is_cancelled() {
            self.show(State::Connecting);
            let began = Instant::now();
            let opened = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                opened = queue.open(self.plan()) => opened,
            };
            let detail = match opened {
                Ok((deliveries, channel)) => {
                    last = Some(channel.clone());
                    self.show(State::Consuming);
                    let _consuming = Held::new(&self.meters.consuming);
                    let session = Session { channel, lost: CancellationToken::new() };
                    self.consume(deliveries, &session, &mut calls).await
                }
                Err(error) => error.to_string(),
            };
            if self.stop.is_cancelled() {
                break;
            }
            self.show(State::Waiting { detail });
            if began.elapsed() > STABLE {
                backoff.reset();
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                () = sleep(backoff.next()) => {}
            }
        }
        while calls.join_next().await.is_some() {}
        if let Some(channel) = last {
            channel.close().await;
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            queue: self.trigger.queue.clone(),
            prefetch: self.trigger.prefetch,
            declare: self.trigger.declare,
            exchange: self.trigger.exchange.clone(),
            bindings: self.trigger.bindings.clone(),
            dead_letter_exchange: self.trigger.dead_letter_exchange(),
            consumer: format!("faas.{}", self.id.function),
        }
    }

    fn show(&self, state: State) {
        let waiting = matches!(state, State::Waiting { .. });
        // "connecting" between two equal failures is no news.
        if matches!(state, State::Connecting) && self.board.of(&self.id.function).iter().any(|(id, _)| *id == self.id) {
            return;
        }
        if !self.board.set(&self.id, state.clone()) {
            return;
        }
        let ConsumerId { function, broker, queue } = &self.id;
        if waiting {
            warn!(%function, %broker, queue, %state, "queue is not consumed");
        } else {
            info!(%function, %broker, queue, %state, "queue consumer changed");
        }
    }

    /// Takes deliveries until they end; says why they did.
    async fn consume(
        self: &Arc<Self>,
        mut deliveries: Deliveries,
        session: &Session,
        calls: &mut JoinSet<()>,
    ) -> String {
        let ended = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    if let Err(error) = session.channel.cancel().await {
                        debug!(%error, "consumer could not be cancelled");
                    }
                    return "stopped".into();
                }
                Some(ended) = calls.join_next() => {
                    if let Err(error) = ended {
                        warn!(function = %self.id.function, %error, "a delivery's task failed");
                    }
                }
                next = deliveries.next() => match next {
                    Some(Ok(delivery)) => {
                        calls.spawn(self.clone().take(session.clone(), delivery));
                    }
                    Some(Err(error)) => break error.to_string(),
                    None => break "the broker cancelled the consumer".into(),
                },
            }
        };
        session.lost.cancel();
        ended
    }
}
