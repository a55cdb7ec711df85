//! Compiling in a child process, because the compiler's time and memory over
//! hostile input are not bounded by itself.
//!
//! A compiled file appears under its name only when it is whole, synced and
//! was loaded once.

mod child;

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use faas_model::{Digest, Reason};
use faas_runtime::{Code, RuntimeError};
use fail::fail_point;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Semaphore;
use wasmtime::Engine;

pub use child::compile_child;

use crate::contract::{Contract, Worlds};
use crate::loaded::load;
use crate::{CompileCommand, Config, share};

/// Bytes of the child's refusal that are read.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

/// The limits, as the child reads them from its last argument.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Limits {
    pub cpu_s: u64,
    pub memory_bytes: u64,
    pub code_bytes_max: u64,
    pub compiled_bytes_max: u64,
    /// The process that waits for the child; without it the child ends.
    pub parent: u32,
}

/// What the child says on its standard error.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Compiled(Contract),
    Refused(Refusal),
}

/// Why the child did not compile.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Refusal {
    pub reason: Reason,
    pub detail: String,
}

/// Compiles components into a folder.
#[derive(Debug)]
pub(crate) struct Compiler {
    dir: PathBuf,
    command: CompileCommand,
    /// What compiled code of each contract depends on, part of every file name.
    compatibility: Vec<(Contract, String)>,
    limits: Limits,
    wall: Duration,
    /// Slots that a call of a component may take.
    slots_max: u32,
    jobs: Semaphore,
}

impl Compiler {
    /// Opens the folder, makes it private and removes what other builds and crashes left.
    pub(crate) fn open(
        dir: PathBuf,
        command: CompileCommand,
        compatibility: Vec<(Contract, String)>,
        config: &Config,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        let current: Vec<_> = compatibility.iter().map(|(_, of)| format!("-{of}.cwasm")).collect();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_current = current.iter().any(|end| name.to_string_lossy().ends_with(end));
            if !is_current && entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        let limits = Limits {
            cpu_s: config.compile_cpu.0.div_ceil(1000).max(1),
            memory_bytes: config.compile_memory.0,
            code_bytes_max: config.code_bytes_max.0,
            compiled_bytes_max: config.compiled_bytes_max.0,
            parent: std::process::id(),
        };
        let jobs = Semaphore::new(config.compile_jobs_max.clamp(1, 64) as usize);
        let (wall, slots_max) = (config.compile_wall.duration(), share::function_max(config));
        Ok(Self { dir, command, compatibility, limits, wall, slots_max, jobs })
    }

    /// Returns which contract `code` keeps and where its compiled form is, once there is one.
    pub(crate) fn find(&self, code: &Digest) -> Result<Option<(Contract, PathBuf)>, RuntimeError> {
        for (contract, path) in self.paths(code) {
            if path.try_exists().map_err(|e| broken("look for compiled code", &e))? {
                return Ok(Some((contract, path)));
            }
        }
        Ok(None)
    }

    fn paths(&self, code: &Digest) -> impl Iterator<Item = (Contract, PathBuf)> {
        self.compatibility.iter().map(move |(contract, of)| (*contract, self.dir.join(format!("{code}-{of}.cwasm"))))
    }

