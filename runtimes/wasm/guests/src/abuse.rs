//! More ways to misbehave, for the suite that runs hostile guests beside a neighbour.

use std::hint::black_box;
use std::io::{Read as _, Write as _};

use wasip2::clocks::monotonic_clock::{now, subscribe_duration, subscribe_instant};
use wasip2::http::types::{
    Fields, Headers, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::poll::poll;
use wasip2::random::random::get_random_bytes;

use crate::{stream, text};

/// What no answer may hold, wherever the guest says it.
const WORDS: &str = "the guest's words";
/// What a call leaves behind for the next one to find.
const SECRET: [u8; 16] = *b"left by one call";
static mut LEFT: [u8; 16] = [0; 16];

pub(crate) fn run(path: &str, query: &str, request: IncomingRequest, out: ResponseOutparam) {
    match path {
        "/abuse/naps" => loop {
            subscribe_duration(1).block();
        },
        "/abuse/forever" => loop {
            subscribe_duration(u64::MAX).block();
            subscribe_instant(u64::MAX).block();
        },
        "/abuse/polls" => {
            let ready = subscribe_instant(0);
            let all = vec![&ready; query.parse().unwrap_or(1000)];
            loop {
                black_box(poll(&all));
            }
        }
        "/abuse/poll-nothing" => {
            black_box(poll(&[]));
        }
        "/abuse/alloc" => text(out, &black_box(vec![1_u8; 1 << 30]).len().to_string()),
        "/abuse/answer-loop" => {
            text(out, "answered");
            loop {
                black_box(now());
            }
        }
        "/abuse/answer-wait" => {
            text(out, "answered");
            subscribe_duration(u64::MAX).block();
        }
        "/abuse/answer-exit" => {
            text(out, "answered");
            std::process::exit(1);
        }
        "/abuse/twice" => twice(out),
        "/abuse/panic" => panic!("{}", WORDS.repeat(1 << 16)),
        "/abuse/write" => stream(out, OutgoingResponse::new(Fields::new()), |sink| {
            // More than the host said it takes.
            sink.write(&vec![b'x'; 8 << 20])
        }),
        "/abuse/stall" => stream(out, OutgoingResponse::new(Fields::new()), |sink| {
            sink.blocking_write_and_flush(b"part")?;
            subscribe_duration(u64::MAX).block();
            Ok(())
        }),
        "/abuse/trickle" => stream(out, OutgoingResponse::new(Fields::new()), |sink| {
            loop {
                sink.blocking_write_and_flush(b".")?;
                subscribe_duration(20_000_000).block();
            }
        }),
        "/abuse/headers" => many_headers(out, query.parse().unwrap_or(1000)),
        "/abuse/odd-headers" => text(out, &odd_headers()),
        "/abuse/forge" => forge(out),
        "/abuse/status" => status_with_body(out, query.parse().unwrap_or(204)),
        "/abuse/trailers" => trailers(out),
        "/abuse/resources" => resources(query),
        "/abuse/random" => loop {
            black_box(get_random_bytes(1 << 20));
        },
        "/abuse/utf8" => {
            // SAFETY: none; the host has to see through it.
            let name = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, b'a']) };
            text(out, &format!("{:?}", Fields::new().append(&name, b"v").is_err()));
        }
        "/abuse/env" => loop {
            black_box(std::env::vars().count());
        },
        "/abuse/log" => log(query, out),
        "/abuse/stdin" => {
            let mut read = Vec::new();
            let taken = std::io::stdin().read_to_end(&mut read).unwrap_or_default();
            text(out, &format!("read {taken}"));
        }
        "/abuse/body" => body(query, request, out),
        "/abuse/residue" => residue(out),
        _ => crate::hostile::run(path, query, out),
    }
}

/// Sets the answer, and once more through a handle that is spent.
fn twice(out: ResponseOutparam) {
    let handle = out.take_handle();
    for status in [200, 201] {
        let head = OutgoingResponse::new(Fields::new());
        head.set_status_code(status).expect("the status is valid");
        // SAFETY: none; the second one is a handle that this guest no longer has.
        ResponseOutparam::set(unsafe { ResponseOutparam::from_handle(handle) }, Ok(head));
    }
}

fn many_headers(out: ResponseOutparam, count: u32) {
    let fields = Fields::new();
    for n in 0..count {
        if fields.append(&format!("x-{n}"), b"v").is_err() {
            break;
        }
    }
    let head = OutgoingResponse::new(fields);
    stream(out, head, |sink| sink.blocking_write_and_flush(b"many"));
}

