//! Who may come in, and to which namespace.

use std::fmt;
use std::sync::Arc;

use faas_model::{Digest, Name};
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;

/// Judges bearer tokens: a valid one gives its namespace.
#[derive(Clone)]
pub struct Auth(Arc<Check>);

type Check = dyn Fn(&str) -> Option<Name> + Send + Sync;

impl Auth {
    /// Lets tokens in that `check` gives a namespace.
    ///
    /// It is called once per request, so it is quick and compares in constant time.
    pub fn check(check: impl Fn(&str) -> Option<Name> + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// Lets the one token in whose SHA-256 is `digest`, to the default namespace.
    #[must_use]
    pub fn token_sha256(digest: [u8; 32]) -> Self {
        let namespace = Name::namespace_default();
        Self::check(move |token| {
            let same: bool = Digest::of(token.as_bytes()).as_bytes().ct_eq(&digest).into();
            same.then(|| namespace.clone())
        })
    }

    /// Returns the namespace of the request's token.
    pub(crate) fn namespace(&self, headers: &HeaderMap) -> Option<Name> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (value, None) = (values.next()?.to_str().ok()?, values.next()) else { return None };
        let (scheme, token) = value.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") { (self.0)(token.trim_start()) } else { None }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth")
    }
}
