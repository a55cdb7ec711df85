//! Settles what a consumer got, and publishes with confirm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::types::ShortString;
use lapin::{Confirmation, Connection};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::queue::{Channel, Message, Plan, QueueError};
use super::super::settle::tier_ms;
use super::{PUBLISHERS_MAX, failure, name, topology, values};

/// A channel that publishes, one message at a time.
#[derive(Debug)]
pub(super) struct Publisher {
    channel: lapin::Channel,
    frame_max: usize,
}

impl Publisher {
    pub(super) async fn open(connection: &Connection) -> Result<Self, QueueError> {
        let channel = connection.create_channel().await.map_err(|e| failure(&e))?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|e| failure(&e))?;
        let frame_max = usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX);
        Ok(Self { channel, frame_max })
    }

    /// Publishes and waits for the confirm; a message that no queue took is an error.
    pub(super) async fn publish(
        &self,
        exchange: &str,
        key: ShortString,
        message: &Message,
        within: Duration,
    ) -> Result<(), QueueError> {
        let unconfirmed = || QueueError::Unconfirmed(exchange.to_owned());
        let exchange_name = name(exchange)?;
        let confirmed = async {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let properties = values::properties(message, self.frame_max);
            self.channel.basic_publish(exchange_name, key, options, &message.body, properties).await?.await
        };
        match timeout(within, confirmed).await.map_err(|_| unconfirmed())?.map_err(|e| failure(&e))? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(QueueError::Unroutable(exchange.to_owned())),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(unconfirmed()),
        }
    }
}

/// The channel of one consumer and the channels that publish for it.
#[derive(Debug)]
pub(super) struct RabbitChannel {
    connection: Arc<Connection>,
    consuming: lapin::Channel,
    tag: ShortString,
    plan: Plan,
    confirm_timeout: Duration,
    publishers: Mutex<Vec<Publisher>>,
    permits: Semaphore,
    tiers: tokio::sync::Mutex<HashMap<u64, ShortString>>,
}

impl RabbitChannel {
    pub(super) fn new(
        connection: Arc<Connection>,
        consuming: lapin::Channel,
        tag: ShortString,
        plan: Plan,
        confirm_timeout: Duration,
    ) -> Self {
        let (publishers, tiers) = (Mutex::default(), tokio::sync::Mutex::default());
        let permits = Semaphore::new(PUBLISHERS_MAX);
        Self { connection, consuming, tag, plan, confirm_timeout, publishers, permits, tiers }
    }

    /// Publishes one message on a channel that no other message uses meanwhile.
    async fn publish(&self, exchange: &str, key: ShortString, message: &Message) -> Result<(), QueueError> {
        let _permit = self.permits.acquire().await.map_err(|_| QueueError::Lost("the channel is closed".into()))?;
        let idle = self.publishers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let publisher = match idle {
            Some(publisher) if publisher.channel.status().connected() => publisher,
            _ => Publisher::open(&self.connection).await?,
        };
        match publisher.publish(exchange, key, message, self.confirm_timeout).await {
            // A late confirmation must not meet the next message: such a channel is not used again.
            Err(error @ (QueueError::Lost(_) | QueueError::Refused(_) | QueueError::Unconfirmed(_))) => Err(error),
            settled => {
                self.publishers.lock().unwrap_or_else(PoisonError::into_inner).push(publisher);
                settled
            }
        }
    }

    /// Returns the queue of a tier; declares it at its first use.
    async fn tier(&self, tier: u64) -> Result<ShortString, QueueError> {
        let mut tiers = self.tiers.lock().await;
        if let Some(known) = tiers.get(&tier) {
            return Ok(known.clone());
        }
        let queue = topology::tier(&self.connection, &self.plan.queue, tier).await?;
        tiers.insert(tier, queue.clone());
        Ok(queue)
    }
}

impl Channel for RabbitChannel {
    fn ack(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(
            async move { self.consuming.basic_ack(tag, BasicAckOptions::default()).await.map_err(|e| failure(&e)) },
        )
    }

    fn requeue(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        let options = BasicNackOptions { multiple: false, requeue: true };
        Box::pin(async move { self.consuming.basic_nack(tag, options).await.map_err(|e| failure(&e)) })
    }

    fn retry(&self, message: Message, pause: Duration) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            let tier = tier_ms(pause);
            let queue = self.tier(tier).await?;
            let sent = self.publish("", queue, &message).await;
            if matches!(sent, Err(QueueError::Unroutable(_))) {
                // Somebody deleted the tier: the next try declares it again.
                self.tiers.lock().await.remove(&tier);
            }
            sent
        })
    }

    fn dead_letter(&self, message: Message) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            let key = name(&self.plan.queue)?;
            self.publish(&self.plan.dead_letter_exchange, key, &message).await
        })
    }

    fn cancel(&self) -> BoxFuture<'_, Result<(), QueueError>> {
        let tag = self.tag.clone();
        Box::pin(async move {
            self.consuming.basic_cancel(tag, BasicCancelOptions::default()).await.map_err(|e| failure(&e))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let idle = std::mem::take(&mut *self.publishers.lock().unwrap_or_else(PoisonError::into_inner));
            for channel in idle.iter().map(|p| &p.channel).chain([&self.consuming]) {
                if let Err(error) = channel.close(200, "done".into()).await {
                    tracing::debug!(%error, "a channel could not be closed");
                }
            }
        })
    }
}
