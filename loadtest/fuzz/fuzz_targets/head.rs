//! The head machine: the same verdict however the bytes are cut into reads, and
//! whatever it passes on is read alike by another reader of HTTP/1.1.
//!
//! Input: a byte that says how the rest is cut, then the bytes of a connection.
#![no_main]

use faas_gateway::front::fuzz::{Reading, read};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((cut, bytes)) = data.split_first() else { return Corpus::Reject };
    let whole = read(bytes, []);
    assert_eq!(read(bytes, 1..bytes.len()), whole, "byte by byte");
    let pace = usize::from(*cut).max(1);
    assert_eq!(read(bytes, (pace..bytes.len()).step_by(pace)), whole, "in reads of {pace}");
    assert!(whole.refusal.is_none_or(|(_, detail)| !detail.is_empty()), "a refusal that says nothing");
    reread(&bytes[..whole.accepted], &whole);
    // Nothing that was in order is refused when the bytes end there.
    let again = read(&bytes[..whole.accepted], []);
    assert_eq!((again.accepted, again.heads, again.refusal), (whole.accepted, whole.heads, None));
    Corpus::Keep
});

/// Follows `bytes` from message to message by httparse and the plain rules of framing.
fn reread(bytes: &[u8], reading: &Reading) {
    let (mut at, mut heads) = (0, 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest == b"\r\n" {
            // The empty line that may stand before a head.
            at = bytes.len();
            break;
        }
        let mut fields = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut fields);
        let parsed = request.parse(rest).unwrap_or_else(|e| panic!("{e}: {:?}", rest.escape_ascii().to_string()));
        let httparse::Status::Complete(length) = parsed else {
            panic!("half a head was passed on: {:?}", rest.escape_ascii().to_string());
        };
        heads += 1;
        at += length;
        let values = |name: &str| -> Vec<&[u8]> {
            request.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value).collect()
        };
        let (hosts, lengths, codings) = (values("host"), values("content-length"), values("transfer-encoding"));
        assert_eq!(hosts.len(), 1, "one host");
        assert!(lengths.len() + codings.len() <= 1, "one framing");
        let path = request.path.expect("a whole head has a path");
        path.parse::<http::uri::PathAndQuery>().expect("the path can be routed");
        http::HeaderValue::from_bytes(hosts[0]).expect("the host can be passed on");
        if !codings.is_empty() {
            at = chunks(bytes, at);
        } else if let [length] = lengths[..] {
            let length: u64 = std::str::from_utf8(length).expect("digits").parse().expect("a length");
            at += usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len() - at);
        }
    }
    assert_eq!((at, heads), (bytes.len(), reading.heads), "both readers see the same messages");
}

/// Returns where a chunked body that starts at `at` ends, or the bytes do.
fn chunks(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        let line = httparse::parse_chunk_size(&bytes[at..]).expect("a chunk line");
        let httparse::Status::Complete((length, size)) = line else { panic!("half a chunk line was passed on") };
        at += length;
        if size == 0 {
            if at == bytes.len() {
                return at;
            }
            let mut fields = [httparse::EMPTY_HEADER; 8];
            match httparse::parse_headers(&bytes[at..], &mut fields).expect("trailers") {
                httparse::Status::Complete((length, _)) => return at + length,
                httparse::Status::Partial => panic!("half a trailer section was passed on"),
            }
        }
        let left = (bytes.len() - at) as u64;
        if size >= left {
            return bytes.len();
        }
        at += usize::try_from(size).expect("below the bytes left");
        assert!(bytes[at..].starts_with(b"\r\n"), "a chunk ends with its line end");
        at += 2;
    }
    at
}
