//! AMQP: whatever a broker sends, what leaves the frame filter can be read by the
//! library, and whatever message that makes is an event or a named fault.
//!
//! Input: `f`, a byte that says how the rest is cut, and frames; `p` and the
//! properties of one message; or `g` and the seed of a message of ours, which
//! must come back from the broker as it was published.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use faas_gateway::amqp::Source;
use faas_gateway::amqp::fuzz::{HEADER_MAX, delivery, filter, properties};
use faas_gateway::amqp::queue::{Delivery, Message, Value};
use faas_model::FunctionName;
use faas_model::event::{Attributes, Mode};
use lapin::BasicProperties;
use lapin::protocol::basic::{gen_properties, parse_properties};
use libfuzzer_sys::{Corpus, fuzz_target};

/// The frame size that is agreed with a broker of usual settings.
const FRAME_MAX: usize = 128 << 10;
/// A frame's head and its end.
const FRAME_REST: usize = 8;
/// Class, weight and body size, before the properties.
const HEADER_FIXED: usize = 12;

fuzz_target!(|data: &[u8]| -> Corpus {
    match data {
        [b'f', cut, frames @ ..] => filtered(frames, usize::from(*cut).max(1)),
        [b'p', given @ ..] => {
            let frame = header_frame(given);
            let out = filtered_whole(&frame);
            let properties = read(&out);
            let unchanged = out == frame;
            let delivery = delivery(properties, b"{}".to_vec());
            assert!(unchanged || delivery.fault.is_some(), "a replaced header names its fault");
            event(&delivery);
        }
        [b'g', seed @ ..] => match message(&mut Unstructured::new(seed)) {
            Ok(message) => published(&message),
            Err(_) => return Corpus::Reject,
        },
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

/// The same bytes come out however they went in, and every content header among them can be read.
fn filtered(frames: &[u8], pace: usize) {
    let whole = filter(frames, []);
    assert_eq!(filter(frames, 1..frames.len()), whole, "byte by byte");
    assert_eq!(filter(frames, (pace..frames.len()).step_by(pace)), whole, "in reads of {pace}");
    let mut rest = &whole.0[..];
    while let [kind, _, _, a, b, c, d, after @ ..] = rest {
        let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some(payload) = after.get(..size).filter(|_| after.len() > size) else { return };
        match kind {
            2 if size >= HEADER_FIXED => event(&delivery(parse(&payload[HEADER_FIXED..]), Vec::new())),
            1 | 2 | 3 | 8 => {}
            _ => return,
        }
        rest = &after[size + 1..];
    }
}

fn header_frame(properties: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 1];
    frame.extend_from_slice(&u32::try_from(HEADER_FIXED + properties.len()).expect("short").to_be_bytes());
    frame.extend_from_slice(&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend_from_slice(properties);
    frame.push(0xce);
    frame
}

fn filtered_whole(frame: &[u8]) -> Vec<u8> {
    let (out, too_large) = filter(frame, []);
    assert!(!too_large);
    out
}

fn read(frame: &[u8]) -> BasicProperties {
    parse(&frame[FRAME_REST - 1 + HEADER_FIXED..frame.len() - 1])
}

fn parse(given: &[u8]) -> BasicProperties {
    let (rest, properties) = parse_properties(given).expect("what leaves the filter can be read");
    assert!(rest.is_empty(), "all of it is read");
    properties
}

/// The message is an event that a function can read, the same one each time, or has a named fault.
fn event(delivery: &Delivery) {
    let source = Source {
        function: FunctionName::in_default("orders").expect("a name"),
        broker: "default".into(),
        queue: "orders placed".into(),
        request_bytes: 1000,
    };
    match (source.event(&delivery.message), source.event(&delivery.message)) {
        (Ok(first), Ok(second)) => {
            let made = |e: &faas_gateway::amqp::Event| Attributes::from_http(e.request.headers());
            let attributes = made(&first).unwrap_or_else(|e| panic!("{e}: {:?}", first.request.headers()));
            assert_ne!(Mode::of_http(first.request.headers()), Mode::Structured, "data stands alone");
            assert_eq!(first.fresh_id.is_some(), second.fresh_id.is_some());
            if first.fresh_id.is_none() {
                assert_eq!((made(&second), second.call), (Ok(attributes), first.call));
            }
        }
        (Err(first), Err(second)) => assert!(first == second && !first.is_empty()),
        _ => panic!("an event at one time and none at another"),
    }
    let _named = source.malformed_call(&delivery.message);
}

/// What we publish fits into a frame, passes the filter unchanged and is the same message again.
fn published(message: &Message) {
    let properties = properties(message, FRAME_MAX);
    let bytes = cookie_factory::gen_simple(gen_properties(&properties), Vec::new()).expect("memory is endless");
    assert!(bytes.len() <= HEADER_MAX && bytes.len() + HEADER_FIXED + FRAME_REST <= FRAME_MAX, "{}", bytes.len());
    let frame = header_frame(&bytes);
    let out = filtered_whole(&frame);
    assert!(out == frame, "our own headers pass");
    let delivery = delivery(read(&out), message.body.to_vec());
    event(&delivery);
    let short = |text: &Option<String>| text.clone().filter(|t| t.len() <= 255);
    let mut expected = Message {
        content_type: short(&message.content_type),
        message_id: short(&message.message_id),
        reply_to: short(&message.reply_to),
        ..message.clone()
    };
    expected.headers = kept(&message.headers);
    expected.headers.remove("x-delivery-count");
    let mut came = delivery.message;
    if came.headers.contains_key("x-faas-headers-dropped") {
        let left =
            |name: &String, value: &Value| expected.headers.get(name) == Some(value) || name.starts_with("x-faas-");
        assert!(came.headers.iter().all(|(name, value)| left(name, value)), "what is kept is unchanged");
        came.headers.clear();
        expected.headers.clear();
    }
    assert_eq!(came, expected);
}

/// The headers whose names fit into the protocol's 255 bytes, at any depth.
fn kept(headers: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    fn inner(value: &Value) -> Value {
        match value {
            Value::Table(table) => Value::Table(kept(table)),
            Value::List(values) => Value::List(values.iter().map(inner).collect()),
            other => other.clone(),
        }
    }
    let fitting = headers.iter().filter(|(name, _)| name.len() <= 255);
    fitting.map(|(name, value)| (name.clone(), inner(value))).collect()
}

fn message(u: &mut Unstructured<'_>) -> Result<Message> {
    let mut headers = BTreeMap::new();
    for _ in 0..u.int_in_range(0..=8)? {
        headers.insert(name(u)?, value(u, 3)?);
    }
    let mut short = || -> Result<Option<String>> { if u.arbitrary()? { text(u).map(Some) } else { Ok(None) } };
    Ok(Message {
        headers,
        content_type: short()?,
        message_id: short()?,
        reply_to: short()?,
        timestamp_s: u.arbitrary()?,
        priority: u.arbitrary()?,
        body: u.arbitrary::<Vec<u8>>()?.into(),
        ..Message::default()
    })
}

fn name(u: &mut Unstructured<'_>) -> Result<String> {
    let known = ["ce-id", "ce-type", "ce-source", "ce-specversion", "ce-time", "cloudEvents_id", "cloudEvents:subject"];
    let own = ["x-faas-attempts", "x-faas-id", "x-faas-reason", "x-delivery-count", "traceparent"];
    match u.int_in_range(0..=3)? {
        0 => u.choose(&known).map(|name| (*name).to_owned()),
        1 => u.choose(&own).map(|name| (*name).to_owned()),
        2 => Ok(format!("ce-{}", text(u)?)),
        _ => text(u),
    }
}

/// Short or, by repetition, long text.
fn text(u: &mut Unstructured<'_>) -> Result<String> {
    let once: String = u.arbitrary()?;
    let times = if u.ratio(1, 8)? { u.int_in_range(1..=9000)? } else { 1 };
    Ok(once.chars().take(16).collect::<String>().repeat(times))
}

fn value(u: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    Ok(match u.int_in_range(0..=if depth == 0 { 6 } else { 8 })? {
        0 => Value::Void,
        1 => Value::Bool(u.arbitrary()?),
        2 => Value::Int(u.arbitrary()?),
        3 => Value::Float(u.arbitrary::<f64>().map(|v| if v.is_nan() { 0.0 } else { v })?),
        4 if depth == 0 => Value::Text(u.arbitrary()?),
        4 => Value::Text(text(u)?),
        5 => Value::Bytes(u.arbitrary::<Vec<u8>>()?.into()),
        6 => Value::Time(u.arbitrary()?),
        7 => {
            let many = u.ratio(1, 8)?;
            // Of what is repeated nothing is repeated itself, else one message would fill the memory.
            let (times, depth) = if many { (u.int_in_range(1..=15_000)?, 0) } else { (1, depth - 1) };
            Value::List(vec![value(u, depth)?; times])
        }
        _ => Value::Table([(name(u)?, value(u, depth - 1)?)].into()),
    })
}
