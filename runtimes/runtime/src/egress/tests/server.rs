//! Servers on loopback: a well-behaved one over HTTP or TLS, and one that writes what it is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use faas_model::{Body, BodyError};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A server that ends with its value.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    pub(super) async fn http() -> Self {
        Self::on("127.0.0.1:0").await
    }

    pub(super) async fn on(address: &str) -> Self {
        Self::start(address, |stream, seen| async move { serve(stream, seen).await }).await
    }

    pub(super) async fn tls(acceptor: TlsAcceptor) -> Self {
        Self::start("127.0.0.1:0", move |stream, seen| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, seen).await;
                }
            }
        })
        .await
    }

    /// Writes `answer` after the first bytes of each connection, and closes it.
    pub(super) async fn raw(answer: &'static [u8]) -> Self {
        Self::start("127.0.0.1:0", move |mut stream, seen| async move {
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                seen.requests.fetch_add(1, Ordering::SeqCst);
                stream.write_all(answer).await.ok();
            }
        })
        .await
    }

    async fn start<F>(address: &str, handle: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                let (open, handled) = (Open(Arc::clone(&shared)), handle(stream, Arc::clone(&shared)));
                connections.spawn(async move {
                    handled.await;
                    drop(open);
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Connections that were ever made.
    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    pub(super) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// The last request's head, as text.
    pub(super) fn head(&self) -> String {
        self.seen.heads.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seen: Arc<Seen>) {
    let service = service_fn(move |request| {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let mut head = format!("{} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            head.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        seen.heads.lock().unwrap().push(head);
        async move { Ok::<_, Infallible>(answer(request).await) }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    match request.uri().path() {
        "/echo" => {
            let body = request.into_body().map_err(|_| BodyError::Broken("the client left".into()));
            Response::new(Body::stream(body))
        }
        "/size" => Response::new(Body::from(vec![b'x'; query.parse().unwrap()])),
        "/silent" => std::future::pending().await,
        "/pause" => Response::new(pausing()),
        "/redirect" => Response::builder().status(302).header("location", query).body(Body::Empty).unwrap(),
        "/headers" => Response::builder()
            .header("connection", "x-named")
            .header("x-named", "1")
            .header("proxy-authenticate", "Basic")
            .header("keep-alive", "timeout=5")
            .header("x-kept", "1")
            .body(Body::from("headers"))
            .unwrap(),
        "/large-head" => Response::builder().header("x-large", "v".repeat(100_000)).body(Body::Empty).unwrap(),
        _ => Response::new(Body::from("hello")),
    }
}

/// One part, and nothing after it for ever.
fn pausing() -> Body {
    let part = futures_util::stream::iter([Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"part")))]);
    let never = futures_util::stream::pending();
    Body::stream(StreamBody::new(futures_util::StreamExt::chain(part, never)))
}
