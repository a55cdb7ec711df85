//! Messages of every kind become an event or a named fault, and come back from tiers as they went.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::amqp::queue::Value;

fn source() -> Source {
    Source {
        function: FunctionName::in_default("orders").unwrap(),
        broker: "default".into(),
        queue: "orders placed".into(),
        request_bytes: 1000,
    }
}

fn message(headers: &[(&str, Value)]) -> Message {
    Message {
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        body: "{}".into(),
        ..Message::default()
    }
}

fn header<'a>(event: &'a Event, name: &str) -> &'a str {
    event.request.headers().get(name).map_or("", |v| v.to_str().unwrap())
}

#[test]
fn a_plain_message_gets_every_required_attribute() {
    let sent = Message {
        content_type: Some("application/json".into()),
        content_encoding: Some("gzip".into()),
        message_id: Some("m 1".into()),
        timestamp_s: Some(1_700_000_000),
        ..message(&[("x-death", Value::Void), ("traceparent", "00-ab-cd-01".into()), ("tenant", "a".into())])
    };
    let event = source().event(&sent).unwrap();
    assert_eq!(event.request.method(), Method::POST);
    assert_eq!(event.request.uri(), "http://orders.default.faas.internal/");
    let expected = [
        ("ce-specversion", "1.0"),
        ("ce-id", "m%201"),
        ("ce-source", "amqp://default/orders%2520placed"),
        ("ce-type", TYPE_DEFAULT),
        ("ce-time", "2023-11-14T22:13:20Z"),
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
        ("traceparent", "00-ab-cd-01"),
        ("x-faas-trigger", "amqp"),
        ("x-faas-attempts", "0"),
        ("x-death", ""),
        ("tenant", ""),
    ];
    for (name, value) in expected {
        assert_eq!(header(&event, name), value, "{name}");
    }
    assert_eq!(event.fresh_id, None);
}

