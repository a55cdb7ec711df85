//! What the application needs of a key-value store.

use std::fmt;

/// The two buckets of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// Orders taken by HTTP; the key is the order's id.
    Orders,
    /// Orders taken by message; the key is the event's identity.
    Events,
}

impl Bucket {
    /// Returns the name under which the manifest grants the bucket.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Events => "order-events",
        }
    }
}

/// Why the store did not do what was asked. Whether a write happened is then not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateError {
    /// The manifest does not grant the bucket.
    NotGranted(Bucket),
    /// The store failed; the same call may be made again.
    Unavailable(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted(bucket) => write!(f, "the manifest does not grant the bucket {}", bucket.name()),
            Self::Unavailable(why) => write!(f, "the store failed: {why}"),
        }
    }
}

/// One page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys, in no promised order.
    pub keys: Vec<String>,
    /// Where the next page starts; none after the last.
    pub next: Option<String>,
}

/// Buckets of keys with values.
pub trait State {
    /// Returns a value.
    ///
    /// # Errors
    /// [`StateError`]
    fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// Writes `value` if the key does not exist and returns none; otherwise
    /// changes nothing and returns what is there. Of many at once exactly one creates.
    ///
    /// # Errors
    /// [`StateError`]; the key may have been created all the same.
    fn create(&self, bucket: Bucket, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Returns a page of keys, from the start or from a page's [`Page::next`].
    ///
    /// # Errors
    /// [`StateError`]
    fn keys(&self, bucket: Bucket, from: Option<&str>) -> Result<Page, StateError>;

    /// Returns the values of keys, in their order.
    ///
    /// # Errors
    /// [`StateError`]
    fn get_many(&self, bucket: Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StateError>;
}
