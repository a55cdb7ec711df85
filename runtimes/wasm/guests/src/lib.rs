//! A guest on trial: each path is one way to behave, good or hostile.

#![allow(unsafe_code, reason = "hostile guests misbehave, and generated bindings need it")]

mod abuse;
mod fetch;
mod hostile;
mod state;

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{OutputStream, StreamError};

/// Calls that this store has seen.
static COUNT: AtomicU32 = AtomicU32::new(1);

struct Trial;

wasip2::http::proxy::export!(Trial);

impl Guest for Trial {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/hello" => text(out, "hello"),
            "/count" => text(out, &COUNT.fetch_add(1, Relaxed).to_string()),
            "/echo" => echo(request, out),
            "/headers" => text(out, &headers(&request)),
            "/ticks" => ticks(out, 3),
            "/sse" => ticks(out, u32::MAX),
            "/log" => log(out),
            "/env" => text(out, &std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect::<String>()),
            "/nothing" => {}
            "/error" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("the guest's words".into())))),
            "/never" => loop {
                subscribe_duration(3_600_000_000_000).block();
            },
            "/broken" => broken(out),
            "/leak-body" => {
                let head = response(&[]);
                let body = head.body().expect("the body is taken once");
                ResponseOutparam::set(out, Ok(head));
                std::mem::forget(body);
            }
            "/unfinished" => unfinished(out),
            "/after" => after(out, query.parse().unwrap_or(50)),
            "/after-trap" => {
                text(out, "answered");
                subscribe_duration(1_000_000).block();
                trap();
            }
            "/length-short" => length(out, 10, "short"),
            "/length-long" => length(out, 2, "too long"),
            "/big" => big(out, query.parse().unwrap_or(1 << 20)),
            "/status" => head(out, query.parse().unwrap_or(204)),
            "/trap" => trap(),
            "/panic" => panic!("the guest's words"),
            "/exit" => std::process::exit(query.parse().unwrap_or(1)),
            _ if path.starts_with("/fetch/") => fetch::run(path, query, request, out),
            _ if path.starts_with("/state/") => text(out, &state::run(path, query)),
            _ => abuse::run(path, query, request, out),
        }
    }
}

pub(crate) fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

fn response(fields: &[(&str, &str)]) -> OutgoingResponse {
    let fields: Vec<_> = fields.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
    OutgoingResponse::new(Fields::from_list(&fields).expect("the fields are valid"))
}

pub(crate) fn text(out: ResponseOutparam, text: &str) {
    let length = text.len().to_string();
    stream(out, response(&[("content-length", &length)]), |sink| write_all(sink, text.as_bytes()));
}

fn head(out: ResponseOutparam, status: u16) {
    let head = response(&[]);
    head.set_status_code(status).expect("the status is valid");
    ResponseOutparam::set(out, Ok(head));
}

fn write_all(sink: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    bytes.chunks(4096).try_for_each(|chunk| sink.blocking_write_and_flush(chunk))
}

pub(crate) fn stream(
    out: ResponseOutparam,
    head: OutgoingResponse,
    fill: impl FnOnce(&OutputStream) -> Result<(), StreamError>,
) {
    let body = head.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(head));
    let sink = body.write().expect("the stream is taken once");
    let filled = fill(&sink);
    drop(sink);
    if filled.is_ok() {
        OutgoingBody::finish(body, None).ok();
    }
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the body is taken once");
    let source = incoming.stream().expect("the stream is taken once");
    stream(out, response(&[]), |sink| {
        loop {
            match sink.blocking_splice(&source, 64 << 10) {
                Ok(_) => {}
                Err(StreamError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    });
}

fn headers(request: &IncomingRequest) -> String {
    let mut lines = format!(
        "{:?} {} {}\n",
        request.method(),
        request.authority().unwrap_or_default(),
        request.path_with_query().unwrap_or_default()
    );
    for (name, value) in request.headers().entries() {
        lines.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
    }
    lines
}

fn ticks(out: ResponseOutparam, count: u32) {
    stream(out, response(&[("content-type", "text/event-stream")]), |sink| {
        for n in 0..count {
            sink.blocking_write_and_flush(format!("tick {n}\n").as_bytes())?;
            subscribe_duration(20_000_000).block();
        }
        Ok(())
    });
}

fn log(out: ResponseOutparam) {
    println!("to standard output");
    eprintln!("to standard error\x1b[2J");
    print!("without an end");
    std::io::stdout().flush().ok();
    text(out, "logged");
}

fn broken(out: ResponseOutparam) {
    stream(out, response(&[]), |sink| {
        sink.blocking_write_and_flush(b"part")?;
        // The host takes the part and hands the head on while this waits.
        subscribe_duration(20_000_000).block();
        trap()
    });
}

/// Drops the body without finishing it.
fn unfinished(out: ResponseOutparam) {
    stream(out, response(&[]), |sink| {
        sink.blocking_write_and_flush(b"part")?;
        subscribe_duration(20_000_000).block();
        Err(StreamError::Closed)
    });
}

fn after(out: ResponseOutparam, ms: u64) {
    text(out, "answered");
    subscribe_duration(ms * 1_000_000).block();
    println!("worked after the answer");
}

fn length(out: ResponseOutparam, claimed: u64, text: &str) {
    stream(out, response(&[("content-length", &claimed.to_string())]), |sink| write_all(sink, text.as_bytes()));
}

fn big(out: ResponseOutparam, bytes: usize) {
    stream(out, response(&[]), |sink| {
        let chunk = [b'x'; 4096];
        let mut left = bytes;
        while left > 0 {
            let n = left.min(chunk.len());
            sink.blocking_write_and_flush(&chunk[..n])?;
            left -= n;
        }
        Ok(())
    });
}
