//! The JSON structured mode: attributes and data in one document
//! (CloudEvents JSON event format 1.0.2).

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Attributes, EventError, JSON_DEPTH_MAX, Partial};

/// Reads a structured event: its attributes and its data.
///
/// Data that is JSON keeps its bytes; a JSON string under another media type
/// gives its text; `data_base64` is decoded. Without `datacontenttype` data is
/// `application/json`, as the format says.
///
/// # Errors
/// [`EventError`] when the document or one of its attributes is malformed.
pub fn parse_structured(document: &[u8]) -> Result<(Attributes, Bytes), EventError> {
    if depth(document) > JSON_DEPTH_MAX {
        return Err(EventError::Document(format!("nested more than {JSON_DEPTH_MAX} deep")));
    }
    let wrong = |e: serde_json::Error| EventError::Document(e.to_string());
    let mut reader = serde_json::Deserializer::from_slice(document);
    let members = reader.deserialize_map(Members).map_err(wrong)?;
    reader.end().map_err(wrong)?;
    let (mut found, mut data, mut base64) = (Partial::default(), None, None);
    for (name, value) in members {
        let slot = match name.as_str() {
            "data" => &mut data,
            "data_base64" => &mut base64,
            _ => {
                if let Some(text) = attribute_text(&name, value)? {
                    found.add(&name, text)?;
                }
                continue;
            }
        };
        if slot.replace(value).is_some() {
            return Err(EventError::Twice(name));
        }
    }
    let mut attributes = found.complete()?;
    let data = match (data, base64) {
        (Some(_), Some(_)) => return Err(EventError::Document("data and data_base64 exclude each other".into())),
        (None, None) => Bytes::new(),
        (None, Some(text)) => {
            let text: String = serde_json::from_str(text.get()).map_err(wrong)?;
            decode_base64(&text).ok_or_else(|| EventError::Document("data_base64 is no base64 (RFC 4648 §4)".into()))?
        }
        (Some(value), None) => {
            let kind = attributes.datacontenttype.get_or_insert_with(|| "application/json".into());
            data_bytes(kind, value).map_err(wrong)?
        }
    };
    Ok((attributes, data))
}

/// Collects the members of the document in order, duplicates included.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            if members.len() > super::ATTRIBUTES_MAX + 2 {
                return Err(A::Error::custom("too many members"));
            }
            members.push(member);
        }
        Ok(members)
    }
}

/// Returns the canonical text of an attribute: string, boolean or whole number; `null` is absence.
fn attribute_text(name: &str, value: &RawValue) -> Result<Option<String>, EventError> {
    let wrong = || EventError::Value { name: name.to_owned(), expected: "a string, a boolean or a 32-bit integer" };
    match serde_json::from_str::<serde_json::Value>(value.get()) {
        Ok(serde_json::Value::Null) => Ok(None),
        Ok(serde_json::Value::String(text)) => Ok(Some(text)),
        Ok(serde_json::Value::Bool(flag)) => Ok(Some(flag.to_string())),
        Ok(serde_json::Value::Number(n)) => {
            n.as_i64().and_then(|n| i32::try_from(n).ok()).map(|n| Some(n.to_string())).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// Returns the bytes of the `data` member under its media type.
fn data_bytes(media_type: &str, value: &RawValue) -> Result<Bytes, serde_json::Error> {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = essence.ends_with("/json") || essence.ends_with("+json");
    if !json && value.get().starts_with('"') {
        return serde_json::from_str::<String>(value.get()).map(Bytes::from);
    }
    Ok(Bytes::copy_from_slice(value.get().as_bytes()))
}

/// Returns the deepest nesting of arrays and objects, without reading values.
fn depth(document: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in document {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => depth += 1,
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Decodes padded base64 (RFC 4648 §4), canonical or not at the very end.
fn decode_base64(text: &str) -> Option<Bytes> {
    let value = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let body = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    if !text.len().is_multiple_of(4) || body.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u16, 0_u8);
    for byte in body.bytes() {
        bits = (bits << 6) | u16::from(value(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count).unwrap_or_default());
            bits &= (1 << count) - 1;
        }
    }
    Some(out.into())
}
