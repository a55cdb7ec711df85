//! An open loop: each request is sent when its time has come, whatever became of those before.
//!
//! Latency counts from that time and not from the sending, so that a server
//! which stalls is charged for everybody who would have waited (no coordinated
//! omission), and so is a generator that is late, which also reports its lag.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::connections::{Connection, Connections};
use crate::cpu;
use crate::latency::{Latencies, Summary};
use crate::pace::Pace;
use crate::plan::{Plan, Route, Shot};
use crate::tally::{End, Tallies};
use crate::target::Address;

/// Lag at p99 above which the generator, and not the server, may be what was measured.
pub const LAG_P99_US_MAX: u64 = 5_000;
/// Share of its one core above which the generator is at its end.
pub const CPU_SHARE_MAX: f64 = 0.85;
/// Most bytes of a failure's body that are read for its reason.
const REASON_BYTES_MAX: usize = 64 << 10;

/// Bounds of a run.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Longest wait for a whole answer, from the time it should have been sent.
    pub timeout: Duration,
    /// Requests on their way at once.
    pub outstanding_max: usize,
    /// Connections opened before the first request.
    pub connections_ready: usize,
}

/// What the generator says about itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    /// From the time of a request to its sending.
    pub lag: Summary,
    /// CPU time over wall time of its one thread.
    pub cpu_share: f64,
    /// Requests that were not sent because too many were on their way.
    pub not_sent: u64,
    /// Why the result is not to be trusted; empty when it is.
    pub flags: Vec<String>,
}

/// What came out of a run.
#[derive(Debug)]
pub struct Report {
    /// The counts.
    pub tallies: Tallies,
    /// The generator.
    pub generator: Generator,
    /// From the begin to the last end.
    pub elapsed: Duration,
}

struct Run {
    address: Address,
    connections: Connections,
    timeout: Duration,
    book: Mutex<Book>,
}

struct Book {
    tallies: Tallies,
    lag: Latencies,
    not_sent: u64,
}

/// Sends `plan` to `address`; returns when every request has ended.
///
/// # Errors
/// When the connections that shall be ready cannot be opened, or a request got lost in here.
pub async fn run(plan: Arc<Plan>, address: &Address, bounds: Bounds) -> Result<Report> {
    let run = Arc::new(Run {
        address: address.clone(),
        connections: Connections::new(&address.authority),
        timeout: bounds.timeout,
        book: Mutex::new(Book { tallies: Tallies::new(&plan), lag: Latencies::new(3), not_sent: 0 }),
    });
    run.open_ready(bounds.connections_ready).await?;
    let places = Arc::new(Semaphore::new(bounds.outstanding_max));
    let pace = Pace::new()?;
    let cpu_before = cpu::time_of(std::process::id())?;
    let begin = Instant::now();
    for (number, shot) in plan.shots.iter().enumerate() {
        let due = begin + shot.at;
        pace.until(due).await?;
        let Ok(place) = places.clone().try_acquire_owned() else {
            run.refuse(shot);
            continue;
        };
        let (run, plan, shot) = (run.clone(), plan.clone(), *shot);
        tokio::spawn(async move {
            if let Some(route) = plan.routes.get(shot.route as usize) {
                run.send(route, shot, number as u64, due).await;
            }
            drop(place);
        });
    }
    let all = u32::try_from(bounds.outstanding_max)?;
    drop(places.acquire_many(all).await.context("the places are never closed")?);
    let elapsed = begin.elapsed();
    let cpu_used = cpu::time_of(std::process::id())?.saturating_sub(cpu_before);
    run.report(&plan, elapsed, cpu_used)
}

