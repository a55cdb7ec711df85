//! The edge to `wasi:http`: reads a call into a [`Request`], hands it to
//! `crate::handle` and writes the [`Response`].
//!
//! Never more than `crate::BODY_BYTES_MAX` bytes of a request are held; a longer
//! body is answered with 413 before `handle` is called.

/// A whole request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The method in upper case, such as `GET`.
    pub method: String,
    /// The path, percent-encoded as it came.
    pub path: String,
    /// What follows the `?`, percent-encoded; empty without one.
    pub query: String,
    /// The body; always empty for `GET` and `HEAD`.
    pub body: Vec<u8>,
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header fields, without `content-length`.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns a response with a body of one content type.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type", content_type.to_owned())], body: body.into() }
    }

    /// Returns the response with one more header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

#[cfg(target_arch = "wasm32")]
mod wasi {
    use wasip2::exports::http::incoming_handler::Guest;
    use wasip2::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};
    use wasip2::io::streams::{OutputStream, StreamError};

    use super::{Request, Response};

    struct Component;

    wasip2::http::proxy::export!(Component);

    impl Guest for Component {
        fn handle(request: IncomingRequest, out: ResponseOutparam) {
            let response = read(&request).map_or_else(|refusal| refusal, crate::handle);
            drop(request);
            write(out, response);
        }
    }

    fn read(request: &IncomingRequest) -> Result<Request, Response> {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let method = method(request.method());
        let body = if method == "GET" || method == "HEAD" { Vec::new() } else { body(request)? };
        Ok(Request { method, path: path.to_owned(), query: query.to_owned(), body })
    }

    fn method(method: Method) -> String {
        match method {
            Method::Get => "GET".into(),
            Method::Head => "HEAD".into(),
            Method::Post => "POST".into(),
            Method::Put => "PUT".into(),
            Method::Delete => "DELETE".into(),
            Method::Options => "OPTIONS".into(),
            Method::Patch => "PATCH".into(),
            Method::Trace => "TRACE".into(),
            Method::Connect => "CONNECT".into(),
            Method::Other(name) => name,
        }
    }

    fn body(request: &IncomingRequest) -> Result<Vec<u8>, Response> {
        let incoming = request.consume().expect("the body is taken once");
        let stream = incoming.stream().expect("the stream is taken once");
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(64 << 10) {
                Ok(bytes) => body.extend_from_slice(&bytes),
                Err(StreamError::Closed) => return Ok(body),
                Err(_) => return Err(crate::problem(400, "bad request", "the body broke off")),
            }
            if body.len() > crate::BODY_BYTES_MAX {
                let detail = format!("the body is over {} bytes", crate::BODY_BYTES_MAX);
                return Err(crate::problem(413, "body too large", &detail));
            }
        }
    }

    fn write(out: ResponseOutparam, response: Response) {
        let Response { status, headers, body: bytes } = response;
        let mut fields: Vec<(String, Vec<u8>)> =
            headers.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
        if status != 204 && status != 304 {
            fields.push(("content-length".to_owned(), bytes.len().to_string().into_bytes()));
        }
        let head = OutgoingResponse::new(Fields::from_list(&fields).expect("the header fields are valid"));
        head.set_status_code(status).expect("the status is valid");
        let body = head.body().expect("the body is taken once");
        let stream = body.write().expect("the stream is taken once");

        // What the host takes at once is written before the head is handed
        // over: then it can send both in one packet. A longer body must follow
        // the head, because a host need not take bytes before it.
        let room = stream.check_write().unwrap_or(0);
        if u64::try_from(bytes.len()).is_ok_and(|length| length <= room) {
            send(body, stream, &bytes, room);
            ResponseOutparam::set(out, Ok(head));
        } else {
            ResponseOutparam::set(out, Ok(head));
            send(body, stream, &bytes, room);
        }
    }

    /// Writes the body and finishes it; a body that broke off is left unfinished, which the client sees.
    fn send(body: OutgoingBody, stream: OutputStream, bytes: &[u8], room: u64) {
        let sent = write_all(&stream, bytes, room);
        drop(stream);
        if sent.is_ok() {
            OutgoingBody::finish(body, None).ok();
        }
    }

    fn write_all(stream: &OutputStream, mut bytes: &[u8], mut room: u64) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            if room == 0 {
                stream.subscribe().block();
            } else {
                let (now, later) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
                stream.write(now)?;
                bytes = later;
            }
            if !bytes.is_empty() {
                room = stream.check_write()?;
            }
        }
        Ok(())
    }
}
