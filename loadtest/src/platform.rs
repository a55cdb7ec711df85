//! One running platform: the real binary on ports and a data folder of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Longest wait for a start, generous because test machines are busy.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// How to start a platform.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The `faas` program; default the one built beside this program.
    pub binary: Option<PathBuf>,
    /// More flags for `faas up`.
    pub flags: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
}

/// What `faas up --ready-file` writes.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// The functions listener.
    pub functions: String,
    /// The control listener.
    pub control: String,
    /// The BaaS listener.
    pub baas: String,
    /// The process.
    pub pid: u32,
}

/// A running `faas up`; killed when dropped.
#[derive(Debug)]
pub struct Platform {
    child: Child,
    data: PathBuf,
    options: Options,
    ready: Ready,
    /// From spawn to ready.
    pub start_time: Duration,
}

/// Returns the `faas` binary built beside this program.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("the program has no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().context("no target folder")? } else { folder };
    let path = folder.join("faas");
    if !path.exists() {
        bail!("{} is missing: run `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}

impl Options {
    fn binary(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(binary, Ok)
    }
}

impl Platform {
    /// Starts a platform over the data folder `data` and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not become ready.
    pub async fn start(data: &Path, options: Options) -> Result<Self> {
        let ready_file = data.join("ready.json");
        if ready_file.exists() {
            std::fs::remove_file(&ready_file)?;
        }
        std::fs::create_dir_all(data)?;
        let log = std::fs::File::options().create(true).append(true).open(data.join("platform.log"))?;
        let begun = Instant::now();
        let mut child = Command::new(options.binary()?)
            .args(["up", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--baas", "127.0.0.1:0"])
            .arg("--data")
            .arg(data.join("state"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(&options.flags)
            .env_remove("FAAS_URL")
            .envs(options.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("faas up does not start")?;
        let ready = loop {
            if let Ok(text) = std::fs::read(&ready_file) {
                break serde_json::from_slice(&text)?;
            }
            if let Some(status) = child.try_wait()? {
                bail!("faas up ended with {status}: {}", tail(&data.join("platform.log")));
            }
            if begun.elapsed() > READY_PATIENCE {
                bail!("faas up was not ready in time: {}", tail(&data.join("platform.log")));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        Ok(Self { child, data: data.to_owned(), options, ready, start_time: begun.elapsed() })
    }

    /// Returns a URL of the functions listener.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.ready.functions)
    }

    /// Returns a URL of the control listener.
    #[must_use]
    pub fn control(&self, path: &str) -> String {
        format!("http://{}{path}", self.ready.control)
    }

    /// Returns a URL of the BaaS listener.
    #[must_use]
    pub fn baas(&self, path: &str) -> String {
        format!("http://{}{path}", self.ready.baas)
    }

    /// Returns the addresses and the process id.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Returns the folder that holds `state` and the platform's log.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the operator's token.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.data.join("state/token"))?.trim().to_owned())
    }

    /// Runs the CLI against this platform and returns its outcome.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn cli(&self, args: &[&str]) -> Result<CliOutcome> {
        self.cli_in(&self.data, args).await
    }

    /// Runs the CLI in the folder `folder`.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn cli_in(&self, folder: &Path, args: &[&str]) -> Result<CliOutcome> {
        let output = Command::new(self.options.binary()?)
            .args(args)
            .current_dir(folder)
            .env("FAAS_URL", self.control(""))
            .env("FAAS_TOKEN", self.token()?)
            .env("FAAS_FUNCTIONS_URL", self.url(""))
            .env("FAAS_BAAS_URL", self.baas(""))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .await?;
        Ok(CliOutcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Deploys a folder with the CLI.
    ///
    /// # Errors
    /// When the deploy fails, with what the CLI said.
    pub async fn deploy(&self, folder: &Path) -> Result<CliOutcome> {
        let folder = folder.to_str().context("the folder is not UTF-8")?;
        let outcome = self.cli(&["deploy", folder, "--output", "json"]).await?;
        if outcome.code != 0 {
            bail!("faas deploy {folder} ended with {}: {}", outcome.code, outcome.stderr);
        }
        Ok(outcome)
    }

    /// Kills the process at once, as a crash would, and starts it again over the same data.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn crash_and_restart(mut self) -> Result<Self> {
        self.kill().await?;
        Self::start(&self.data.clone(), self.options.clone()).await
    }

    /// Kills the process at once and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end; returns the exit code.
    ///
    /// # Errors
    /// When it does not end within the patience of a start.
    pub async fn terminate(&mut self) -> Result<Option<i32>> {
        let pid = i32::try_from(self.ready.pid)?;
        let pid = rustix::process::Pid::from_raw(pid).context("no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status =
            tokio::time::timeout(READY_PATIENCE, self.child.wait()).await.context("no end after SIGTERM")??;
        Ok(status.code())
    }

    /// Returns the last lines of the platform's log, for messages of failed tests.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.data.join("platform.log"))
    }
}

/// What a run of the CLI gave.
#[derive(Debug, Clone)]
pub struct CliOutcome {
    /// Exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(30)).copied().collect::<Vec<_>>().join("\n")
}
