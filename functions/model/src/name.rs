//! One grammar for every name a user may choose, checked at the border.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The namespace used where none is given.
pub const NAMESPACE_DEFAULT: &str = "default";

/// The alias that triggers invoke.
pub const ALIAS_LIVE: &str = "live";

/// A checked name: `^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`, 1 to 63 bytes.
///
/// It is a DNS label that starts with a letter (RFC 1035 §2.3.1), so it is
/// safe in host names, log lines and command lines. No path is ever built
/// from one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Says which text is not a [`Name`] and what a name looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("name {shown:?} is not valid: use 1 to 63 of a-z, 0-9 and '-', first a letter, last not '-'")]
pub struct NameError {
    shown: String,
}

impl Name {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 63;

    /// Returns the checked name.
    ///
    /// # Errors
    /// [`NameError`] with the text, escaped and cut at 80 characters.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let valid = bytes.len() <= Self::BYTES_MAX
            && bytes.first().is_some_and(u8::is_ascii_lowercase)
            && edge(bytes.last())
            && bytes.iter().all(|b| edge(Some(b)) || *b == b'-');
        if valid { Ok(Self(text.into())) } else { Err(NameError { shown: text.chars().take(80).collect() }) }
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the namespace used where none is given.
    #[must_use]
    pub fn namespace_default() -> Self {
        Self(NAMESPACE_DEFAULT.into())
    }

    /// Returns the alias that triggers invoke.
    #[must_use]
    pub fn alias_live() -> Self {
        Self(ALIAS_LIVE.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A function in its namespace; tenancy is part of every key and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FunctionName {
    /// The tenant's namespace.
    pub namespace: Name,
    /// The function's name within it.
    pub name: Name,
}

impl FunctionName {
    /// Returns the function `name` of `namespace`.
    #[must_use]
    pub fn new(namespace: Name, name: Name) -> Self {
        Self { namespace, name }
    }

    /// Returns the function `name` of the default namespace.
    ///
    /// # Errors
    /// [`NameError`] as [`Name::new`].
    pub fn in_default(name: &str) -> Result<Self, NameError> {
        Ok(Self::new(Name::namespace_default(), Name::new(name)?))
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_grammar_pass() {
        for good in ["a", "orders", "a1", "a-b", "x--y", &"a".repeat(63)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = "a".repeat(64);
        let bad = [
            "",
            "-a",
            "a-",
            "1a",
            "A",
            "a_b",
            "a.b",
            "a/b",
            "..",
            "%2e",
            "a\0",
            "a b",
            "ä",
            "a\u{202e}b",
            ".git",
            "--help",
            "a\n",
            &long,
        ];
        for text in bad {
            assert!(Name::new(text).is_err(), "{text:?} was let in");
        }
    }

    #[test]
    fn serde_applies_the_grammar() {
        assert!(serde_json::from_str::<Name>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<Name>("\"No\"").is_err());
    }
}
