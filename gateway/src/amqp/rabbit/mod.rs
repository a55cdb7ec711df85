//! RabbitMQ (AMQP 0-9-1) as a [`Queue`]: one connection, shared; a channel per
//! consumer; at most [`PUBLISHERS_MAX`] channels that publish for it.

mod channel;
#[cfg(fuzzing)]
pub mod fuzz;
mod guard;
mod table;
mod topology;
mod transport;
mod values;

use std::sync::Arc;
use std::time::Duration;

use faas_model::Name;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use metrics::{Gauge, gauge};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::info;

use super::config::Broker;
use super::queue::{Message, Opened, Plan, Queue, QueueError};
use channel::{Publisher, RabbitChannel};

/// Channels of one consumer that publish; each has one message under way, so
/// that a message the broker returns is never taken for another.
pub const PUBLISHERS_MAX: usize = 8;

/// One RabbitMQ broker.
pub struct RabbitQueue {
    name: Name,
    broker: Broker,
    link: Mutex<Link>,
    connected: Gauge,
}

#[derive(Default)]
struct Link {
    connection: Option<Arc<Connection>>,
    failed: Option<(Instant, QueueError)>,
}

impl std::fmt::Debug for RabbitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitQueue").field("name", &self.name).finish_non_exhaustive()
    }
}

impl RabbitQueue {
    /// Returns the broker; nothing is connected before the first queue is opened.
    #[must_use]
    pub fn new(name: Name, broker: Broker) -> Self {
        let connected = gauge!("faas_amqp_connected", "broker" => name.to_string());
        connected.set(0.0);
        Self { name, broker, link: Mutex::default(), connected }
    }

    /// Returns the open connection, or opens it. Who waited while another failed, fails with it.
    async fn connection(&self) -> Result<Arc<Connection>, QueueError> {
        let asked = Instant::now();
        let mut link = self.link.lock().await;
        if let Some(open) = link.connection.as_ref().filter(|c| c.status().connected()) {
            return Ok(open.clone());
        }
        if link.connection.take().is_some() {
            self.connected.set(0.0);
            info!(broker = %self.name, "broker connection lost");
        }
        if let Some((_, error)) = link.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(error.clone());
        }
        match timeout(self.broker.connect_timeout.duration(), self.connect()).await {
            Ok(Ok(connection)) => {
                self.connected.set(1.0);
                info!(broker = %self.name, "broker connected");
                let connection = Arc::new(connection);
                link.connection = Some(connection.clone());
                Ok(connection)
            }
            failed => {
                let error = match failed {
                    Ok(Err(error)) => lost(&error),
                    _ => QueueError::Lost(format!("no connection within {}", self.broker.connect_timeout)),
                };
                link.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> lapin::Result<Connection> {
        let mut uri = self.broker.url.uri();
        uri.query.heartbeat = Some(self.broker.heartbeat_s.get());
        let properties = ConnectionProperties::default().with_connection_name("faas".into());
        Connection::connector(uri, transport::Kit::current(), transport::connect, properties).await
    }

    /// Publishes `message` and returns once a queue has it.
    ///
    /// # Errors
    /// Every [`QueueError`]; the message may or may not have been taken.
    pub async fn publish(&self, exchange: &str, key: &str, message: &Message) -> Result<(), QueueError> {
        let connection = self.connection().await?;
        let publisher = Publisher::open(&connection).await?;
        publisher.publish(exchange, name(key)?, message, self.broker.confirm_timeout.duration()).await
    }

    /// Takes the next message out of `queue`, if there is one.
    ///
    /// # Errors
    /// [`QueueError::Lost`] or, when there is no such queue, [`QueueError::Refused`].
    pub async fn take(&self, queue: &str) -> Result<Option<Message>, QueueError> {
        let channel = self.connection().await?.create_channel().await.map_err(|e| failure(&e))?;
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get(name(queue)?, options).await.map_err(|e| failure(&e))?;
        Ok(got.map(|got| values::delivery(got.delivery).message))
    }

    async fn consume(&self, plan: Plan) -> Result<Opened, QueueError> {
        let connection = self.connection().await?;
        topology::prepare(&connection, &plan).await?;
        let channel = connection.create_channel().await.map_err(|e| failure(&e))?;
        channel.basic_qos(plan.prefetch, BasicQosOptions::default()).await.map_err(|e| failure(&e))?;
        let tag = ShortString::try_new(format!("{}.{}", plan.consumer, uuid::Uuid::new_v4()))
            .map_err(|e| QueueError::Refused(e.to_string()))?;
        let options = BasicConsumeOptions::default();
        let queue = name(&plan.queue)?;
        let consumer =
            channel.basic_consume(queue, tag.clone(), options, FieldTable::default()).await.map_err(|e| failure(&e))?;
        let deliveries = consumer.map(|next| next.map(values::delivery).map_err(|e| failure(&e)));
        let confirm_timeout = self.broker.confirm_timeout.duration();
        let settler = RabbitChannel::new(connection, channel, tag, plan, confirm_timeout);
        Ok((deliveries.boxed(), Arc::new(settler)))
    }
}

impl Queue for RabbitQueue {
    fn open(&self, plan: Plan) -> BoxFuture<'_, Result<Opened, QueueError>> {
        Box::pin(async move {
            // The broker may stop in the middle: the heartbeat ends the connection, this the wait.
            let bound = self.broker.connect_timeout.duration() + Duration::from_secs(10);
            match timeout(bound, self.consume(plan)).await {
                Ok(opened) => opened,
                Err(_) => Err(QueueError::Lost("the broker does not answer".into())),
            }
        })
    }
}

fn lost(error: &lapin::Error) -> QueueError {
    QueueError::Lost(error.to_string())
}

/// Says whether a new connection may help or the broker said no.
fn failure(error: &lapin::Error) -> QueueError {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) if matches!(amqp.kind(), AMQPErrorKind::Soft(_)) => {
            QueueError::Refused(amqp.get_message().to_string())
        }
        _ => lost(error),
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => matches!(amqp.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)),
        _ => false,
    }
}

fn name(text: &str) -> Result<ShortString, QueueError> {
    ShortString::try_new(text).map_err(|e| QueueError::Refused(e.to_string()))
}
