//! Guests that take all they can get.

use std::hint::black_box;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, Headers, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme};
use wasip2::random::random::get_random_bytes;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::{ip_name_lookup, tcp_create_socket, udp_create_socket};

use crate::{stream, text};

pub(crate) fn run(path: &str, query: &str, out: ResponseOutparam) {
    match path {
        "/loop" => {
            let mut n = 0_u64;
            loop {
                n = black_box(n.wrapping_add(1));
            }
        }
        "/compute" => {
            let ms: u64 = query.parse().unwrap_or(50);
            let begun = std::time::Instant::now();
            let mut n = 0_u64;
            while u64::try_from(begun.elapsed().as_millis()).unwrap_or(0) < ms {
                n = black_box(n.wrapping_add(1));
            }
            text(out, "computed");
        }
        "/host-loop" => loop {
            black_box(wasip2::clocks::monotonic_clock::now());
        },
        "/sleep-loop" => {
            for _ in 0..100 {
                wasip2::clocks::monotonic_clock::subscribe_duration(11_000_000).block();
            }
            text(out, "slept");
        }
        "/stream-loop" => stream(out, OutgoingResponse::new(Fields::new()), |sink| {
            sink.blocking_write_and_flush(b"part")?;
            loop {
                black_box(0);
            }
        }),
        "/recurse" => text(out, &recurse(1).to_string()),
        "/memory" => {
            let mut held = Vec::new();
            loop {
                held.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        "/memory-polite" => {
            // Asks for too much, is told no, and goes on.
            let grown = core::arch::wasm32::memory_grow(0, 60_000);
            text(out, if grown == usize::MAX { "denied" } else { "granted" });
        }
        "/flood" => stream(out, OutgoingResponse::new(Fields::new()), |sink| loop {
            sink.blocking_write_and_flush(&[b'x'; 4096])?;
        }),
        "/flood-log" => {
            for n in 0..200_000 {
                println!("line {n} {}", "x".repeat(100));
            }
            text(out, "flooded");
        }
        "/random" => {
            let bytes = get_random_bytes(query.parse().unwrap_or(32));
            text(out, &bytes.len().to_string());
        }
        "/resources" => {
            let mut held = Vec::new();
            loop {
                held.push(Fields::new());
            }
        }
        "/fields" => fields(out),
        "/sockets" => text(out, &sockets()),
        "/files" => text(out, &files()),
        "/outgoing" => text(out, &outgoing()),
        _ => {
            let head = OutgoingResponse::new(Fields::new());
            head.set_status_code(404).expect("the status is valid");
            ResponseOutparam::set(out, Ok(head));
        }
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse(n: u64) -> u64 {
    let held = black_box([n; 16]);
    held[3] + recurse(black_box(n + 1))
}

fn fields(out: ResponseOutparam) {
    let fields = Fields::new();
    let value = vec![b'v'; 8192];
    let mut kept = 0;
    while kept < 10_000 && fields.append(&format!("x-{kept}"), &value).is_ok() {
        kept += 1;
    }
    text(out, &kept.to_string());
}

fn sockets() -> String {
    let family = IpAddressFamily::Ipv4;
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 80, address: (127, 0, 0, 1) });
    let tcp = match tcp_create_socket::create_tcp_socket(family) {
        Ok(socket) => format!("{:?}", socket.start_connect(&instance_network(), address).err()),
        Err(error) => format!("{:?}", Some(error)),
    };
    let udp = match udp_create_socket::create_udp_socket(family) {
        Ok(socket) => format!("{:?}", socket.start_bind(&instance_network(), address).err()),
        Err(error) => format!("{:?}", Some(error)),
    };
    let names = match ip_name_lookup::resolve_addresses(&instance_network(), "localhost") {
        Ok(_) => "resolved".to_owned(),
        Err(error) => format!("{error:?}"),
    };
    let std = std::net::TcpStream::connect("127.0.0.1:1").map(drop).is_err();
    format!("tcp {tcp}, udp {udp}, names {names}, std refused {std}")
}

fn files() -> String {
    let read = std::fs::read("/etc/passwd").is_err();
    let written = std::fs::write("/tmp/x", "x").is_err();
    let listed = std::fs::read_dir("/").is_err();
    let preopens = wasip2::filesystem::preopens::get_directories().len();
    format!("refused {read} {written} {listed}, preopens {preopens}")
}

fn outgoing() -> String {
    let request = OutgoingRequest::new(Headers::new());
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some("127.0.0.1:8081")).expect("an authority");
    request.set_path_with_query(Some("/")).expect("a path");
    let response = match outgoing_handler::handle(request, None) {
        Ok(response) => response,
        Err(code) => return format!("{code:?}"),
    };
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(_))) => "answered".into(),
        Some(Ok(Err(code))) => format!("{code:?}"),
        other => format!("{other:?}"),
    }
}
