//! The head machine for `loadtest/fuzz`. Not in any other build.

use std::ops::Range;

use faas_model::Reason;

use super::machine::{Limits, Machine, Phase};

/// The bounds the machine is fuzzed with: small, so that short inputs meet them.
const LIMITS: Limits = Limits { uri_bytes_max: 64, header_bytes_max: 256, headers_max: 8 };

/// What the machine made of a stream of bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// How many bytes may be passed on.
    pub accepted: usize,
    /// Complete heads among them.
    pub heads: u64,
    /// Whether the bytes end between two messages.
    pub idle: bool,
    /// Why the rest is refused.
    pub refusal: Option<(Reason, &'static str)>,
}

/// Feeds `bytes`, cut into reads that end at each of `ends` and at the end of all.
///
/// # Panics
/// When the machine accepts what it was not given, or goes on after a refusal.
pub fn read(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> Reading {
    let mut machine = Machine::new(LIMITS);
    let mut accepted = 0;
    for end in ends.into_iter().chain([bytes.len()]) {
        let pending: Range<usize> = accepted..end.min(bytes.len()).max(accepted);
        let given = pending.len();
        let step = machine.step(bytes.get(pending).unwrap_or_default());
        assert!(step.accepted <= given, "accepted {} of {given} bytes", step.accepted);
        accepted += step.accepted;
        if step.refusal.is_some() {
            let after = machine.step(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!((after.accepted, after.refusal), (0, step.refusal), "a refusal is for good");
            break;
        }
    }
    Reading {
        accepted,
        heads: machine.heads(),
        idle: machine.phase() == Phase::Idle,
        refusal: machine.refusal().map(|refusal| (refusal.reason, refusal.detail)),
    }
}
