//! A real RabbitMQ of our own, on its own ports and data folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

/// A broker; stopped when dropped.
#[derive(Debug)]
pub struct Broker {
    data: PathBuf,
    port: u16,
}

impl Broker {
    /// Starts a broker with its data in `data` and waits until it takes connections.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(data: &Path, port: u16) -> Result<Self> {
        ensure!(free(port), "port {port} is taken by another program");
        let broker = Self { data: data.to_owned(), port };
        broker.run("start").await?;
        broker.run("wait").await?;
        Ok(broker)
    }

    /// Returns the URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Waits until queues declared just now survive a crash.
    ///
    /// RabbitMQ 3.10 writes its directory of quorum queues half a second after
    /// the last declaration and tells nobody; a crash before that leaves a
    /// queue that exists, has lost its log and never answers.
    pub async fn settle(&self) {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    }

    /// Kills the broker as a crash would.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn kill(&self) -> Result<()> {
        self.run("kill").await
    }

    /// Starts the broker again over its data and waits until it takes connections.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&self) -> Result<()> {
        self.run("start").await?;
        self.run("wait").await
    }

    fn command(&self, verb: &str) -> std::process::Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rabbitmq/broker.sh");
        let mut command = std::process::Command::new(script);
        command.arg(verb).arg(&self.data).env("AMQP_PORT", self.port.to_string());
        command
    }

    async fn run(&self, verb: &str) -> Result<()> {
        let output = Command::from(self.command(verb)).output().await.context("the broker's script does not run")?;
        if !output.status.success() {
            bail!("broker {verb}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// Returns a port that is free, as are the two above it, which a broker needs too.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    let first = 20_000 + u16::try_from(std::process::id() % 8_000)?;
    let mut candidates = (first..30_000).step_by(3).chain((20_000..first).step_by(3));
    candidates.find(|port| (*port..port + 3).all(free)).context("no three free ports in 20000 to 30000")
}

fn free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nothing can be done about a broker that does not stop; the next start clears its folder.
        drop(self.command("stop").output());
    }
}
