//! Speaks HTTP to a server: finds its token, sends, and turns refusals into failures.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Body, BodyError, Reason, headers};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::cli::{Connection, Remote};
use crate::data_folder;
use crate::failure::{Exit, Failure, Outcome, hint_of};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Largest document of the control API that is read.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;
/// What stands for itself in a path segment (RFC 3986 §2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A connection pool to one listener of a server.
#[derive(Debug)]
pub(crate) struct Client {
    base: String,
    token: Option<HeaderValue>,
    timeout: Duration,
    pool: Pool<HttpConnector, Body>,
}

impl Client {
    /// Returns a client of the control API.
    pub(crate) fn control(remote: &Remote) -> Outcome<Self> {
        Self::of(&remote.url, &remote.connection)
    }

    /// Returns a client of the listener at `url`, with the same token.
    pub(crate) fn of(url: &str, connection: &Connection) -> Outcome<Self> {
        let wrong = || {
            let message = format!("URL {url:?} is not of the form http://HOST:PORT");
            Failure::new(Exit::Usage, message, "to reach a server behind TLS, tunnel to it: ssh -L 8081:127.0.0.1:8081")
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let bare = uri.path() == "/" && uri.query().is_none() && uri.host().is_some();
        if uri.scheme_str() != Some("http") || !bare {
            return Err(wrong());
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_MAX));
        connector.set_nodelay(true);
        Ok(Self {
            base: url.trim_end_matches('/').to_owned(),
            token: token(connection)?,
            timeout: connection.timeout.duration(),
            pool: Pool::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// Sends a request; the answer may be of any status.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Outcome<Response<Incoming>> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().map_err(|_| {
            Failure::new(Exit::Usage, format!("path {path:?} cannot stand in a URL"), "percent-encode what is special")
        })?;
        *request.headers_mut() = headers;
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        match tokio::time::timeout(self.timeout, self.pool.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(Failure::new(
                Exit::Timeout,
                format!("no answer from {} within {} ms", self.base, self.timeout.as_millis()),
                "raise --timeout; what was asked may still happen",
            )),
        }
    }

    /// Sends a request and returns the document of a 2xx answer.
    ///
    /// # Errors
    /// A refusal of the server, with the exit code of its status.
    pub(crate) async fn document(&self, method: Method, path: &str, headers: HeaderMap, body: Body) -> Outcome<Value> {
        let response = self.send(method, path, headers, body).await?;
        let (status, bytes) = (response.status(), collect(response.into_body()).await?);
        if !status.is_success() {
            return Err(refusal(status, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| foreign(&self.base))
    }

    /// Sends a GET and returns its document.
    pub(crate) async fn get(&self, path: &str) -> Outcome<Value> {
        self.document(Method::GET, path, HeaderMap::new(), Body::Empty).await
    }

    fn unreachable(&self, error: &hyper_util::client::legacy::Error) -> Failure {
        if error.is_connect() {
            let message = format!("no server answers at {}", self.base);
            return Failure::new(Exit::Unreachable, message, "start one with `faas up`, or name another with --url");
        }
        let message = format!("the connection to {} broke off: {}", self.base, root_of(error));
        Failure::new(Exit::Unreachable, message, "look whether the server still runs, and what became of the request")
    }
}

/// Returns the innermost cause, which says most in fewest words.
fn root_of(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// Reads a whole answer.
pub(crate) async fn collect(body: Incoming) -> Outcome<Bytes> {
    let body = Body::stream(body.map_err(|e| BodyError::Broken(root_of(&e))));
    body.collect(DOCUMENT_BYTES_MAX).await.map_err(broken)
}

/// Returns the failure of an answer that broke off.
pub(crate) fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Unreachable, format!("the answer broke off: {error}"), "look whether the server still runs")
}

/// Returns the failure that a refusing answer stands for.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let reason: Option<Reason> = problem.get("reason").and_then(|r| serde_json::from_value(r.clone()).ok());
    let text = |key: &str| problem.get(key).and_then(Value::as_str);
    let message = match (text("phase"), reason, text("detail")) {
        (Some(phase), Some(reason), Some(detail)) => format!("{phase} failed: {reason}: {detail}"),
        (None, Some(reason), Some(detail)) => format!("{reason}: {detail}"),
        _ => format!("the server answered {status}"),
    };
    Failure::new(Exit::of_status(status), crate::output::plain(&message), hint_of(reason))
}

/// Returns whether the answer is the function's own.
pub(crate) fn is_of_function(response: &Response<Incoming>) -> bool {
    response.headers().get(headers::ORIGIN).is_none_or(|origin| origin != "platform")
}

fn foreign(base: &str) -> Failure {
    let message = format!("what answers at {base} is not the control API");
    Failure::new(Exit::Unreachable, message, "compare --url with the addresses that `faas up` printed")
}

fn token(connection: &Connection) -> Outcome<Option<HeaderValue>> {
    #[allow(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
    let given = std::env::var("FAAS_TOKEN").ok().filter(|t| !t.is_empty());
    let text = match (&connection.token_file, given) {
        (Some(file), _) => Some(read_token(file)?),
        (None, Some(token)) => Some(token),
        (None, None) => {
            let data = connection.server_data.clone().or_else(data_folder::default_path);
            data.map(|dir| dir.join("token")).filter(|file| file.exists()).map(|f| read_token(&f)).transpose()?
        }
    };
    let Some(text) = text else { return Ok(None) };
    let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| {
        Failure::new(Exit::Auth, "the token holds characters that no token has", "take it whole from the token file")
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn read_token(file: &Path) -> Outcome<String> {
    faas_control::token::read(file).map_err(|e| {
        Failure::new(Exit::Auth, format!("{}: {e}", file.display()), "name the right file with --token-file")
    })
}

/// Returns a path segment with everything special percent-encoded.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Returns headers of one pair.
pub(crate) fn header(name: HeaderName, value: &str) -> Outcome<HeaderMap> {
    let value = HeaderValue::from_str(value)
        .map_err(|_| Failure::new(Exit::Usage, format!("header value {value:?} cannot be sent"), "use plain text"))?;
    Ok(HeaderMap::from_iter([(name, value)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_phase_reason_and_detail_without_control_characters() {
        let body = br#"{"reason":"unprocessable","detail":"bad \u001b[2J import","phase":"compile"}"#;
        let failure = refusal(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(failure.message, "compile failed: unprocessable: bad \\u{1b}[2J import");
        assert_eq!(failure.exit, Exit::Refused);
        let other = refusal(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(other.message, "the server answered 502 Bad Gateway");
    }

    #[test]
    fn keys_are_one_segment() {
        assert_eq!(segment("a/b c%{x}é"), "a%2Fb%20c%25%7Bx%7D%C3%A9");
    }
}
