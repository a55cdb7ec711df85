//! What a command may fail with: an exit code of a closed set, a message, and
//! what to do next.

use std::fmt;

use faas_model::Reason;
use http::StatusCode;

/// The exit codes, after sysexits.h, curl and timeout(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The server said no, or the work failed here.
    Refused = 1,
    /// The function answered 4xx or 5xx; its body is on stdout.
    Function = 22,
    /// The command line is wrong.
    Usage = 64,
    /// A manifest or the configuration is wrong.
    Data = 65,
    /// No server, or an address that cannot be used.
    Unreachable = 69,
    /// The same command may succeed later.
    TryLater = 75,
    /// The credential is missing or not enough.
    Auth = 77,
    /// No answer in time.
    Timeout = 124,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// What a command gives back.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\nhint: {}", self.hint) }
    }
}

impl Exit {
    /// Returns the code for an answer of the platform with that status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 => Self::Auth,
            408 | 429 | 503 | 507 => Self::TryLater,
            504 => Self::Timeout,
            _ => Self::Refused,
        }
    }
}

/// Returns what to do about a refusal.
pub(crate) fn hint_of(reason: Option<Reason>) -> &'static str {
    match reason {
        Some(Reason::Unauthorized) => {
            "use the token of the server: --token-file FILE, FAAS_TOKEN, or --server-data DIR of a server on this machine"
        }
        Some(Reason::Forbidden) => "use a token that may do this",
        Some(Reason::NotFound) => "`faas ls` lists the functions, `faas versions NAME` the versions",
        Some(Reason::Conflict | Reason::PreconditionFailed) => {
            "somebody else changed it: look with `faas describe`, try again"
        }
        Some(Reason::Unprocessable) => {
            "deploy a component that exports wasi:http/incoming-handler 0.2 or wasi:http/handler 0.3; `faas new` makes one that works"
        }
        Some(Reason::BodyTooLarge) => "make the upload smaller, or raise control.code_bytes_max of the server",
        Some(Reason::DiskFull) => "free space in the data folder of the server",
        Some(Reason::Crashed | Reason::BadReply | Reason::MemoryLimit | Reason::CpuLimit | Reason::RunTimeout) => {
            "see what it wrote with `faas logs NAME`"
        }
        Some(reason) if reason.retryable() => "try again later",
        Some(Reason::BadRequest) => "compare the command with `faas COMMAND --help`",
        _ => "the server's log may say more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_exit_code_and_a_next_step() {
        let exits: Vec<_> = Reason::ALL.iter().map(|r| (r.as_str(), Exit::of_status(r.status()) as u8)).collect();
        for (reason, exit) in [
            ("not_found", 1),
            ("conflict", 1),
            ("unauthorized", 77),
            ("forbidden", 77),
            ("queue_full", 75),
            ("draining", 75),
            ("disk_full", 75),
            ("run_timeout", 124),
            ("cold_timeout", 124),
            ("crashed", 1),
        ] {
            assert!(exits.contains(&(reason, exit)), "{reason} is not {exit}: {exits:?}");
        }
        assert!(Reason::ALL.iter().all(|r| !hint_of(Some(*r)).is_empty()));
    }

    #[test]
    fn an_error_ends_with_its_hint() {
        let failure = Failure::new(Exit::Usage, "no such thing", "look elsewhere");
        assert_eq!(failure.to_string(), "error: no such thing\nhint: look elsewhere");
    }
}
