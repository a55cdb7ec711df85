//! A client of the functions listener: sends, waits, reads, leaves at times.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use faas_gateway::front::{Handler, Peer};
use faas_model::{Body, BodyError, FunctionName, headers};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep, sleep_until};

use crate::guest::REQUEST;
use crate::log::Log;
use crate::world::Models;

/// One request, decided beforehand.
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) function: FunctionName,
    pub(crate) log: Log,
    pub(crate) handler: Handler,
    pub(crate) open: Arc<Mutex<BTreeMap<FunctionName, usize>>>,
    /// When it leaves, whatever it has by then.
    pub(crate) leaves: Option<Duration>,
    /// Parts of its body, and the pause before each.
    pub(crate) upload: Option<(u64, Duration)>,
    /// How long it rests before each part of the answer that it reads.
    pub(crate) slowness: Duration,
    /// How long an answer may take, as things are when it comes.
    pub(crate) models: Models,
}

/// Timers have a granularity of a millisecond.
const SLACK: Duration = Duration::from_millis(5);

/// Counts the request as open until dropped.
struct Open<'c>(&'c Client);

impl<'c> Open<'c> {
    fn new(client: &'c Client) -> Self {
        *client.open.lock().unwrap_or_else(PoisonError::into_inner).entry(client.function.clone()).or_default() += 1;
        Self(client)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.0.function) {
            *count -= 1;
        }
    }
}

impl Client {
    /// Sends the request and sees it to its end.
    pub(crate) async fn run(self) {
        let _open = Open::new(&self);
        let leaves = self.leaves.map(|after| Instant::now() + after);
        let leave = async {
            match leaves {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.exchange() => {}
            () = leave => self.log.line(format_args!("{} leaves", self.name)),
        }
    }

    async fn exchange(&self) {
        let began = Instant::now();
        let response = (self.handler)(self.request(), Peer { address: SocketAddr::from(([127, 0, 0, 1], 4000)) }).await;
        let took = began.elapsed();
        let status = response.status().as_u16();
        self.log.line(format_args!("{} is answered {status} after {} ms", self.name, took.as_millis()));
        self.check_head(&response, took);
        self.read(response.into_body()).await;
    }

    fn request(&self) -> Request<Body> {
        let name = &self.function.name;
        let request = Request::builder().header("host", "localhost").header(REQUEST, &self.name);
        let (method, body) = match self.upload {
            None => ("GET", Body::Empty),
            Some((parts, pause)) => {
                let frames = futures_util::stream::unfold(0, move |at| async move {
                    sleep(pause).await;
                    let frame = Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"up")));
                    (at < parts).then_some((frame, at + 1))
                });
                ("POST", Body::stream(StreamBody::new(frames)))
            }
        };
        request.method(method).uri(format!("/function/{name}/work")).body(body).expect("a request")
    }

    fn check_head(&self, response: &Response<Body>, took: Duration) {
        let (name, status) = (&self.name, response.status().as_u16());
        let known = [200, 204, 404, 418, 429, 500, 502, 503, 504];
        self.log.check(known.contains(&status), format_args!("an answer has a known status: {name} has {status}"));
        let platform = response.headers().get(headers::ORIGIN).is_none_or(|v| v != "function");
        let named = response.headers().contains_key(headers::CALL_ID);
        self.log.check(named, format_args!("an answer names its call: {name}"));
        self.log.check(status < 429 || platform, format_args!("{name}: no guest answers {status}"));
        let uploading =
            self.upload.map_or(Duration::ZERO, |(parts, pause)| pause * u32::try_from(parts + 1).unwrap_or(1));
        let bound = self.models.of(&self.function).head();
        self.log.check(
            took <= bound + SLACK || uploading > bound,
            format_args!("a dispatch ends by its deadline: {name} took {took:?} to its head, bound {bound:?}"),
        );
    }

    async fn read(&self, mut body: Body) {
        let (began, mut parts) = (Instant::now(), 0);
        let how = loop {
            sleep(self.slowness).await;
            match body.frame().await {
                None => break "whole",
                Some(Ok(_)) => parts += 1,
                Some(Err(_)) => break "broken off",
            }
        };
        let took = began.elapsed();
        self.log.line(format_args!("{} has its answer, {parts} parts, {how}", self.name));
        // It rests before each look: one rest may end after the bound, and the end is one more look.
        let bound = self.models.of(&self.function).stream + self.slowness * 2 + SLACK;
        self.log.check(
            took <= bound,
            format_args!(
                "a dispatch ends by its deadline: {} took {took:?} from head to end, bound {bound:?}",
                self.name
            ),
        );
    }
}
