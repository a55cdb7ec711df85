//! The nouns of faas: names, digests, manifests, revisions, events, bodies,
//! reasons and the catalogue, as plain values.
//!
//! **Never knows** tokio, files, sockets, runtimes or stores. Everything here
//! is data and pure functions over it, so that every other crate can depend on
//! this one and this one on nobody.

mod body;
mod call;
mod catalogue;
mod digest;
pub mod event;
pub mod manifest;
mod name;
mod reason;
mod revision;
pub mod units;

pub use body::{Body, BodyError, Limited};
pub use call::{CallId, TriggerKind, headers};
pub use catalogue::{AliasSettings, AmqpBinding, Catalogue, Entry, RouteMatch};
pub use digest::{Digest, DigestParseError, Hasher, RevisionId};
pub use manifest::FunctionSpec;
pub use name::{ALIAS_LIVE, FunctionName, NAMESPACE_DEFAULT, Name, NameError};
pub use reason::{Component, Problem, Reason};
pub use revision::Revision;
