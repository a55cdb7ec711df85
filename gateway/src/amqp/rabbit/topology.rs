//! What the platform declares: quorum queues that lose nothing on the way to their dead letters.

use std::collections::BTreeMap;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};

use super::super::queue::{Plan, QueueError};
use super::{failure, is_not_found, name};

/// Deliveries without an answer until the broker dead-letters the message itself:
/// only crashes and returns count, tries are published anew.
const DELIVERY_LIMIT: i32 = 20;

/// Declares the queue, its dead letters and its binding, if the plan asks for it.
pub(super) async fn prepare(connection: &Connection, plan: &Plan) -> Result<(), QueueError> {
    if !plan.declare {
        return Ok(());
    }
    exchange(connection, &plan.dead_letter_exchange).await?;
    if let Some(source) = &plan.exchange {
        exchange(connection, source).await?;
    }
    let channel = open(connection).await?;
    let dead = format!("{}.dlq", plan.queue);
    queue(&channel, &dead, quorum()).await?;
    bind(&channel, &dead, &plan.dead_letter_exchange, &plan.queue).await?;
    let mut arguments = dead_lettering(&plan.dead_letter_exchange, &plan.queue);
    arguments.insert("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT));
    queue(&channel, &plan.queue, arguments).await?;
    if let Some(source) = &plan.exchange {
        let own = [plan.queue.clone()];
        let keys = if plan.bindings.is_empty() { &own[..] } else { &plan.bindings };
        for key in keys {
            bind(&channel, &plan.queue, source, key).await?;
        }
    }
    close(&channel).await;
    Ok(())
}

/// Declares the queue that gives its messages to the work queue after `tier_ms`; returns its name.
pub(super) async fn tier(connection: &Connection, work: &str, tier_ms: u64) -> Result<ShortString, QueueError> {
    let tier = format!("faas.retry.{work}.{tier_ms}");
    let mut arguments = dead_lettering("", work);
    arguments.insert("x-message-ttl", AMQPValue::LongLongInt(i64::try_from(tier_ms).unwrap_or(60_000)));
    let channel = open(connection).await?;
    queue(&channel, &tier, arguments).await?;
    close(&channel).await;
    name(&tier)
}

type Arguments = BTreeMap<&'static str, AMQPValue>;

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn quorum() -> Arguments {
    BTreeMap::from([("x-queue-type", text("quorum"))])
}

/// A quorum queue that hands a dead letter over before it forgets it.
fn dead_lettering(exchange: &str, key: &str) -> Arguments {
    let mut arguments = quorum();
    arguments.extend([
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-routing-key", text(key)),
        ("x-dead-letter-strategy", text("at-least-once")),
        // At-least-once needs it: a full queue refuses instead of dropping.
        ("x-overflow", text("reject-publish")),
    ]);
    arguments
}

async fn open(connection: &Connection) -> Result<Channel, QueueError> {
    connection.create_channel().await.map_err(|e| failure(&e))
}

/// A channel that could not be closed is closed by its last handle.
async fn close(channel: &Channel) {
    if let Err(error) = channel.close(200, "done".into()).await {
        tracing::debug!(%error, "a channel could not be closed");
    }
}

async fn queue(channel: &Channel, queue: &str, arguments: Arguments) -> Result<(), QueueError> {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert(key.into(), value);
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name(queue)?, options, table).await.map(|_| ()).map_err(|e| failure(&e))
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), QueueError> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(name(queue)?, name(exchange)?, name(key)?, options, FieldTable::default())
        .await
        .map_err(|e| failure(&e))
}

/// Uses the exchange that is there, of whatever kind, or declares a durable topic exchange.
async fn exchange(connection: &Connection, exchange: &str) -> Result<(), QueueError> {
    let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let channel = open(connection).await?;
    match channel.exchange_declare(name(exchange)?, ExchangeKind::Topic, look, FieldTable::default()).await {
        Ok(()) => {
            close(&channel).await;
            return Ok(());
        }
        // A failed look closes its channel.
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(failure(&error)),
    }
    let channel = open(connection).await?;
    let make = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let made = channel.exchange_declare(name(exchange)?, ExchangeKind::Topic, make, FieldTable::default()).await;
    made.map_err(|e| failure(&e))?;
    close(&channel).await;
    Ok(())
}
