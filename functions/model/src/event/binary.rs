//! The HTTP binary binding: attributes as `ce-*` headers
//! (CloudEvents HTTP protocol binding 1.0.2, §3.1).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Attributes, EventError, PREFIX, Partial};

impl Partial {
    /// Reads the attributes of `ce-*` headers, and `Content-Type` as `datacontenttype`.
    ///
    /// # Errors
    /// [`EventError`] for a name or value out of bounds, an attribute that is there
    /// twice, or `ce-datacontenttype`, which the binding forbids.
    pub fn from_http(headers: &HeaderMap) -> Result<Self, EventError> {
        let mut found = Self::default();
        for (name, value) in headers {
            let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
            if attribute == "datacontenttype" {
                return Err(EventError::Value { name: attribute.into(), expected: "send it as Content-Type" });
            }
            found.add(attribute, decode_value(attribute, value.as_bytes())?)?;
        }
        if let Some(content_type) = headers.get(header::CONTENT_TYPE) {
            let text = content_type
                .to_str()
                .map_err(|_| EventError::Value { name: "datacontenttype".into(), expected: "printable ASCII" })?;
            found.add("datacontenttype", text.to_owned())?;
        }
        Ok(found)
    }
}

impl Attributes {
    /// Reads the attributes of a binary event.
    ///
    /// # Errors
    /// [`EventError`] when it is no well-formed binary event.
    pub fn from_http(headers: &HeaderMap) -> Result<Self, EventError> {
        Partial::from_http(headers)?.complete()
    }

    /// Writes the attributes as `ce-*` headers, and `datacontenttype` as
    /// `Content-Type`. Headers of the same names are replaced.
    ///
    /// # Errors
    /// [`EventError`] for an extension name or content type that cannot stand in a header.
    pub fn write_http(&self, headers: &mut HeaderMap) -> Result<(), EventError> {
        for (attribute, value) in self.iter() {
            let wrong = || EventError::Name(attribute.chars().take(80).collect());
            let name = HeaderName::try_from(format!("{PREFIX}{attribute}")).map_err(|_| wrong())?;
            // What `encode_value` lets pass is printable ASCII, which every header value may be.
            let value = HeaderValue::try_from(encode_value(value).as_ref()).map_err(|_| wrong())?;
            headers.insert(name, value);
        }
        if let Some(content_type) = &self.datacontenttype {
            // A header value may be any bytes from 0x80; a reader of binary events takes no such text.
            let value = Some(content_type.as_str()).filter(|text| text.is_ascii());
            let value = value
                .and_then(|text| HeaderValue::try_from(text).ok())
                .ok_or_else(|| EventError::Value { name: "datacontenttype".into(), expected: "printable ASCII" })?;
            headers.insert(header::CONTENT_TYPE, value);
        }
        Ok(())
    }
}

/// Returns `value` with space, `"`, `%` and all outside U+0021-U+007E as `%XX` of its UTF-8 bytes.
#[must_use]
pub fn encode_value(value: &str) -> Cow<'_, str> {
    let plain = |b: &u8| matches!(b, 0x21..=0x7e) && !matches!(b, b'"' | b'%');
    if value.as_bytes().iter().all(plain) {
        return Cow::Borrowed(value);
    }
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 });
    let mut out = String::with_capacity(value.len() * 2);
    for byte in value.bytes() {
        if plain(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    Cow::Owned(out)
}

/// Returns the value of a header: first unquoted, if it is a quoted string, then
/// decoded once. A `%` without two hex digits stands for itself, as in other SDKs.
///
/// # Errors
/// [`EventError::Value`] when the bytes are no UTF-8.
pub fn decode_value(name: &str, raw: &[u8]) -> Result<String, EventError> {
    let raw = unquote(raw);
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(raw.len());
    let mut rest: &[u8] = &raw;
    while let Some((first, tail)) = rest.split_first() {
        let pair = (*first == b'%').then(|| Some((hex(tail.first())? << 4) | hex(tail.get(1))?)).flatten();
        out.push(pair.unwrap_or(*first));
        rest = if pair.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8(out).map_err(|_| EventError::Value { name: name.to_owned(), expected: "percent-encoded UTF-8" })
}

/// Removes the quotes and backslashes of a quoted string (RFC 9110 §5.6.4).
fn unquote(raw: &[u8]) -> Cow<'_, [u8]> {
    let [b'"', inner @ .., b'"'] = raw else { return Cow::Borrowed(raw) };
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        let escaped = (*byte == b'\\').then(|| bytes.next()).flatten();
        out.push(*escaped.unwrap_or(byte));
    }
    Cow::Owned(out)
}
