//! Many functions of one platform: deployed over the control API, called over
//! connections that are kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use faas_loadtest::http::Client;
use faas_loadtest::load::Outcome;
use faas_loadtest::platform::Platform;
use faas_loadtest::samples;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// Deploys at once.
const DEPLOYS_AT_ONCE: usize = 32;

/// Which code the functions of a fleet have.
#[derive(Debug, Clone)]
pub(crate) enum Codes {
    /// All the same.
    Same,
    /// Each its own: a custom section makes the difference. The machine code is the same, so that
    /// the compiled file of the first one is put in the place of the others' before they are deployed.
    Distinct(Compiled),
}

/// A compiled file to be put in the place of others.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    file: PathBuf,
    /// What stands after the digest in its name.
    rest: String,
    /// Whether others become links of it rather than copies.
    link: bool,
}

/// Returns the name of function `n`.
pub(crate) fn name(n: usize) -> String {
    format!("f{n:05}")
}

/// Returns the targets of functions `from` up to `to`.
pub(crate) fn targets(from: usize, to: usize) -> Arc<[String]> {
    (from..to).map(|n| format!("/function/{}", name(n))).collect()
}

/// Deploys the functions `from` up to `to` with `lines` in their manifests; returns how many there were per second.
pub(crate) async fn deploy(platform: &Platform, from: usize, to: usize, codes: &Codes, lines: &str) -> Result<f64> {
    let client = Client::default();
    let (token, base) = (platform.token()?, platform.control("/v1/namespaces/default/functions"));
    let code = Bytes::from(std::fs::read(samples::component("hello")?)?);
    let (next, begun) = (Arc::new(AtomicUsize::new(from)), Instant::now());
    let lanes = (0..DEPLOYS_AT_ONCE.min(to - from)).map(|_| {
        let (client, next, code, codes) = (client.clone(), next.clone(), code.clone(), codes.clone());
        let (authorization, base, lines) = (format!("Bearer {token}"), base.clone(), lines.to_owned());
        tokio::spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= to {
                    return anyhow::Ok(());
                }
                let code = codes.of(n, &code)?;
                let form = form(&name(n), &lines, &code);
                let headers = [
                    ("authorization", authorization.as_str()),
                    ("content-type", "multipart/form-data; boundary=fleet"),
                ];
                let answer = client.send(Method::PUT, &format!("{base}/{}", name(n)), &headers, form).await?;
                ensure!(answer.status.is_success(), "deploy {n}: {} {}", answer.status, answer.text());
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await??;
    }
    Ok((to - from) as f64 / begun.elapsed().as_secs_f64())
}

impl Codes {
    /// Returns distinct codes for a platform with one deployed `hello`.
    pub(crate) fn distinct(platform: &Platform, link: bool) -> Result<Self> {
        let folder = platform.data().join("state/compiled");
        let only = std::fs::read_dir(&folder)?.next().context("nothing is compiled")??;
        let (digest, file) = (digest(&std::fs::read(samples::component("hello")?)?), only.path());
        let name = only.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(&digest).context("the compiled file is not named by its code")?.to_owned();
        Ok(Self::Distinct(Compiled { file, rest, link }))
    }

    fn of(&self, n: usize, code: &Bytes) -> Result<Bytes> {
        let Self::Distinct(compiled) = self else { return Ok(code.clone()) };
        let number = n.to_string();
        let mut own = code.to_vec();
        // A custom section: its number, its size, the size of its name, its name, and here no content.
        own.extend([0, u8::try_from(number.len() + 1)?, u8::try_from(number.len())?]);
        own.extend(number.as_bytes());
        compiled.place(&digest(&own))?;
        Ok(own.into())
    }
}

impl Compiled {
    fn place(&self, digest: &str) -> Result<()> {
        let folder = self.file.parent().unwrap_or_else(|| Path::new("/"));
        let place = folder.join(format!("{digest}{}", self.rest));
        match self.link {
            true => std::fs::hard_link(&self.file, place)?,
            false => drop(std::fs::copy(&self.file, place)?),
        }
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn form(name: &str, lines: &str, code: &[u8]) -> Vec<u8> {
    let part = |part: &str| format!("--fleet\r\nContent-Disposition: form-data; name=\"{part}\"\r\n\r\n");
    let manifest = format!("[functions.{name}]\nsource = \"x\"\n{lines}\n");
    let mut form = format!("{}{manifest}\r\n{}", part("spec"), part("code")).into_bytes();
    form.extend_from_slice(code);
    form.extend_from_slice(b"\r\n--fleet--\r\n");
    form
}

/// When to stop calling.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// After each of the order was called once.
    Once,
    /// After so long; the order begins anew when it is through.
    Time(Duration),
}

/// Calls the targets in the given order over `connections` connections; latencies are to the head of the answer.
pub(crate) async fn call(
    authority: &str,
    targets: &Arc<[String]>,
    order: &Arc<[usize]>,
    connections: usize,
    until: Until,
) -> Result<Outcome> {
    let (next, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    // Every connection is there before the first call.
    let gate = Arc::new(tokio::sync::Barrier::new(connections));
    let lanes: Vec<_> = (0..connections)
        .map(|_| {
            let (authority, targets, order) = (authority.to_owned(), targets.clone(), order.clone());
            let (next, gate) = (next.clone(), gate.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(&authority).await?;
                gate.wait().await;
                let (begun, mut outcome) = (Instant::now(), Outcome::default());
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let over = match until {
                        Until::Once => at >= order.len(),
                        Until::Time(time) => begun.elapsed() >= time,
                    };
                    if over {
                        return anyhow::Ok(outcome);
                    }
                    let target = order.get(at % order.len()).and_then(|n| targets.get(*n)).context("no such target")?;
                    connection.call(target, &mut outcome).await?;
                }
            })
        })
        .collect();
    let mut total = Outcome::default();
    for lane in lanes {
        let part = lane.await.context("a lane panicked")??;
        total.good += part.good;
        total.bad += part.bad;
        total.latencies_us.extend(part.latencies_us);
    }
    total.elapsed = begun.elapsed();
    total.latencies_us.sort_unstable();
    Ok(total)
}

/// One kept connection.
pub(crate) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    authority: String,
}

impl Connection {
    pub(crate) async fn open(authority: &str) -> Result<Self> {
        let stream = tokio::net::TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, authority: authority.to_owned() })
    }

    /// Sends a GET and counts its answer.
    pub(crate) async fn call(&mut self, target: &str, outcome: &mut Outcome) -> Result<()> {
        self.sender.ready().await?;
        let request = Request::get(target).header("host", &self.authority).body(Empty::new())?;
        let begun = Instant::now();
        let response = self.sender.send_request(request).await?;
        let took = begun.elapsed();
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            outcome.good += 1;
            outcome.latencies_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        } else {
            if outcome.bad == 0 {
                println!("  first refusal: {status} {}", String::from_utf8_lossy(&body));
            }
            outcome.bad += 1;
        }
        Ok(())
    }
}

/// Stops a platform and starts it again over the same data.
pub(crate) async fn restart(mut platform: Platform, options: faas_loadtest::platform::Options) -> Result<Platform> {
    let data = platform.data().to_owned();
    match platform.terminate().await? {
        Some(0) => Platform::start(&data, options).await,
        other => bail!("faas up ended with {other:?}: {}", platform.log_tail()),
    }
}
