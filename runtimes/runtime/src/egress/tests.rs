//! The whole way out against real servers on loopback.

mod bounds;
mod exchange;
mod kept;
mod refusals;
mod server;
mod tls;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use faas_model::CallId;
use faas_model::units::Millis;
use http_body_util::{Empty, Full};

use super::*;
use crate::logs::{LogBook, LogConfig};
use server::Server;

const LONG: Duration = Duration::from_secs(30);

/// A way out with names of its own.
struct Bench {
    egress: Egress,
    book: LogBook,
    lookups: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {}, &[("server.test", &["127.0.0.1"])])
    }

    /// Each lookup of a name takes the next of its answers; the last one stays.
    fn with(change: impl FnOnce(&mut Config), names: &[(&str, &[&str])]) -> Self {
        let names: HashMap<String, Vec<String>> = names
            .iter()
            .map(|(name, answers)| ((*name).into(), answers.iter().map(|a| (*a).into()).collect()))
            .collect();
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        Self::looking_up(change, lookups, move |name| {
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            let answers = names.get(name).ok_or_else(|| io::Error::other("no such name"))?;
            Ok(answers[nth.min(answers.len() - 1)].split(' ').map(|a| a.parse().unwrap()).collect())
        })
    }

    fn looking_up(
        change: impl FnOnce(&mut Config),
        lookups: Arc<AtomicUsize>,
        lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        change(&mut config);
        let egress = Egress::with_lookup(config, Arc::new(lookup)).unwrap();
        let book = LogBook::open(dir.path().join("logs"), LogConfig::default()).unwrap();
        Self { egress, book, lookups, _dir: dir }
    }

    fn sender_of(&self, function: &str, rules: &[&str]) -> Sender {
        let function = function_named(function);
        let rules = rules.iter().map(|rule| EgressRule::new(rule).unwrap()).collect();
        let log = Arc::new(self.book.writer(&function).call(CallId::fresh()));
        self.egress.outlet(&function, &rules).sender(&log)
    }

    /// A call of function `f` that may reach the server by address and by the name `server.test`.
    fn sender(&self, server: &Server) -> Sender {
        self.sender_of("f", &[&format!("127.0.0.1:{}", server.port()), &format!("server.test:{}", server.port())])
    }

    async fn log(&self, function: &str) -> Vec<String> {
        let lines = self.book.tail(&function_named(function), 1000).await.unwrap();
        lines.into_iter().map(|line| line.text).collect()
    }

    fn kept(&self) -> usize {
        self.egress.shared.pool.len()
    }
}

fn function_named(name: &str) -> FunctionName {
    FunctionName::in_default(name).unwrap()
}

fn get(url: &str) -> Request<Empty<Bytes>> {
    Request::get(url).body(Empty::new()).unwrap()
}

fn post(url: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(body.into())).unwrap()
}

impl Sender {
    async fn get(&self, url: &str) -> Result<Response<ResponseBody>, Error> {
        tokio::time::timeout(LONG, self.send(get(url), Patience::default())).await.expect("a request ends")
    }

    async fn text(&self, url: &str) -> Result<String, Error> {
        text(self.get(url).await?).await
    }

    async fn failure(&self, url: &str) -> Error {
        self.text(url).await.expect_err("the request fails")
    }
}

async fn text(response: Response<ResponseBody>) -> Result<String, Error> {
    let body = tokio::time::timeout(LONG, response.into_body().collect()).await.expect("a body ends")?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// Waits until something is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} never came"));
}
