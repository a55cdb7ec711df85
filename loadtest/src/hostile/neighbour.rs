//! A neighbour at steady load: calls at fixed times, each measured from its time, so that a wait
//! counts whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

/// Connections of one neighbour.
const LANES: u32 = 16;
/// Longer waits count as this one.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What was measured.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// From the time a call was due to the end of its answer, in microseconds.
    pub latencies_us: Histogram<u64>,
    /// Calls that ended in anything but the right answer.
    pub errors: Vec<String>,
}

impl Seen {
    /// Adds what was measured elsewhere.
    ///
    /// # Errors
    /// Never: all histograms have one range.
    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        self.latencies_us.add(&other.latencies_us)?;
        self.errors.extend(other.errors);
        Ok(())
    }

    /// Returns a quantile in milliseconds.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        self.latencies_us.value_at_quantile(share) as f64 / 1000.0
    }
}

/// A running load; it ends with [`stop`](Self::stop).
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    lanes: Vec<tokio::task::JoinHandle<Result<Seen>>>,
}

impl Load {
    /// Starts calls of `target` at `rate` a second.
    pub(super) fn start(authority: &str, target: &str, rate: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let pause = Duration::from_secs_f64(f64::from(LANES) / rate.max(1.0));
        let lanes = (0..LANES)
            .map(|lane| {
                let first = begun + pause.mul_f64(f64::from(lane) / f64::from(LANES));
                tokio::spawn(lane_loop(authority.to_owned(), target.to_owned(), first, pause, Arc::clone(&stop)))
            })
            .collect();
        Self { stop, lanes }
    }

    /// Ends the load and returns what was seen.
    ///
    /// # Errors
    /// When nothing was measured.
    pub(super) async fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = empty()?;
        for lane in self.lanes {
            all.add(lane.await.context("a lane panicked")??)?;
        }
        if all.latencies_us.is_empty() {
            bail!("the neighbour gave no good answer: {:?}", all.errors.first());
        }
        Ok(all)
    }
}

fn empty() -> Result<Seen> {
    Ok(Seen { latencies_us: Histogram::new_with_max(LATENCY_MAX_US, 3)?, errors: Vec::new() })
}

async fn lane_loop(
    authority: String,
    target: String,
    first: Instant,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> Result<Seen> {
    let mut seen = empty()?;
    let mut due = first;
    while !stop.load(Ordering::Relaxed) {
        let stream = tokio::net::TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) && sender.ready().await.is_ok() {
            tokio::time::sleep_until(due).await;
            let request = http::Request::get(&target).header("host", &authority).body(Empty::new())?;
            let exchange = async {
                let response = sender.send_request(request).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                Ok::<_, hyper::Error>((status, body))
            };
            match exchange.await {
                Ok((status, _)) if status == 200 => {
                    let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    seen.latencies_us.saturating_record(us);
                }
                Ok((status, body)) => seen.errors.push(format!("{status} {}", String::from_utf8_lossy(&body))),
                Err(error) => seen.errors.push(format!("{error:?}")),
            }
            due += pause;
        }
        drop(sender);
        driver.abort();
    }
    Ok(seen)
}
