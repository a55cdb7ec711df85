//! What becomes of a message after a try: a pure function of the outcome, the
//! tries so far and the function's retry policy.
//!
//! Never more than `retry.attempts` tries are counted; a refusal of the
//! platform is no try.

use std::time::Duration;

use faas_model::Reason;
use faas_model::manifest::Retry;

/// The pauses there are queues for; a longer pause is made of several.
pub const TIERS_MS: [u64; 7] = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000];

/// How one try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered to the end.
    Status {
        /// Its status code.
        status: u16,
        /// The pause it asked for (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The platform refused or the function gave no whole answer.
    Failed(Reason),
    /// The message can be made into no event.
    Malformed(&'static str),
}

/// Why a message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It can be made into no event.
    Malformed,
    /// The function answered with a status that no retry changes.
    Rejected,
    /// The function answered with a status that asks for a retry, at its last try.
    AttemptsExhausted,
    /// The platform's reason: of a refusal that no retry changes, or of the last try.
    Failed(Reason),
}

impl Death {
    /// Returns the value of the header `x-faas-reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Failed(reason) => reason.as_str(),
        }
    }
}

/// What to do with the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// Try again after the pause; this try counts.
    Retry {
        /// How long to wait.
        pause: Duration,
    },
    /// Publish it to the dead-letter exchange, then acknowledge.
    DeadLetter {
        /// Why.
        death: Death,
        /// The status of the last answer, or the status of the platform's reason.
        status: Option<u16>,
    },
    /// Try again after the pause; this was no try.
    Hold {
        /// How long to wait.
        pause: Duration,
    },
    /// The platform stops: give it back to the queue.
    Return,
}

/// How often the message was tried and refused before this outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    /// Counted tries.
    pub attempts: u32,
    /// Refusals by the platform since the last counted try.
    pub refusals: u32,
}

/// Decides. `past` does not include the try that ended with `outcome`.
#[must_use]
pub fn settle(outcome: &Outcome, past: Past, policy: &Retry) -> Settlement {
    match outcome {
        Outcome::Status { status: 200..=299, .. } => Settlement::Ack,
        Outcome::Status { status: status @ (404 | 408 | 409 | 425 | 429 | 500..=599), retry_after } => {
            again(Death::AttemptsExhausted, *status, *retry_after, past, policy)
        }
        Outcome::Status { status, .. } => Settlement::DeadLetter { death: Death::Rejected, status: Some(*status) },
        Outcome::Malformed(_) => Settlement::DeadLetter { death: Death::Malformed, status: None },
        Outcome::Failed(reason) => failed(*reason, past, policy),
    }
}

/// Returns what a message dies of whose last try ended with `outcome`, and with which status.
#[must_use]
pub(super) fn death(outcome: &Outcome) -> (Death, Option<u16>) {
    match outcome {
        Outcome::Status { status, .. } => (Death::AttemptsExhausted, Some(*status)),
        Outcome::Failed(reason) => (Death::Failed(*reason), Some(reason.status().as_u16())),
        Outcome::Malformed(_) => (Death::Malformed, None),
    }
}

fn failed(reason: Reason, past: Past, policy: &Retry) -> Settlement {
    let status = reason.status().as_u16();
    match kind(reason) {
        Kind::Stop => Settlement::Return,
        Kind::Refusal => Settlement::Hold { pause: pause(past.refusals, None, &Retry::default()) },
        Kind::Try => again(Death::Failed(reason), status, None, past, policy),
        Kind::Final => Settlement::DeadLetter { death: Death::Failed(reason), status: Some(status) },
    }
}

enum Kind {
    /// The platform goes away; another process takes the message.
    Stop,
    /// The message never reached the function.
    Refusal,
    /// The function had the message.
    Try,
    /// The event itself is refused, now and later.
    Final,
}

fn kind(reason: Reason) -> Kind {
    use Reason as R;
    match reason {
        R::Draining => Kind::Stop,
        // `NotFound`: the function was removed and this consumer is about to stop.
        R::QueueFull
        | R::RateLimited
        | R::Quota
        | R::Cancelled
        | R::StartFailed
        | R::CrashLoop
        | R::StoreUnavailable
        | R::QueueTimeout
        | R::ColdTimeout
        | R::DiskFull
        | R::NotFound
        | R::Unauthorized
        | R::Forbidden => Kind::Refusal,
        R::RequestTimeout
        | R::Conflict
        | R::PreconditionFailed
        | R::Internal
        | R::Crashed
        | R::BadReply
        | R::ReplyTooLarge
        | R::MemoryLimit
        | R::RunTimeout
        | R::CpuLimit
        | R::OutcomeUnknown => Kind::Try,
        R::BadRequest
        | R::Method
        | R::LengthRequired
        | R::BodyTooLarge
        | R::UriTooLong
        | R::Unprocessable
        | R::HeadersTooLarge
        | R::NotImplemented
        | R::VersionNotSupported => Kind::Final,
    }
}

fn again(death: Death, status: u16, asked: Option<Duration>, past: Past, policy: &Retry) -> Settlement {
    if past.attempts.saturating_add(1) >= policy.attempts {
        return Settlement::DeadLetter { death, status: Some(status) };
    }
    Settlement::Retry { pause: pause(past.attempts, asked, policy) }
}

