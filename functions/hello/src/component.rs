//! The edge to `wasi:http`: one call of `handle` per request.

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

use crate::{Route, route};

const EVENTS: u32 = 3;
const EVENT_PAUSE_NS: u64 = 200_000_000;
const SPLICE_BYTES: u64 = 64 << 10;

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match route(&request.path_with_query().unwrap_or_default()) {
            Route::Greeting(text) => answer(out, 200, &text),
            Route::Events => events(out),
            Route::Echo => echo(request, out),
            Route::Unknown => answer(out, 404, "no such path; there are /, /sse and /echo\n"),
        }
    }
}

/// Answers with a short text.
fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let length = text.len().to_string();
    let head = head(&[("content-type", b"text/plain; charset=utf-8"), ("content-length", length.as_bytes())]);
    head.set_status_code(status).expect("the status is valid");
    let body = head.body().expect("the body is taken once");
    let stream = body.write().expect("the stream is taken once");
    // A body that the host takes at once goes before the head, so that both
    // leave in one packet; a host that takes none yet gets the head first.
    if stream.check_write().is_ok_and(|room| room >= text.len() as u64) {
        stream.write(text.as_bytes()).ok();
        drop(stream);
        OutgoingBody::finish(body, None).ok();
        ResponseOutparam::set(out, Ok(head));
    } else {
        ResponseOutparam::set(out, Ok(head));
        stream.blocking_write_and_flush(text.as_bytes()).ok();
        drop(stream);
        OutgoingBody::finish(body, None).ok();
    }
}

/// Streams a few server-sent events, each sent when it happens.
fn events(out: ResponseOutparam) {
    let head = head(&[("content-type", b"text/event-stream"), ("cache-control", b"no-store")]);
    stream(out, head, |stream| {
        for number in 1..=EVENTS {
            if number > 1 {
                subscribe_duration(EVENT_PAUSE_NS).block();
            }
            // The write fails once the client has left: then there is nothing more to do.
            stream
                .blocking_write_and_flush(format!("id: {number}\ndata: event {number} of {EVENTS}\n\n").as_bytes())?;
        }
        Ok(())
    });
}

/// Answers with the request's body while it is still coming, as fast as the client takes it.
fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let kept = ["content-type", "content-length"];
    let headers = request.headers();
    let fields: Vec<(&str, Vec<u8>)> =
        kept.into_iter().filter_map(|name| Some((name, headers.get(name).into_iter().next()?))).collect();
    let fields: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    let incoming = request.consume().expect("the body is taken once");
    let source = incoming.stream().expect("the stream is taken once");
    stream(out, head(&fields), |sink| {
        loop {
            match sink.blocking_splice(&source, SPLICE_BYTES) {
                Ok(_) => {}
                Err(StreamError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    });
}

fn head(fields: &[(&str, &[u8])]) -> OutgoingResponse {
    let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    OutgoingResponse::new(Fields::from_list(&fields).expect("the header fields are valid"))
}

/// Hands the head over, lets `fill` write the body and ends it; a body that
/// broke off is left unfinished, which the client sees.
fn stream(
    out: ResponseOutparam,
    head: OutgoingResponse,
    fill: impl FnOnce(&wasip2::io::streams::OutputStream) -> Result<(), StreamError>,
) {
    let body = head.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(head));
    let stream = body.write().expect("the stream is taken once");
    let filled = fill(&stream);
    drop(stream);
    if filled.is_ok() {
        OutgoingBody::finish(body, None).ok();
    }
}
