//! May a function send this request, and may it reach this address: pure
//! judgements over the entries of its `egress`.
//!
//! The list decides by scheme, host and port before any name is resolved, so
//! that a lookup tells nobody anything. Then each address decides: a public
//! one passes; a special one passes only where an entry names that address or
//! a network that lies within its block, for the same scheme and port. A name
//! never stands for a special address, whatever it resolves to.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use faas_model::manifest::{EgressRule, EgressScheme, Host, Hosts};

use super::address::{self, Block};
use super::error::Error;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) scheme: EgressScheme,
    pub(super) host: Host,
    pub(super) port: u16,
}

impl Target {
    /// Reads the target of a request.
    ///
    /// # Errors
    /// [`Error::Uri`] for whatever has more than one reading.
    pub(super) fn of(uri: &http::Uri) -> Result<Self, Error> {
        let scheme = match uri.scheme_str() {
            Some("http") => EgressScheme::Http,
            Some("https") => EgressScheme::Https,
            _ => return Err(Error::Uri("the scheme is http or https")),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).ok_or(Error::Uri("the host is missing"))?;
        if authority.contains('@') {
            return Err(Error::Uri("a user or a password is not part of a host"));
        }
        let end = authority.rfind(']').map_or(0, |at| at + 1);
        let colon = authority.get(end..).and_then(|rest| rest.find(':')).map(|at| end + at);
        let (host, port) = colon.map_or((authority, ""), |at| authority.split_at(at));
        let port = match port.strip_prefix(':') {
            None => scheme.port(),
            Some(digits) if !digits.starts_with(['+', '0']) => {
                digits.parse().map_err(|_| Error::Uri("the port is a number from 1 to 65535"))?
            }
            Some(_) => return Err(Error::Uri("the port is a number from 1 to 65535")),
        };
        Ok(Self { scheme, host: Host::parse(host).map_err(Error::Uri)?, port })
    }

    /// Returns the host, with its port where that is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// The entries of a function.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Vec<EgressRule>,
}

impl Policy {
    pub(super) fn new(rules: &BTreeSet<EgressRule>) -> Self {
        Self { rules: rules.iter().cloned().collect() }
    }

    /// Returns whether the list has an entry for the target. An empty list has none.
    pub(super) fn admits(&self, target: &Target) -> bool {
        self.for_target(target).any(|rule| match (rule.hosts(), &target.host) {
            (Hosts::Any, _) => true,
            (Hosts::Below(base), Host::Name(name)) => {
                name.strip_suffix(&**base).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (Hosts::Name(own), Host::Name(name)) => own == name,
            (Hosts::Network(net), Host::Address(address)) => net.contains(address),
            _ => false,
        })
    }

    /// Returns the address to connect to, IPv4 where it was mapped into IPv6.
    ///
    /// # Errors
    /// The block that makes the address, or one it carries, special where no entry names it.
    pub(super) fn judge(&self, target: &Target, address: IpAddr) -> Result<IpAddr, &'static Block> {
        let address = address.to_canonical();
        for form in address::forms(address) {
            if let Some(block) = address::special(form)
                && !self.names(target, form, block)
            {
                return Err(block);
            }
        }
        Ok(address)
    }

    /// Returns whether an entry names a special address: a network that is wider than the block
    /// (such as 0.0.0.0/0) was not written with these addresses in mind.
    fn names(&self, target: &Target, address: IpAddr, block: &Block) -> bool {
        self.for_target(target).any(|rule| match rule.hosts() {
            Hosts::Network(net) => net.contains(&address) && block.net.contains(net),
            _ => false,
        })
    }

    fn for_target(&self, target: &Target) -> impl Iterator<Item = &EgressRule> {
        let (scheme, port) = (target.scheme, target.port);
        self.rules.iter().filter(move |rule| rule.is_for(scheme, port))
    }
}

#[cfg(test)]
mod tests;
