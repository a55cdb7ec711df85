//! The way of a broker's bytes to a message for `loadtest/fuzz`. Not in any other build.

use lapin::message::Delivery as Incoming;
use lapin::types::ShortString;

use super::super::queue::{Delivery, Message};
use super::{guard, values};

/// Largest content header that is handed on to the library.
pub const HEADER_MAX: usize = guard::HEADER_MAX;

/// Feeds `bytes` to the frame filter, cut into reads that end at each of `ends` and at the end of all.
/// Returns what leaves it, and whether a frame was too large.
pub fn filter(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> (Vec<u8>, bool) {
    let (mut guard, mut out, mut from) = (guard::Guard::default(), Vec::new(), 0);
    for end in ends.into_iter().chain([bytes.len()]) {
        let end = end.min(bytes.len()).max(from);
        if guard.feed(bytes.get(from..end).unwrap_or_default(), &mut out).is_err() {
            return (out, true);
        }
        from = end;
    }
    (out, false)
}

/// Returns the delivery of a message with these properties.
#[must_use]
pub fn delivery(properties: lapin::BasicProperties, data: Vec<u8>) -> Delivery {
    let none = ShortString::default();
    values::delivery(Incoming { properties, data, ..Incoming::mock(1, none.clone(), none, false, Vec::new()) })
}

/// Returns the properties that `message` is published with on a connection of this frame size.
#[must_use]
pub fn properties(message: &Message, frame_max: usize) -> lapin::BasicProperties {
    values::properties(message, frame_max)
}
