//! A guest of WASI 0.3 on trial: each path is one way to behave.

#![allow(unsafe_code, reason = "generated bindings need it")]

#[allow(missing_docs, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "faas:host/offers", generate_all });
}

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bindings::wasi::keyvalue::{atomics, store};
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};
use wit_bindgen::{StreamWriter, spawn};

/// Calls that this store has seen.
static COUNT: AtomicU32 = AtomicU32::new(1);
/// Calls that wait now.
static WAITING: AtomicU32 = AtomicU32::new(0);

const MS: u64 = 1_000_000;

struct Trial;

wasip3::http::service::export!(Trial);

impl wasip3::exports::http::handler::Guest for Trial {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = query.parse().unwrap_or(50);
        Ok(match path {
            "/hello" => text("hello"),
            "/count" => text(&COUNT.fetch_add(1, Relaxed).to_string()),
            "/echo" => echo(request),
            "/pass" => pass(request),
            "/ticks" => ticks(3),
            "/sse" => ticks(u32::MAX),
            "/big" => big(usize::try_from(number).unwrap_or(0)),
            "/wait" => {
                wait_for(number * MS).await;
                text("waited")
            }
            "/most" => {
                let now = WAITING.fetch_add(1, Relaxed) + 1;
                wait_for(number * MS).await;
                WAITING.fetch_sub(1, Relaxed);
                text(&now.to_string())
            }
            "/never" => loop {
                wait_for(3_600_000 * MS).await;
            },
            "/after" => {
                spawn(async move {
                    wait_for(number * MS).await;
                    println!("worked after the answer");
                });
                text("answered")
            }
            "/log" => {
                println!("to standard output");
                text("logged")
            }
            "/env" => text(&std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect::<String>()),
            "/nothing" => return Err(ErrorCode::InternalError(Some("the guest's words".into()))),
            "/broken" => respond(None, |mut sink| async move {
                sink.write_all(b"part".to_vec()).await;
                wait_for(20 * MS).await;
                trap()
            }),
            "/trap" => trap(),
            "/loop" => loop {
                black_box(0);
            },
            "/memory" => {
                let mut held: Vec<Vec<u8>> = Vec::new();
                loop {
                    held.push(vec![black_box(1); 1 << 20]);
                }
            }
            "/memory-polite" => {
                let grown = core::arch::wasm32::memory_grow(0, 60_000);
                text(if grown == usize::MAX { "denied" } else { "granted" })
            }
            "/leak" => {
                std::mem::forget(vec![black_box(1_u8); 1 << 20]);
                text("leaked")
            }
            "/increment" => match store::open(query).and_then(|bucket| atomics::increment(&bucket, "n", 1)) {
                Ok(n) => text(&n.to_string()),
                Err(_) => text("no bucket"),
            },
            _ => text("unknown"),
        })
    }
}

fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

fn text(text: &str) -> Response {
    let bytes = text.as_bytes().to_vec();
    respond(Some(bytes.len()), |mut sink| async move {
        sink.write_all(bytes).await;
    })
}

fn respond<W>(length: Option<usize>, write: impl FnOnce(StreamWriter<u8>) -> W + 'static) -> Response
where
    W: Future<Output = ()> + 'static,
{
    let fields: Vec<_> = length.iter().map(|n| ("content-length".to_owned(), n.to_string().into_bytes())).collect();
    let (sink, contents) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) =
        Response::new(Fields::from_list(&fields).expect("the fields are valid"), Some(contents), trailers);
    spawn(async move {
        write(sink).await;
        drop(end);
    });
    response
}

/// Reads and writes each part in the guest.
fn echo(request: Request) -> Response {
    let (_read, result) = wit_future::new(|| Ok(()));
    let (mut source, _trailers) = Request::consume_body(request, result);
    respond(None, |mut sink| async move {
        loop {
            let (status, bytes) = source.read(Vec::with_capacity(64 << 10)).await;
            if !sink.write_all(bytes).await.is_empty() || matches!(status, wit_bindgen::StreamResult::Dropped) {
                return;
            }
        }
    })
}

/// Gives the request's body on without reading it.
fn pass(request: Request) -> Response {
    let (_read, result) = wit_future::new(|| Ok(()));
    let (source, trailers) = Request::consume_body(request, result);
    Response::new(Fields::new(), Some(source), trailers).0
}

fn ticks(count: u32) -> Response {
    respond(None, move |mut sink| async move {
        for n in 0..count {
            if !sink.write_all(format!("tick {n}\n").into_bytes()).await.is_empty() {
                return;
            }
            wait_for(20 * MS).await;
        }
    })
}

fn big(bytes: usize) -> Response {
    respond(None, move |mut sink| async move {
        let mut left = bytes;
        while left > 0 {
            let n = left.min(64 << 10);
            if !sink.write_all(vec![b'x'; n]).await.is_empty() {
                return;
            }
            left -= n;
        }
    })
}
