//! The two processes, and callers who pick one of them and go to the other only where a repeat is allowed:
//! where nobody listens, and after a 503 that says when to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use faas_loadtest::platform::Platform;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest wait for an answer or for a process that listens; longer than any pause of the machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// A connection that was not used for longer is not used again: the process closes it after 60 s (`front.keep_alive`),
/// and a request that is on its way then has no answer (RFC 9112 §9.5).
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Between two attempts to reach a process when none listens.
const NOBODY_PAUSE: Duration = Duration::from_millis(20);

/// One process as callers see it; its addresses stay the same over restarts.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) functions: String,
    pub(crate) state: String,
    /// How often it was killed; counted just before.
    pub(crate) kills: AtomicU64,
    /// Whether it is killed and not ready again.
    pub(crate) down: AtomicBool,
    /// Whether it has been told to end and is not ready again.
    pub(crate) ending: AtomicBool,
}

/// Both.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) sides: [Side; 2],
    /// The value of `Authorization`, taken by both.
    pub(crate) authorization: String,
}

impl Side {
    /// Returns how callers see a platform.
    pub(crate) fn of(platform: &Platform) -> Self {
        Self {
            functions: platform.ready().functions.clone(),
            state: platform.ready().baas.clone(),
            kills: AtomicU64::new(0),
            down: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }
    }
}

impl Sides {
    pub(crate) fn side(&self, at: usize) -> &Side {
        let [one, two] = &self.sides;
        if at.is_multiple_of(2) { one } else { two }
    }
}

/// Which listener is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    Functions,
    State,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self { method: Method::GET, target: target.into(), headers: Vec::new(), body: String::new() }
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    /// The first digits of the revision that answered, if a function did.
    pub(crate) revision: String,
    /// Whether it says when to come back.
    pub(crate) retry_after: bool,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

impl Answered {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Sent {
    Answered(Answered),
    /// Its process was killed under it.
    Killed,
    /// There is no whole answer, and no kill to explain that.
    Cut(String),
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    answered: u64,
    used: Instant,
    while_ending: bool,
}

enum Tried {
    Done(Sent),
    /// No process has seen it.
    Unseen,
}

/// A caller with connections of its own.
pub(crate) struct Caller {
    sides: Arc<Sides>,
    listener: Listener,
    open: [Option<Connection>; 2],
    random: ChaCha8Rng,
}

impl Caller {
    pub(crate) fn new(sides: Arc<Sides>, listener: Listener, seed: u64) -> Self {
        Self { sides, listener, open: [None, None], random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Asks one of the two; the other one if the first is not there or says to come back.
    pub(crate) async fn ask(&mut self, asked: &Asked) -> Sent {
        let first = self.random.random_range(0..2);
        match self.ask_from(first, asked).await {
            (side, Sent::Answered(answer)) if answer.status == 503 && answer.retry_after => {
                self.ask_from(side + 1, asked).await.1
            }
            (_, sent) => sent,
        }
    }

    /// Asks one of the two, once.
    pub(crate) async fn ask_once(&mut self, asked: &Asked) -> Sent {
        let first = self.random.random_range(0..2);
        self.ask_from(first, asked).await.1
    }

    /// Asks that one, or the other if it is not there; tells which one it was.
    pub(crate) async fn ask_from(&mut self, first: usize, asked: &Asked) -> (usize, Sent) {
        let begun = Instant::now();
        for at in first.. {
            match self.try_side(at % 2, asked).await {
                Tried::Done(sent) => return (at % 2, sent),
                Tried::Unseen if begun.elapsed() > PATIENCE => break,
                // Both were asked.
                Tried::Unseen if at > first => tokio::time::sleep(NOBODY_PAUSE).await,
                Tried::Unseen => {}
            }
        }
        (first, Sent::Cut("nobody listens".into()))
    }

    async fn try_side(&mut self, at: usize, asked: &Asked) -> Tried {
        let sides = self.sides.clone();
        let side = sides.side(at);
        loop {
            let kills = side.kills.load(Ordering::SeqCst);
            let kept = self.open.get_mut(at).and_then(Option::take);
            let kept = kept.filter(|connection| connection.used.elapsed() < IDLE_MAX);
            let mut connection = match kept {
                Some(connection) => connection,
                None => match self.connect(side).await {
                    Some(connection) => connection,
                    None => return Tried::Unseen,
                },
            };
            let begun = Instant::now();
            let (sent, unsent) = exchange(&mut connection, &self.sides.authorization, self.host(side), asked).await;
            match sent {
                Ok((answer, closes)) => {
                    connection.answered += 1;
                    connection.used = Instant::now();
                    if let Some(place) = self.open.get_mut(at).filter(|_| !closes) {
                        *place = Some(connection);
                    }
                    return Tried::Done(Sent::Answered(Answered { took: begun.elapsed(), ..answer }));
                }
                // Closed between two requests; the next connection tells whether somebody is there.
                Err(_) if unsent => {}
                Err(_) if side.down.load(Ordering::SeqCst) || side.kills.load(Ordering::SeqCst) != kills => {
                    return Tried::Done(Sent::Killed);
                }
                // Taken by the kernel of a process that had closed its listener: see docs/faults.md.
                Err(_) if connection.answered == 0 && connection.while_ending => return Tried::Unseen,
                Err(error) => {
                    return Tried::Done(Sent::Cut(format!("after {} answers: {error}", connection.answered)));
                }
            }
        }
    }

    fn host<'a>(&self, side: &'a Side) -> &'a str {
        match self.listener {
            Listener::Functions => &side.functions,
            Listener::State => &side.state,
        }
    }

