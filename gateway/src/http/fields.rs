//! Which header fields may pass from client to function and back.

use faas_model::headers::{CALL_ID, PLATFORM_PREFIX};
use http::{HeaderMap, HeaderName, header};

/// Fields that belong to one connection (RFC 9110 §7.6.1), and the ones they name.
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Removes the fields that belong to the connection, those of the platform, and
/// those that `also` picks.
pub(super) fn strip(headers: &mut HeaderMap, also: impl Fn(&str) -> bool) {
    let mut gone: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        let text = name.as_str();
        let own = match text.len() {
            0..=1 => false,
            _ => belongs_to_connection(name) || text.starts_with(PLATFORM_PREFIX) || text == CALL_ID,
        };
        if own || also(text) {
            gone.push(name.clone());
        }
    }
    if headers.contains_key(header::CONNECTION) {
        gone.extend(named_by_connection(headers));
    }
    for name in gone {
        headers.remove(name);
    }
}

fn belongs_to_connection(name: &HeaderName) -> bool {
    match *name {
        header::CONNECTION | header::TE | header::TRANSFER_ENCODING | header::UPGRADE => true,
        // hyper has answered it.
        header::EXPECT => true,
        ref other => *other == KEEP_ALIVE || *other == PROXY_CONNECTION,
    }
}

/// Returns the fields that `Connection` names, but for those without which a
/// message would say something else.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let kept = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE];
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !kept.contains(name))
        .collect()
}

/// Returns whether the client asks for an asynchronous answer (RFC 7240 §4.1).
pub(super) fn prefers_async(headers: &HeaderMap) -> bool {
    const PREFER: HeaderName = HeaderName::from_static("prefer");
    let preference = |value: &[u8]| {
        let name = value.split(|b| matches!(b, b';' | b'=')).next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"respond-async")
    };
    headers.get_all(PREFER).iter().any(|value| value.as_bytes().split(|b| *b == b',').any(preference))
}
