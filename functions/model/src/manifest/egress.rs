//! Where a function may send requests: the entries of `egress`.
//!
//! An entry is `[http://|https://]HOST[:PORT]`, at most 300 bytes; HOST is a
//! name, `*.NAME` (everything below it), `*` (every host), an address or a
//! network. Without a scheme it holds for both; without a port for the
//! scheme's own, 80 or 443. A name is never an address in disguise.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most entries of one function.
pub const EGRESS_ENTRIES_MAX: usize = 64;
/// Longest entry, in bytes.
const ENTRY_BYTES_MAX: usize = 300;
/// Longest host name, in bytes (RFC 1035 §2.3.4, without the dot at the end).
const NAME_BYTES_MAX: usize = 253;
/// Longest label of a name, in bytes.
const LABEL_BYTES_MAX: usize = 63;

const IPV6: &str = "an IPv6 address is written in brackets, [2001:db8::1], without a zone";

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EgressScheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl EgressScheme {
    /// Returns the scheme as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns the port where none is given.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// One host, as a request names it: in lower case, an IPv4-mapped address as IPv4.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name to be resolved.
    Name(Box<str>),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// Reads a host: a name, an IPv4 address in its four decimal numbers, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// A sentence that says what is wrong. Every other way to write an address
    /// (`127.1`, `0x7f.1`, `2130706433`, a zone, a dot at the end) is an error,
    /// so that no two readers can differ about it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').and_then(|a| a.parse::<Ipv6Addr>().ok());
            let address = address.ok_or(IPV6)?;
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = text.to_ascii_lowercase();
        check_name(&name)?;
        Ok(Self::Name(name.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// The hosts of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hosts {
    /// Every host, none of the special addresses.
    Any,
    /// Every name below this one, not the name itself.
    Below(Box<str>),
    /// This name.
    Name(Box<str>),
    /// The addresses of this network; one address is a network of its full length.
    Network(IpNet),
}

/// One entry of `egress`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EgressRule {
    /// The entry in its one spelling; first, so that rules are ordered by it.
    text: Box<str>,
    scheme: Option<EgressScheme>,
    hosts: Hosts,
    port: Option<u16>,
}

/// Says which entry is not an [`EgressRule`], and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("egress entry {entry:?} is not valid: {why}")]
pub struct EgressError {
    /// The entry, cut at 120 characters.
    entry: String,
    why: &'static str,
}

impl EgressRule {
    /// Reads an entry.
    ///
    /// # Errors
    /// [`EgressError`] says what is wrong with it and how to write it.
    pub fn new(text: &str) -> Result<Self, EgressError> {
        Self::parse(text).map_err(|why| EgressError { entry: text.chars().take(120).collect(), why })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        check_characters(text)?;
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(EgressScheme::Http), rest),
            Some(("https", rest)) => (Some(EgressScheme::Https), rest),
            Some(_) => return Err("the scheme is http or https"),
        };
        let (hosts, port) = hosts_and_port(rest)?;
        let text = spelled(scheme, &hosts, port).into();
        Ok(Self { text, scheme, hosts, port })
    }

    /// Returns the hosts.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Returns whether the entry is for this scheme and port.
    #[must_use]
    pub fn is_for(&self, scheme: EgressScheme, port: u16) -> bool {
        self.scheme.is_none_or(|own| own == scheme) && self.port.unwrap_or_else(|| scheme.port()) == port
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for EgressRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for EgressRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// Refuses what stands nowhere in an entry, with the reason people most likely need.
fn check_characters(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > ENTRY_BYTES_MAX {
        return Err("write HOST, HOST:PORT or https://HOST:PORT, at most 300 bytes");
    }
    if !text.is_ascii() {
        return Err("a name beyond ASCII is written in its ASCII form, xn--...");
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("write it in lower case");
    }
    if text.contains('@') {
        return Err("a user or a password is not part of a host");
    }
    if text.contains('%') {
        return Err("neither a zone nor percent signs are part of a host");
    }
    if text.bytes().any(|b| b <= b' ' || b == 0x7f || matches!(b, b'?' | b'#' | b'\\' | b',')) {
        return Err("one entry is one host; write HOST, HOST:PORT or https://HOST:PORT");
    }
    Ok(())
}

fn hosts_and_port(text: &str) -> Result<(Hosts, Option<u16>), &'static str> {
    // `2001:db8::1` and `fd00::/8` are the only forms with several colons and no bracket.
    let bare = !text.starts_with('[') && text.bytes().filter(|b| *b == b':').count() > 1;
    let (host, port) = if bare { (text, None) } else { split_port(text)? };
    Ok((hosts(host)?, port))
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let at = match text.rsplit_once(']') {
        // A colon within the brackets belongs to the address.
        Some((inner, after)) => after.find(':').map(|at| inner.len() + 1 + at),
        None if text.starts_with('[') => return Err(IPV6),
        None => text.find(':'),
    };
    let Some(at) = at else { return Ok((text, None)) };
    let (host, port) = text.split_at(at);
    let digits = port.get(1..).unwrap_or_default();
    let number = digits.parse::<u16>().ok().filter(|_| !digits.starts_with(['+', '0']));
    number.map(|port| (host, Some(port))).ok_or("the port is a number from 1 to 65535, without a path after it")
}

