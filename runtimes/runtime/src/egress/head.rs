//! Heads in both directions: what belongs to one connection goes no further,
//! and what frames a body is ours.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version, request, response};
use http_body::SizeHint;

use super::error::Error;
use super::policy::Target;

/// Fields of one connection (RFC 9110 §7.6.1), and those with which a request would change
/// its framing, its host, or wait for what is never sent.
const OF_THE_CONNECTION: [HeaderName; 11] = [
    header::CONNECTION,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Makes the head of a function's request the head that is sent.
///
/// # Errors
/// [`Error::Method`] and [`Error::Length`].
pub(super) fn outgoing(head: &mut request::Parts, target: &Target, body: &SizeHint) -> Result<(), Error> {
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(Error::Method);
    }
    strip(&mut head.headers);
    check_length(&head.headers, body)?;
    let host = HeaderValue::try_from(target.authority()).map_err(|_| Error::Uri("the host is no header value"))?;
    head.headers.insert(header::HOST, host);
    head.version = Version::HTTP_11;
    let path = head.uri.path_and_query().cloned();
    head.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    Ok(())
}

/// Makes the head of a server's answer the head that the function sees.
pub(super) fn incoming(head: &mut response::Parts) {
    strip(&mut head.headers);
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').filter_map(|name| name.trim().parse().ok()))
        // These frame or address the message; a connection cannot disown them.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in OF_THE_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Checks that there is one length, if any, and that it is the body's where that is known.
fn check_length(headers: &HeaderMap, body: &SizeHint) -> Result<(), Error> {
    let mut given = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = given.next() else { return Ok(()) };
    let digits = value.as_bytes();
    let number = value.to_str().ok().filter(|_| digits.iter().all(u8::is_ascii_digit)).and_then(|v| v.parse().ok());
    let known = |number: u64| body.exact().is_none_or(|exact| exact == number);
    if given.next().is_none() && number.is_some_and(known) { Ok(()) } else { Err(Error::Length) }
}
