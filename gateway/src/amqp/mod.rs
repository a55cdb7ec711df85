//! The message trigger: one consumer for each queue that a live revision names.
//!
//! A message becomes `POST /` in CloudEvents binary mode, goes the same way as
//! an HTTP request ([`Dispatch`](faas_invoke::Dispatch)), and is settled by its
//! outcome ([`settle`]). Invariants: it leaves the queue only after its outcome
//! is durable; no message stops a consumer; a consumer has at most `prefetch`
//! calls; a lost broker costs redeliveries, never messages.

mod attempt;
mod backoff;
mod config;
pub mod conformance;
mod consumer;
mod convert;
mod delivery;
mod memory;
mod meters;
pub mod queue;
mod rabbit;
mod settle;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;

pub use config::{Broker, BrokerUrl, BrokerUrlError, Config};
pub use convert::{Event, Source, TYPE_DEFAULT};
pub use memory::MemoryQueue;
pub use queue::{Channel, Queue};
#[cfg(fuzzing)]
pub use rabbit::fuzz;
pub use rabbit::{PUBLISHERS_MAX, RabbitQueue};
pub use settle::{Death, Outcome, Past, Settlement, TIERS_MS, settle, tier_ms};
pub use status::{ConsumerId, State, StatusBoard};
pub use supervisor::{Consumers, Link, start, start_on};
