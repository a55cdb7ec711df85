//! A real Cassandra for tests: one that all tests of a process share, and ones that a test may stop.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use faas_cassandra::Config;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/cassandra/node.sh");

/// A node of this test process. A watcher outlives the process and removes it, however the process ends.
#[derive(Debug)]
pub(crate) struct Node {
    dir: PathBuf,
    ports: [u16; 3],
    auth: bool,
    watcher: Child,
    line: Option<ChildStdin>,
}

/// Returns the node that all tests share.
pub(crate) fn shared() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let node = Node::new(false);
        node.start();
        node
    })
}

/// Returns a keyspace that nobody else uses.
pub(crate) fn keyspace() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Node {
    /// Prepares a node; it does not run yet.
    pub(crate) fn new(auth: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("faas-cassandra-test-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = held.map(|listener| listener.local_addr().unwrap().port());
        // A node that is held still must go on to be ended.
        let ends = "read -r _; \"$1\" resume \"$2\"; \"$1\" kill \"$2\"; rm -rf \"$2\"";
        let mut watcher = Command::new("sh");
        watcher.args(["-c", ends, "sh", SCRIPT]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut watcher = watcher.stderr(Stdio::null()).spawn().unwrap();
        let line = watcher.stdin.take();
        Self { dir, ports, auth, watcher, line }
    }

    /// Returns how to reach it, with a keyspace of the caller's own.
    pub(crate) fn config(&self) -> Config {
        let nodes = vec![format!("127.0.0.1:{}", self.ports[0])];
        Config { nodes, keyspace: keyspace(), ..Config::default() }
    }

    /// Starts it and waits until it takes connections.
    pub(crate) fn start(&self) {
        self.run("start");
        self.run("wait");
    }

    pub(crate) fn run(&self, verb: &str) {
        let [cql, storage, jmx] = self.ports.map(|p| p.to_string());
        let mut command = Command::new(SCRIPT);
        command.arg(verb).arg(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        command.envs([("CQL_PORT", cql), ("STORAGE_PORT", storage), ("JMX_PORT", jmx)]);
        command.env("AUTH", if self.auth { "on" } else { "off" });
        let done = command.status().unwrap();
        assert!(done.success(), "node.sh {verb} failed: are Java 17 and Maven installed?");
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
