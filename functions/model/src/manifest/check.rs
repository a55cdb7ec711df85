//! The bounds of a manifest, each named in its error.

use super::{EGRESS_ENTRIES_MAX, FunctionSpec, ManifestError, Reuse, Scale, Triggers};
use crate::AliasSettings;
use crate::units::{ByteSize, Millis};

impl FunctionSpec {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`ManifestError::Bound`] with the key, the value and what is allowed.
    pub fn check(&self) -> Result<(), ManifestError> {
        let l = &self.limits;
        within("limits.memory", l.memory, ByteSize::kib(64), ByteSize::mib(4096), "64KiB to 4GiB")?;
        within("limits.cpu", l.cpu, Millis(10), Millis::seconds(900), "10ms to 15m")?;
        within("limits.request_bytes", l.request_bytes, ByteSize(0), ByteSize::mib(1024), "at most 1GiB")?;
        within("limits.response_bytes", l.response_bytes, ByteSize(0), ByteSize::mib(1024), "at most 1GiB")?;
        within("queue.depth", self.queue.depth, 0, 100_000, "0 to 100000")?;
        let (ms, day) = (Millis(1), Millis::seconds(24 * 3600));
        let t = &self.timeout;
        let times = [
            ("queue.wait", self.queue.wait),
            ("timeout.cold", t.cold),
            ("timeout.run", t.run),
            ("timeout.stream", t.stream),
            ("timeout.idle", t.idle),
            ("timeout.grace", t.grace),
            ("retry.min", self.retry.min),
            ("retry.max", self.retry.max),
        ];
        for (key, time) in times {
            within(key, time, ms, day, "1ms to 24h")?;
        }
        within("retry.attempts", self.retry.attempts, 1, 100, "1 to 100")?;
        within("number of env values", self.env.len(), 0, 100, "at most 100")?;
        for (key, value) in &self.env {
            let named = !key.is_empty() && key.len() <= 128 && !key.contains(['=', '\0']);
            if !named || value.len() > 4096 || value.contains('\0') {
                return Err(bound(
                    "env",
                    key,
                    "keys of 1 to 128 bytes without '=', values of at most 4096 bytes, no NUL",
                ));
            }
        }
        within("number of state buckets", self.state.len(), 0, 64, "at most 64")?;
        within("number of egress entries", self.egress.len(), 0, EGRESS_ENTRIES_MAX, "at most 64")?;
        if self.probe.as_ref().is_some_and(|p| !is_path(p)) {
            return Err(bound(
                "probe",
                self.probe.clone().unwrap_or_default(),
                "an absolute path of at most 1024 bytes",
            ));
        }
        self.trigger.check()
    }

    /// Checks what the settings of an alias must be for this spec.
    ///
    /// # Errors
    /// [`ManifestError::Bound`] for a concurrency that `reuse = "sequential"` cannot give. The
    /// default is no such demand, and means 1 there.
    pub fn check_with(&self, settings: &AliasSettings) -> Result<(), ManifestError> {
        let wanted = settings.scale.concurrency;
        if self.reuse == Reuse::Sequential && wanted != 1 && wanted != Scale::default().concurrency {
            let expected = "1 with reuse = \"sequential\": an instance takes one call at a time, \
                            and scale.max is how many run at once";
            return Err(bound("scale.concurrency", wanted, expected));
        }
        Ok(())
    }
}

impl AliasSettings {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`ManifestError::Bound`] with the key, the value and what is allowed.
    pub fn check(&self) -> Result<(), ManifestError> {
        let s = &self.scale;
        within("scale.max", s.max, 1, 1000, "1 to 1000")?;
        within("scale.min", s.min, 0, s.max, "at most scale.max")?;
        within("scale.concurrency", s.concurrency, 1, 1000, "1 to 1000")?;
        within("scale.idle", s.idle, Millis(1), Millis::seconds(24 * 3600), "1ms to 24h")
    }
}

impl Triggers {
    fn check(&self) -> Result<(), ManifestError> {
        within("number of http triggers", self.http.len(), 0, 32, "at most 32")?;
        within("number of amqp triggers", self.amqp.len(), 0, 32, "at most 32")?;
        for http in &self.http {
            let path = http.route.strip_suffix("/*").unwrap_or(&http.route);
            if !is_path(&http.route) || path.contains('*') {
                return Err(bound(
                    "trigger.http.route",
                    &http.route,
                    "an absolute path, a '*' only as its last segment",
                ));
            }
            if path == "/function" || path.starts_with("/function/") || path.starts_with("/async-function") {
                return Err(bound("trigger.http.route", &http.route, "not below /function or /async-function"));
            }
            for host in &http.hosts {
                let labels = host.split('.').all(|l| {
                    !l.is_empty()
                        && l.len() <= 63
                        && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                });
                if host.len() > 253 || !labels {
                    return Err(bound("trigger.http.hosts", host, "a lower-case host name without port"));
                }
            }
            for method in &http.methods {
                if method.is_empty() || method.len() > 20 || !method.bytes().all(|b| b.is_ascii_uppercase()) {
                    return Err(bound("trigger.http.methods", method, "upper-case methods such as GET"));
                }
            }
        }
        for amqp in &self.amqp {
            within("trigger.amqp.prefetch", amqp.prefetch, 1, 1000, "1 to 1000")?;
            let names = [Some(&amqp.queue), amqp.exchange.as_ref(), amqp.dead_letter_exchange.as_ref()];
            for name in names.into_iter().flatten().chain(&amqp.bindings) {
                // 255 is AMQP's bound for a short string; the tiers' names need room for a suffix.
                if name.is_empty() || name.len() > 200 || name.starts_with("amq.") || name.contains(char::is_control) {
                    return Err(bound("trigger.amqp name", name, "1 to 200 bytes, not amq.*, no control characters"));
                }
            }
            within("number of trigger.amqp.bindings", amqp.bindings.len(), 0, 64, "at most 64")?;
        }
        Ok(())
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= 1024
        && text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'?' && b != b'#')
}

pub(super) fn bound(key: &'static str, value: impl ToString, expected: &'static str) -> ManifestError {
    ManifestError::Bound { key, value: value.to_string().chars().take(120).collect(), expected }
}

fn within<T: PartialOrd + ToString>(
    key: &'static str,
    value: T,
    min: T,
    max: T,
    expected: &'static str,
) -> Result<(), ManifestError> {
    if value < min || value > max { Err(bound(key, value, expected)) } else { Ok(()) }
}
