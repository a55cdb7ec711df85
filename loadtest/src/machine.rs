//! Where and of what a result was made: the machine, the commit, the versions.

use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Runnable tasks over the minute before, on average; the result of a busy machine is one of its neighbours too.
    pub load_average_before: f64,
}

impl Machine {
    /// Reads what this machine is.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn read() -> Result<Self> {
        let field = |path: &str, name: &str| -> Result<String> {
            let text = std::fs::read_to_string(path)?;
            let line = text.lines().find(|l| l.starts_with(name)).with_context(|| format!("{path} has no {name}"))?;
            Ok(line.split_once(':').map(|(_, v)| v.trim().to_owned()).unwrap_or_default())
        };
        let memory = field("/proc/meminfo", "MemTotal")?;
        let memory_kib: u64 = memory.split(' ').next().unwrap_or_default().parse()?;
        let load = std::fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|_| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism()?.get(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            memory_bytes: memory_kib << 10,
            load_average_before: load.split(' ').next().unwrap_or_default().parse()?,
        })
    }
}

/// The sources of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Commit of the repository, or empty outside of one.
    pub commit: String,
    /// Whether there were changes beyond it.
    pub dirty: bool,
    /// Version of the generator.
    pub generator: String,
    /// What the target says with `--version`, or empty.
    pub target: String,
    /// Whether the generator was built with optimisations.
    pub optimised: bool,
}

impl Sources {
    /// Reads them, with the version of `program` when there is one.
    #[must_use]
    pub fn read(program: Option<&std::path::Path>) -> Self {
        let folder = env!("CARGO_MANIFEST_DIR");
        let git = |args: &[&str]| said(Command::new("git").args(args).current_dir(folder));
        Self {
            commit: git(&["rev-parse", "HEAD"]),
            dirty: !git(&["status", "--porcelain"]).is_empty(),
            generator: env!("CARGO_PKG_VERSION").to_owned(),
            target: program.map(|p| said(Command::new(p).arg("--version"))).unwrap_or_default(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().ok().filter(|o| o.status.success());
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let machine = Machine::read().unwrap();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 28 && !machine.cpu.is_empty(), "{machine:?}");
        assert!(machine.kernel.contains('.'), "{machine:?}");
        assert_eq!(Sources::read(Some(std::path::Path::new("/no/such/program"))).target, "");
    }
}
