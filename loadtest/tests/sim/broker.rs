//! The broker as the platform sees it: every settlement takes its time, may be
//! lost, and is checked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use faas_gateway::amqp::MemoryQueue;
use faas_gateway::amqp::queue::{Channel, Message, Opened, Plan, Queue, QueueError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::log::Log;

/// Passes everything to a broker in memory and looks at what it passes.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) inner: MemoryQueue,
    pub(crate) log: Log,
    pub(crate) chance: Chance,
    pub(crate) ledger: Ledger,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

struct Line {
    inner: Arc<dyn Channel>,
    watched: Watched,
    plan: Plan,
    /// The names of deliveries that are not settled.
    delivered: Arc<Mutex<BTreeMap<u64, String>>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

pub(crate) fn name(message: &Message) -> String {
    message.message_id.clone().unwrap_or_default()
}

impl Queue for Watched {
    fn open(&self, plan: Plan) -> BoxFuture<'_, Result<Opened, QueueError>> {
        Box::pin(async move {
            tokio::time::sleep(self.chance.millis(0, 20)).await;
            let (deliveries, inner) = self.inner.open(plan.clone()).await?;
            let delivered = Arc::<Mutex<BTreeMap<u64, String>>>::default();
            let (seen, log, queue) = (delivered.clone(), self.log.clone(), plan.queue.clone());
            let deliveries = deliveries.inspect(move |delivery| {
                if let Ok(delivery) = delivery {
                    let name = name(&delivery.message);
                    let again = if delivery.redelivered { " again" } else { "" };
                    log.line(format_args!("{queue} delivers {name}{again}"));
                    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(delivery.tag, name);
                }
            });
            let line = Line { inner, watched: self.clone(), plan, delivered };
            Ok((deliveries.boxed(), Arc::new(line) as Arc<dyn Channel>))
        })
    }
}

impl Line {
    fn named(&self, tag: u64) -> Option<String> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).get(&tag).cloned()
    }

    async fn pause(&self) {
        if !self.watched.chance.one_in(3) {
            tokio::time::sleep(self.watched.chance.millis(0, 15)).await;
        }
    }

    /// Checks a settlement: once per delivery.
    async fn settle(
        &self,
        tag: u64,
        how: &str,
        act: impl Future<Output = Result<(), QueueError>>,
    ) -> Result<(), QueueError> {
        let (log, name) = (&self.watched.log, self.named(tag).unwrap_or_default());
        let done = act.await;
        match &done {
            Ok(()) => log.line(format_args!("{} {how} {name}", self.plan.queue)),
            Err(QueueError::Lost(_)) => log.line(format_args!("{} {how} {name}: lost", self.plan.queue)),
            Err(error) => {
                log.broken(format_args!("a delivery is settled once: {how} {name} in {}: {error}", self.plan.queue))
            }
        }
        self.pause().await;
        done
    }

    /// Returns whether the broker or the store has the outcome of a message.
    fn is_durable(&self, wanted: &str) -> bool {
        let broker = &self.watched.inner;
        self.watched.ledger.has_effect(wanted)
            || broker.waiting(&self.plan.queue).iter().any(|m| name(m) == wanted)
            || broker.dead_letters(&self.plan.dead_letter_exchange).iter().any(|m| name(m) == wanted)
    }
}

impl Channel for Line {
    fn ack(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            self.pause().await;
            let name = self.named(tag).unwrap_or_default();
            self.watched.log.check(
                self.is_durable(&name),
                format_args!("a message is acknowledged only after its outcome is durable: {name}"),
            );
            self.settle(tag, "acks", self.inner.ack(tag)).await
        })
    }

    fn requeue(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            self.pause().await;
            self.settle(tag, "requeues", self.inner.requeue(tag)).await
        })
    }

    fn retry(&self, message: Message, pause: Duration) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            self.pause().await;
            let name = name(&message);
            let done = self.inner.retry(message, pause).await;
            self.watched.log.line(format_args!("{} takes {name} for a retry: {}", self.plan.queue, done.is_ok()));
            self.pause().await;
            done
        })
    }

    fn dead_letter(&self, message: Message) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            self.pause().await;
            let name = name(&message);
            let done = self.inner.dead_letter(message).await;
            self.watched.log.line(format_args!("{} takes {name} as dead: {}", self.plan.queue, done.is_ok()));
            self.pause().await;
            done
        })
    }

    fn cancel(&self) -> BoxFuture<'_, Result<(), QueueError>> {
        self.inner.cancel()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
