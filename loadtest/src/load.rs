//! A closed-loop generator: N connections, each with one request at a time.
//!
//! It says what a server costs per request, not what a user waits for: a slow
//! server slows the generator down too (coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

/// What is sent again and again.
#[derive(Debug, Clone)]
pub struct Shot {
    /// `host:port`.
    pub authority: String,
    /// Method, target, headers; the `Host` header is added.
    pub method: http::Method,
    /// Path and query; `{n}` is replaced by a number that never repeats in a run.
    pub target: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body; `{n}` as in the target when `numbered`.
    pub body: Bytes,
    /// Whether `{n}` is replaced.
    pub numbered: bool,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Answers with a status below 400.
    pub good: u64,
    /// Everything else.
    pub bad: u64,
    /// Latencies of good answers, sorted, in microseconds.
    pub latencies_us: Vec<u32>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Outcome {
    /// Returns the latency below which `share` (0 to 1) of the good answers are, in microseconds.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index within the length")]
        let index = ((self.latencies_us.len() as f64 - 1.0) * share).round().max(0.0) as usize;
        self.latencies_us.get(index).copied().unwrap_or_default()
    }

    /// Returns good answers per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.good as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends `shot` over `connections` connections for `time`.
///
/// # Errors
/// When no connection can be made at all.
pub async fn closed_loop(shot: &Shot, connections: usize, time: Duration) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|lane| tokio::spawn(lane_loop(shot.clone(), lane as u64, connections as u64, stop.clone())))
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut total = Outcome::default();
    for task in tasks {
        let part = task.await.context("a lane panicked")??;
        total.good += part.good;
        total.bad += part.bad;
        total.latencies_us.extend(part.latencies_us);
    }
    total.elapsed = begun.elapsed();
    total.latencies_us.sort_unstable();
    if total.good + total.bad == 0 {
        bail!("no answer at all from {}", shot.authority);
    }
    Ok(total)
}

async fn lane_loop(shot: Shot, lane: u64, lanes: u64, stop: Arc<AtomicBool>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut number = lane;
    while !stop.load(Ordering::Relaxed) {
        let stream = tokio::net::TcpStream::connect(&shot.authority).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            if sender.ready().await.is_err() {
                break;
            }
            number += lanes;
            let request = shot.request(number)?;
            let begun = Instant::now();
            let exchange = async {
                let response = sender.send_request(request).await?;
                let status = response.status();
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    frame?;
                }
                Ok::<_, hyper::Error>(status)
            };
            match exchange.await {
                Ok(status) if status.as_u16() < 400 => {
                    outcome.good += 1;
                    outcome.latencies_us.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                Ok(_) => outcome.bad += 1,
                Err(_) => {
                    outcome.bad += 1;
                    break;
                }
            }
        }
        drop(sender);
        driver.abort();
    }
    Ok(outcome)
}

impl Shot {
    /// Returns a GET of `target`.
    #[must_use]
    pub fn get(authority: &str, target: &str) -> Self {
        Self {
            authority: authority.to_owned(),
            method: http::Method::GET,
            target: target.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            numbered: false,
        }
    }

    fn request(&self, number: u64) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(self.method.clone()).header("host", &self.authority);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if self.numbered {
            let text = number.to_string();
            let body = String::from_utf8_lossy(&self.body).replace("{n}", &text);
            return Ok(request.uri(self.target.replace("{n}", &text)).body(Full::new(body.into()))?);
        }
        Ok(request.uri(&self.target).body(Full::new(self.body.clone()))?)
    }
}