fn hosts(text: &str) -> Result<Hosts, &'static str> {
    if text == "*" {
        return Ok(Hosts::Any);
    }
    if let Some((address, length)) = text.split_once('/') {
        return network(address, length);
    }
    if text.contains(':') && !text.starts_with('[') {
        return one_address(text.parse::<Ipv6Addr>().map_err(|_| "this is no IPv6 address")?.into());
    }
    if let Some(name) = text.strip_prefix("*.") {
        check_name(name)?;
        return Ok(Hosts::Below(name.into()));
    }
    if text.contains('*') {
        return Err("a star stands alone, or first before a dot: *.example.com");
    }
    match Host::parse(text)? {
        Host::Name(name) => Ok(Hosts::Name(name)),
        // Not the canonical form that `Host` gives: a mapped address is refused, not rewritten.
        Host::Address(address) if text.starts_with('[') == address.is_ipv6() => one_address(address),
        Host::Address(_) => Err(MAPPED),
    }
}

const MAPPED: &str = "an IPv4 address or network is written as IPv4, not within IPv6";

fn one_address(address: IpAddr) -> Result<Hosts, &'static str> {
    if address.to_canonical() == address { Ok(Hosts::Network(address.into())) } else { Err(MAPPED) }
}

fn network(address: &str, length: &str) -> Result<Hosts, &'static str> {
    const NOT_A_NETWORK: &str = "no path belongs here; a network is written 10.0.0.0/8 or [fd00::]/8";
    let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let address = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => address.parse::<IpAddr>(),
    };
    let length = length.parse::<u8>().ok().filter(|l| l.to_string() == length);
    let (Ok(address), Some(length)) = (address, length) else { return Err(NOT_A_NETWORK) };
    let network = IpNet::new(address, length).map_err(|_| "the network is longer than its addresses")?;
    if network.trunc() != network {
        return Err("the address of a network has no bit set beyond its length: 10.0.0.0/8, not 10.1.2.3/8");
    }
    match address.to_canonical() == address {
        true => Ok(Hosts::Network(network)),
        false => Err(MAPPED),
    }
}

/// Checks a lower-case host name: labels of letters, digits and inner hyphens, the last of which
/// begins with a letter, so that no resolver can take it for an address.
fn check_name(name: &str) -> Result<(), &'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |l: &str| {
        (1..=LABEL_BYTES_MAX).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(inner)
    };
    if name.len() > NAME_BYTES_MAX || !name.split('.').all(label) {
        return Err("a name is labels of a-z, 0-9 and inner '-' between dots, none at the end");
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    if !last.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(
            "an address is four decimal numbers or IPv6 in brackets; the last label of a name begins with a letter",
        );
    }
    Ok(())
}

fn spelled(scheme: Option<EgressScheme>, hosts: &Hosts, port: Option<u16>) -> String {
    let hosts = match hosts {
        Hosts::Any => "*".to_owned(),
        Hosts::Below(name) => format!("*.{name}"),
        Hosts::Name(name) => name.to_string(),
        Hosts::Network(net) if net.prefix_len() == net.max_prefix_len() => Host::Address(net.addr()).to_string(),
        Hosts::Network(net) => format!("{}/{}", Host::Address(net.addr()), net.prefix_len()),
    };
    let scheme = scheme.map_or_else(String::new, |s| format!("{}://", s.as_str()));
    let port = port.map_or_else(String::new, |p| format!(":{p}"));
    format!("{scheme}{hosts}{port}")
}

#[cfg(test)]
mod tests;
