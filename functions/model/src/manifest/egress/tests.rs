use proptest::prelude::*;

use super::*;

fn rule(text: &str) -> EgressRule {
    EgressRule::new(text).unwrap_or_else(|e| panic!("{e}"))
}

fn why(text: &str) -> String {
    match EgressRule::new(text) {
        Err(error) => error.to_string(),
        Ok(rule) => panic!("{text:?} was read as {rule}"),
    }
}

#[test]
fn every_form_reads_and_is_spelled_in_one_way() {
    let forms = [
        ("api.example.com", "api.example.com"),
        ("api.example.com:8443", "api.example.com:8443"),
        ("http://internal:8080", "http://internal:8080"),
        ("https://api.example.com", "https://api.example.com"),
        ("*.example.com", "*.example.com"),
        ("*", "*"),
        ("https://*:8443", "https://*:8443"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a-1.b2", "a-1.b2"),
        ("10.1.2.3:5432", "10.1.2.3:5432"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:8080", "10.0.0.0/8:8080"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("[2001:db8:0::1]:80", "[2001:db8::1]:80"),
        ("fd00::/8", "[fd00::]/8"),
        ("http://[fd00::]/8:8080", "http://[fd00::]/8:8080"),
        ("localhost:9000", "localhost:9000"),
        ("a:1", "a:1"),
        ("a:65535", "a:65535"),
    ];
    for (text, spelled) in forms {
        assert_eq!(rule(text).to_string(), spelled);
        assert_eq!(rule(spelled), rule(text), "the spelling reads as itself");
    }
}

#[test]
fn every_bad_form_is_told_what_is_wrong_with_it() {
    let long_label = format!("{}.com", "a".repeat(64));
    let long_name = format!("{}com", "a.".repeat(126));
    let long = "a".repeat(301);
    let cases = [
        ("", "write HOST"),
        (long.as_str(), "at most 300 bytes"),
        ("ftp://a.com", "http or https"),
        ("://a.com", "http or https"),
        ("HTTPS://a.com", "lower case"),
        ("Api.example.com", "lower case"),
        ("bücher.example", "xn--"),
        ("user:pass@a.com", "password"),
        ("user@a.com", "password"),
        ("https://a.com/", "no path"),
        ("a.com/v1", "no path"),
        ("a.com:80/v1", "without a path"),
        ("a.com?x", "one host"),
        ("a.com#x", "one host"),
        ("a.com b.com", "one host"),
        ("a.com,b.com", "one host"),
        ("a.com\n", "one host"),
        ("a.com\\b", "one host"),
        ("a.com.", "none at the end"),
        (".a.com", "labels"),
        ("a..com", "labels"),
        ("-a.com", "labels"),
        ("a-.com", "labels"),
        ("a_b.com", "labels"),
        (long_label.as_str(), "labels"),
        (long_name.as_str(), "labels"),
        ("a.com:", "1 to 65535"),
        ("a.com:0", "1 to 65535"),
        ("a.com:080", "1 to 65535"),
        ("a.com:+80", "1 to 65535"),
        ("a.com:65536", "1 to 65535"),
        ("a.com:http", "1 to 65535"),
        ("a.com:*", "1 to 65535"),
        ("*.*", "labels"),
        ("*a.com", "a star"),
        ("a.*.com", "a star"),
        ("a.com.*", "a star"),
        ("*.10.0.0.1", "last label"),
        ("127.1", "four decimal numbers"),
        ("2130706433", "four decimal numbers"),
        ("0x7f.1", "four decimal numbers"),
        ("0x7f000001", "four decimal numbers"),
        ("017700000001", "four decimal numbers"),
        ("010.0.0.1", "four decimal numbers"),
        ("1.2.3.4.5", "four decimal numbers"),
        ("256.1.1.1", "four decimal numbers"),
        ("example.1", "four decimal numbers"),
        ("10.1.2.3/8", "no bit set"),
        ("10.0.0.0/33", "longer than its addresses"),
        ("10.0.0.0/", "no path"),
        ("10.0.0.0/08", "no path"),
        ("10.0.0/8", "no path"),
        ("[fd00::1]/8", "no bit set"),
        ("[fe80::1%25eth0]", "zone"),
        ("fe80::1%eth0", "zone"),
        ("[::1", "in brackets"),
        ("::1]", "no IPv6"),
        ("[::1]x", "IPv6"),
        ("[127.0.0.1]", "IPv6"),
        ("::ffff:10.0.0.1", "written as IPv4"),
        ("[::ffff:a00:1]", "written as IPv4"),
        ("[::ffff:0.0.0.0]/96", "written as IPv4"),
        ("fd00::1:zz", "IPv6"),
    ];
    for (text, part) in cases {
        let message = why(text);
        assert!(message.contains(part) && message.len() < 400, "{text:?}: {message}");
    }
}

#[test]
fn without_a_port_an_entry_is_for_the_port_of_the_scheme() {
    use EgressScheme::{Http, Https};
    let is_for = |text: &str, scheme, port| rule(text).is_for(scheme, port);
    assert!(is_for("a.com", Http, 80) && is_for("a.com", Https, 443));
    assert!(!is_for("a.com", Http, 443) && !is_for("a.com", Https, 80) && !is_for("a.com", Https, 8443));
    assert!(is_for("a.com:8443", Http, 8443) && is_for("a.com:8443", Https, 8443));
    assert!(!is_for("a.com:8443", Https, 443));
    assert!(is_for("http://a.com", Http, 80) && !is_for("http://a.com", Https, 443));
    assert!(!is_for("https://a.com:80", Http, 80));
}

#[test]
fn a_host_of_a_request_has_one_reading() {
    let address = |text: &str| Host::parse(text).map(|h| matches!(h, Host::Address(_)));
    assert_eq!(Host::parse("API.Example.com"), Host::parse("api.example.com"));
    assert_eq!(Host::parse("[::ffff:127.0.0.1]"), Host::parse("127.0.0.1"), "a mapped address is its IPv4 address");
    assert_eq!((address("127.0.0.1"), address("[::1]"), address("localhost")), (Ok(true), Ok(true), Ok(false)));
    for odd in [
        "",
        ".",
        "a.",
        "127.1",
        "0",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "2130706433",
        "127.0.0.1.",
        "127.0.0.01",
        "::1",
        "[::1%lo]",
        "[::1%25lo]",
        "[127.0.0.1]",
        "[]",
        "[",
        "a b",
        "a%2eb",
        "a@b",
        "bücher.example",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "a/b",
        "a:80",
        "*",
        "*.a",
    ] {
        assert!(Host::parse(odd).is_err(), "{odd:?} was read as {:?}", Host::parse(odd));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn what_is_read_is_spelled_and_read_again(text in "(https?://)?[a-z0-9:.*/\\[\\]-]{0,24}") {
        if let Ok(rule) = EgressRule::new(&text) {
            prop_assert_eq!(EgressRule::new(&rule.to_string()), Ok(rule));
        }
    }

    #[test]
    fn no_text_panics_and_no_name_is_an_address_in_disguise(text in "\\PC{0,40}") {
        drop(EgressRule::new(&text));
        if let Ok(Host::Name(name)) = Host::parse(&text) {
            prop_assert!(name.rsplit('.').next().is_some_and(|last| last.as_bytes()[0].is_ascii_lowercase()));
        }
    }

    #[test]
    fn numbers_and_dots_are_an_address_of_four_numbers_or_nothing(text in "(0x)?[0-9a-f]{1,9}(\\.(0x)?[0-9]{1,3}){0,4}") {
        match Host::parse(&text) {
            Ok(Host::Address(IpAddr::V4(address))) => prop_assert_eq!(address.to_string(), text),
            Ok(Host::Address(IpAddr::V6(_))) => prop_assert!(false),
            // One label that begins with a letter, such as `cafe`.
            Ok(Host::Name(name)) => prop_assert!(!name.contains('.') && name.as_bytes()[0].is_ascii_lowercase()),
            Err(_) => {}
        }
    }
}