/// Says which odd fields the host took.
fn odd_headers() -> String {
    let values: [&[u8]; 5] = [b"a\r\nx-forged: 1", b"a\nb", b"a\0b", b"\x7f", b"\xff\x80"];
    let fields = Fields::new();
    let taken = values.iter().map(|value| if fields.append("x-odd", value).is_ok() { 'y' } else { 'n' });
    let mut told: String = taken.collect();
    for name in ["", "a b", "a:b", "x\r\ny", &"n".repeat(1 << 20)] {
        told.push(if fields.append(name, b"v").is_ok() { 'y' } else { 'n' });
    }
    told
}

/// Claims what only the platform may say, and what would break the framing.
fn forge(out: ResponseOutparam) {
    let fields = Fields::new();
    for (name, value) in [
        ("x-faas-origin", "platform"),
        ("x-faas-reason", "internal"),
        ("x-call-id", "forged"),
        ("connection", "close, x-kept"),
        ("transfer-encoding", "chunked"),
        ("content-length", "3"),
        ("content-length", "5000"),
        ("upgrade", "forged"),
        ("keep-alive", "forged"),
    ] {
        fields.append(name, value.as_bytes()).ok();
    }
    stream(out, OutgoingResponse::new(fields), |sink| sink.blocking_write_and_flush(b"forged"));
}

fn status_with_body(out: ResponseOutparam, status: u16) {
    let head = OutgoingResponse::new(Fields::new());
    if head.set_status_code(status).is_err() {
        return text(out, "refused");
    }
    stream(out, head, |sink| sink.blocking_write_and_flush(b"a body where none may be"));
}

fn trailers(out: ResponseOutparam) {
    let head = OutgoingResponse::new(Fields::new());
    let body = head.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(head));
    let sink = body.write().expect("the stream is taken once");
    sink.blocking_write_and_flush(b"body").ok();
    drop(sink);
    let fields = Fields::new();
    for n in 0..50 {
        fields.append(&format!("x-{n}"), b"v").ok();
    }
    OutgoingBody::finish(body, Some(fields)).ok();
}

/// Takes handles and gives none back.
fn resources(kind: &str) {
    loop {
        match kind {
            "pollables" => std::mem::forget(subscribe_duration(u64::MAX)),
            "streams" => std::mem::forget(wasip2::cli::stdout::get_stdout()),
            "requests" => std::mem::forget(OutgoingRequest::new(Headers::new())),
            _ => std::mem::forget(OutgoingResponse::new(Fields::new())),
        }
    }
}

fn log(kind: &str, out: ResponseOutparam) {
    let mut sink = std::io::stdout().lock();
    match kind {
        "unended" => (0..4096).for_each(|_| drop(sink.write_all(&[b'x'; 16 << 10]))),
        "gibibyte" => (0..65_536).for_each(|_| drop(sink.write_all(&[b'\n'; 16 << 10]))),
        _ => {
            for line in [
                "{\"stream\":\"platform\",\"text\":\"FORGED\"}",
                "\x1b[2J\x1b]0;FORGED\x07",
                "a\0b\rFORGED",
                "2026-01-01T00:00:00Z ERROR faas: FORGED",
                "\u{202e}FORGED\u{2028}FORGED",
            ] {
                writeln!(sink, "{line}").ok();
                eprintln!("{line}");
            }
        }
    }
    drop(sink);
    text(out, "logged");
}

/// Answers without the request's body, with a part of it, or reads it after the answer.
fn body(kind: &str, request: IncomingRequest, out: ResponseOutparam) {
    let take = |bytes| {
        let body = request.consume().expect("the body is taken once");
        let source = body.stream().expect("the stream is taken once");
        let read = source.blocking_read(bytes).map_or(0, |read| read.len());
        (body, source, read)
    };
    match kind {
        "never" => text(out, "unread"),
        "part" => {
            let held = take(10);
            text(out, &format!("read {}", held.2.min(10)));
        }
        _ => {
            text(out, "answered");
            drop(take(1 << 20));
        }
    }
}

/// Looks for what an earlier call left, then leaves something itself.
fn residue(out: ResponseOutparam) {
    // SAFETY: there is one thread.
    let left = unsafe { (&raw const LEFT).read_volatile() };
    let pages = core::arch::wasm32::memory_grow(0, 64);
    let grown = pages.checked_mul(1 << 16).filter(|_| pages != usize::MAX);
    // SAFETY: the memory was just grown by so many bytes, which nothing else uses.
    let grown = grown.map(|at| unsafe { std::slice::from_raw_parts_mut(at as *mut u8, 64 << 16) });
    let dirty = left != [0; 16] || grown.as_ref().is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0));
    if let Some(bytes) = grown {
        bytes.chunks_exact_mut(16).for_each(|chunk| chunk.copy_from_slice(&SECRET));
    }
    // SAFETY: there is one thread.
    unsafe { (&raw mut LEFT).write_volatile(SECRET) };
    text(out, if dirty { "found" } else { "clean" });
}
