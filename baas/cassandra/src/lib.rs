//! The [`Store`](faas_store::Store) on Apache Cassandra 5.0, for users who outgrow one machine.
//!
//! **Never knows** functions, HTTP, buckets or documents: only partitions and rows.
//!
//! A partition of the seam is a partition of one table, so that lightweight transactions (Paxos) judge
//! its conditions and order its writes; nothing here elects a leader. Every write carries its own outcome
//! row, which makes a repeat harmless and an unknown outcome answerable. What lists partitions and what
//! finds changes is written *before* the write that it announces: a crash leaves an announcement too many,
//! which readers check, and never one too few.
//!
//! | table | what it holds |
//! |---|---|
//! | `item` | rows, the outcomes of writes, the change log; a partition each |
//! | `name` | names of partitions, to list them by prefix |
//! | `feed_slot`, `feed_part` | which partitions changed in which ten seconds |
//! | `schema` | which migrations ran |

mod config;
mod cql;
mod feed;
mod gate;
mod layout;
mod names;
mod plan;
mod reads;
mod schema;
mod session;
mod status;
mod store;
mod together;
mod writes;

pub use config::{Config, ConfigError};
pub use gate::BreakerState;
pub use schema::{MigrateError, Migrated, SCHEMA_VERSION, migrate};
pub use session::OpenError;
pub use status::{ASK_MAX, NodeStatus, Requests, Status};
pub use store::Cassandra;
