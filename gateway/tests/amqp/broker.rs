//! A real RabbitMQ for tests: one that all tests share, and ones that a test may kill.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rabbitmq/broker.sh");

/// A broker of this test process. A watcher outlives the process and removes it, however the process ends.
#[derive(Debug)]
pub(crate) struct Broker {
    dir: PathBuf,
    ports: [u16; 3],
    watcher: Child,
    line: Option<ChildStdin>,
}

/// Returns the URL of the broker that all tests share: the one of the environment, or one of our own.
pub(crate) fn shared() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    static OWN: OnceLock<Broker> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "the harness of the tests says where its broker is")]
    URL.get_or_init(|| match std::env::var("FAAS_TEST_AMQP_URL") {
        Ok(url) if !url.is_empty() => url,
        _ => {
            let broker = OWN.get_or_init(Broker::new);
            broker.start();
            broker.url()
        }
    })
}

impl Broker {
    /// Prepares a broker; it does not run yet.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("faas-amqp-test-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = held.map(|listener| listener.local_addr().unwrap().port());
        let ends = "read -r _; \"$1\" kill \"$2\"; rm -rf \"$2\"";
        let mut watcher = Command::new("sh");
        watcher.args(["-c", ends, "sh", SCRIPT]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut watcher = watcher.stderr(Stdio::null()).spawn().unwrap();
        let line = watcher.stdin.take();
        Self { dir, ports, watcher, line }
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports[0])
    }

    /// Starts it and waits until it takes connections.
    pub(crate) fn start(&self) {
        self.run("start");
        self.run("wait");
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&self) {
        self.run("kill");
    }

    fn run(&self, verb: &str) {
        let [amqp, dist, epmd] = self.ports.map(|p| p.to_string());
        let mut command = Command::new(Path::new(SCRIPT));
        command.arg(verb).arg(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        command.envs([("AMQP_PORT", amqp), ("DIST_PORT", dist), ("EPMD_PORT", epmd)]);
        let done = command.status().unwrap();
        assert!(done.success(), "broker.sh {verb} failed: is rabbitmq-server installed?");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            line.write_all(b"end\n").ok();
        }
        self.watcher.wait().ok();
    }
}
