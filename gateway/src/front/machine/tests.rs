//! The head machine: what it refuses, where its bounds are, and that cuts between reads change nothing.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { uri_bytes_max: 64, header_bytes_max: 200, headers_max: 5 };

/// The outcome of feeding `bytes` in pieces: how many were accepted, heads seen, verdict.
fn feed(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> (usize, u64, Option<Refusal>) {
    let mut machine = Machine::new(LIMITS);
    let (mut accepted, mut end) = (0, 0);
    for cut in cuts.into_iter().chain([bytes.len()]) {
        end = (end + cut).min(bytes.len());
        let step = machine.step(&bytes[accepted..end]);
        accepted += step.accepted;
        if let Some(refusal) = step.refusal {
            return (accepted, machine.heads(), Some(refusal));
        }
    }
    (accepted, machine.heads(), None)
}

fn whole(bytes: &[u8]) -> (usize, u64, Option<Refusal>) {
    feed(bytes, [])
}

#[test]
fn good_messages_pass_untouched_and_are_followed_to_the_next_head() {
    for (text, heads) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET /?a=[1]|{} HTTP/1.1\r\nhost:a:80\r\nX:\t y \r\n\r\n", 1),
        ("GET / HTTP/1.0\r\nHost: [::1]:8080\r\n\r\n", 1),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n00\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            2,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na;x=\"y\"\r\n0123456789\r\n0;z\r\nT: 1\r\n\r\n",
            1,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", 1),
    ] {
        assert_eq!(whole(text.as_bytes()), (text.len(), heads, None), "{text:?}");
    }
}