    /// Compiles `code` unless that was done.
    ///
    /// # Errors
    /// `unprocessable` says what is wrong with the code, or which limit compiling it hit.
    ///
    /// # Cancel safety
    /// Dropping the future kills the child and removes the temporary file.
    pub(crate) async fn ensure(&self, worlds: &Arc<Worlds>, code: &Code) -> Result<(Contract, PathBuf), RuntimeError> {
        if let Some(found) = self.find(&code.digest)? {
            return Ok(found);
        }
        let _job = self.jobs.acquire().await.map_err(|e| internal("compile", &e))?;
        if let Some(found) = self.find(&code.digest)? {
            return Ok(found);
        }
        let temporary = Temporary::new(&self.dir).map_err(|e| broken("make a file for compiled code", &e))?;
        fail_point!("compile-begin");
        let contract = self.run(code, &temporary).await?;
        fail_point!("compile-done");
        let path = self.paths(&code.digest).find_map(|(of, path)| (of == contract).then_some(path));
        let path = path.ok_or_else(|| internal("name compiled code", &contract))?;
        let (worlds, slots_max, named) = (Arc::clone(worlds), self.slots_max, path.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let world = worlds.of(contract).map_err(|e| internal("make the Wasm engine", &format!("{e:#}")))?;
            keep(&world.engine, temporary, &named, slots_max)
        });
        kept.await.map_err(|e| internal("keep compiled code", &e))??;
        Ok((contract, path))
    }

    async fn run(&self, code: &Code, output: &Temporary) -> Result<Contract, RuntimeError> {
        let input = File::open(&code.path).map_err(|e| broken("open the code", &e))?;
        let limits = serde_json::to_string(&self.limits).map_err(|e| internal("write the limits", &e))?;
        let mut child = Command::new(&self.command.program)
            .args(&self.command.args)
            .arg(limits)
            .env_clear()
            .current_dir("/")
            .stdin(input)
            .stdout(output.file.try_clone().map_err(|e| broken("compile", &e))?)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| internal("start the compiler", &e))?;
        let stderr = child.stderr.take();
        let ending = async {
            let mut said = Vec::new();
            if let Some(stderr) = stderr {
                stderr.take(REFUSAL_BYTES_MAX).read_to_end(&mut said).await?;
            }
            Ok::<_, io::Error>((child.wait().await?, said))
        };
        match tokio::time::timeout(self.wall, ending).await {
            Err(_) => Err(unprocessable(format!("compiling took longer than {} s", self.wall.as_secs()))),
            Ok(Err(error)) => Err(internal("wait for the compiler", &error)),
            Ok(Ok((status, said))) => self.judge(status, &said),
        }
    }

    fn judge(&self, status: ExitStatus, said: &[u8]) -> Result<Contract, RuntimeError> {
        let last = said.split(|b| *b == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
        match serde_json::from_slice::<Verdict>(last) {
            Ok(Verdict::Compiled(contract)) if status.success() => return Ok(contract),
            Ok(Verdict::Refused(refusal)) => return Err(RuntimeError::new(refusal.reason, refusal.detail)),
            _ => {}
        }
        tracing::warn!(%status, said = %String::from_utf8_lossy(last), "the compiler ended badly");
        let Limits { cpu_s, memory_bytes, compiled_bytes_max, .. } = &self.limits;
        let mib = |bytes: &u64| bytes >> 20;
        Err(match status.signal() {
            // SIGXCPU, SIGXFSZ, and SIGABRT of a failed allocation.
            Some(24) => unprocessable(format!("compiling took more than {cpu_s} s of CPU time")),
            Some(25) => unprocessable(format!("the compiled code is over {} MiB", mib(compiled_bytes_max))),
            Some(6) => unprocessable(format!("compiling took more than {} MiB of memory", mib(memory_bytes))),
            // A thread that does not start for want of memory ends the child in other ways.
            _ => {
                let detail = "the compiler gave up on this code; it may need more than";
                unprocessable(format!("{detail} {} MiB of memory", mib(memory_bytes)))
            }
        })
    }

    /// Removes the compiled form of `code`.
    pub(crate) async fn forget(&self, code: &Digest) {
        for (_, path) in self.paths(code) {
            match tokio::fs::remove_file(path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, code = %code.short(), "compiled code was not removed");
                }
                _ => {}
            }
        }
        fail_point!("cwasm-removed");
    }
}

/// Syncs, tries and names a compiled file.
fn keep(engine: &Engine, temporary: Temporary, path: &Path, slots_max: u32) -> Result<(), RuntimeError> {
    temporary.file.sync_all().map_err(|e| broken("write compiled code", &e))?;
    // The server's pool has bounds of its own; its words hold numbers and no path.
    let component = load(engine, &temporary.path)
        .map_err(|e| unprocessable(format!("the component does not fit: {}", e.root_cause())))?;
    share::slots_of(&component, slots_max).map_err(unprocessable)?;
    drop(component);
    fail_point!("cwasm-synced");
    std::fs::rename(&temporary.path, path).map_err(|e| broken("keep compiled code", &e))?;
    fail_point!("cwasm-renamed");
    let dir = path.parent().map_or_else(|| Err(io::ErrorKind::NotFound.into()), File::open);
    dir.and_then(|dir| dir.sync_all()).map_err(|e| broken("keep compiled code", &e))
}

/// A file that is removed unless it was renamed.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn new(dir: &Path) -> io::Result<Self> {
        // A call id is a fresh UUID; any would do.
        let path = dir.join(format!("{}.tmp", faas_model::CallId::fresh()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

fn unprocessable(detail: String) -> RuntimeError {
    RuntimeError::new(Reason::Unprocessable, detail)
}

fn broken(what: &'static str, error: &io::Error) -> RuntimeError {
    if error.kind() == io::ErrorKind::StorageFull {
        return RuntimeError::new(Reason::DiskFull, format!("could not {what}: the disk is full"));
    }
    internal(what, error)
}

/// What went wrong goes to the platform's own log; the caller learns what was tried.
pub(crate) fn internal(what: &'static str, error: &dyn std::fmt::Display) -> RuntimeError {
    tracing::error!(%error, "could not {what}");
    RuntimeError::new(Reason::Internal, format!("could not {what}"))
}
