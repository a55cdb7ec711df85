//! CloudEvents: an event that was read and is written in any of the modes is read as the same event.
//!
//! Input: a structured event, which starts with `{`, or lines `name: value` of a
//! binary one's headers.
#![no_main]

use faas_model::event::{
    Attributes, Mode, Partial, SPECVERSION, decode_value, encode_value, is_cloud_event, parse_structured,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    if data.first() == Some(&b'{') {
        match parse_structured(data) {
            Ok((attributes, _)) => written_and_read(&attributes),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        return;
    }
    let headers = headers(data);
    let mode = Mode::of_http(&headers);
    assert_eq!(is_cloud_event(&headers), matches!(mode, Mode::Binary | Mode::Structured));
    match Attributes::from_http(&headers) {
        Ok(attributes) => {
            assert_ne!(mode, Mode::None, "an event with all it needs is known as one");
            written_and_read(&attributes);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// The lines that are header fields.
fn headers(data: &[u8]) -> HeaderMap {
    let field = |line: &[u8]| {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = line.split_at(colon);
        Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?))
    };
    let mut headers = HeaderMap::new();
    data.split(|b| *b == b'\n').filter_map(field).for_each(|(name, value)| {
        headers.append(name, value);
    });
    headers
}

fn written_and_read(attributes: &Attributes) {
    for (name, value) in attributes.iter() {
        let decoded = decode_value(name, encode_value(value).as_bytes());
        assert_eq!(decoded.as_deref(), Ok(value), "{name}");
    }
    // HTTP binary. What cannot stand in a header is refused, not changed.
    let mut headers = HeaderMap::new();
    match attributes.write_http(&mut headers) {
        Ok(()) => assert_eq!(Attributes::from_http(&headers).as_ref(), Ok(attributes), "{headers:?}"),
        Err(error) => {
            let plain = |t: &String| t.bytes().all(|b| matches!(b, b' '..=b'~'));
            assert!(!attributes.datacontenttype.as_ref().is_none_or(plain), "{error} for {attributes:?}");
        }
    }
    // JSON.
    let mut document = serde_json::Map::new();
    document.extend(attributes.iter().map(|(name, value)| (name.to_owned(), json!(value))));
    if let Some(kind) = &attributes.datacontenttype {
        document.insert("datacontenttype".into(), json!(kind));
    }
    document.insert("data_base64".into(), json!("AP8Q"));
    let (again, data) = parse_structured(Value::Object(document).to_string().as_bytes()).expect("a written event");
    assert_eq!((&again, &data[..]), (attributes, &[0, 0xff, 0x10][..]));
    // Message headers.
    let texts: Vec<_> = attributes.message_headers().map(|(name, value)| (name, value.to_owned())).collect();
    let texts = texts.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let mut partial = Partial::from_message_headers(texts).expect("written headers");
    assert_eq!(partial.get("specversion"), Some(SPECVERSION));
    if let Some(kind) = &attributes.datacontenttype {
        partial.add("datacontenttype", kind.clone()).expect("it was an attribute before");
    }
    assert_eq!(partial.complete().as_ref(), Ok(attributes));
}