#[test]
fn every_refusal_names_its_reason() {
    use Reason::{BadRequest, Method, NotImplemented, VersionNotSupported};
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}");
    for (text, reason, said) in [
        ("GET / HTTP/1.1\nHost: a\n\n".into(), BadRequest, "bare LF"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".into(), BadRequest, "bare LF"),
        ("GET / HTTP/1.1\r\rHost: a\r\n\r\n".into(), BadRequest, "CR"),
        ("\r\n\r\nGET / HTTP/1.1\r\n".into(), BadRequest, "empty lines"),
        ("GET / HTTP/1.1\r\nX: \0\r\n".into(), BadRequest, "control"),
        ("GET / HTTP/1.1\r\nX: \x7f\r\n".into(), BadRequest, "control"),
        ("GET / HTTP/1.1\r\nX: ä\r\n".into(), BadRequest, "ASCII"),
        ("GET /ä HTTP/1.1\r\n".into(), BadRequest, "ASCII"),
        ("GET /#f HTTP/1.1\r\n".into(), BadRequest, "percent-encoded"),
        ("GET /\" HTTP/1.1\r\n".into(), BadRequest, "percent-encoded"),
        ("GET /\\ HTTP/1.1\r\n".into(), BadRequest, "percent-encoded"),
        ("GET http://a/ HTTP/1.1\r\n".into(), BadRequest, "origin form"),
        ("OPTIONS * HTTP/1.1\r\n".into(), BadRequest, "origin form"),
        ("CONNECT a:80 HTTP/1.1\r\n".into(), Method, "CONNECT"),
        ("TRACE / HTTP/1.1\r\n".into(), Method, "TRACE"),
        ("BREW / HTTP/1.1\r\n".into(), NotImplemented, "method"),
        ("get / HTTP/1.1\r\n".into(), NotImplemented, "method"),
        ("G@T / HTTP/1.1\r\n".into(), BadRequest, "token"),
        (" GET / HTTP/1.1\r\n".into(), BadRequest, "request line"),
        ("GET  / HTTP/1.1\r\n".into(), BadRequest, "request line"),
        ("GET / HTTP/1.1 \r\n".into(), BadRequest, "request line"),
        ("GET /\r\n".into(), BadRequest, "request line"),
        ("GET / HTTP/2.0\r\n".into(), VersionNotSupported, "HTTP/1.1"),
        ("GET / HTTP/1.2\r\n".into(), VersionNotSupported, "HTTP/1.1"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), VersionNotSupported, "HTTP/1.1"),
        ("GET / HTTP/1\r\n".into(), BadRequest, "version"),
        ("GET / http/1.1\r\n".into(), BadRequest, "version"),
        ("GET / HTTP/1.1\r\n\r\n".into(), BadRequest, "no Host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n".into(), BadRequest, "more than one Host"),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), BadRequest, "Host"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), BadRequest, "Host"),
        ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n".into(), BadRequest, "Host"),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n".into(), BadRequest, "Host"),
        // Found by fuzzing: the port was added up before its length was looked at.
        ("GET / HTTP/1.1\r\nHost: a:99999999999\r\n\r\n".into(), BadRequest, "Host"),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), BadRequest, "Host"),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".into(), BadRequest, "Host"),
        ("GET / HTTP/1.1\r\nHost: [zz]\r\n\r\n".into(), BadRequest, "Host"),
        ("GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n".into(), BadRequest, "Host"),
        (post(" folded\r\n\r\n"), BadRequest, "folded"),
        (post("X : y\r\n\r\n"), BadRequest, "colon"),
        (post("X\r\n\r\n"), BadRequest, "no colon"),
        (post(": y\r\n\r\n"), BadRequest, "empty"),
        (post("X Y: y\r\n\r\n"), BadRequest, "token"),
        (post("Content-Length: 1\r\nContent-Length: 1\r\n\r\n"), BadRequest, "more than one Content-Length"),
        (post("Content-Length: 1, 1\r\n\r\n"), BadRequest, "digits"),
        (post("Content-Length: +1\r\n\r\n"), BadRequest, "digits"),
        (post("Content-Length: -1\r\n\r\n"), BadRequest, "digits"),
        (post("Content-Length: 0x1\r\n\r\n"), BadRequest, "digits"),
        (post("Content-Length:\r\n\r\n"), BadRequest, "digits"),
        (post("Content-Length: 1 1\r\n\r\n"), BadRequest, "digits"),
        (post("Content-Length: 9999999999999999999\r\n\r\n"), BadRequest, "digits"),
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), BadRequest, "beside"),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"), BadRequest, "beside"),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"), BadRequest, "exactly one"),
        (post("Transfer-Encoding: gzip, chunked\r\n\r\n"), BadRequest, "exactly one"),
        (post("Transfer-Encoding: chunked, identity\r\n\r\n"), BadRequest, "exactly one"),
        (post("Transfer-Encoding: identity\r\n\r\n"), BadRequest, "exactly one"),
        (post("Transfer-Encoding: xchunked\r\n\r\n"), BadRequest, "exactly one"),
        (post("Transfer-Encoding: \"chunked\"\r\n\r\n"), BadRequest, "exactly one"),
        (post("Expect: 200-ok\r\n\r\n"), BadRequest, "Expect"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(), BadRequest, "HTTP/1.0"),
    ] {
        let (_, heads, refusal) = whole(text.as_bytes());
        let refusal = refusal.unwrap_or_else(|| panic!("{text:?} was let pass"));
        assert_eq!((heads, refusal.reason), (0, reason), "{text:?}: {refusal:?}");
        assert!(refusal.detail.contains(said), "{text:?}: {refusal:?}");
    }
}

#[test]
fn broken_chunks_are_refused_within_the_body() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for rest in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1 ;a\r\n",
        "1\na\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1\r\na\rb",
        "1\r\na0\r\n\r\n",
        "1234567890123456\r\n",
        "ffffffffffffffffff\r\n",
        "1;\0\r\n",
        "1;ä\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\n\r\n",
        &format!("1;{}\r\n", "x".repeat(300)),
        &format!("0\r\nT: {}\r\n\r\n", "x".repeat(TRAILER_BYTES_MAX)),
        &format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(30)),
    ] {
        let mut machine = Machine::new(LIMITS);
        let step = machine.step(format!("{head}{rest}").as_bytes());
        assert!(step.refusal.is_some() && machine.refused_in_body(), "{rest:?} was let pass");
        assert!(step.accepted >= head.len());
    }
}

