//! Sizes and times as people write them in manifests: `"128MiB"`, `"30s"`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes; written `"64KiB"`, `"128MiB"`, `"1GiB"` or as a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A time in whole milliseconds; written `"250ms"`, `"30s"`, `"15m"`, `"1h"` or as a plain number of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl ByteSize {
    /// Returns `n` KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// Returns `n` MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl Millis {
    /// Returns `n` seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Self {
        Self(n * 1000)
    }

    /// Returns the time as a [`Duration`].
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

const BYTE_UNITS: &[(&str, u64)] = &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
const TIME_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// Reads `"<whole number><unit>"`; the longest unit that fits wins.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let best =
        units.iter().filter(|(_, factor)| value >= *factor && value.is_multiple_of(*factor)).max_by_key(|(_, f)| *f);
    match best {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(f, "{value}{}", units.iter().find(|(_, f)| *f == 1).map_or("", |(u, _)| *u)),
    }
}

struct Units {
    units: &'static [(&'static str, u64)],
    expected: &'static str,
}

impl de::Visitor<'_> for Units {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let plain = text.parse::<u64>().ok();
        plain.or_else(|| parse(text, self.units)).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }
}

macro_rules! unit_type {
    ($type:ident, $units:ident, $expected:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                show(self.0, $units, f)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Units { units: $units, expected: $expected }).map(Self)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(self.0)
            }
        }
    };
}

unit_type!(ByteSize, BYTE_UNITS, "a size such as 65536, \"64KiB\" or \"128MiB\"");
unit_type!(Millis, TIME_UNITS, "a time such as 250 (milliseconds), \"250ms\", \"30s\" or \"15m\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_people_write_them() {
        let size = |text: &str| serde_json::from_str::<ByteSize>(text).map(|s| s.0).ok();
        assert_eq!(size("\"128MiB\""), Some(128 << 20));
        assert_eq!(size("7"), Some(7));
        assert_eq!(size("\"7B\""), Some(7));
        for bad in [
            "\"128MB\"",
            "\"MiB\"",
            "-1",
            "\"1.5GiB\"",
            "\"99999999999999999999\"",
            "\"18446744073709551615GiB\"",
            "true",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
        let time = |text: &str| serde_json::from_str::<Millis>(text).map(|s| s.0).ok();
        assert_eq!(time("\"30s\""), Some(30_000));
        assert_eq!(time("\"15m\""), Some(900_000));
        assert_eq!(time("\"250ms\""), Some(250));
        assert_eq!(time("\"1d\""), None);
    }

    #[test]
    fn values_show_in_their_largest_whole_unit() {
        assert_eq!(ByteSize::mib(128).to_string(), "128MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000B");
        assert_eq!(Millis(90_000).to_string(), "90s");
        assert_eq!(Millis(0).to_string(), "0ms");
    }
}
