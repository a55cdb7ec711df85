//! One running platform: the real binary on ports and a data folder of its own.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
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
    /// Where it listens; without, on ports that the kernel chooses at every start.
    pub listen: Listen,
}

/// Where a platform listens.
#[derive(Debug, Clone, Default)]
pub enum Listen {
    /// On free ports.
    #[default]
    Free,
    /// On this port and the two above it, on loopback.
    Ports(u16),
    /// On sockets of ours for functions, control and state, as under systemd: they outlive it.
    Sockets(Arc<[TcpListener; 3]>),
}

impl Listen {
    /// Opens sockets to be passed to one platform after the other.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn sockets() -> Result<Self> {
        let open = || TcpListener::bind("127.0.0.1:0");
        Ok(Self::Sockets(Arc::new([open()?, open()?, open()?])))
    }

    /// Returns the command that runs `program` so that it listens there and writes to `log`.
    fn command(&self, program: &Path, log: &Path) -> Result<Command> {
        let any = "127.0.0.1:0".to_owned();
        let (mut command, addresses) = match self {
            Self::Free => (Command::new(program), [any.clone(), any.clone(), any]),
            Self::Ports(first) => (Command::new(program), [0, 1, 2].map(|n| format!("127.0.0.1:{}", first + n))),
            Self::Sockets(sockets) => {
                let mut command = Command::new("sh");
                command.arg("-c").arg(PASS_SOCKETS).arg("sh").arg(log).arg(program);
                let [functions, control, baas] = &**sockets;
                let passed = |socket: &TcpListener| anyhow::Ok(Stdio::from(OwnedFd::from(socket.try_clone()?)));
                command.stdin(passed(functions)?).stdout(passed(control)?).stderr(passed(baas)?);
                (command, [any.clone(), any.clone(), any])
            }
        };
        if !matches!(self, Self::Sockets(_)) {
            let log = File::options().create(true).append(true).open(log)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        }
        let [functions, control, baas] = addresses;
        command.args(["up", "--listen", &functions, "--control", &control, "--baas", &baas]);
        Ok(command)
    }
}

/// Sockets come as the standard streams and go where sd_listen_fds(3) wants them, under the process id of the program.
const PASS_SOCKETS: &str = r#"exec 3<&0 4<&1 5<&2 </dev/null >>"$1" 2>&1; shift
export LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=functions:control:baas; exec "$@""#;

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
        let mut command = options.listen.command(&options.binary()?, &data.join("platform.log"))?;
        let begun = Instant::now();
        let mut child = command
            .arg("--data")
            .arg(data.join("state"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(&options.flags)
            .env_remove("FAAS_URL")
            .envs(options.env.iter().cloned())
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

    /// Returns how it was started.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
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

    /// Starts a platform again that has ended, over the same data and with the same options.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn start_again(self) -> Result<Self> {
        Self::start(&self.data.clone(), self.options.clone()).await
    }

    /// Starts a platform again that has ended, with other environment.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn start_again_with(self, env: &[(&str, &str)]) -> Result<Self> {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self::start(&self.data.clone(), Options { env, ..self.options.clone() }).await
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it does not end within the patience of a start.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(tokio::time::timeout(READY_PATIENCE, self.child.wait()).await.context("it does not end")??)
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
