//! The credential of the control API: 256 random bits in a file of the
//! operator, and only their SHA-256 in memory.
//!
//! A presented token of any length up to the header bound is hashed and
//! compared in constant time. Neither form is ever logged.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use faas_model::Digest;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use uuid::Uuid;

pub mod share;

/// What every token of the whole server starts with, so that scanners find leaked ones.
const PREFIX: &str = "faas_root_";
/// Longest token file, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Checks presented tokens against the hash of this server's own, and of those that others share. Clones are one.
#[derive(Clone)]
pub struct Tokens {
    own: Digest,
    others: Arc<RwLock<Vec<Digest>>>,
}

/// Why there is no usable token file.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("the token file cannot be {doing}: {source}")]
    Io {
        /// `read` or `written`.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the token file does not hold a token: remove it, and the next start makes a new one")]
    Malformed,
}

impl Tokens {
    /// Returns the check for `token`.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self { own: Digest::of(token.as_bytes()), others: Arc::default() }
    }

    /// Returns whether the headers carry the token as `Authorization: Bearer TOKEN` (RFC 6750 §2.1),
    /// with as many spaces between as the sender likes (RFC 9110 §11.4).
    ///
    /// More than one `Authorization` header is refused.
    #[must_use]
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let bytes = value.as_bytes();
        let Some((scheme, mut token)) = bytes.split_at_checked(7) else { return false };
        while let Some(rest) = token.strip_prefix(b" ") {
            token = rest;
        }
        scheme.eq_ignore_ascii_case(b"bearer ") && self.is(token)
    }

    /// Returns whether `token` is one of the tokens, in a time that does not depend on which or on where it differs.
    #[must_use]
    pub fn is(&self, token: &[u8]) -> bool {
        let (given, others) = (Digest::of(token), self.others.read().unwrap_or_else(PoisonError::into_inner));
        let same = |one: &Digest| given.as_bytes().ct_eq(one.as_bytes());
        others.iter().fold(same(&self.own), |found, other| found | same(other)).into()
    }

    /// Returns the digest of this server's own token.
    pub(crate) fn own(&self) -> Digest {
        self.own
    }

    /// Takes the tokens that are shared, in place of those before.
    pub(crate) fn take(&self, others: Vec<Digest>) {
        *self.others.write().unwrap_or_else(PoisonError::into_inner) = others;
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// Reads the token of the file, or writes a fresh one (mode 0600) when there is none.
///
/// The file is written beside its place and renamed, so it is whole or absent.
///
/// # Errors
/// [`TokenError`] when the file cannot be used.
pub fn load_or_create(path: &Path) -> Result<Tokens, TokenError> {
    match read(path) {
        Ok(token) => Ok(Tokens::of(&token)),
        Err(TokenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(error),
    }
}

/// Reads the token of a file.
///
/// # Errors
/// [`TokenError`] when there is none.
pub fn read(path: &Path) -> Result<String, TokenError> {
    let failed = |source| TokenError::Io { doing: "read", source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim();
    if token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(TokenError::Malformed);
    }
    Ok(token.to_owned())
}

fn create(path: &Path) -> Result<Tokens, TokenError> {
    let failed = |source| TokenError::Io { doing: "written", source };
    let token = fresh();
    let beside = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    writeln!(file, "{token}").and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)?;
    Ok(Tokens::of(&token))
}

/// Returns `faas_root_<id>_<secret>`: 32 bits to name it by, 256 bits nobody guesses.
fn fresh() -> String {
    // A version 4 UUID holds 122 bits of the operating system's randomness; three of them fill the digest.
    let random: Vec<u8> = (0..3).flat_map(|_| Uuid::new_v4().into_bytes()).collect();
    let id = Uuid::new_v4().simple().to_string();
    format!("{PREFIX}{}_{}", id.get(..8).unwrap_or_default(), Digest::of(&random))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|v| (header::AUTHORIZATION, HeaderValue::from_str(v).unwrap()));
        values.collect()
    }

    #[test]
    fn a_first_start_writes_a_token_that_only_its_owner_reads_and_the_next_start_keeps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let token = read(&path).unwrap();
        assert!(token.starts_with("faas_root_"), "{}", token.len());
        assert_eq!(token.len(), "faas_root_".len() + 8 + 1 + 64);
        let again = load_or_create(&path).unwrap();
        assert!(again.is(token.as_bytes()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the file");
    }

    #[test]
    fn two_tokens_differ() {
        assert_ne!(fresh(), fresh());
    }

    #[test]
    fn an_empty_or_foreign_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "short", "a token with spaces in it"] {
            let path = dir.path().join("token");
            std::fs::write(&path, text).unwrap();
            assert!(matches!(load_or_create(&path), Err(TokenError::Malformed)), "{text:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn only_one_bearer_header_with_the_whole_token_passes() {
        let hash = Tokens::of("faas_root_1_secret");
        for good in ["Bearer faas_root_1_secret", "bearer faas_root_1_secret", "BEARER   faas_root_1_secret"] {
            assert!(hash.allows(&headers(&[good])), "{good}");
        }
        let twice = "Bearer faas_root_1_secret";
        assert!(!hash.allows(&headers(&[twice, twice])));
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer  ",
            "Basic faas_root_1_secret",
            "Bearer faas_root_1_secre",
            "Bearer\tfaas_root_1_secret",
            "Bearer \tfaas_root_1_secret",
            "Bearerfaas_root_1_secret",
            "faas_root_1_secret",
        ] {
            assert!(!hash.allows(&headers(&[bad])), "{bad}");
        }
        assert!(!hash.allows(&HeaderMap::new()));
    }
}