#[test]
fn the_bounds_of_a_head_are_exact() {
    let reason = |text: String| whole(text.as_bytes()).2.map(|r| r.reason);
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n - 1));
    assert_eq!(reason(target(64)), None);
    assert_eq!(reason(target(65)), Some(Reason::UriTooLong));
    assert_eq!(reason(target(5000)), Some(Reason::UriTooLong));
    let section = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(n - 14));
    assert_eq!(reason(section(200)), None);
    for over in [201, 202, 203, 204, 1000] {
        assert_eq!(reason(section(over)), Some(Reason::HeadersTooLarge), "{over}");
    }
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    assert_eq!(reason(fields(5)), None);
    assert_eq!(reason(fields(6)), Some(Reason::HeadersTooLarge));
    assert_eq!(reason(format!("{} / HTTP/1.1\r\n", "G".repeat(1000))), Some(Reason::BadRequest));
}

#[test]
fn an_endless_line_is_refused_before_it_ends() {
    for (start, filler) in
        [("GET /", "x"), ("", "G"), ("GET / HTTP/1.1\r\nX: ", "x"), ("GET / HTTP/1.1\r\n", "X: y\r\n")]
    {
        let text = format!("{start}{}", filler.repeat(400));
        assert!(whole(text.as_bytes()).2.is_some(), "{start:?} with endless {filler:?}");
        assert!(feed(text.as_bytes(), std::iter::repeat_n(1, text.len())).2.is_some());
    }
}

#[test]
fn nothing_after_a_refusal_is_accepted() {
    let mut machine = Machine::new(LIMITS);
    assert!(machine.step(b"GET / HTTP/1.1\n").refusal.is_some());
    let step = machine.step(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((step.accepted, step.refusal.is_some(), machine.phase()), (0, true, Phase::Refused));
}

#[test]
fn the_phase_says_what_is_waited_for() {
    let mut machine = Machine::new(LIMITS);
    assert_eq!(machine.phase(), Phase::Idle);
    let text = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    machine.step(&text[..5]);
    assert_eq!(machine.phase(), Phase::Head);
    machine.step(text);
    assert_eq!(machine.phase(), Phase::Body);
    machine.step(b"ab");
    assert_eq!(machine.phase(), Phase::Idle);
}

/// Pieces that are right, wrong and half right, to be strung together.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => Just("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        6 => Just("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned()),
        6 => Just("PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;e=1\r\nhello\r\n0\r\nT: 1\r\n\r\n".to_owned()),
        1 => "[ -~\r\n\t]{1,40}",
        1 => Just("\r\n".to_owned()),
        1 => Just("GET / HTTP/1.1\r\nHost: a\r\n".to_owned()),
        1 => Just("X: y\r\n\r\n".to_owned()),
        1 => Just("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
        1 => Just("3\r\nabc\r\n".to_owned()),
        1 => "GET /[a-z]{40,90} HTTP/1.1\r\nHost: a\r\n\r\n",
        1 => "GET / HTTP/1.1\r\nHost: a\r\nX: [a-z]{150,250}\r\n\r\n",
    ];
    proptest::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn cuts_between_reads_change_no_verdict(bytes in pieces(), cuts in proptest::collection::vec(1_usize..60, 0..60)) {
        let expected = whole(&bytes);
        prop_assert_eq!(feed(&bytes, cuts), expected);
        prop_assert_eq!(feed(&bytes, std::iter::repeat_n(1, bytes.len())), expected);
    }

    #[test]
    fn no_bytes_make_the_machine_panic_or_hold_back_without_bound(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000)
    ) {
        let (accepted, _, refusal) = whole(&bytes);
        prop_assert!(accepted <= bytes.len());
        prop_assert!(refusal.is_some() || bytes.len() - accepted <= TRAILER_BYTES_MAX + 2);
    }
}
