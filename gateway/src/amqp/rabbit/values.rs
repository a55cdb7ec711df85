//! AMQP 0-9-1 messages as the seam's values and back.

use lapin::BasicProperties;
use lapin::message::Delivery as Incoming;
use lapin::types::{AMQPValue, ShortString};

use super::super::queue::{Delivery, Message, Value};
use super::guard;
use super::table::{TABLE_MAX, table};

/// Persistent, as every message of a quorum queue is anyway.
const PERSISTENT: u8 = 2;
/// Bytes of a content header beside its headers: the frame, seven short texts, and the fixed properties.
const REST_MAX: usize = 2 << 10;

/// Returns what the broker delivered.
pub(super) fn delivery(incoming: Incoming) -> Delivery {
    let Incoming { delivery_tag, redelivered, properties, data, .. } = incoming;
    let text = |text: &Option<ShortString>| text.as_ref().map(|t| t.as_str().to_owned());
    let headers = properties.headers().as_ref().map(|table| table.inner());
    let mut headers: std::collections::BTreeMap<_, _> =
        headers.into_iter().flatten().map(|(key, value)| (key.as_str().to_owned(), from_amqp(value))).collect();
    // The queue's own bookkeeping is no header of the publisher.
    headers.remove("x-delivery-count");
    let fault = headers.contains_key(guard::FAULT).then_some("its properties or headers cannot be read");
    let message = Message {
        headers,
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        kind: text(properties.kind()),
        app_id: text(properties.app_id()),
        timestamp_s: *properties.timestamp(),
        priority: *properties.priority(),
        body: data.into(),
    };
    Delivery { tag: delivery_tag, redelivered, fault, message }
}

/// Returns the properties to publish `message` with, so that they fit into a frame of `frame_max` bytes.
///
/// `user_id` and `expiration` are left out: the broker refuses another user's
/// name, and a message that waits or rests must not expire.
pub(super) fn properties(message: &Message, frame_max: usize) -> BasicProperties {
    let headers = table(&message.headers, TABLE_MAX.min(frame_max.saturating_sub(REST_MAX)));
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    let short = |text: &Option<String>| text.as_deref().and_then(|t| ShortString::try_new(t).ok());
    type With = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<String>, With); 7] = [
        (&message.content_type, BasicProperties::with_content_type),
        (&message.content_encoding, BasicProperties::with_content_encoding),
        (&message.message_id, BasicProperties::with_message_id),
        (&message.correlation_id, BasicProperties::with_correlation_id),
        (&message.reply_to, BasicProperties::with_reply_to),
        (&message.kind, BasicProperties::with_type),
        (&message.app_id, BasicProperties::with_app_id),
    ];
    for (text, with) in texts {
        if let Some(text) = short(text) {
            properties = with(properties, text);
        }
    }
    if let Some(timestamp) = message.timestamp_s {
        properties = properties.with_timestamp(timestamp);
    }
    match message.priority {
        Some(priority) => properties.with_priority(priority),
        None => properties,
    }
}

/// The guard bounds the nesting, so recursion is bounded too.
fn from_amqp(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Void => Value::Void,
        AMQPValue::Boolean(v) => Value::Bool(*v),
        AMQPValue::ShortShortInt(v) => Value::Int((*v).into()),
        AMQPValue::ShortShortUInt(v) => Value::Int((*v).into()),
        AMQPValue::ShortInt(v) => Value::Int((*v).into()),
        AMQPValue::ShortUInt(v) => Value::Int((*v).into()),
        AMQPValue::LongInt(v) => Value::Int((*v).into()),
        AMQPValue::LongUInt(v) => Value::Int((*v).into()),
        AMQPValue::LongLongInt(v) => Value::Int(*v),
        AMQPValue::Float(v) => Value::Float((*v).into()),
        AMQPValue::Double(v) => Value::Float(*v),
        AMQPValue::DecimalValue(v) => Value::Float(f64::from(v.value) / 10_f64.powi(v.scale.into())),
        AMQPValue::ShortString(v) => Value::Text(v.as_str().to_owned()),
        AMQPValue::LongString(v) => match std::str::from_utf8(v.as_bytes()) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(v.as_bytes().to_vec().into()),
        },
        AMQPValue::ByteArray(v) => Value::Bytes(v.as_slice().to_vec().into()),
        AMQPValue::Timestamp(v) => Value::Time(*v),
        AMQPValue::FieldArray(v) => Value::List(v.as_slice().iter().map(from_amqp).collect()),
        AMQPValue::FieldTable(v) => {
            Value::Table(v.inner().iter().map(|(k, v)| (k.as_str().to_owned(), from_amqp(v))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Width, to_amqp};
    use super::*;

    #[test]
    fn values_survive_the_way_to_the_broker_and_back() {
        let table = Value::Table([("k".to_owned(), Value::Text("ä".into()))].into());
        let all = [
            Value::Void,
            Value::Bool(true),
            Value::Int(i64::MIN),
            Value::List(
                [-128, 255, -32_768, 65_535, -2_147_483_648, 4_294_967_295, 4_294_967_296].map(Value::Int).into(),
            ),
            Value::Float(1.5),
            Value::Float(0.1),
            Value::Text("x".into()),
            Value::Bytes(vec![0xff].into()),
            Value::Time(7),
            Value::List(vec![table.clone(), Value::Void]),
            table,
        ];
        for value in all {
            for width in [Width::Usual, Width::Least] {
                assert_eq!(from_amqp(&to_amqp(&value, width)), value);
            }
        }
    }

    #[test]
    fn text_that_is_no_utf8_becomes_bytes() {
        let value = from_amqp(&AMQPValue::LongString(vec![0xff, 0xfe].into()));
        assert_eq!(value, Value::Bytes(vec![0xff, 0xfe].into()));
        assert_eq!(value.as_text(), None);
    }
}
