//! Guests that send requests of their own. The query is the URL.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use crate::{response, stream, text};

pub(crate) fn run(path: &str, url: &str, request: IncomingRequest, out: ResponseOutparam) {
    match path {
        "/fetch/get" => text(out, &shown(get(url, None))),
        "/fetch/follow" => text(out, &follow(url)),
        "/fetch/impatient" => {
            let options = RequestOptions::new();
            options.set_first_byte_timeout(Some(50_000_000)).expect("the option is known");
            text(out, &shown(get(url, Some(options))));
        }
        "/fetch/smuggle" => text(out, &smuggle()),
        "/fetch/many" => {
            let all: Vec<_> = (0..40).map(|_| outgoing_handler::handle(outgoing(url, &Method::Get), None)).collect();
            let all: Vec<_> = all.into_iter().map(|sent| sent.and_then(answer)).collect();
            let refused = all.iter().filter(|a| matches!(a, Err(ErrorCode::ConnectionLimitReached))).count();
            text(out, &format!("{} answered, {refused} refused", all.iter().filter(|a| a.is_ok()).count()));
        }
        "/fetch/relay" => relay(url, request, out),
        _ => text(out, "unknown"),
    }
}

fn outgoing(url: &str, method: &Method) -> OutgoingRequest {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let at = rest.find('/').unwrap_or(rest.len());
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_method(method).expect("a method");
    request.set_scheme(Some(&scheme)).expect("a scheme");
    request.set_authority(Some(&rest[..at])).expect("an authority");
    request.set_path_with_query(Some(if at == rest.len() { "/" } else { &rest[at..] })).expect("a path");
    request
}

fn answer(sent: FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    sent.subscribe().block();
    sent.get().expect("the answer is there").expect("the answer is taken once")
}

fn get(url: &str, options: Option<RequestOptions>) -> Result<IncomingResponse, ErrorCode> {
    outgoing_handler::handle(outgoing(url, &Method::Get), options).and_then(answer)
}

fn shown(answer: Result<IncomingResponse, ErrorCode>) -> String {
    let answer = match answer {
        Ok(answer) => answer,
        Err(code) => return format!("{code:?}"),
    };
    let status = answer.status();
    let body = answer.consume().expect("the body is taken once");
    let source = body.stream().expect("the stream is taken once");
    let mut bytes = 0;
    loop {
        match source.blocking_read(64 << 10) {
            Ok(part) => bytes += part.len(),
            Err(StreamError::Closed) => return format!("{status} with {bytes} bytes"),
            Err(StreamError::LastOperationFailed(error)) => {
                return format!("{status} then {:?}", wasip2::http::types::http_error_code(&error));
            }
        }
    }
}

/// Follows one redirect by itself.
fn follow(url: &str) -> String {
    match get(url, None) {
        Ok(answer) => match answer.headers().get("location").first() {
            Some(to) => format!("{} then {}", answer.status(), shown(get(&String::from_utf8_lossy(to), None))),
            None => shown(Ok(answer)),
        },
        Err(code) => format!("{code:?}"),
    }
}

/// Counts what the host lets a guest write that would change a request's frame.
fn smuggle() -> String {
    let fields = Fields::new();
    let names = ["host", "transfer-encoding", "connection", "upgrade", "keep-alive", "proxy-authorization"];
    let names = names.iter().filter(|name| fields.append(name, b"x").is_ok()).count();
    let values = [&b"a\r\nx: 1"[..], b"a\nb", b"a\0b"];
    let values = values.iter().filter(|value| fields.append("x-value", value).is_ok()).count();
    let request = OutgoingRequest::new(Fields::new());
    let paths = ["/a b", "/a\r\nx: 1", "http://other.test/"];
    let paths = paths.iter().filter(|path| request.set_path_with_query(Some(path)).is_ok()).count();
    format!("{names} names, {values} values, {paths} paths")
}

/// Passes the request's body on as it comes, and the answer's back.
fn relay(url: &str, request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the body is taken once");
    let source = incoming.stream().expect("the stream is taken once");
    let onward = outgoing(url, &Method::Post);
    let body = onward.body().expect("the body is taken once");
    let sink = body.write().expect("the stream is taken once");
    let sent = outgoing_handler::handle(onward, None).expect("the request is valid");
    // One part goes before there is an answer, the others in turn with what comes back.
    sink.blocking_splice(&source, 64 << 10).expect("the first part goes");
    let Ok(answer) = answer(sent) else { return text(out, "failed") };
    let back = answer.consume().expect("the body is taken once");
    let back_source = back.stream().expect("the stream is taken once");
    stream(out, response(&[]), |client| {
        pass(&back_source, client)?;
        while pass(&source, &sink).is_ok() {
            pass(&back_source, client)?;
        }
        drop(sink);
        OutgoingBody::finish(body, None).ok();
        while pass(&back_source, client).is_ok() {}
        Ok(())
    });
}

fn pass(source: &InputStream, sink: &OutputStream) -> Result<(), StreamError> {
    sink.blocking_splice(source, 64 << 10).map(drop)
}