#[test]
fn attributes_come_under_three_prefixes_and_as_every_scalar() {
    let event = source()
        .event(&message(&[
            ("cloudEvents_id", "7".into()),
            ("cloudEvents:source", "/shop".into()),
            ("ce-type", "order.placed".into()),
            ("ce-number", Value::Int(-5)),
            ("ce-flag", Value::Bool(true)),
            ("ce-time", Value::Time(0)),
        ]))
        .unwrap();
    for (name, value) in [
        ("ce-id", "7"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-number", "-5"),
        ("ce-flag", "true"),
        ("ce-time", "1970-01-01T00:00:00Z"),
    ] {
        assert_eq!(header(&event, name), value, "{name}");
    }
}

#[test]
fn a_structured_event_is_unpacked() {
    let body = r#"{"specversion":"1.0","id":"9","source":"/s","type":"t","datacontenttype":"text/plain","data":"hi"}"#;
    let sent = Message {
        content_type: Some("application/cloudevents+json; charset=utf-8".into()),
        body: body.into(),
        ..Message::default()
    };
    let event = source().event(&sent).unwrap();
    assert_eq!(header(&event, "ce-id"), "9");
    assert_eq!(header(&event, "content-type"), "text/plain");
    assert!(matches!(event.request.body(), Body::Full(b) if b == "hi"));
}

#[test]
fn what_makes_no_event_says_why() {
    let long = Message { body: vec![b'x'; 1001].into(), ..Message::default() };
    let typed = |t: &str| Message { content_type: Some(t.into()), body: "[]".into(), ..Message::default() };
    let bad = [
        long,
        typed("application/cloudevents-batch+json"),
        typed("application/cloudevents+json"),
        typed("text/plain\r\nx: y"),
        message(&[("ce-id", Value::Bytes(vec![0xff].into()))]),
        message(&[("ce-id", Value::List(vec![]))]),
        message(&[("ce-id", "".into())]),
        message(&[("ce-id", "a".into()), ("cloudEvents_id", "b".into())]),
        message(&[("ce-specversion", "0.3".into())]),
        message(&[("ce-time", "yesterday".into())]),
        message(&[("ce-Bad_Name", "x".into())]),
        message(&[("ce-subject", "a\r\nhost: evil".into())]),
        Message { message_id: Some("a\nb".into()), ..Message::default() },
    ];
    for message in bad {
        assert!(source().event(&message).is_err(), "{message:?}");
    }
}

#[test]
fn a_made_up_id_stays_over_retries() {
    let first = source().event(&message(&[])).unwrap();
    let id = first.fresh_id.clone().unwrap();
    assert_eq!(header(&first, "ce-id"), id);
    let again = for_retry(message(&[]), Past { attempts: 1, refusals: 0 }, first.fresh_id, 0);
    let second = source().event(&again).unwrap();
    assert_eq!((header(&second, "ce-id"), header(&second, "x-faas-attempts")), (id.as_str(), "1"));
    assert_eq!(second.fresh_id, None);
}

#[test]
fn the_same_try_has_the_same_call_id_and_the_next_try_another() {
    let sent = message(&[("ce-id", "7".into())]);
    let call = |m: &Message| source().event(m).unwrap().call;
    assert_eq!(call(&sent), call(&sent));
    let again = for_retry(sent.clone(), Past { attempts: 1, refusals: 0 }, None, 0);
    assert_ne!(call(&sent), call(&again));
    assert_eq!(source().malformed_call(&sent), source().malformed_call(&sent));
}

#[test]
fn a_retry_keeps_the_message_and_drops_what_would_mislead_the_broker() {
    let mut sent = message(&[
        ("CC", Value::List(vec!["other".into()])),
        ("x-death", Value::List(vec![])),
        ("x-first-death-queue", "q".into()),
        ("tenant", "a".into()),
    ]);
    sent.correlation_id = Some("c".into());
    let again = for_retry(sent.clone(), Past { attempts: 2, refusals: 1 }, None, 1_700_000_000_000);
    assert_eq!(Past::of(&again), Past { attempts: 2, refusals: 1 });
    let names: Vec<_> = again.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["tenant", own::ATTEMPTS, own::FIRST_FAILURE, own::REFUSALS]);
    assert_eq!((again.body, again.correlation_id), (sent.body, sent.correlation_id));
    let later = for_retry(message(&[(own::FIRST_FAILURE, "then".into())]), Past::default(), None, 1);
    assert_eq!(later.headers[own::FIRST_FAILURE], "then".into());
}

#[test]
fn a_dead_letter_tells_its_story_and_starts_anew_when_redriven() {
    let (source, call) = (source(), CallId::fresh());
    let epitaph = Epitaph {
        death: Death::AttemptsExhausted,
        status: Some(503),
        detail: None,
        attempts: 5,
        call,
        source: &source,
    };
    let sent = message(&[(own::ATTEMPTS, Value::Int(4)), (own::NOT_BEFORE_MS, Value::Int(9))]);
    let letter = for_death(sent, &epitaph, 1_700_000_000_000);
    let expected: BTreeMap<String, Value> = [
        (own::REASON, "attempts_exhausted".into()),
        (own::STATUS, Value::Int(503)),
        (own::ATTEMPTS, Value::Int(5)),
        (own::CALL_ID, call.to_string().into()),
        (own::FUNCTION, "orders.default".into()),
        (own::QUEUE, "orders placed".into()),
        (own::FIRST_FAILURE, "2023-11-14T22:13:20Z".into()),
    ]
    .map(|(k, v): (&str, Value)| (k.to_owned(), v))
    .into();
    assert_eq!(letter.headers, expected);
    assert_eq!(Past::of(&letter), Past::default());
    let again = for_retry(letter, Past { attempts: 1, refusals: 0 }, None, 1_800_000_000_000);
    assert!(!again.headers.contains_key(own::REASON));
    assert_eq!(Past::of(&again).attempts, 1);
    assert_eq!(again.headers[own::FIRST_FAILURE], "2027-01-15T08:00:00Z".into());
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Void),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float),
        any::<String>().prop_map(Value::Text),
        any::<Vec<u8>>().prop_map(|b| Value::Bytes(b.into())),
        any::<u64>().prop_map(Value::Time),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            proptest::collection::btree_map(any::<String>(), inner, 0..4).prop_map(Value::Table),
        ]
    })
}

