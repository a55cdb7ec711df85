//! Callers over connections of their own, who tell apart how a request ended.
//!
//! A caller sends at its times, not when the last answer came, unless that is late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Between two attempts to connect to a platform that is down.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for an answer; then it counts as cut.
const PATIENCE: Duration = Duration::from_secs(60);

/// How requests and connections ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    /// Whole answers with the expected status.
    pub(crate) answered: u64,
    /// Whole answers with another status.
    pub(crate) wrong: u64,
    /// Requests on an accepted connection without a whole answer.
    pub(crate) cut: u64,
    /// First requests of a connection that the kernel took and reset while the platform was down or ending.
    pub(crate) not_accepted: u64,
    /// Connections refused; their requests waited for the next.
    pub(crate) refused: u64,
    /// Connections closed by the platform with an answer that said so.
    pub(crate) announced: u64,
    /// Connections closed between two requests, before a byte of the next was sent.
    pub(crate) closed_idle: u64,
    /// Longest time from when a request was due to its whole answer.
    pub(crate) longest: Duration,
    /// What was said of the first wrong and cut ones.
    pub(crate) samples: BTreeMap<String, u64>,
}

impl Ends {
    pub(crate) fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.wrong += other.wrong;
        self.cut += other.cut;
        self.not_accepted += other.not_accepted;
        self.refused += other.refused;
        self.announced += other.announced;
        self.closed_idle += other.closed_idle;
        self.longest = self.longest.max(other.longest);
        other.samples.into_iter().for_each(|(text, n)| *self.samples.entry(text).or_default() += n);
    }

    fn sample(&mut self, text: String) {
        if self.samples.len() < 10 || self.samples.contains_key(&text) {
            *self.samples.entry(text).or_default() += 1;
        }
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} answered, {} wrong, {} cut; connections: {} refused, {} reset before they were accepted, {} closed as announced, {} closed idle; longest wait {} ms",
            self.answered,
            self.wrong,
            self.cut,
            self.refused,
            self.not_accepted,
            self.announced,
            self.closed_idle,
            self.longest.as_millis()
        )?;
        self.samples.iter().try_for_each(|(text, n)| write!(f, "\n  {n} x {text}"))
    }
}

/// One caller.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `host:port`.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
    /// Between two requests.
    pub(crate) gap: Duration,
    /// Whether every request has a connection of its own.
    pub(crate) fresh: bool,
    /// Whether the platform is being killed, so that no request can be expected to be answered whole.
    pub(crate) forgiving: bool,
}

/// Callers at work.
#[derive(Debug)]
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    /// Whether the platform may be ending or down.
    ending: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Ends>>,
}

impl Traffic {
    pub(crate) fn start(callers: impl IntoIterator<Item = Caller>) -> Self {
        let (stop, ending) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let run = |caller: Caller| tokio::spawn(caller.run(stop.clone(), ending.clone()));
        let callers = callers.into_iter().map(run).collect();
        Self { stop, ending, callers }
    }

    /// Says whether the platform may be ending or down from now on.
    pub(crate) fn set_ending(&self, ending: bool) {
        self.ending.store(ending, Ordering::SeqCst);
    }

    /// Lets every caller end its request and adds up.
    pub(crate) async fn end(self) -> Result<Ends> {
        self.stop.store(true, Ordering::SeqCst);
        let mut ends = Ends::default();
        for caller in self.callers {
            ends.add(caller.await?);
        }
        Ok(ends)
    }
}

/// A connection and what is known of it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    answered: u64,
    /// Whether the platform may have been ending when it was made.
    while_ending: bool,
}

enum Sent {
    Answered {
        status: u16,
        closes: bool,
    },
    /// No byte of it left.
    Unsent,
    Broken(String),
}

impl Caller {
    async fn run(self, stop: Arc<AtomicBool>, ending: Arc<AtomicBool>) -> Ends {
        let mut ends = Ends::default();
        let mut connection: Option<Connection> = None;
        let mut due = Instant::now() + self.gap.mul_f64(f64::from(rand::random::<u16>()) / 65536.0);
        while !stop.load(Ordering::SeqCst) {
            tokio::time::sleep_until(due).await;
            let Some(mut open) = (match connection.take() {
                Some(open) => Some(open),
                None => self.connect(&ending, &mut ends).await,
            }) else {
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            };
            match self.send(&mut open).await {
                Sent::Unsent => {
                    ends.closed_idle += 1;
                    continue;
                }
                Sent::Answered { status, closes } => {
                    open.answered += 1;
                    ends.announced += u64::from(closes);
                    ends.longest = ends.longest.max(due.elapsed());
                    if status == 200 {
                        ends.answered += 1;
                    } else {
                        ends.wrong += 1;
                        ends.sample(format!("{} answered {status}", self.target));
                    }
                    connection = Some(open).filter(|_| !closes && !self.fresh);
                }
                Sent::Broken(_) if open.answered == 0 && (open.while_ending || ending.load(Ordering::SeqCst)) => {
                    ends.not_accepted += 1;
                }
                Sent::Broken(_) if self.forgiving => ends.cut += 1,
                Sent::Broken(error) => {
                    ends.cut += 1;
                    ends.sample(format!("{} after {} answers: {error}", self.target, open.answered));
                }
            }
            due = (due + self.gap).max(Instant::now() - self.gap * 10);
        }
        ends
    }

    async fn connect(&self, ending: &AtomicBool, ends: &mut Ends) -> Option<Connection> {
        let while_ending = ending.load(Ordering::SeqCst);
        let connected = async {
            let stream = TcpStream::connect(&self.authority).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            Some(Connection { sender, answered: 0, while_ending })
        };
        let connected = connected.await;
        ends.refused += u64::from(connected.is_none());
        connected
    }

    async fn send(&self, open: &mut Connection) -> Sent {
        if open.sender.ready().await.is_err() {
            return Sent::Unsent;
        }
        let request = Request::get(&self.target).header("host", &self.authority).body(Full::default());
        let Ok(request) = request else { return Sent::Broken("the target is no URI".into()) };
        let exchange = async {
            let response = match open.sender.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    return if unsent { Sent::Unsent } else { Sent::Broken(chain(&error.into_error())) };
                }
            };
            let status = response.status().as_u16();
            let closes = response.headers().get("connection").is_some_and(|v| v == "close");
            match response.into_body().collect().await {
                Ok(_) => Sent::Answered { status, closes },
                Err(error) => Sent::Broken(format!("its body: {}", chain(&error))),
            }
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Sent::Broken("no answer in time".into()))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