impl Run {
    async fn open_ready(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let connection = self.connections.open().await;
            self.connections.keep(connection.with_context(|| format!("no connection to {}", self.address.authority))?);
        }
        Ok(())
    }

    fn refuse(&self, shot: &Shot) {
        let end = End { latency: Duration::ZERO, verdict: Err("bound".into()), cold: false, asked: None };
        let mut book = self.book();
        book.not_sent += 1;
        book.tallies.count(shot.route, shot.phase, &end);
    }

    async fn send(&self, route: &Route, shot: Shot, number: u64, due: Instant) {
        let lag = due.elapsed();
        let exchange = tokio::time::timeout_at(due + self.timeout, self.exchange(route, shot, number));
        let (verdict, cold) = match exchange.await {
            Ok((verdict, cold)) => (verdict, cold),
            Err(_) => (Err("timeout".into()), false),
        };
        let latency = due.elapsed();
        let asked = (shot.asked_us > 0).then(|| Duration::from_micros(u64::from(shot.asked_us)));
        let mut book = self.book();
        book.lag.record(lag);
        book.tallies.count(shot.route, shot.phase, &End { latency, verdict, cold, asked });
    }

    async fn exchange(&self, route: &Route, shot: Shot, number: u64) -> (Result<(), String>, bool) {
        let Ok(mut request) = self.request(route, shot, number) else { return (Err("request".into()), false) };
        loop {
            let mut connection = match self.connections.take().await {
                Ok(connection) => connection,
                Err(error) => return (Err(format!("connect: {}", error.kind())), false),
            };
            // A kept connection may have been closed since, or not yet be done with the answer before.
            if connection.ready().await.is_err() {
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => return self.answer(route, response, connection).await,
                // The server closed it at this moment: nothing was sent, so it is no failure.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return (Err("reset".into()), false),
                },
            }
        }
    }

    async fn answer(
        &self,
        route: &Route,
        response: Response<Incoming>,
        connection: Connection,
    ) -> (Result<(), String>, bool) {
        let (head, mut body) = response.into_parts();
        let cold = is_cold(&head.headers);
        let good = route.expect.status.map_or_else(|| head.status.as_u16() < 400, |s| head.status == s);
        if !good {
            let reason = Limited::new(body, REASON_BYTES_MAX).collect().await.ok();
            let kind = kind_of(head.status, reason.map(http_body_util::Collected::to_bytes).as_deref());
            self.connections.keep(connection);
            return (Err(kind), cold);
        }
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes += frame.data_ref().map_or(0, |d| d.len() as u64),
                Err(_) => return (Err("cut".into()), cold),
            }
        }
        self.connections.keep(connection);
        match route.expect.bytes {
            Some(expected) if expected != bytes => (Err(format!("{bytes} bytes")), cold),
            _ => (Ok(()), cold),
        }
    }

    fn request(&self, route: &Route, shot: Shot, number: u64) -> http::Result<Request<Full<bytes::Bytes>>> {
        let mut request = Request::builder().method(route.method.clone()).header("host", &self.address.authority);
        for (name, value) in &route.headers {
            request = request.header(name, value);
        }
        let path = self.address.path(&route.function, &route.path_of(number, shot.asked_us));
        request.uri(path).body(Full::new(route.body_of(number)))
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn report(&self, plan: &Plan, elapsed: Duration, cpu_used: Duration) -> Result<Report> {
        let book = self.book();
        let counted = book.tallies.total().requests;
        ensure!(counted == plan.shots.len() as u64, "{counted} of {} requests were counted", plan.shots.len());
        let lag = book.lag.summary();
        let cpu_share = cpu_used.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
        let flags = flags(&lag, cpu_share, book.not_sent);
        let generator = Generator { lag, cpu_share, not_sent: book.not_sent, flags };
        Ok(Report { tallies: book.tallies.clone(), generator, elapsed })
    }
}

/// Says what makes a result doubtful.
fn flags(lag: &Summary, cpu_share: f64, not_sent: u64) -> Vec<String> {
    let mut flags = Vec::new();
    if lag.p99_us > LAG_P99_US_MAX {
        flags.push(format!("generator late: p99 of its lag is {} us, above {LAG_P99_US_MAX}", lag.p99_us));
    }
    if cpu_share > CPU_SHARE_MAX {
        flags.push(format!("generator busy: {cpu_share:.2} of its core, above {CPU_SHARE_MAX}"));
    }
    if not_sent > 0 {
        flags.push(format!("bound reached: {not_sent} requests were not sent (outstanding_max)"));
    }
    flags
}

/// Returns whether the platform's part of `Server-Timing` names a phase between the queue and the run.
fn is_cold(headers: &http::HeaderMap) -> bool {
    let ours = headers.get_all("server-timing").iter().filter_map(|v| v.to_str().ok()).next_back();
    ours.is_some_and(|text| {
        let names: Vec<_> = text.split(',').map(|p| p.split(';').next().unwrap_or_default().trim()).collect();
        names.first() == Some(&"queue") && names.last() == Some(&"run") && names.len() > 2
    })
}

/// Names a failure by its status and, in an RFC 9457 problem, its reason.
fn kind_of(status: http::StatusCode, body: Option<&[u8]>) -> String {
    let problem: Option<serde_json::Value> = body.and_then(|b| serde_json::from_slice(b).ok());
    match problem.as_ref().and_then(|p| p.get("reason")).and_then(serde_json::Value::as_str) {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

#[cfg(test)]
mod tests;
