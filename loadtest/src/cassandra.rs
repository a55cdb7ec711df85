//! Real nodes of Apache Cassandra: one that all tests of a process share, ones that a test may stop, and rings of
//! three on the loopback addresses 127.0.0.1 to 127.0.0.3.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Longest wait until the nodes of a ring know each other, generous because test machines are busy.
const WHOLE_PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at the logs of nodes.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Nodes of a ring, and copies of each row.
pub const RING: usize = 3;
/// Memory of a node that has the machine to share with two others.
const RING_HEAP: &str = "384M";

/// A node of this process. A watcher outlives the process and removes the node, however the process ends.
#[derive(Debug)]
pub struct Node {
    folder: PathBuf,
    /// What it is told by its environment.
    settings: Vec<(&'static str, String)>,
    address: String,
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
        let [cql, storage, jmx] = free_ports(&["127.0.0.1"])?;
        let auth = if auth { "on" } else { "off" };
        Self::with("127.0.0.1", [cql, storage, jmx], vec![("AUTH", auth.to_owned())])
    }

    /// Prepares a node that is measured: with the JIT of production, which is slower to warm up.
    ///
    /// # Errors
    /// When there is no folder, no free port or no shell.
    pub fn measured() -> Result<Self> {
        Self::with("127.0.0.1", free_ports(&["127.0.0.1"])?, vec![("JIT", "full".to_owned())])
    }

    fn with(address: &str, [cql, storage, jmx]: [u16; 3], more: Vec<(&'static str, String)>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("faas-cassandra-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        // A node that is held still must go on to be ended.
        let ends = "read -r _; \"$1\" resume \"$2\"; \"$1\" kill \"$2\"; rm -rf \"$2\"";
        let mut watcher = Command::new("sh");
        watcher.args(["-c", ends, "sh"]).arg(script()).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut watcher = watcher.stderr(Stdio::null()).spawn()?;
        let line = watcher.stdin.take();
        let mut settings = more;
        let ports = [("CQL_PORT", cql), ("STORAGE_PORT", storage), ("JMX_PORT", jmx)];
        settings.extend(ports.map(|(name, port)| (name, port.to_string())));
        settings.push(("ADDRESS", address.to_owned()));
        Ok(Self { folder, settings, address: format!("{address}:{cql}"), watcher, line })
    }

    /// Returns where clients reach it.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
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
        let done = self.command(verb).stdout(Stdio::null()).status().context("the node's script does not run")?;
        ensure!(done.success(), "node.sh {verb} failed: are Java 17 and Maven installed?");
        Ok(())
    }

    /// Says whether its log tells that it has started and sees `others` other nodes up.
    fn sees(&self, others: usize) -> bool {
        let log = std::fs::read_to_string(self.folder.join("out")).unwrap_or_default();
        let mut up = BTreeMap::new();
        for line in log.lines() {
            if let Some((line, state)) =
                line.rsplit_once(" is now ").filter(|(_, state)| ["UP", "DOWN"].contains(state))
            {
                up.insert(line.rsplit(' ').next(), state == "UP");
            }
        }
        log.contains("Startup complete") && up.values().filter(|up| **up).count() == others
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(script());
        command.arg(verb).arg(&self.folder).stdin(Stdio::null());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Three nodes that keep three copies of each row.
#[derive(Debug)]
pub struct Ring {
    nodes: Vec<Node>,
}

impl Ring {
    /// Starts the nodes and waits until each takes connections and they know each other.
    ///
    /// # Errors
    /// When there are no free ports, or a node does not start.
    pub fn start() -> Result<Self> {
        let addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
        let [cql, storage, jmx @ ..] = free_ports::<{ 2 + RING }>(&addresses)?;
        let mut nodes = Vec::new();
        for (address, jmx) in addresses.iter().zip(jmx) {
            // Each knows all: two may be started at once while the third is the only one up.
            let seeds = ("SEEDS", addresses.map(|seed| format!("{seed}:{storage}")).join(","));
            nodes.push(Node::with(address, [cql, storage, jmx], vec![seeds, ("HEAP", RING_HEAP.to_owned())])?);
        }
        let ring = Self { nodes };
        ring.nodes.iter().try_for_each(|node| node.run("start"))?;
        ring.nodes.iter().try_for_each(|node| node.run("wait"))?;
        ring.wait_whole()?;
        Ok(ring)
    }

    /// Returns node `at`, counted from 0 and round and round.
    #[must_use]
    pub fn node(&self, at: usize) -> &Node {
        self.nodes.get(at % RING).unwrap_or_else(|| unreachable!("a ring has {RING} nodes"))
    }

    /// Returns what makes a platform use the ring and `keyspace`, with a copy of each row on every node.
    #[must_use]
    pub fn env(&self, keyspace: &str) -> Vec<(String, String)> {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("\"{}\"", node.address())).collect();
        let env = [
            ("FAAS_STORE_TYPE", "cassandra".to_owned()),
            ("FAAS_CASSANDRA_NODES", format!("[{}]", nodes.join(", "))),
            ("FAAS_CASSANDRA_KEYSPACE", keyspace.to_owned()),
            ("FAAS_CASSANDRA_REPLICATION", format!("{{dc1 = {RING}}}")),
        ];
        env.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Waits until every node has seen all the others up since it started.
    ///
    /// # Errors
    /// When they do not find each other in time.
    pub fn wait_whole(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.nodes.iter().all(|node| node.sees(RING - 1)) {
            ensure!(begun.elapsed() < WHOLE_PATIENCE, "the nodes of the ring did not find each other in time");
            #[allow(clippy::disallowed_methods, reason = "a test waits for other processes, on a thread of its own")]
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Returns ports that are free on all of `addresses`, none twice in this process. They are below those that the kernel
/// gives to connections and listeners of port 0: a node that is restarted must find its own free.
fn free_ports<const N: usize>(addresses: &[&str]) -> Result<[u16; N]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = [0; N];
    for port in &mut ports {
        // Tests of other processes begin elsewhere.
        let drawn = || std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let candidates = std::iter::repeat_with(|| 10_000 + u16::try_from(drawn() % 10_000).unwrap_or_default());
        let free = |candidate: &u16| addresses.iter().all(|address| TcpListener::bind((*address, *candidate)).is_ok());
        let found = candidates.take(PORTS_TRIED_MAX).find(free);
        *port = found.with_context(|| format!("no port of 10000 to 20000 is free on all of {addresses:?}"))?;
    }
    Ok(ports)
}

/// Ports that are tried before giving up.
const PORTS_TRIED_MAX: usize = 10_000;

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
