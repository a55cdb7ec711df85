//! Judges the whole from outside: starts the real `faas` binary and real
//! servers, sends real requests, and counts what came back.
//!
//! **Never knows** the crates it judges; it speaks HTTP, AMQP and signals only.

pub mod broker;
pub mod bytes_of;
pub mod cpu;
pub mod http;
pub mod load;
pub mod platform;
pub mod samples;
