//! Why a call ended without doing its work, as the caller may know it.
//!
//! What the engine says about a trap goes to the function's log alone.

use faas_model::Reason;
use faas_model::manifest::Limits;
use faas_runtime::RuntimeError;
use wasmtime::Trap;
use wasmtime::component::ResourceTableError;
use wasmtime_wasi::I32Exit;

/// What a call is told that found no memory left.
pub(crate) const MEMORY_USED_UP: &str = "the platform's memory for guests is used up";

/// How a call ended: `Ok` when the guest returned.
pub(crate) type Ended = Result<(), RuntimeError>;

/// What is known about a call beside the error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signs {
    /// It was ended for its CPU time.
    pub over_cpu: bool,
    /// It asked for more memory than there was for it.
    pub memory_denied: Option<Denied>,
    /// It had answered.
    pub answered: bool,
}

/// Why memory was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The call may not have more.
    Call,
    /// All guests together may not have more.
    All,
}

/// Returns the error of a call that was cut from outside.
pub(crate) fn cut() -> RuntimeError {
    RuntimeError::new(Reason::Crashed, "the instance was stopped")
}

/// Tells how a call ended from the engine's error.
pub(crate) fn ended(error: &wasmtime::Error, signs: Signs, limits: &Limits) -> Ended {
    if signs.over_cpu {
        let detail = format!("the call used more CPU time than limits.cpu = {}", limits.cpu);
        return Err(RuntimeError::new(Reason::CpuLimit, detail));
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return match (code, signs.answered) {
            (0, true) => Ok(()),
            (0, false) => Err(no_answer()),
            _ => Err(RuntimeError::new(Reason::Crashed, format!("the function exited with status {code}"))),
        };
    }
    match signs.memory_denied {
        Some(Denied::Call) => {
            let detail = format!("the call needs more memory than limits.memory = {}", limits.memory);
            return Err(RuntimeError::new(Reason::MemoryLimit, detail));
        }
        Some(Denied::All) => return Err(RuntimeError::new(Reason::QueueFull, MEMORY_USED_UP)),
        None => {}
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Err(RuntimeError::new(Reason::QueueFull, "all call slots of the runtime are taken"));
    }
    Err(RuntimeError::new(Reason::Crashed, crash(error)))
}

/// Returns the error of a guest that returned without an answer.
pub(crate) fn no_answer() -> RuntimeError {
    RuntimeError::new(Reason::BadReply, "the function ended without an answer")
}

/// Returns the error of a guest that answered with an error code.
pub(crate) fn error_answer(code: &dyn std::fmt::Debug) -> RuntimeError {
    // The code's name is the interface's; what it carries is the guest's, and stays out.
    let text = format!("{code:?}");
    let name = text.split(|c: char| !c.is_ascii_alphanumeric()).find(|part| !matches!(*part, "" | "ErrorCode"));
    let detail = format!("the function answered with the error {}", name.unwrap_or("unknown"));
    RuntimeError::new(Reason::BadReply, detail)
}

fn crash(error: &wasmtime::Error) -> String {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        let what = match trap {
            Trap::StackOverflow => "its call stack is exhausted",
            Trap::UnreachableCodeReached => "it panicked or reached unreachable code",
            Trap::MemoryOutOfBounds => "it read or wrote outside its memory",
            Trap::IntegerDivisionByZero | Trap::IntegerOverflow | Trap::BadConversionToInteger => {
                "its arithmetic failed"
            }
            Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature => {
                "it called a function that is not there"
            }
            _ => "it broke a rule of WebAssembly",
        };
        return format!("the function trapped: {what}");
    }
    match error.downcast_ref::<ResourceTableError>() {
        Some(ResourceTableError::Full) => "the function holds too many host resources".into(),
        _ => "a host call of the function failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

    use super::*;

    #[test]
    fn an_error_code_is_told_by_name_and_without_the_guests_words() {
        let code = ErrorCode::InternalError(Some("secret".into()));
        assert_eq!(error_answer(&code).detail, "the function answered with the error InternalError");
        assert_eq!(error_answer(&ErrorCode::LoopDetected).reason, Reason::BadReply);
    }

    #[test]
    fn each_sign_has_its_reason() {
        let none = Signs { over_cpu: false, memory_denied: None, answered: false };
        let limits = Limits::default();
        let reason = |error: wasmtime::Error, signs| ended(&error, signs, &limits).map_err(|e| e.reason);
        assert_eq!(reason(Trap::StackOverflow.into(), none), Err(Reason::Crashed));
        let denied = Signs { memory_denied: Some(Denied::Call), ..none };
        assert_eq!(reason(Trap::UnreachableCodeReached.into(), denied), Err(Reason::MemoryLimit));
        let used_up = Signs { memory_denied: Some(Denied::All), ..none };
        assert_eq!(reason(Trap::UnreachableCodeReached.into(), used_up), Err(Reason::QueueFull));
        let over = Signs { over_cpu: true, ..denied };
        assert_eq!(reason(crate::meter::OverCpu.into(), over), Err(Reason::CpuLimit));
        assert_eq!(reason(I32Exit(0).into(), none), Err(Reason::BadReply));
        assert_eq!(reason(I32Exit(0).into(), Signs { answered: true, ..none }), Ok(()));
        assert_eq!(reason(I32Exit(3).into(), none), Err(Reason::Crashed));
        assert_eq!(reason(wasmtime::Error::msg("x"), none), Err(Reason::Crashed));
    }
}