/// Returns `min`, doubled for each failure before, at least what was `asked` for, at most `max`.
fn pause(failures: u32, asked: Option<Duration>, policy: &Retry) -> Duration {
    let doubled = policy.min.0.saturating_mul(1_u64.checked_shl(failures.min(32)).unwrap_or(u64::MAX));
    let wanted = Duration::from_millis(doubled).max(asked.unwrap_or_default());
    wanted.min(policy.max.duration())
}

/// Returns the tier that a pause waits in: the shortest that is not shorter, or the longest there is.
#[must_use]
pub fn tier_ms(pause: Duration) -> u64 {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    TIERS_MS.into_iter().find(|tier| *tier >= ms).unwrap_or(60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    use faas_model::units::Millis;

    fn status(status: u16) -> Outcome {
        Outcome::Status { status, retry_after: None }
    }

    fn past(attempts: u32) -> Past {
        Past { attempts, refusals: 0 }
    }

    fn retry(seconds: u64) -> Settlement {
        Settlement::Retry { pause: Duration::from_secs(seconds) }
    }

    #[test]
    fn every_status_has_its_settlement() {
        let policy = Retry::default();
        for code in 100..1000 {
            let got = settle(&status(code), past(0), &policy);
            let expected = match code {
                200..=299 => Settlement::Ack,
                404 | 408 | 409 | 425 | 429 | 500..=599 => retry(1),
                _ => Settlement::DeadLetter { death: Death::Rejected, status: Some(code) },
            };
            assert_eq!(got, expected, "{code}");
        }
    }

    #[test]
    fn the_last_attempt_is_followed_by_no_other() {
        let policy = Retry { attempts: 3, ..Retry::default() };
        assert_eq!(settle(&status(503), past(0), &policy), retry(1));
        assert_eq!(settle(&status(503), past(1), &policy), retry(2));
        let dead = Settlement::DeadLetter { death: Death::AttemptsExhausted, status: Some(503) };
        assert_eq!(settle(&status(503), past(2), &policy), dead);
        assert_eq!(settle(&status(503), past(u32::MAX), &policy), dead);
        let dead = Settlement::DeadLetter { death: Death::Failed(Reason::Crashed), status: Some(502) };
        assert_eq!(settle(&Outcome::Failed(Reason::Crashed), past(2), &policy), dead);
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_longest_pause() {
        let policy = Retry::default();
        let asked = |s| Outcome::Status { status: 429, retry_after: Some(Duration::from_secs(s)) };
        assert_eq!(settle(&asked(7), past(0), &policy), retry(7));
        assert_eq!(settle(&asked(7), past(3), &policy), retry(8));
        assert_eq!(settle(&asked(3600), past(0), &policy), retry(60));
    }

    #[test]
    fn a_refusal_is_no_attempt_however_often_it_comes() {
        let policy = Retry { attempts: 1, ..Retry::default() };
        for reason in [Reason::QueueFull, Reason::StoreUnavailable, Reason::ColdTimeout, Reason::StartFailed] {
            let seconds = |refusals| match settle(&Outcome::Failed(reason), Past { attempts: 0, refusals }, &policy) {
                Settlement::Hold { pause } => pause.as_secs(),
                other => panic!("{reason}: {other:?}"),
            };
            assert_eq!([0, 1, 2, 6, 40, u32::MAX].map(seconds), [1, 2, 4, 60, 60, 60]);
        }
        assert_eq!(settle(&Outcome::Failed(Reason::Draining), past(0), &policy), Settlement::Return);
    }

    #[test]
    fn what_no_retry_changes_is_dead_at_once() {
        let policy = Retry::default();
        let malformed = settle(&Outcome::Malformed("x"), past(0), &policy);
        assert_eq!(malformed, Settlement::DeadLetter { death: Death::Malformed, status: None });
        let large = settle(&Outcome::Failed(Reason::BodyTooLarge), past(0), &policy);
        assert_eq!(large, Settlement::DeadLetter { death: Death::Failed(Reason::BodyTooLarge), status: Some(413) });
    }

    #[test]
    fn pauses_wait_in_the_next_longer_tier() {
        let tier = |ms| tier_ms(Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 1_000, 1_001, 8_000, 33_000, 60_000, 90_000].map(tier),
            [1_000, 1_000, 1_000, 2_000, 8_000, 60_000, 60_000, 60_000]
        );
    }

    proptest::proptest! {
        #[test]
        fn a_failing_message_is_tried_exactly_as_often_as_its_policy_says(
            attempts in 1_u32..=100, min in 1_u64..100_000, max in 1_u64..100_000, code in 500_u16..600,
        ) {
            let policy = Retry { attempts, min: Millis(min), max: Millis(max) };
            let mut tries = 0;
            while let Settlement::Retry { pause } = settle(&status(code), past(tries), &policy) {
                proptest::prop_assert!(pause <= policy.max.duration());
                tries += 1;
            }
            proptest::prop_assert_eq!(tries + 1, attempts);
        }
    }
}
