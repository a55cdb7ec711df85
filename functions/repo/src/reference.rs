//! How people name a revision: by version number or by the beginning of its id.

use std::fmt;
use std::str::FromStr;

use faas_model::Revision;

use crate::RepoError;

/// Digits from which on an all-digit text is the beginning of an id, not a version number.
const ID_DIGITS_SHOWN: usize = 12;
/// Shortest beginning of an id.
const ID_DIGITS_MIN: usize = 4;

/// A version number (`3`) or the first 4 to 64 hex digits of a revision id.
///
/// A text of digits alone is a number, unless it has the 12 digits that ids are shown with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RevisionRef {
    /// The number within the function.
    Version(u64),
    /// The beginning of the id, lower-case hex.
    Id(String),
}

/// Says which text names no revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revision {shown:?} is neither a version number nor 4 to 64 hex digits of an id")]
pub struct RevisionRefError {
    shown: String,
}

impl FromStr for RevisionRef {
    type Err = RevisionRefError;

    fn from_str(text: &str) -> Result<Self, RevisionRefError> {
        let wrong = || RevisionRefError { shown: text.chars().take(80).collect() };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits && text.len() < ID_DIGITS_SHOWN {
            return text.parse().map(Self::Version).map_err(|_| wrong());
        }
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && (ID_DIGITS_MIN..=64).contains(&text.len()) { Ok(Self::Id(text.into())) } else { Err(wrong()) }
    }
}

impl fmt::Display for RevisionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(number) => write!(f, "version {number}"),
            Self::Id(prefix) => write!(f, "revision {prefix}"),
        }
    }
}

impl RevisionRef {
    /// Returns the one of `revisions` that this names.
    ///
    /// # Errors
    /// `NotFound`, or `Ambiguous` when several ids begin so.
    pub fn pick<'r>(&self, revisions: &'r [Revision]) -> Result<&'r Revision, RepoError> {
        let named = |r: &&Revision| match self {
            Self::Version(number) => r.version == *number,
            Self::Id(prefix) => r.id.to_string().starts_with(prefix.as_str()),
        };
        let mut found = revisions.iter().filter(named);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(RepoError::NotFound(self.to_string())),
            (Some(_), Some(_)) => Err(RepoError::Ambiguous(self.to_string())),
        }
    }
}
