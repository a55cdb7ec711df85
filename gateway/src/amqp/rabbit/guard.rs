//! A filter in front of the AMQP library's parser: every frame that leaves it can be read.
//!
//! The library parses header tables by recursion on a thread of 2 MiB, so a
//! table nested some thousand levels deep ends the whole process, and text
//! that is not UTF-8 ends the connection; both come back with the redelivery.
//! Content headers like that are replaced by ones that say so and carry the
//! original as bytes; the message then arrives, as malformed.
//!
//! Never buffers more than one method or header frame of [`FRAME_MAX`] bytes;
//! body frames pass as they come.

use super::super::queue::NESTING_MAX;
use super::table::TABLE_MAX;

/// Header that names the fault of a replaced content header.
pub(super) const FAULT: &str = "x-faas-fault";
/// Header that carries the original properties, as the broker sent them.
pub(super) const ORIGINAL: &str = "x-faas-original-properties";

/// Largest method or header frame that is read; a larger one breaks the connection.
const FRAME_MAX: usize = 4 << 20;
/// Largest content header that is handed on; the negotiated frame size is not below it.
pub(super) const HEADER_MAX: usize = 108 << 10;
/// Largest properties that are kept as bytes; they are published again, with what a dead letter tells.
const ORIGINAL_MAX: usize = TABLE_MAX - (4 << 10);
const FRAME_METHOD: u8 = 1;
const FRAME_HEADER: u8 = 2;
const FRAME_BODY: u8 = 3;
const FRAME_HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;
const FRAME_HEAD: usize = 7;

/// The frame machine: bytes in, readable bytes out.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// The head of a frame, or a whole method or header frame, as far as it came.
    pending: Vec<u8>,
    /// Bytes of a body frame that still pass.
    passing: usize,
    /// The other side speaks no AMQP 0-9-1: the library says so itself.
    foreign: bool,
}

/// A frame is too large to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Guard {
    /// Takes what the broker sent and appends what may be parsed.
    pub(super) fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
        while !input.is_empty() {
            if self.foreign {
                out.extend_from_slice(input);
                return Ok(());
            }
            if self.passing > 0 {
                let (now, rest) = input.split_at(self.passing.min(input.len()));
                out.extend_from_slice(now);
                self.passing -= now.len();
                input = rest;
                continue;
            }
            let wanted = self.wanted()?;
            let (now, rest) = input.split_at(wanted.saturating_sub(self.pending.len()).min(input.len()));
            self.pending.extend_from_slice(now);
            input = rest;
            self.advance(out)?;
        }
        Ok(())
    }

    /// The length `pending` has to reach before it can be decided upon.
    fn wanted(&self) -> Result<usize, TooLarge> {
        match head(&self.pending) {
            None => Ok(FRAME_HEAD),
            Some((_, size)) if size > FRAME_MAX => Err(TooLarge),
            Some((_, size)) => Ok(FRAME_HEAD + size + 1),
        }
    }

    fn advance(&mut self, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let Some((kind, size)) = head(&self.pending) else { return Ok(()) };
        match kind {
            FRAME_BODY | FRAME_HEARTBEAT => {
                out.append(&mut self.pending);
                self.passing = size + 1;
            }
            FRAME_METHOD | FRAME_HEADER if self.pending.len() == self.wanted()? => {
                let mut frame = std::mem::take(&mut self.pending);
                if kind == FRAME_HEADER {
                    check_header(&mut frame)
                } else {
                    check_method(&mut frame)
                }
                out.append(&mut frame);
            }
            FRAME_METHOD | FRAME_HEADER => {}
            _ => {
                out.append(&mut self.pending);
                self.foreign = true;
            }
        }
        Ok(())
    }
}

fn head(frame: &[u8]) -> Option<(u8, usize)> {
    let (head, _) = frame.split_first_chunk::<FRAME_HEAD>()?;
    let [kind, _, _, a, b, c, d] = *head;
    Some((kind, usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX)))
}

/// `basic.deliver` and `basic.return` carry an exchange and a routing key that any publisher chose.
fn check_method(frame: &mut [u8]) {
    let Some(payload) = frame.get_mut(FRAME_HEAD..) else { return };
    match payload.first_chunk::<4>() {
        Some([0, 60, 0, 50 | 60]) => {}
        _ => return,
    }
    // Names are only looked at by people; the length stays and every foreign byte becomes '?'.
    if std::str::from_utf8(payload.get(4..payload.len().saturating_sub(1)).unwrap_or_default()).is_err() {
        replace_names(payload);
    }
}

