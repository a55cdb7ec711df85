//! Identifiers of CQL: the only way by which a name gets into a statement.

use std::fmt;

/// Longest name of a keyspace that Cassandra takes.
pub(crate) const NAME_BYTES_MAX: usize = 48;

/// A name that is quoted wherever it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identifier(String);

/// Says which text is no name of a keyspace or datacenter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no valid name: use 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9 and '_' (a datacenter may also have '-' and '.')"
)]
pub struct IdentifierError {
    text: String,
}

impl Identifier {
    /// Takes a name.
    ///
    /// # Errors
    /// When it is empty, over 48 bytes, or has other characters than letters, digits and `_`.
    pub(crate) fn new(text: &str) -> Result<Self, IdentifierError> {
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Ok(Self(text.to_owned()));
        }
        Err(IdentifierError { text: text.chars().take(2 * NAME_BYTES_MAX).collect() })
    }

    /// Returns a table of the keyspace, both quoted.
    pub(crate) fn table(&self, table: &'static str) -> String {
        format!("{self}.\"{table}\"")
    }

    /// Returns the name without quotes, for a value that is bound.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// Returns the name of a datacenter as a literal.
///
/// # Errors
/// When it is empty, over 48 bytes, or has other characters than letters, digits, `_`, `-` and `.`.
pub(crate) fn datacenter(text: &str) -> Result<String, IdentifierError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
    if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return Ok(format!("'{text}'"));
    }
    Err(IdentifierError { text: text.chars().take(2 * NAME_BYTES_MAX).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_and_nothing_else_gets_through() {
        let name = Identifier::new("Faas_1").unwrap();
        assert_eq!((name.to_string(), name.table("item")), ("\"Faas_1\"".into(), "\"Faas_1\".\"item\"".into()));
        for bad in ["", "a\"b", "a;b", "a b", "ä", "a-b", "x\"; DROP KEYSPACE y; --"] {
            assert!(Identifier::new(bad).unwrap_err().to_string().contains("no valid name"), "{bad}");
        }
    }

    #[test]
    fn a_datacenter_is_a_literal_that_nothing_ends() {
        assert_eq!(datacenter("eu-west.1").unwrap(), "'eu-west.1'");
        for bad in ["", "dc'1", "dc 1", "dc\\1", &"d".repeat(49)] {
            assert!(datacenter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_holds_its_bound_at_the_edge() {
        for (bytes, fits) in [(1, true), (47, true), (48, true), (49, false), (10_000, false)] {
            assert_eq!(Identifier::new(&"a".repeat(bytes)).is_ok(), fits, "{bytes}");
        }
    }
}