    async fn connect(&self, side: &Side) -> Option<Connection> {
        let while_ending = side.ending.load(Ordering::SeqCst);
        let stream = TcpStream::connect(self.host(side)).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let while_ending = while_ending || side.ending.load(Ordering::SeqCst);
        Some(Connection { sender, answered: 0, used: Instant::now(), while_ending })
    }
}

type Exchanged = Result<(Answered, bool), String>;

/// Sends a request on a connection; tells whether nothing of it was sent, when it failed.
async fn exchange(connection: &mut Connection, authorization: &str, host: &str, asked: &Asked) -> (Exchanged, bool) {
    if connection.sender.ready().await.is_err() {
        return (Err("closed".into()), true);
    }
    let mut request = Request::builder().method(&asked.method).uri(&asked.target).header("host", host);
    request = request.header("authorization", authorization);
    for (name, value) in &asked.headers {
        request = request.header(*name, value);
    }
    let Ok(request) = request.body(Full::new(Bytes::from(asked.body.clone()))) else {
        return (Err("not a request".into()), false);
    };
    let whole = async {
        let response = match connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                return (Err(error.into_error().to_string()), unsent);
            }
        };
        let (head, body) = response.into_parts();
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let closes = text("connection").is_some_and(|value| value == "close");
        match body.collect().await {
            Ok(body) => {
                let (etag, retry_after) = (text("etag"), text("retry-after").is_some());
                let (status, body) = (head.status.as_u16(), body.to_bytes());
                let revision = text("x-faas-revision").unwrap_or_default();
                (Ok((Answered { status, etag, revision, retry_after, body, took: Duration::ZERO }, closes)), false)
            }
            Err(error) => (Err(format!("its body: {error}")), false),
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.unwrap_or_else(|_| (Err("no answer in time".into()), false))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const LATER: &str = "HTTP/1.1 503 Later\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
    const NEVER: &str = "HTTP/1.1 503 Never\r\ncontent-length: 0\r\n\r\n";
    const CUT: &str = "";

    /// A process that answers every first request of a connection with `text`, and counts.
    async fn server(text: &'static str) -> (Side, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicU64::new(0)));
        let counted = asked.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(text.as_bytes()).await.unwrap();
                }
            }
        });
        (side(address), asked)
    }

    fn side(address: String) -> Side {
        let flag = || AtomicBool::new(false);
        let (functions, state) = (address.clone(), address);
        Side { functions, state, kills: AtomicU64::new(0), down: flag(), ending: flag() }
    }

    async fn nobody() -> Side {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        side(listener.local_addr().unwrap().to_string())
    }

    fn caller(one: Side, two: Side) -> (Caller, Arc<Sides>) {
        let sides = Arc::new(Sides { sides: [one, two], authorization: "Bearer x".into() });
        (Caller::new(sides.clone(), Listener::State, 1), sides)
    }

    fn status(sent: &Sent) -> Option<u16> {
        if let Sent::Answered(answer) = sent { Some(answer.status) } else { None }
    }

    #[tokio::test]
    async fn where_nobody_listens_the_other_is_asked() {
        let (fine, asked) = server(FINE).await;
        let (mut caller, _) = caller(nobody().await, fine);
        for n in 1..10 {
            assert_eq!(status(&caller.ask(&Asked::get("/")).await), Some(200));
            assert_eq!(asked.load(Ordering::SeqCst), n);
        }
    }

    #[tokio::test]
    async fn a_503_goes_to_the_other_only_if_it_says_when_to_come_back() {
        for (text, expected) in [(LATER, Some(200)), (NEVER, Some(503))] {
            let ((refusing, _), (fine, _)) = (server(text).await, server(FINE).await);
            let (mut caller, sides) = caller(refusing, fine);
            // Whichever is picked first.
            let mut told = Vec::new();
            for _ in 0..20 {
                told.push(status(&caller.ask(&Asked::get("/")).await));
            }
            assert!(told.contains(&expected) && told.contains(&Some(200)), "{told:?}");
            assert_eq!(told.contains(&Some(503)), text == NEVER, "{told:?}");
            let (at, once) = caller.ask_from(0, &Asked::get("/")).await;
            assert_eq!((at, status(&once)), (0, Some(503)), "asked once it is not repeated");
            drop(sides);
        }
    }

    #[tokio::test]
    async fn a_request_that_is_cut_is_not_repeated_and_excused_only_by_a_kill() {
        let ((cut, _), (fine, asked)) = (server(CUT).await, server(FINE).await);
        let (mut caller, sides) = caller(cut, fine);
        let (_, sent) = caller.ask_from(0, &Asked::get("/")).await;
        assert!(matches!(&sent, Sent::Cut(_)), "{sent:?}");
        sides.side(0).down.store(true, Ordering::SeqCst);
        let (_, sent) = caller.ask_from(0, &Asked::get("/")).await;
        assert!(matches!(&sent, Sent::Killed), "{sent:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 0, "the other was not asked");
        sides.side(0).down.store(false, Ordering::SeqCst);
        sides.side(0).ending.store(true, Ordering::SeqCst);
        let (at, sent) = caller.ask_from(0, &Asked::get("/")).await;
        assert_eq!((at, status(&sent)), (1, Some(200)), "nobody has seen it");
    }
}
