//! Judges the whole from outside: starts the real `faas` binary and real
//! servers, sends real requests, and counts what came back.
//!
//! **Never knows** the crates it judges; it speaks HTTP, AMQP and signals only.

pub mod arrivals;
pub mod azure;
pub mod broker;
pub mod bytes_of;
pub mod cassandra;
pub mod connections;
pub mod contend;
pub mod cpu;
pub mod history;
pub mod hostile;
pub mod http;
pub mod keep_alive;
pub mod latency;
pub mod linear;
pub mod load;
pub mod machine;
pub mod open_loop;
pub mod outcome;
pub mod pace;
pub mod plan;
pub mod platform;
pub mod ratios;
pub mod runner;
pub mod samples;
pub mod scenario;
pub mod tally;
pub mod target;
pub mod watch;
