//! The seam to a broker: [`Queue`] opens a work queue, its [`Channel`] settles what came.
//!
//! Broker-neutral: messages are plain values, a settlement that returned `Ok`
//! is durable at the broker, and a lost connection ends the deliveries.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// Deepest nesting of a header value that is carried; deeper ones make the message malformed.
pub const NESTING_MAX: usize = 16;

/// A value of a message header.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Void,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes that are no text.
    Bytes(Bytes),
    /// Seconds since the Unix epoch.
    Time(u64),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Table(BTreeMap<String, Value>),
}

impl Value {
    /// Returns a scalar as its canonical text (CloudEvents 1.0.2, "Type System"); nothing for the rest.
    #[must_use]
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Bool(v) => Some(v.to_string()),
            Self::Int(v) => Some(v.to_string()),
            Self::Float(v) => v.is_finite().then(|| v.to_string()),
            Self::Text(v) => Some(v.clone()),
            Self::Time(v) => super::convert::rfc3339(*v),
            Self::Void | Self::Bytes(_) | Self::List(_) | Self::Table(_) => None,
        }
    }

    /// Returns a whole number, also one written as text.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(v) => u64::try_from(*v).ok(),
            Self::Text(v) => v.parse().ok(),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A message as publishers and consumers see it. Published ones are always persistent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message {
    /// Application headers.
    pub headers: BTreeMap<String, Value>,
    /// Media type of the body.
    pub content_type: Option<String>,
    /// Encoding of the body, such as `gzip`; never undone by the platform.
    pub content_encoding: Option<String>,
    /// The publisher's name for the message.
    pub message_id: Option<String>,
    /// What the message belongs to.
    pub correlation_id: Option<String>,
    /// Where an answer is expected.
    pub reply_to: Option<String>,
    /// The publisher's name for the kind of message.
    pub kind: Option<String>,
    /// The publishing application.
    pub app_id: Option<String>,
    /// When it was made, seconds since the Unix epoch.
    pub timestamp_s: Option<u64>,
    /// Its priority.
    pub priority: Option<u8>,
    /// The data.
    pub body: Bytes,
}

/// A message that waits for its settlement.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Names the delivery to the [`Channel`] it came with.
    pub tag: u64,
    /// Whether it was delivered before and came back.
    pub redelivered: bool,
    /// Why it cannot be read, if so; the message then holds what could be saved.
    pub fault: Option<&'static str>,
    /// The message.
    pub message: Message,
}

/// What is consumed and where its failures go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The work queue.
    pub queue: String,
    /// Unsettled deliveries at most.
    pub prefetch: u16,
    /// Whether the queue, its dead letters and the retry tiers are declared.
    pub declare: bool,
    /// An exchange the declared queue is bound to.
    pub exchange: Option<String>,
    /// Routing keys of that binding; empty means the queue's name.
    pub bindings: Vec<String>,
    /// Where dead letters go.
    pub dead_letter_exchange: String,
    /// Names the consumer to people who look at the broker.
    pub consumer: String,
}

/// Why the broker did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// No connection, or it broke: open again later.
    #[error("no connection to the broker: {0}")]
    Lost(String),
    /// The queue or exchange exists with other settings, or may not be declared or read.
    #[error("the broker refused: {0}")]
    Refused(String),
    /// No queue took the published message.
    #[error("no queue took the message published to {0:?}")]
    Unroutable(String),
    /// The broker did not confirm a published message.
    #[error("the broker did not confirm the message published to {0:?}")]
    Unconfirmed(String),
}

/// The deliveries of an opened queue. They end when the consumer is cancelled
/// or, after an error, when the channel or connection is lost.
pub type Deliveries = BoxStream<'static, Result<Delivery, QueueError>>;

/// An opened queue: what comes, and what settles it.
pub type Opened = (Deliveries, Arc<dyn Channel>);

/// A broker.
pub trait Queue: Send + Sync + fmt::Debug {
    /// Opens the queue of `plan`: declares what it asks for and starts to consume.
    ///
    /// # Errors
    /// [`QueueError::Lost`] or [`QueueError::Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing consumed; what was declared stays.
    fn open(&self, plan: Plan) -> BoxFuture<'_, Result<Opened, QueueError>>;
}

/// Settles the deliveries of one opened queue. Dropping the last handle gives
/// every unsettled delivery back to the broker.
pub trait Channel: Send + Sync + fmt::Debug {
    /// Takes the delivery out of the queue.
    ///
    /// # Errors
    /// [`QueueError::Lost`]; the broker then delivers the message again.
    fn ack(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Gives the delivery back to the queue at once.
    ///
    /// # Errors
    /// [`QueueError::Lost`]; the broker then delivers the message again.
    fn requeue(&self, tag: u64) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Publishes `message` so that it comes back to the work queue after `pause`; returns once the broker has it.
    ///
    /// # Errors
    /// Every [`QueueError`]; the message may or may not have been taken.
    fn retry(&self, message: Message, pause: Duration) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Publishes `message` to the dead-letter exchange; returns once the broker has it.
    ///
    /// # Errors
    /// Every [`QueueError`]; the message may or may not have been taken.
    fn dead_letter(&self, message: Message) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Asks for no more deliveries; those under way can still be settled.
    ///
    /// # Errors
    /// [`QueueError::Lost`].
    fn cancel(&self) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Closes the channel; what is unsettled goes back to the queue.
    fn close(&self) -> BoxFuture<'_, ()>;
}
