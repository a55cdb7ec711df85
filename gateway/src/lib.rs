//! Holds a request or a message, emits an event, answers or settles.
//!
//! **Never knows** instances, revisions' code, runtimes or the layout of state.
//!
//! Invariants: one answer per held request; a message is settled once, and only
//! after its outcome is durable; no byte after a malformed head is interpreted.

pub mod amqp;
pub mod front;
pub mod http;
