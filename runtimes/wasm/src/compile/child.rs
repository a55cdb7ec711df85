//! The child: limits itself, reads a component, checks and compiles it.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use faas_model::Reason;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

use super::{Limits, Refusal, Verdict};
use crate::contract::{Contract, Pre};
use crate::{check, engine, host};

/// Exit status of a refusal: `EX_DATAERR` of sysexits.
const REFUSED: u8 = 65;
/// How much this process yields to others.
const NICE: i32 = 10;

/// The body of the hidden subcommand that compiles: a component on standard
/// input, its compiled form on standard output, a verdict as one line of JSON on
/// standard error. The last argument of the process holds its limits.
///
/// Call it first thing in `main`, before any thread or runtime and with no file open:
/// it closes every descriptor but the standard three, and ends with its parent.
#[must_use]
pub fn compile_child() -> ExitCode {
    let (verdict, code) = match compile() {
        Ok(contract) => (Verdict::Compiled(contract), ExitCode::SUCCESS),
        Err(refusal) => (Verdict::Refused(refusal), ExitCode::from(REFUSED)),
    };
    // Without a reader there is nobody to tell.
    serde_json::to_writer(&mut io::stderr().lock(), &verdict).ok();
    code
}

fn compile() -> Result<Contract, Refusal> {
    let limits = std::env::args().next_back();
    let limits: Limits = limits
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or_else(|| refusal(Reason::Internal, "the last argument does not hold the limits".into()))?;
    depend_on(limits.parent).map_err(|e| refusal(Reason::Internal, format!("the parent is gone: {e}")))?;
    close_inherited().map_err(|e| refusal(Reason::Internal, format!("open files were not closed: {e}")))?;
    limit(&limits).map_err(|e| refusal(Reason::Internal, format!("the limits were not set: {e}")))?;
    let max = limits.code_bytes_max;
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(max + 1).read_to_end(&mut bytes);
    read.map_err(|e| match e.kind() {
        // In the words of the parent for a compiler that ran out of it later.
        io::ErrorKind::OutOfMemory => {
            unprocessable(format!("compiling took more than {} MiB of memory", limits.memory_bytes >> 20))
        }
        _ => refusal(Reason::Internal, format!("the code was not read: {e}")),
    })?;
    if bytes.len() as u64 > max {
        return Err(unprocessable(format!("the code is over {max} bytes")));
    }
    let contract = check::check(&bytes).map_err(unprocessable)?;
    let compiled = translate(contract, &bytes)?;
    write(&compiled)?;
    Ok(contract)
}

/// Compiles, and links once, so that what is missing is known before anything is deployed.
fn translate(contract: Contract, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let broken = |e: wasmtime::Error| refusal(Reason::Internal, format!("the compiler did not start: {e:#}"));
    let engine = engine::compiling(contract).map_err(broken)?;
    let component = wasmtime::component::Component::new(&engine, bytes).map_err(told)?;
    let linker = host::linker(contract, &engine).map_err(broken)?;
    let linked = linker.instantiate_pre(&component).map_err(told)?;
    Pre::new(contract, linked).map_err(told)?;
    component.serialize().map_err(told)
}

fn told(error: wasmtime::Error) -> Refusal {
    let text: String = format!("{error:#}").chars().take(600).flat_map(plain).collect();
    unprocessable(format!("the component is not valid here: {text}"))
}

/// Keeps one line, and nothing that steers a terminal.
fn plain(c: char) -> impl Iterator<Item = char> {
    let c = if c == '\n' { ' ' } else { c };
    let (kept, escaped) = if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
    kept.into_iter().chain(escaped.into_iter().flatten())
}

fn write(compiled: &[u8]) -> Result<(), Refusal> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(compiled).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => refusal(Reason::DiskFull, "the disk is full".into()),
        _ => refusal(Reason::Internal, format!("the compiled code was not written: {error}")),
    })
}

/// Ends this process when its parent ends, however it does.
fn depend_on(parent: u32) -> io::Result<()> {
    // The kernel means the thread that started this process; it is one that waits for it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the signal was asked for.
    if u32::try_from(Pid::as_raw(getppid())).ok() == Some(parent) {
        return Ok(());
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Closes what the parent left open, so that this process holds no socket or lock of the platform.
fn close_inherited() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).filter(|fd| *fd > 2));
    }
    // The folder that was just read had a number too.
    open.retain(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok());
    for fd in open {
        #[allow(unsafe_code, reason = "inherited descriptors have no owner in this process")]
        // SAFETY: `compile_child` is called before anything of this program opens a descriptor,
        // so nothing here owns one above 2; each was open a moment ago, and there is one thread.
        unsafe {
            rustix::io::close(fd);
        }
    }
    Ok(())
}

fn limit(limits: &Limits) -> io::Result<()> {
    let bound = |soft: u64, hard: u64| Rlimit { current: Some(soft), maximum: Some(hard) };
    let set = |resource, bound| setrlimit(resource, bound).map_err(io::Error::from);
    set(Resource::Core, bound(0, 0))?;
    set(Resource::Cpu, bound(limits.cpu_s, limits.cpu_s + 5))?;
    set(Resource::Data, bound(limits.memory_bytes, limits.memory_bytes))?;
    // Address space that is only reserved is cheap; allocators reserve a lot of it.
    let space = limits.memory_bytes.saturating_mul(4);
    set(Resource::As, bound(space, space))?;
    set(Resource::Fsize, bound(limits.compiled_bytes_max, limits.compiled_bytes_max))?;
    set(Resource::Nofile, bound(64, 64))?;
    // Without it the child is only less polite.
    rustix::process::nice(NICE).ok();
    Ok(())
}

fn unprocessable(detail: String) -> Refusal {
    refusal(Reason::Unprocessable, detail)
}

fn refusal(reason: Reason, detail: String) -> Refusal {
    Refusal { reason, detail }
}