fn replace_names(payload: &mut [u8]) {
    let deliver = payload.get(3) == Some(&60);
    // deliver: consumer tag, delivery tag (8), redelivered (1), exchange, key; return: code (2), text, exchange, key.
    let gaps: [usize; 3] = if deliver { [4, 9, 0] } else { [6, 0, 0] };
    let mut at = 0;
    for gap in gaps {
        at += gap;
        let length = usize::from(payload.get(at).copied().unwrap_or_default());
        at += 1;
        let Some(name) = payload.get_mut(at..at + length) else { return };
        if std::str::from_utf8(name).is_err() {
            name.iter_mut().filter(|b| !b.is_ascii()).for_each(|b| *b = b'?');
        }
        at += length;
    }
}

fn check_header(frame: &mut Vec<u8>) {
    let payload = frame.get(FRAME_HEAD..frame.len().saturating_sub(1)).unwrap_or_default();
    // class (2), weight (2), body size (8), then flags and properties
    let Some((fixed, properties)) = payload.split_first_chunk::<12>() else { return };
    let fault = if properties.len() > HEADER_MAX { Err("headers over 108 KiB") } else { check_properties(properties) };
    let Err(fault) = fault else { return };
    let mut table = Vec::new();
    field(&mut table, FAULT, b'S', fault.as_bytes());
    if properties.len() <= ORIGINAL_MAX {
        field(&mut table, ORIGINAL, b'x', properties);
    }
    let mut payload = fixed.to_vec();
    payload.extend_from_slice(&(1_u16 << 13).to_be_bytes());
    payload.extend_from_slice(&length(table.len()));
    payload.append(&mut table);
    frame.truncate(3);
    frame.extend_from_slice(&length(payload.len()));
    frame.append(&mut payload);
    frame.push(FRAME_END);
}

fn field(table: &mut Vec<u8>, key: &str, kind: u8, value: &[u8]) {
    table.push(u8::try_from(key.len()).unwrap_or_default());
    table.extend_from_slice(key.as_bytes());
    table.push(kind);
    table.extend_from_slice(&length(value.len()));
    table.extend_from_slice(value);
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or_default().to_be_bytes()
}

/// Reads over bytes; every step may find them too short.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

const SHORT: &str = "properties end too early";

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        self.take(1)?.first().copied().ok_or(SHORT)
    }

    fn u32(&mut self) -> Result<usize, &'static str> {
        let bytes = self.take(4)?.first_chunk::<4>().copied().ok_or(SHORT)?;
        usize::try_from(u32::from_be_bytes(bytes)).map_err(|_| SHORT)
    }

    fn short_text(&mut self) -> Result<(), &'static str> {
        let length = self.u8()?;
        let text = self.take(usize::from(length))?;
        std::str::from_utf8(text).map(|_| ()).map_err(|_| "a property or header name is not UTF-8")
    }
}

/// Walks the properties of the class `basic` (AMQP 0-9-1 §4.2.6.1) without recursion.
fn check_properties(properties: &[u8]) -> Result<(), &'static str> {
    let mut cursor = Cursor(properties);
    let flags = cursor.take(2)?.first_chunk::<2>().copied().ok_or(SHORT)?;
    let flags = u16::from_be_bytes(flags);
    // From bit 15 down: types of the 14 properties, s short text, t table, b byte, q eight bytes.
    for (bit, kind) in (2..=15_u16).rev().zip("sstbbssssqssss".chars()) {
        if flags & (1 << bit) == 0 {
            continue;
        }
        match kind {
            's' => cursor.short_text()?,
            't' => {
                let length = cursor.u32()?;
                check_table(cursor.take(length)?)?;
            }
            'b' => cursor.take(1).map(|_| ())?,
            _ => cursor.take(8).map(|_| ())?,
        }
    }
    if flags & 3 != 0 || !cursor.0.is_empty() { Err("properties of an unknown kind") } else { Ok(()) }
}

/// Walks a field table; nested ones wait on an explicit stack.
fn check_table(table: &[u8]) -> Result<(), &'static str> {
    let mut stack = vec![(Cursor(table), true)];
    while let Some((cursor, named)) = stack.last_mut() {
        if cursor.0.is_empty() {
            stack.pop();
            continue;
        }
        if *named {
            cursor.short_text()?;
        }
        let bytes = match cursor.u8()? {
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'V' => 0,
            b'S' | b'x' => cursor.u32()?,
            kind @ (b'A' | b'F') => {
                let length = cursor.u32()?;
                let inner = Cursor(cursor.take(length)?);
                if stack.len() > NESTING_MAX {
                    return Err("headers are nested over 16 levels deep");
                }
                stack.push((inner, kind == b'F'));
                continue;
            }
            _ => return Err("a header value has an unknown type"),
        };
        cursor.take(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
