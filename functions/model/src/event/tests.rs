//! The codecs of events: what goes out comes back, what is malformed is named.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair =
        |(n, v): &(&str, &str)| (HeaderName::try_from(*n).unwrap(), HeaderValue::from_bytes(v.as_bytes()).unwrap());
    pairs.iter().map(pair).collect()
}

const EVENT: [(&str, &str); 4] = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

fn event_with(extra: &[(&str, &str)]) -> HeaderMap {
    let mut map = headers(&EVENT);
    for (name, value) in &headers(extra) {
        map.append(name, value.clone());
    }
    map
}

#[test]
fn the_binding_s_own_example_encodes_as_written_there() {
    assert_eq!(encode_value("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
    assert_eq!(encode_value("a\"b%c"), "a%22b%25c");
    assert_eq!(encode_value("/plain?x=1&y=2"), "/plain?x=1&y=2");
}

#[test]
fn values_decode_once_after_unquoting() {
    for (raw, expected) in [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("%2525", "%25"),
        ("\"a b\"", "a b"),
        ("\"a \\\"b\\\\\"", "a \"b\\"),
        ("100%", "100%"),
        ("%zz%4", "%zz%4"),
        ("\"", "\""),
    ] {
        assert_eq!(decode_value("subject", raw.as_bytes()).unwrap(), expected, "{raw}");
    }
    for bad in [&b"%C0%AF"[..], b"%ff", b"\xff", b"%ED%A0%80"] {
        assert!(decode_value("subject", bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_event_is_known_by_its_headers() {
    assert_eq!(Mode::of_http(&headers(&EVENT)), Mode::Binary);
    for missing in 0..4 {
        let rest: Vec<_> = EVENT.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, p)| *p).collect();
        assert_eq!(Mode::of_http(&headers(&rest)), Mode::None);
    }
    for (content_type, mode) in [
        ("application/cloudevents+json", Mode::Structured),
        ("Application/CloudEvents+JSON; charset=UTF-8", Mode::Structured),
        ("application/cloudevents-batch+json", Mode::Batch),
        ("application/json", Mode::None),
        ("application/cloudevent", Mode::None),
    ] {
        assert_eq!(Mode::of_http(&headers(&[("content-type", content_type)])), mode, "{content_type}");
    }
    assert!(is_cloud_event(&headers(&EVENT)));
    assert!(!is_cloud_event(&headers(&[("content-type", "application/cloudevents-batch+json")])));
}

#[test]
fn malformed_binary_events_are_refused_by_name() {
    for (extra, said) in [
        (&[("ce-id", "2")][..], "\"id\" is there more than once"),
        (&[("ce-no-dash", "x")], "\"no-dash\""),
        (&[("ce-abcdefghijklmnopqrstu", "x")], "1 to 20"),
        (&[("ce-", "x")], "\"\""),
        (&[("ce-subject", "")], "must not be empty"),
        (&[("ce-subject", "%00")], "control"),
        (&[("ce-subject", "%ff")], "UTF-8"),
        (&[("ce-time", "yesterday")], "RFC 3339"),
        (&[("ce-datacontenttype", "a/b")], "Content-Type"),
        (&[("ce-data", "x")], "\"data\""),
    ] {
        let error = Attributes::from_http(&event_with(extra)).unwrap_err().to_string();
        assert!(error.contains(said), "{extra:?}: {error}");
    }
    let mut other = event_with(&[]);
    other.insert("ce-specversion", HeaderValue::from_static("0.3"));
    assert_eq!(Attributes::from_http(&other), Err(EventError::Version("0.3".into())));
    assert_eq!(Attributes::from_http(&HeaderMap::new()), Err(EventError::Missing("specversion")));
}

#[test]
fn bounds_hold_at_their_edges() {
    let long = |n: usize| event_with(&[("ce-subject", &"x".repeat(n))]);
    assert!(Attributes::from_http(&long(VALUE_BYTES_MAX)).is_ok());
    assert!(Attributes::from_http(&long(VALUE_BYTES_MAX + 1)).is_err());
    let many = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("ce-x{i}")).collect();
        event_with(&names.iter().map(|n| (n.as_str(), "1")).collect::<Vec<_>>())
    };
    assert!(Attributes::from_http(&many(ATTRIBUTES_MAX - 4)).is_ok());
    assert_eq!(Attributes::from_http(&many(ATTRIBUTES_MAX - 3)), Err(EventError::TooMany));
}

#[test]
fn messages_carry_attributes_under_three_prefixes() {
    let read = |pairs: &[(&'static str, &str)]| {
        Partial::from_message_headers(pairs.iter().map(|(n, v)| (*n, (*v).to_owned())))
    };
    for prefix in MESSAGE_PREFIXES {
        let names: Vec<String> = ["specversion", "id", "source", "type"].map(|n| format!("{prefix}{n}")).into();
        let pairs = names.iter().map(|n| (n.as_str(), "1.0".to_owned()));
        let found = Partial::from_message_headers(pairs).unwrap();
        assert!(found.is_complete(), "{prefix}");
        assert_eq!(found.complete().unwrap().source, "1.0");
    }
    let found = read(&[("ce-id", "7"), ("x-death", "\0"), ("traceparent", "00-")]).unwrap();
    assert_eq!((found.get("id"), found.is_complete(), found.is_empty()), (Some("7"), false, false));
    assert_eq!(found.complete(), Err(EventError::Missing("specversion")));
    assert!(matches!(read(&[("ce-id", "1"), ("cloudEvents_id", "2")]), Err(EventError::Twice(_))));
    assert!(matches!(read(&[("ce-Id", "1")]), Err(EventError::Name(_))));
    // Message headers are text as it is: nothing is percent-decoded.
    assert_eq!(read(&[("ce-subject", "50%25")]).unwrap().get("subject"), Some("50%25"));
}

#[test]
fn structured_events_are_unpacked() {
    let head = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;
    for (rest, kind, data) in [
        ("", None, &b""[..]),
        (r#","data":{"a": 1}"#, Some("application/json"), br#"{"a": 1}"#),
        (r#","data":"x","datacontenttype":"text/plain""#, Some("text/plain"), b"x"),
        (r#","data":"x","datacontenttype":"application/ld+json; a=b""#, Some("application/ld+json; a=b"), br#""x""#),
        (r#","data":null"#, Some("application/json"), b"null"),
        (r#","data_base64":"AP8Q""#, None, b"\x00\xff\x10"),
        (r#","data_base64":"AP8=","datacontenttype":"a/b""#, Some("a/b"), b"\x00\xff"),
        (r#","data_base64":"""#, None, b""),
    ] {
        let (attributes, bytes) = parse_structured(format!("{{{head}{rest}}}").as_bytes()).unwrap();
        assert_eq!((attributes.id.as_str(), attributes.kind.as_str()), ("1", "t"));
        assert_eq!(attributes.datacontenttype.as_deref(), kind, "{rest}");
        assert_eq!(bytes, data, "{rest}");
    }
    let text = format!(r#"{{{head},"flag":true,"count":-7,"gone":null}}"#);
    let (attributes, _) = parse_structured(text.as_bytes()).unwrap();
    assert_eq!(attributes.extensions, [("count", "-7"), ("flag", "true")].map(|(n, v)| (n.into(), v.into())).into());
}

#[test]
fn malformed_structured_events_are_refused() {
    let head = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;
    let deep = format!(r#","data":{}{}"#, "[".repeat(64), "]".repeat(64));
    for rest in [
        r#","id":"2""#,
        r#","data":1,"data":2"#,
        r#","data":1,"data_base64":"AA==""#,
        r#","data_base64":"A""#,
        r#","data_base64":"A===""#,
        r#","data_base64":"AA!=""#,
        r#","data_base64":"AAA""#,
        r#","data_base64":7"#,
        r#","count":1.5"#,
        r#","count":2147483648"#,
        r#","x":{}"#,
        r#","Upper":"x""#,
        r#","subject":"a\u0000""#,
        &deep,
        ",",
    ] {
        assert!(parse_structured(format!("{{{head}{rest}}}").as_bytes()).is_err(), "{rest}");
    }
    for whole in ["", "[]", "7", "{}", "{\"specversion\":\"1.0\"}", "\u{feff}{}"] {
        assert!(parse_structured(whole.as_bytes()).is_err(), "{whole}");
    }
    assert!(parse_structured(format!("{{{head}}} x").as_bytes()).is_err());
    assert!(parse_structured(b"{\"id\":\"\xff\"}").is_err());
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let text = || "[^\\p{Cc}]{1,40}";
    let optional = || proptest::option::of(text());
    let extensions = proptest::collection::btree_map("x[a-z0-9]{1,19}", text(), 0..8);
    (text(), text(), text(), optional(), optional(), extensions).prop_map(
        |(id, source, kind, subject, dataschema, extensions)| Attributes {
            id,
            source,
            kind,
            subject,
            time: Some("2026-02-28T23:59:60Z".into()).filter(|t: &String| t.parse::<jiff::Timestamp>().is_ok()),
            datacontenttype: Some("text/plain; charset=utf-8".into()),
            dataschema,
            extensions,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_written_to_http_headers_is_read_back(event in attributes()) {
        let mut map = HeaderMap::new();
        event.write_http(&mut map).unwrap();
        prop_assert!(map.values().all(|v| v.as_bytes().iter().all(|b| matches!(b, 0x20..=0x7e))));
        prop_assert_eq!(Attributes::from_http(&map).unwrap(), event);
    }

    #[test]
    fn what_is_written_to_message_headers_is_read_back(event in attributes()) {
        let pairs: Vec<(String, String)> = event.message_headers().map(|(n, v)| (n, v.to_owned())).collect();
        let found = Partial::from_message_headers(pairs.iter().map(|(n, v)| (n.as_str(), v.clone()))).unwrap();
        let mut expected = event;
        expected.datacontenttype = None;
        prop_assert_eq!(found.complete().unwrap(), expected);
    }

    #[test]
    fn no_bytes_make_a_codec_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(decode_value("id", &raw));
        drop(parse_structured(&raw));
    }

    #[test]
    fn data_of_any_bytes_survives_base64(data in proptest::collection::vec(any::<u8>(), 0..100)) {
        let table = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for group in data.chunks(3) {
            let n = group.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
            for i in 0..4 {
                let digit = char::from(table[(n >> (18 - 6 * i)) as usize & 63]);
                text.push(if i <= group.len() { digit } else { '=' });
            }
        }
        let document = format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"t","data_base64":"{text}"}}"#);
        prop_assert_eq!(parse_structured(document.as_bytes()).unwrap().1, data);
    }
}

/// Found by fuzzing: it was written as it is, and no reader of binary events takes it.
#[test]
fn a_content_type_outside_ascii_is_refused_when_it_is_written() {
    let document = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"text/plain; a=é"}"#;
    let (mut attributes, _) = parse_structured(document.as_bytes()).unwrap();
    let error = attributes.write_http(&mut HeaderMap::new()).unwrap_err().to_string();
    assert!(error.contains("datacontenttype") && error.contains("printable ASCII"), "{error}");
    attributes.datacontenttype = Some("text/plain; a=\"~ !\"".into());
    let mut written = HeaderMap::new();
    attributes.write_http(&mut written).unwrap();
    assert_eq!(Attributes::from_http(&written), Ok(attributes));
}
