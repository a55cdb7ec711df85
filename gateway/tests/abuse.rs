//! The abuse corpus: named raw-socket cases against a real listener. No case may
//! hang, crash or shift the connection; what is ambiguous is refused and closes
//! it, and nothing that was smuggled behind it is ever dispatched.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    reason = "a test that cannot go on fails, its helpers too"
)]

mod support;

use std::time::Duration;

use faas_gateway::front::Config;
use faas_model::units::Millis;
use support::{Answer, REQUEST_BYTES, Server};

/// What has to come of a case.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// One answer of this status, then the end; nothing is dispatched.
    Refused(u16),
    /// The message was dispatched, its body is broken: one answer of this status, then the end.
    Broken(u16),
    /// Answers of these statuses; the connection goes on and is not shifted.
    Served(&'static [u16]),
}
use Want::{Broken, Refused, Served};

/// A good request that must never be reached behind a refused one.
const SMUGGLED: &str = "GET /function/echo/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
/// A good request that must be answered behind a good one.
const PROBE: &str = "GET /function/echo/probe HTTP/1.1\r\nHost: a\r\n\r\n";

type Case = (&'static str, Vec<u8>, Want);

fn get(rest: &str) -> Vec<u8> {
    format!("GET /function/echo HTTP/1.1\r\n{rest}").into_bytes()
}

fn post(rest: &str) -> Vec<u8> {
    format!("POST /function/echo HTTP/1.1\r\nHost: a\r\n{rest}").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    post(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"))
}

fn line(request_line: &str) -> Vec<u8> {
    format!("{request_line}\r\nHost: a\r\n\r\n").into_bytes()
}

fn smuggling() -> Vec<Case> {
    vec![
        ("cl.te", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"), Refused(400)),
        ("te.cl", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n"), Refused(400)),
        ("te.cl lower case", post("transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        (
            "te twice, second odd",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"),
            Refused(400),
        ),
        ("te chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te chunked then identity", post("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te identity", post("Transfer-Encoding: identity\r\n\r\n"), Refused(400)),
        ("te gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te xchunked", post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te chunkedx", post("Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te quoted", post("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te with parameter", post("Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te empty", post("Transfer-Encoding:\r\n\r\n"), Refused(400)),
        ("te comma first", post("Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te folded", post("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te space before colon", post("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te tab before colon", post("Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te vertical tab in value", post("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te form feed in value", post("Transfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te NUL in name", post("Transfer\0-Encoding: chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te behind bare LF", post("X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        ("te behind bare CR", post("X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Refused(400)),
        (
            "te in HTTP/1.0",
            b"POST /function/echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            Refused(400),
        ),
        (
            "te dangling behind good cl",
            post("Content-Length: 0\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n"),
            Refused(400),
        ),
        ("te of padded value", post("Transfer-Encoding: \t chunked \t \r\n\r\n0\r\n\r\n"), Served(&[200])),
        ("te in mixed case", post("tRaNsFeR-eNcOdInG: ChUnKeD\r\n\r\n1\r\na\r\n0\r\n\r\n"), Served(&[200])),
        (
            "body holds a request",
            post(&format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len())),
            Served(&[200]),
        ),
        ("chunk holds a request", chunked(&format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())), Served(&[200])),
        (
            "GET with a body",
            get(&format!("Host: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len())),
            Served(&[200]),
        ),
        (
            "trailer holds a request line",
            chunked("0\r\nGET /function/echo/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
            Broken(400),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    vec![
        ("cl equal twice", post("Content-Length: 1\r\nContent-Length: 1\r\n\r\na"), Refused(400)),
        ("cl differing twice", post("Content-Length: 1\r\nContent-Length: 50\r\n\r\na"), Refused(400)),
        ("cl list of equals", post("Content-Length: 1, 1\r\n\r\na"), Refused(400)),
        ("cl list", post("Content-Length: 1,50\r\n\r\na"), Refused(400)),
        ("cl plus", post("Content-Length: +1\r\n\r\na"), Refused(400)),
        ("cl minus", post("Content-Length: -1\r\n\r\na"), Refused(400)),
        ("cl hex", post("Content-Length: 0x1\r\n\r\na"), Refused(400)),
        ("cl fraction", post("Content-Length: 1.0\r\n\r\na"), Refused(400)),
        ("cl exponent", post("Content-Length: 1e1\r\n\r\na"), Refused(400)),
        ("cl underscore", post("Content-Length: 1_0\r\n\r\na"), Refused(400)),
        ("cl empty", post("Content-Length:\r\n\r\n"), Refused(400)),
        ("cl text", post("Content-Length: one\r\n\r\n"), Refused(400)),
        ("cl inner space", post("Content-Length: 1 0\r\n\r\na"), Refused(400)),
        ("cl over 64 bits", post("Content-Length: 18446744073709551617\r\n\r\na"), Refused(400)),
        ("cl of 64 bits", post("Content-Length: 18446744073709551615\r\n\r\na"), Refused(400)),
        ("cl fullwidth digits", post("Content-Length: １\r\n\r\na"), Refused(400)),
        ("cl space before colon", post("Content-Length : 1\r\n\r\na"), Refused(400)),
        ("cl leading zeros", post("Content-Length: 0001\r\n\r\na"), Served(&[200])),
        ("cl zero", post("Content-Length: 0\r\n\r\n"), Served(&[200])),
        ("cl padded", post("Content-Length:   1  \r\n\r\na"), Served(&[200])),
        ("no length, no body", post("\r\n"), Served(&[200])),
        ("cl beside Expect", post("Expect: 100-continue\r\nContent-Length: 1\r\n\r\na"), Served(&[200])),
        ("Expect of something else", post("Expect: 200-maybe\r\nContent-Length: 1\r\n\r\na"), Refused(400)),
    ]
}

fn chunking() -> Vec<Case> {
    let extension = |n: usize| chunked(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(n)));
    vec![
        ("chunks", chunked("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), Served(&[200])),
        ("chunk size upper case", chunked("A\r\n0123456789\r\n0\r\n\r\n"), Served(&[200])),
        ("chunk size leading zeros", chunked("0001\r\na\r\n000\r\n\r\n"), Served(&[200])),
        ("chunk extension", chunked("1;name=value\r\na\r\n0;last\r\n\r\n"), Served(&[200])),
        ("chunk extension at bound", extension(254), Served(&[200])),
        ("chunk extension over bound", extension(255), Broken(400)),
        (
            "chunk extensions in all",
            chunked(&format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(30))),
            Broken(400),
        ),
        ("trailers", chunked("0\r\nX-Sum: 1\r\n\r\n"), Served(&[200])),
        ("trailer content-length", chunked("0\r\nContent-Length: 5\r\n\r\n"), Broken(400)),
        ("trailer transfer-encoding", chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n"), Broken(400)),
        ("trailer host", chunked("0\r\nHost: b\r\n\r\n"), Broken(400)),
        ("trailer folded", chunked("0\r\nX: y\r\n z\r\n\r\n"), Broken(400)),
        ("trailer too large", chunked(&format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000))), Broken(400)),
        ("trailer too many", chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(101))), Broken(400)),
        ("chunk size empty", chunked("\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size text", chunked("x\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size 0x", chunked("0x1\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size plus", chunked("+1\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size minus", chunked("-1\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size space before", chunked(" 1\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size space behind", chunked("1 \r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size tab", chunked("1\t\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size overflow", chunked("10000000000000001\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk size huge", chunked("fffffffffffffff\r\na\r\n0\r\n\r\n"), Broken(408)),
        ("chunk size underscore", chunked("1_0\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk line bare LF", chunked("1\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk line bare CR", chunked("1\ra\r\n0\r\n\r\n"), Broken(400)),
        ("chunk end bare LF", chunked("1\r\na\n0\r\n\r\n"), Broken(400)),
        ("chunk end missing", chunked("1\r\na0\r\n\r\n"), Broken(400)),
        ("chunk longer than its size", chunked("1\r\nab\r\n0\r\n\r\n"), Broken(400)),
        ("chunk shorter than its size", chunked("3\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk end of two NUL", chunked("1\r\na\0\0"), Broken(400)),
        ("last chunk bare LF", chunked("0\r\n\n"), Broken(400)),
        ("chunk extension with NUL", chunked("1;\0\r\na\r\n0\r\n\r\n"), Broken(400)),
        ("chunk extension with bare CR", chunked("1;a\rb\r\na\r\n0\r\n\r\n"), Broken(400)),
    ]
}

fn hosts() -> Vec<Case> {
    vec![
        ("host missing", get("\r\n"), Refused(400)),
        ("host missing in HTTP/1.0", b"GET /function/echo HTTP/1.0\r\n\r\n".to_vec(), Refused(400)),
        ("host twice equal", get("Host: a\r\nHost: a\r\n\r\n"), Refused(400)),
        ("host twice", get("Host: a\r\nHost: b\r\n\r\n"), Refused(400)),
        ("host list", get("Host: a, b\r\n\r\n"), Refused(400)),
        ("host with space", get("Host: a b\r\n\r\n"), Refused(400)),
        ("host empty", get("Host:\r\n\r\n"), Refused(400)),
        ("host with path", get("Host: a/b\r\n\r\n"), Refused(400)),
        ("host with user", get("Host: u@a\r\n\r\n"), Refused(400)),
        ("host with scheme", get("Host: http://a\r\n\r\n"), Refused(400)),
        ("host with port text", get("Host: a:http\r\n\r\n"), Refused(400)),
        ("host with port too large", get("Host: a:65536\r\n\r\n"), Refused(400)),
        ("host with two ports", get("Host: a:1:2\r\n\r\n"), Refused(400)),
        ("host with no port behind colon", get("Host: a:\r\n\r\n"), Refused(400)),
        ("host percent-encoded", get("Host: a%00b\r\n\r\n"), Refused(400)),
        ("host NUL", get("Host: a\0b\r\n\r\n"), Refused(400)),
        ("host bad IPv6", get("Host: [::g]\r\n\r\n"), Refused(400)),
        ("host open bracket", get("Host: [::1\r\n\r\n"), Refused(400)),
        ("host of 300 bytes", get(&format!("Host: {}\r\n\r\n", "a".repeat(300))), Refused(400)),
        ("host space before colon", get("Host : a\r\n\r\n"), Refused(400)),
        ("host IPv6 and port", get("Host: [::1]:8080\r\n\r\n"), Served(&[200])),
        ("host largest port", get("Host: a.example:65535\r\n\r\n"), Served(&[200])),
        ("host in upper case", get("HOST: A.EXAMPLE\r\n\r\n"), Served(&[200])),
    ]
}

fn methods_and_targets() -> Vec<Case> {
    vec![
        ("CONNECT authority", line("CONNECT a:80 HTTP/1.1"), Refused(405)),
        ("CONNECT path", line("CONNECT /function/echo HTTP/1.1"), Refused(405)),
        ("TRACE", line("TRACE /function/echo HTTP/1.1"), Refused(405)),
        ("method unknown", line("BREW /function/echo HTTP/1.1"), Refused(501)),
        ("method lower case", line("get /function/echo HTTP/1.1"), Refused(501)),
        ("method no token", line("G(T /function/echo HTTP/1.1"), Refused(400)),
        ("method empty", line(" /function/echo HTTP/1.1"), Refused(400)),
        ("method endless", "G".repeat(9000).into_bytes(), Refused(400)),
        ("method NUL", line("GET\0 /function/echo HTTP/1.1"), Refused(400)),
        ("target absolute", line("GET http://a/function/echo HTTP/1.1"), Refused(400)),
        ("target absolute foreign", line("GET http://metadata.internal/ HTTP/1.1"), Refused(400)),
        ("target authority", line("GET a:80 HTTP/1.1"), Refused(400)),
        ("target asterisk", line("OPTIONS * HTTP/1.1"), Refused(400)),
        ("target empty", line("GET  HTTP/1.1"), Refused(400)),
        ("target relative", line("GET function/echo HTTP/1.1"), Refused(400)),
        ("target fragment", line("GET /function/echo#x HTTP/1.1"), Refused(400)),
        ("target with space", line("GET /function/echo x HTTP/1.1"), Refused(400)),
        ("target with tab", line("GET /function/echo\tx HTTP/1.1"), Refused(400)),
        ("target with quote", line("GET /function/echo\" HTTP/1.1"), Refused(400)),
        ("target with angle", line("GET /function/echo<x> HTTP/1.1"), Refused(400)),
        ("target with backslash", line("GET /function\\echo HTTP/1.1"), Refused(400)),
        ("target not ASCII", line("GET /function/echo/ä HTTP/1.1"), Refused(400)),
        ("target with DEL", line("GET /function/echo/\x7f HTTP/1.1"), Refused(400)),
        ("target percent NUL stays raw", line("GET /function/echo/%00 HTTP/1.1"), Served(&[200])),
        ("target dots stay raw", line("GET /function/echo/../../x HTTP/1.1"), Served(&[200])),
        ("target double slash is no function", line("GET //function/echo HTTP/1.1"), Served(&[404])),
        ("target encoded slash is no function", line("GET /function%2fecho HTTP/1.1"), Served(&[404])),
        ("target encoded name is no function", line("GET /function/%65cho HTTP/1.1"), Served(&[404])),
        ("target dot segment is no function", line("GET /x/../function/echo HTTP/1.1"), Served(&[404])),
        ("target with parameter is no function", line("GET /function/echo;x HTTP/1.1"), Served(&[404])),
        ("target of the control API", line("GET /v1/namespaces HTTP/1.1"), Served(&[404])),
        ("target of the metrics", line("GET /metrics HTTP/1.1"), Served(&[404])),
        ("query as it is", line("GET /function/echo?a=b&c[]=%zz|{} HTTP/1.1"), Served(&[200])),
        ("async is not offered", line("POST /async-function/echo HTTP/1.1"), Served(&[501])),
        ("OPTIONS on a path", line("OPTIONS /function/echo HTTP/1.1"), Served(&[200])),
    ]
}

fn framing() -> Vec<Case> {
    vec![
        ("version 0.9", b"GET /function/echo\r\n".to_vec(), Refused(400)),
        ("version 1.2", line("GET /function/echo HTTP/1.2"), Refused(505)),
        ("version 2.0", line("GET /function/echo HTTP/2.0"), Refused(505)),
        ("version HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Refused(505)),
        ("version lower case", line("GET /function/echo http/1.1"), Refused(400)),
        ("version two digits", line("GET /function/echo HTTP/1.10"), Refused(400)),
        ("version text", line("GET /function/echo HTTP/x"), Refused(400)),
        ("version trailing space", line("GET /function/echo HTTP/1.1 "), Refused(400)),
        ("version other protocol", line("GET /function/echo RTSP/1.0"), Refused(400)),
        ("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), Refused(400)),
        ("bytes", vec![0xff; 100], Refused(400)),
        ("bare LF everywhere", b"GET /function/echo HTTP/1.1\nHost: a\n\n".to_vec(), Refused(400)),
        ("bare LF at the end", get("Host: a\r\n\n"), Refused(400)),
        ("bare CR everywhere", b"GET /function/echo HTTP/1.1\rHost: a\r\r".to_vec(), Refused(400)),
        ("CR CR LF", get("Host: a\r\r\n\r\n"), Refused(400)),
        ("folded first header", get(" Host: a\r\n\r\n"), Refused(400)),
        ("folded with tab", get("Host: a\r\n\tb\r\n\r\n"), Refused(400)),
        ("header without colon", get("Host: a\r\nnothing\r\n\r\n"), Refused(400)),
        ("header without name", get("Host: a\r\n: x\r\n\r\n"), Refused(400)),
        ("header name with space", get("Host: a\r\nX Y: z\r\n\r\n"), Refused(400)),
        ("header name not ASCII", get("Host: a\r\nXä: z\r\n\r\n"), Refused(400)),
        ("header name with brackets", get("Host: a\r\nX[]: z\r\n\r\n"), Refused(400)),
        ("header value NUL", get("Host: a\r\nX: a\0b\r\n\r\n"), Refused(400)),
        ("header value escape", get("Host: a\r\nX: \x1b[2J\r\n\r\n"), Refused(400)),
        ("header value not ASCII", get("Host: a\r\nX: ä\r\n\r\n"), Refused(400)),
        ("empty lines before", b"\r\n\r\nGET /function/echo HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Refused(400)),
        ("empty line before", [b"\r\n", get("Host: a\r\n\r\n").as_slice()].concat(), Served(&[200])),
        ("header value empty", get("Host: a\r\nX:\r\n\r\n"), Served(&[200])),
        ("header value with tab", get("Host: a\r\nX: a\tb\r\n\r\n"), Served(&[200])),
        (
            "HTTP/1.0 kept alive",
            b"GET /function/echo HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".to_vec(),
            Served(&[200]),
        ),
        (
            "upgrade is not followed",
            get("Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
            Served(&[200]),
        ),
        (
            "upgrade to h2c is not followed",
            get("Host: a\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
            Served(&[200]),
        ),
        ("two pipelined", [get("Host: a\r\n\r\n"), post("Content-Length: 2\r\n\r\nhi")].concat(), Served(&[200, 200])),
        ("five pipelined", get("Host: a\r\n\r\n").repeat(5), Served(&[200; 5])),
        ("HEAD then GET", [line("HEAD /nothing HTTP/1.1"), get("Host: a\r\n\r\n")].concat(), Served(&[404, 200])),
    ]
}

fn limits() -> Vec<Case> {
    let target = |n: usize| line(&format!("GET /function/echo/{} HTTP/1.1", "x".repeat(n - 15)));
    let section = |n: usize| get(&format!("Host: a\r\nX: {}\r\n\r\n", "x".repeat(n - 14)));
    let fields = |n: usize| get(&format!("Host: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1)));
    let query = |n: usize| line(&format!("GET /function/echo?{}a HTTP/1.1", "a&".repeat(n - 1)));
    let body = |n: u64| post(&format!("Content-Length: {n}\r\n\r\n{}", "x".repeat(usize::try_from(n).unwrap())));
    let stream = |n: usize| chunked(&format!("{:x}\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", n - 1, "x".repeat(n - 1)));
    let bytes = usize::try_from(REQUEST_BYTES).unwrap();
    vec![
        ("target below bound", target(8191), Served(&[200])),
        ("target at bound", target(8192), Served(&[200])),
        ("target over bound", target(8193), Refused(414)),
        ("target far over bound", target(100_000), Refused(414)),
        ("headers below bound", section(32767), Served(&[200])),
        ("headers at bound", section(32768), Served(&[200])),
        ("headers over bound", section(32769), Refused(431)),
        ("headers far over bound", section(500_000), Refused(431)),
        ("99 fields", fields(99), Served(&[200])),
        ("100 fields", fields(100), Served(&[200])),
        ("101 fields", fields(101), Refused(431)),
        ("10,000 fields", fields(10_000), Refused(431)),
        ("99 parameters", query(99), Served(&[200])),
        ("100 parameters", query(100), Served(&[200])),
        ("101 parameters", query(101), Served(&[400])),
        ("body below bound", body(REQUEST_BYTES - 1), Served(&[200])),
        ("body at bound", body(REQUEST_BYTES), Served(&[200])),
        ("body over bound", body(REQUEST_BYTES + 1), Served(&[413])),
        ("body announced far over bound", post("Content-Length: 999999999999\r\n\r\n"), Broken(413)),
        ("stream below bound", stream(bytes - 1), Served(&[200])),
        ("stream at bound", stream(bytes), Served(&[200])),
        ("stream over bound", stream(bytes + 1), Served(&[413])),
        ("target and headers at bound", [&target(8192)[..8192 + 15], &section(32768)[29..]].concat(), Served(&[200])),
    ]
}

async fn check(server: &Server, case: &Case) -> Result<(), String> {
    let (_, bytes, want) = case;
    let mut client = server.connect().await;
    let follower = if matches!(want, Served(_)) { PROBE } else { SMUGGLED };
    client.send(&[bytes, follower.as_bytes()].concat()).await;
    let answers = match want {
        Served(statuses) => {
            let mut answers = Vec::new();
            for _ in 0..=statuses.len() {
                answers.extend(answer_to(&mut client, bytes, answers.len()).await);
            }
            answers
        }
        Refused(_) | Broken(_) => client.answers().await,
    };
    let statuses: Vec<u16> = answers.iter().map(|a| a.status).collect();
    let seen = server.seen();
    let fail = |what: &str| Err(format!("{what}: answered {statuses:?}, dispatched {seen:?}"));
    if seen.iter().any(|s| s.contains("/smuggled")) {
        return fail("the smuggled request was dispatched");
    }
    match want {
        Refused(_) if !seen.is_empty() => fail("a refused request was dispatched"),
        Broken(_) if seen.len() > 1 => fail("more than one request was dispatched"),
        Refused(status) | Broken(status) if statuses != [*status] => fail("not the one answer"),
        Refused(_) | Broken(_) if !is_problem(&answers[0]) => fail("no problem document"),
        Served(wanted) if statuses != [*wanted, &[200]].concat() => fail("not the answers"),
        Served(_) if !answers.last().unwrap().body.starts_with("GET /probe ") => fail("the connection is shifted"),
        _ => Ok(()),
    }
}

/// Reads one answer; the one to a HEAD has no body whatever its length says.
async fn answer_to(client: &mut support::Client, sent: &[u8], number: usize) -> Option<Answer> {
    if number == 0 && sent.starts_with(b"HEAD") { client.head_answer().await } else { client.answer().await }
}

fn is_problem(answer: &Answer) -> bool {
    let head = answer.head.to_ascii_lowercase();
    ["application/problem+json", "x-call-id: ", "x-faas-origin: platform"].iter().all(|said| head.contains(said))
        && answer.body.contains(&format!("\"status\":{}", answer.status))
        && answer.body.contains("\"component\":\"gateway\"")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_case_of_the_corpus_passes_hangs_or_shifts_the_connection() {
    let config = Config { body_idle: Millis(500), ..Config::default() };
    let server = Server::start(config, Duration::from_secs(1)).await;
    let before = descriptors();
    let corpus: Vec<Case> =
        [smuggling(), lengths(), chunking(), hosts(), methods_and_targets(), framing(), limits()].concat();
    assert!(corpus.len() >= 120, "the corpus has {} cases", corpus.len());
    let mut failures = Vec::new();
    for case in &corpus {
        let checked = tokio::time::timeout(support::PATIENCE / 2, check(&server, case));
        if let Err(why) = checked.await.unwrap_or_else(|_| Err("it hangs".into())) {
            failures.push(format!("{}: {why}", case.0));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), corpus.len(), failures.join("\n"));
    let waited = tokio::time::timeout(support::PATIENCE, async {
        while descriptors() > before {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{} descriptors before, {} after", before, descriptors());
    server.stop.cancel();
    server.ended.await.unwrap();
}
