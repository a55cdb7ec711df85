//! Which addresses are special: not of the public internet, so that a function
//! reaches one only where its list names it.
//!
//! The tables follow IANA's registries of special-purpose addresses (RFC 6890,
//! as of 2025). An IPv6 address that carries an IPv4 address is judged by both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

/// A block of special addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its addresses.
    pub(super) net: IpNet,
    /// What they are for, as it is told.
    pub(super) kind: &'static str,
}

/// The narrower block first where two overlap.
const BLOCKS: &[(&str, &str)] = &[
    ("0.0.0.0/8", "this host"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    // The agent of Azure's machines; a public address that is none.
    ("168.63.129.16/32", "cloud metadata"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "6to4 relays"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarks"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "this host"),
    ("::1/128", "loopback"),
    ("::/96", "IPv4-compatible"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("100::/64", "discarded"),
    ("2001::/32", "Teredo"),
    ("2001:2::/48", "benchmarks"),
    ("2001:db8::/32", "documentation"),
    ("2001::/23", "protocol assignments"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
    // What is not 2000::/3 is no global unicast address, known NAT64 aside.
    ("::/3", "unassigned"),
    ("4000::/2", "unassigned"),
    ("8000::/1", "unassigned"),
];

/// Carries an IPv4 address to networks without IPv4 (RFC 6052); judged by that address alone.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

static TABLE: LazyLock<Vec<Block>> = LazyLock::new(|| {
    let block = |(net, kind): &(&str, &'static str)| Block { net: net.parse().expect("a block of the table"), kind };
    BLOCKS.iter().map(block).collect()
});

/// Returns the block that makes an address special; `None` for one of the public internet.
/// Judges this very address, not what it carries.
pub(super) fn special(address: IpAddr) -> Option<&'static Block> {
    if matches!(address, IpAddr::V6(v6) if is_nat64(v6)) {
        return None;
    }
    TABLE.iter().find(|block| block.net.contains(&address))
}

/// Returns every address that is reached by connecting to `address`: itself, and the IPv4
/// addresses it carries.
pub(super) fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let carried = match address {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(v6) => carried(v6),
    };
    std::iter::once(address).chain(carried.into_iter().flatten().map(IpAddr::V4))
}

fn is_nat64(address: Ipv6Addr) -> bool {
    address.to_bits() >> 32 == NAT64.to_bits() >> 32
}

/// Returns the IPv4 addresses within an IPv6 address.
fn carried(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let bits = address.to_bits();
    let at = |shift: u32| Some(Ipv4Addr::from_bits(u32::try_from(bits >> shift & 0xffff_ffff).unwrap_or_default()));
    let last = at(0);
    match address.segments() {
        // ::1 and :: carry nothing; their own blocks say what they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => [last, None],
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [last, None],
        // Its length is the network's choice: as /96, and as /48 around the bits 64 to 71 (RFC 6052 §2.2).
        [0x64, 0xff9b, 1, high, low, next, ..] => {
            let [low, next] = [low.to_be_bytes()[1], next.to_be_bytes()[0]];
            let [a, b] = high.to_be_bytes();
            [last, Some(Ipv4Addr::new(a, b, low, next))]
        }
        [0x2002, ..] => [at(80), None],
        // Teredo: the server, and the client with its bits turned over (RFC 4380 §4).
        [0x2001, 0, ..] => [at(64), last.map(|client| Ipv4Addr::from_bits(!client.to_bits()))],
        // ISATAP (RFC 5214 §6.1), in any network.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [last, None],
        _ => [None, None],
    }
}
