//! Real nodes of Apache Cassandra: one that all tests of a process share, and ones that a test may stop.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

/// A node of this process. A watcher outlives the process and removes the node, however the process ends.
#[derive(Debug)]
pub struct Node {
    folder: PathBuf,
    ports: [u16; 3],
    auth: bool,
    watcher: Child,
    line: Option<ChildStdin>,
}

/// Returns the address of the node that all tests of this process share; the first starts it.
///
/// # Errors
/// When it does not start: Java or Maven are missing.
pub fn shared() -> Result<String> {
    static NODE: Mutex<Option<Node>> = Mutex::new(None);
    let mut shared = NODE.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_none() {
        let node = Node::new(false)?;
        node.start()?;
        *shared = Some(node);
    }
    shared.as_ref().map(Node::address).context("the node was started just now")
}

/// Returns a keyspace that nobody else uses.
#[must_use]
pub fn keyspace() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Node {
    /// Prepares a node, with users and passwords if `auth`; it does not run yet.
    ///
    /// # Errors
    /// When there is no folder, no free port or no shell.
    pub fn new(auth: bool) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("faas-cassandra-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let mut ports = [0; 3];
        // Held together, so that no two are the same.
        let mut held = Vec::new();
        for port in &mut ports {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            *port = listener.local_addr()?.port();
            held.push(listener);
        }
        // A node that is held still must go on to be ended.
        let ends = "read -r _; \"$1\" resume \"$2\"; \"$1\" kill \"$2\"; rm -rf \"$2\"";
        let mut watcher = Command::new("sh");
        watcher.args(["-c", ends, "sh"]).arg(script()).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut watcher = watcher.stderr(Stdio::null()).spawn()?;
        let line = watcher.stdin.take();
        Ok(Self { folder, ports, auth, watcher, line })
    }

    /// Returns where clients reach it.
    #[must_use]
    pub fn address(&self) -> String {
        let [cql, ..] = self.ports;
        format!("127.0.0.1:{cql}")
    }

    /// Starts it and waits until it takes connections.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self) -> Result<()> {
        self.run("start")?;
        self.run("wait")
    }

    /// Ends it as a crash does, holds it still, or lets it go on: `kill`, `pause`, `resume`.
    ///
    /// # Errors
    /// When the script fails.
    pub fn run(&self, verb: &str) -> Result<()> {
        let [cql, storage, jmx] = self.ports.map(|port| port.to_string());
        let mut command = Command::new(script());
        command.arg(verb).arg(&self.folder).stdin(Stdio::null()).stdout(Stdio::null());
        command.envs([("CQL_PORT", cql), ("STORAGE_PORT", storage), ("JMX_PORT", jmx)]);
        command.env("AUTH", if self.auth { "on" } else { "off" });
        let done = command.status().context("the node's script does not run")?;
        ensure!(done.success(), "node.sh {verb} failed: are Java 17 and Maven installed?");
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            line.write_all(b"\n").ok();
        }
        self.watcher.wait().ok();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cassandra/node.sh")
}