fn names() -> impl Strategy<Value = String> {
    let prefix = prop_oneof![Just(""), Just("ce-"), Just("cloudEvents_"), Just("cloudEvents:"), Just("x-faas-")];
    let stem = prop_oneof![
        any::<String>(),
        proptest::sample::select(vec!["id", "source", "type", "time", "specversion", "subject", "attempts", "reason"])
            .prop_map(str::to_owned),
        Just("traceparent".to_owned()),
    ];
    (prefix, stem).prop_map(|(p, s)| format!("{p}{s}"))
}

fn messages() -> impl Strategy<Value = Message> {
    let content_type = prop_oneof![
        Just(None),
        any::<Option<String>>(),
        Just(Some("application/cloudevents+json".to_owned())),
        Just(Some("application/json".to_owned())),
    ];
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..1100),
        Just(br#"{"specversion":"1.0","id":"1","source":"/","type":"t","data_base64":"!"}"#.to_vec()),
    ];
    (
        proptest::collection::btree_map(names(), values(), 0..6),
        content_type,
        any::<Option<String>>(),
        any::<Option<u64>>(),
        body,
    )
        .prop_map(|(headers, content_type, message_id, timestamp_s, body)| Message {
            headers,
            content_type,
            message_id,
            timestamp_s,
            body: body.into(),
            ..Message::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_message_panics_and_each_event_is_whole(message in messages()) {
        if let Ok(event) = source().event(&message) {
            for name in ["ce-id", "ce-source", "ce-type", "ce-specversion", "x-faas-trigger", "x-faas-attempts"] {
                prop_assert!(event.request.headers().contains_key(name), "{name} is missing");
            }
            let again = for_retry(message.clone(), Past { attempts: 3, refusals: 0 }, event.fresh_id, 0);
            let retried = source().event(&again).unwrap();
            prop_assert_eq!(retried.request.headers().get("ce-id"), event.request.headers().get("ce-id"));
            prop_assert_eq!(&retried.request.headers()["x-faas-attempts"], "3");
        }
    }
}

#[test]
fn two_messages_of_one_message_id_are_two_tries_unless_the_event_names_itself() {
    let call = |id: &str, header: Option<&str>, body: &'static str| {
        let mut sent = Message { message_id: Some(id.into()), body: body.into(), ..Message::default() };
        if let Some(ce) = header {
            sent.headers.insert("ce-id".into(), ce.into());
        }
        source().event(&sent).unwrap().call
    };
    assert_ne!(call("1", None, "a"), call("1", None, "b"));
    assert_eq!(call("1", None, "a"), call("1", None, "a"));
    assert_eq!(call("1", Some("7"), "a"), call("2", Some("7"), "b"), "the event's own id says that they are one");
    let carried = |body: &'static str| {
        let sent = Message { body: body.into(), ..message(&[(own::ID, "u".into())]) };
        source().event(&sent).unwrap().call
    };
    assert_ne!(carried("a"), carried("b"));
}

#[test]
fn a_due_time_beyond_the_longest_pause_becomes_one_that_comes() {
    const LONGEST: Duration = Duration::from_secs(90);
    let mut forged = message(&[(own::NOT_BEFORE_MS, Value::Int(1 << 60))]);
    assert_eq!(rest(&mut forged, 1_000, LONGEST), Some(LONGEST));
    assert_eq!(rest(&mut forged, 61_000, LONGEST), Some(Duration::from_secs(30)));
    assert_eq!(rest(&mut forged, 91_000, LONGEST), None);
    let mut near = message(&[(own::NOT_BEFORE_MS, Value::Int(5_000))]);
    assert_eq!(rest(&mut near, 1_000, LONGEST), Some(Duration::from_secs(4)));
    assert_eq!(near.headers[own::NOT_BEFORE_MS], Value::Int(5_000));
    assert_eq!(rest(&mut near, 4_600, LONGEST), None, "near enough");
    assert_eq!(rest(&mut message(&[]), 0, LONGEST), None);
}
