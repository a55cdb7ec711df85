use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::egress::address::{forms, special};

fn policy(entries: &[&str]) -> Policy {
    Policy::new(&entries.iter().map(|entry| EgressRule::new(entry).unwrap()).collect())
}

fn target(url: &str) -> Target {
    Target::of(&url.parse().unwrap()).unwrap_or_else(|e| panic!("{url}: {e}"))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Every special address with its kind, and neighbours that are public (no kind).
const ADDRESSES: &[(&str, &str)] = &[
    ("0.0.0.0", "this host"),
    ("0.255.255.255", "this host"),
    ("1.0.0.0", ""),
    ("1.1.1.1", ""),
    ("8.8.8.8", ""),
    ("9.255.255.255", ""),
    ("10.0.0.0", "private"),
    ("10.255.255.255", "private"),
    ("11.0.0.0", ""),
    ("100.63.255.255", ""),
    ("100.64.0.0", "carrier-grade NAT"),
    ("100.100.100.200", "carrier-grade NAT"),
    ("100.127.255.255", "carrier-grade NAT"),
    ("100.128.0.0", ""),
    ("126.255.255.255", ""),
    ("127.0.0.0", "loopback"),
    ("127.0.0.1", "loopback"),
    ("127.0.0.53", "loopback"),
    ("127.255.255.255", "loopback"),
    ("128.0.0.0", ""),
    ("168.63.129.15", ""),
    ("168.63.129.16", "cloud metadata"),
    ("169.253.255.255", ""),
    ("169.254.0.0", "link-local"),
    ("169.254.169.254", "link-local"),
    ("169.254.170.2", "link-local"),
    ("169.255.0.0", ""),
    ("172.15.255.255", ""),
    ("172.16.0.0", "private"),
    ("172.17.0.1", "private"),
    ("172.31.255.255", "private"),
    ("172.32.0.0", ""),
    ("192.0.0.0", "protocol assignments"),
    ("192.0.0.192", "protocol assignments"),
    ("192.0.1.0", ""),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4 relays"),
    ("192.167.255.255", ""),
    ("192.168.0.0", "private"),
    ("192.168.255.255", "private"),
    ("192.169.0.0", ""),
    ("198.17.255.255", ""),
    ("198.18.0.0", "benchmarks"),
    ("198.19.255.255", "benchmarks"),
    ("198.20.0.0", ""),
    ("198.51.100.7", "documentation"),
    ("203.0.113.7", "documentation"),
    ("223.255.255.255", ""),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.0", "reserved"),
    ("255.255.255.254", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "this host"),
    ("::1", "loopback"),
    ("::2", "IPv4-compatible"),
    ("::127.0.0.1", "IPv4-compatible"),
    ("::8.8.8.8", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:169.254.169.254", "link-local"),
    ("::ffff:10.0.0.1", "private"),
    ("::ffff:0.0.0.0", "this host"),
    ("::ffff:8.8.8.8", ""),
    ("::ffff:0:127.0.0.1", "unassigned"),
    ("64:ff9b::7f00:1", "loopback"),
    ("64:ff9b::10.0.0.1", "private"),
    ("64:ff9b::169.254.169.254", "link-local"),
    ("64:ff9b::8.8.8.8", ""),
    ("64:ff9b:0:1::8.8.8.8", "unassigned"),
    ("64:ff9b:1::8.8.8.8", "local NAT64"),
    ("64:ff9b:1:ffff:ffff::", "local NAT64"),
    ("100::1", "discarded"),
    ("2001::1", "Teredo"),
    ("2001:0:808:808::f7f7:f7f7", "Teredo"),
    ("2001:2::1", "benchmarks"),
    ("2001:20::1", "protocol assignments"),
    ("2001:1ff:ffff::", "protocol assignments"),
    ("2001:200::1", ""),
    ("2001:db8::1", "documentation"),
    ("2001:4860:4860::8888", ""),
    ("2002:7f00:1::", "6to4"),
    ("2002:808:808::1", "6to4"),
    ("2003::1", ""),
    ("2606:4700::1111", ""),
    ("2606:4700::5efe:7f00:1", "loopback"),
    ("2606:4700::200:5efe:a00:1", "private"),
    ("2606:4700::5efe:808:808", ""),
    ("2a00::1", ""),
    ("3fff::1", "documentation"),
    ("3fff:1000::1", ""),
    ("4000::1", "unassigned"),
    ("5f00::1", "unassigned"),
    ("8000::1", "unassigned"),
    ("fbff::1", "unassigned"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "private"),
    ("fdff:ffff::1", "private"),
    ("fe00::1", "unassigned"),
    ("fe80::1", "link-local"),
    ("febf::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
];

#[test]
fn every_special_address_is_refused_to_names_and_every_public_one_is_not() {
    assert!(ADDRESSES.len() >= 60);
    let (policy, target) = (policy(&["*", "api.example.com"]), target("https://api.example.com"));
    for (text, kind) in ADDRESSES {
        let judged = policy.judge(&target, address(text)).map_err(|block| block.kind);
        match kind.is_empty() {
            true => assert_eq!(judged, Ok(address(text).to_canonical()), "{text}"),
            false => assert_eq!(judged, Err(*kind), "{text}"),
        }
    }
}

#[test]
fn an_entry_that_names_the_address_permits_it_and_only_for_its_port() {
    for (text, kind) in ADDRESSES.iter().filter(|(_, kind)| !kind.is_empty()) {
        // An address that carries another one needs both to be named.
        let all = forms(address(text).to_canonical()).map(|form| format!("{}:8080", Host::Address(form)));
        let all: Vec<String> = all.collect();
        let named: Vec<&str> = all.iter().map(String::as_str).collect();
        let named = policy(&named);
        let judge = |url| named.judge(&target(url), address(text)).is_ok();
        assert!(judge("http://any.example:8080") && judge("https://any.example:8080"), "{text} ({kind})");
        assert!(!judge("http://any.example") && !judge("http://any.example:8081"), "{text} ({kind})");
    }
}

#[test]
fn a_network_permits_what_lies_in_one_special_block_and_no_more() {
    let judged = |entry: &str, to: &str| policy(&[entry]).judge(&target("http://db.internal"), address(to)).is_ok();
    assert!(judged("10.0.0.0/8", "10.1.2.3") && judged("10.1.0.0/16", "10.1.2.3"));
    assert!(!judged("10.1.0.0/16", "10.2.2.3") && !judged("10.0.0.0/8", "192.168.0.1"));
    assert!(judged("169.254.169.254", "169.254.169.254") && judged("[fd00::]/8", "fd12::1"));
    for wide in ["0.0.0.0/0", "[::]/0", "0.0.0.0/1", "8.0.0.0/5", "[::]/1", "[c000::]/2", "*", "db.internal"] {
        for special in ["10.1.2.3", "127.0.0.1", "::1", "fd00::1", "169.254.169.254"] {
            assert!(!judged(wide, special), "{wide} is no word about {special}");
        }
    }
    assert!(!judged("https://10.0.0.0/8", "10.1.2.3"), "the scheme is another");
    assert!(!judged("[64:ff9b::]/96", "64:ff9b::7f00:1"), "what it carries is not named");
    assert!(!judged("10.0.0.1", "2002:a00:1::"), "what carries it is not named");
    let both = policy(&["10.0.0.1", "[2002::]/16"]);
    assert!(both.judge(&target("http://a"), address("2002:a00:1::")).is_ok());
    assert!(both.judge(&target("http://a"), address("2002:a00:2::")).is_err());
}

#[test]
fn the_list_decides_by_scheme_host_and_port() {
    let admits = |entries: &[&str], url: &str| policy(entries).admits(&target(url));
    let cases: &[(&str, &str, bool)] = &[
        ("api.example.com", "https://api.example.com/v1?x", true),
        ("api.example.com", "http://api.example.com", true),
        ("api.example.com", "https://API.Example.COM", true),
        ("api.example.com", "https://api.example.com:443", true),
        ("api.example.com", "https://api.example.com:8443", false),
        ("api.example.com", "https://example.com", false),
        ("api.example.com", "https://x.api.example.com", false),
        ("api.example.com", "https://api.example.com.evil.test", false),
        ("api.example.com:8443", "https://api.example.com:8443", true),
        ("api.example.com:8443", "https://api.example.com", false),
        ("https://api.example.com", "http://api.example.com", false),
        ("http://internal:8080", "http://internal:8080", true),
        ("http://internal:8080", "https://internal:8080", false),
        ("*.example.com", "https://a.example.com", true),
        ("*.example.com", "https://a.b.example.com", true),
        ("*.example.com", "https://example.com", false),
        ("*.example.com", "https://badexample.com", false),
        ("*.example.com", "https://a.example.com.evil.test", false),
        ("*", "https://anything.test", true),
        ("*", "https://93.184.216.34", true),
        ("*", "https://anything.test:8443", false),
        ("10.1.2.3:5432", "http://10.1.2.3:5432", true),
        ("10.1.2.3:5432", "http://10.1.2.4:5432", false),
        ("10.0.0.0/8", "http://10.9.9.9", true),
        ("10.0.0.0/8", "http://11.0.0.0", false),
        ("10.0.0.0/8", "http://[::ffff:10.9.9.9]", true),
        ("10.0.0.0/8", "http://db.internal", false),
        ("[fd00::]/8", "http://[fd12::1]", true),
        ("[fd00::]/8", "http://[fe80::1]", false),
    ];
    for (entry, url, expected) in cases {
        assert_eq!(admits(&[entry], url), *expected, "{entry} {url}");
        assert!(!admits(&[], url), "an empty list allows nothing: {url}");
    }
}

#[test]
fn a_target_has_one_reading() {
    let refused = [
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://api.example.com./",
        "http://user@api.example.com/",
        "http://user:pass@api.example.com/",
        "http://api.example.com@127.0.0.1/",
        "http://api.example.com:0/",
        "http://api.example.com:080/",
        "http://api.example.com:99999/",
        "http://api_example.com/",
        "http://-api.example.com/",
        "http://[::1%25lo]/",
        "http://[127.0.0.1]/",
        "ftp://api.example.com/",
        "/only/a/path",
    ];
    let every = policy(&["*", "*:8080"]);
    for url in refused {
        // What `http` refuses to read never comes this far.
        if let Ok(uri) = url.parse::<http::Uri>() {
            let read = Target::of(&uri);
            assert!(matches!(read, Err(Error::Uri(_))), "{url}: {:?}", read.map(|t| every.admits(&t)));
        }
    }
    assert_eq!(target("https://a.test").authority(), "a.test");
    assert_eq!(target("https://a.test:443").authority(), "a.test");
    assert_eq!(target("http://a.test:443").authority(), "a.test:443");
    assert_eq!(target("http://[2001:db8::1]:8080").authority(), "[2001:db8::1]:8080");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_a_public_address_carries_is_public(bits in any::<u128>(), prefix in prop::sample::select(vec![
        0_u128, 0xffff << 32, 0x64_ff9b << 96, 0x64_ff9b_0001 << 80, 0x2001 << 112, 0x2002 << 112, 0x2606_4700 << 96,
        0xfe80 << 112, 0x5efe << 32 | 0x2a00 << 112,
    ]), keep in 0_u32..129) {
        // Random tails below the prefixes that matter.
        let tail = bits.checked_shr(128 - keep.min(127)).unwrap_or(0);
        let address = IpAddr::V6(Ipv6Addr::from_bits(prefix | tail));
        let all = policy(&["*"]);
        if let Ok(permitted) = all.judge(&target("http://a.test"), address) {
            prop_assert!(forms(permitted).all(|form| special(form).is_none()));
            prop_assert_eq!(permitted, address.to_canonical());
        }
    }

    #[test]
    fn an_ipv4_address_is_judged_alike_in_every_dress(bits in any::<u32>()) {
        let v4 = Ipv4Addr::from_bits(bits);
        let all = policy(&["*"]);
        let judge = |address: IpAddr| all.judge(&target("http://a.test"), address).is_ok();
        let plain = judge(v4.into());
        prop_assert_eq!(judge(v4.to_ipv6_mapped().into()), plain);
        prop_assert_eq!(judge(Ipv6Addr::from_bits(0x64_ff9b << 96 | u128::from(bits)).into()), plain);
        // Deprecated ways to carry it are special by themselves.
        prop_assert!(!judge(Ipv6Addr::from_bits(u128::from(bits)).into()));
        prop_assert!(!judge(Ipv6Addr::from_bits(0x2002 << 112 | u128::from(bits) << 80).into()));
        prop_assert!(!judge(Ipv6Addr::from_bits(0x2001 << 112 | u128::from(bits)).into()));
    }

    #[test]
    fn an_empty_list_admits_and_permits_nothing_special(bits in any::<u32>(), port in 1_u16..) {
        let none = policy(&[]);
        let address = IpAddr::V4(Ipv4Addr::from_bits(bits));
        let target = target(&format!("http://{address}:{port}"));
        prop_assert!(!none.admits(&target));
        prop_assert_eq!(none.judge(&target, address).is_ok(), special(address).is_none());
    }

    #[test]
    fn no_authority_panics_or_is_read_as_another(text in "[a-z0-9.:@%\\[\\]_-]{1,30}") {
        if let Ok(uri) = format!("http://{text}/").parse::<http::Uri>()
            && let Ok(read) = Target::of(&uri)
        {
            let again = Target::of(&format!("http://{}/", read.authority()).parse().unwrap()).unwrap();
            prop_assert_eq!(read, again);
        }
    }
}
