//! Function output: bounded lines into a bounded ring of JSON lines per function.
//!
//! Never more than 8 KiB a line, 256 KiB a call (then one line that counts what
//! was dropped), and two files of 4 MiB a function. A writer that falls behind
//! drops lines, and says how many, rather than block a call.
//!
//! File names are digests of namespace and name; no path is built from a name.
//! Control characters are escaped on the way in, so a line is one line on every
//! terminal.

mod disk;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use faas_model::{CallId, Digest, FunctionName};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot};

/// Bounds of the function logs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Longest line in bytes, 80 to 65,536; the rest of a longer one is dropped.
    pub line_bytes_max: usize,
    /// Output of one call in bytes, 1 KiB to 16 MiB; the rest is counted and dropped.
    pub call_bytes_max: usize,
    /// Size of each of a function's two files in bytes, 64 KiB to 1 GiB.
    pub file_bytes_max: u64,
    /// Lines that wait for the disk, 16 to 65,536; more are counted and dropped.
    pub queue_lines_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { line_bytes_max: 8 << 10, call_bytes_max: 256 << 10, file_bytes_max: 4 << 20, queue_lines_max: 2048 }
    }
}

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The function, to its standard output.
    Stdout,
    /// The function, to its standard error.
    Stderr,
    /// The platform, about the function.
    Platform,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written, Unix time in milliseconds.
    pub time: u64,
    /// The call that wrote it.
    pub call: CallId,
    /// Who wrote it.
    pub stream: Stream,
    /// The line, control characters escaped, without its end.
    pub text: String,
}

/// All functions' logs. Cheap to clone; the last clone ends the writer thread.
#[derive(Debug, Clone)]
pub struct LogBook {
    /// `None` keeps nothing.
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    config: LogConfig,
    dir: PathBuf,
    sender: mpsc::SyncSender<Order>,
    followers: Mutex<HashMap<Digest, broadcast::Sender<LogLine>>>,
}

/// What the writer thread is told.
#[derive(Debug)]
enum Order {
    Line(Arc<Place>, LogLine),
    Flush(oneshot::Sender<()>),
    Remove(Digest, oneshot::Sender<io::Result<()>>),
}

/// A function's place in the book.
#[derive(Debug)]
struct Place {
    id: Digest,
    /// Lines lost since the last line that was taken.
    lost: AtomicU64,
}

/// How many lines a follower may lag behind before some are skipped.
const FOLLOW_LINES: usize = 1024;

impl LogBook {
    /// Opens the logs in `dir`, which is made when missing, and starts the writer thread.
    ///
    /// # Errors
    /// When the folder cannot be made or the thread cannot be started.
    pub fn open(dir: PathBuf, config: LogConfig) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let (sender, receiver) = mpsc::sync_channel(config.queue_lines_max.clamp(16, 65_536));
        let shared = Arc::new(Shared { config, dir: dir.clone(), sender, followers: Mutex::default() });
        let weak = Arc::downgrade(&shared);
        let disk = disk::Disk::new(dir, shared.config.file_bytes_max);
        std::thread::Builder::new().name("faas-logs".into()).spawn(move || disk.run(&receiver, &weak))?;
        Ok(Self { shared: Some(shared) })
    }

    /// Returns a book that keeps nothing and has no thread, for tests and simulations.
    #[must_use]
    pub fn discard() -> Self {
        Self { shared: None }
    }

    /// Returns where the output of `function` goes.
    #[must_use]
    pub fn writer(&self, function: &FunctionName) -> LogWriter {
        let Some(shared) = &self.shared else { return LogWriter::discard() };
        let place = Place { id: place_id(function), lost: AtomicU64::new(0) };
        LogWriter { to: Some((Arc::clone(shared), Arc::new(place))) }
    }

    /// Returns the newest `lines` lines of `function`, oldest first, everything written before included.
    ///
    /// # Errors
    /// When a file cannot be read. A function without output has no lines.
    pub async fn tail(&self, function: &FunctionName, lines: usize) -> io::Result<Vec<LogLine>> {
        let Some(shared) = &self.shared else { return Ok(Vec::new()) };
        let (done, flushed) = oneshot::channel();
        shared.order(Order::Flush(done)).await?;
        flushed.await.map_err(|_| stopped())?;
        let dir = shared.dir.clone();
        let id = place_id(function);
        tokio::task::spawn_blocking(move || disk::tail(&dir, &id, lines)).await.map_err(io::Error::other)?
    }

    /// Returns the lines of `function` that are written from now on.
    #[must_use]
    pub fn follow(&self, function: &FunctionName) -> Follower {
        let Some(shared) = &self.shared else { return Follower { receiver: broadcast::Sender::new(1).subscribe() } };
        let mut followers = lock(&shared.followers);
        followers.retain(|_, sender| sender.receiver_count() > 0);
        let sender = followers.entry(place_id(function)).or_insert_with(|| broadcast::Sender::new(FOLLOW_LINES));
        Follower { receiver: sender.subscribe() }
    }

    /// Removes the output of `function`. Removing what is not there is no error.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn remove(&self, function: &FunctionName) -> io::Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let (done, removed) = oneshot::channel();
        shared.order(Order::Remove(place_id(function), done)).await?;
        removed.await.map_err(|_| stopped())?
    }
}

impl Shared {
    /// Hands an order to the writer thread without blocking an async thread.
    async fn order(&self, order: Order) -> io::Result<()> {
        let sender = self.sender.clone();
        let sent = tokio::task::spawn_blocking(move || sender.send(order).map_err(|_| stopped()));
        sent.await.map_err(io::Error::other)?
    }
}

/// The lines of one function as they are written.
#[derive(Debug)]
pub struct Follower {
    receiver: broadcast::Receiver<LogLine>,
}

impl Follower {
    /// Returns the next line; `None` once the log book is closed. A follower that
    /// lags behind by more than 1,024 lines skips some.
    ///
    /// # Cancel safety
    /// No line is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<LogLine> {
        loop {
            match self.receiver.recv().await {
                Ok(line) => return Some(line),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Where one function's output goes. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub struct LogWriter {
    to: Option<(Arc<Shared>, Arc<Place>)>,
}

impl LogWriter {
    /// Returns a writer that keeps nothing, for tests.
    #[must_use]
    pub fn discard() -> Self {
        Self { to: None }
    }

    /// Writes one line of a call, cut at its bound. Dropped and counted when the disk cannot keep up.
    pub fn line(&self, call: CallId, stream: Stream, bytes: &[u8]) {
        let Some((shared, _)) = &self.to else { return };
        let kept = bytes.get(..shared.config.line_bytes_max).unwrap_or(bytes);
        self.send(LogLine { time: now_ms(), call, stream, text: escaped(kept) });
    }

    /// Returns the output of one call, to be written in pieces of any size.
    #[must_use]
    pub fn call(&self, call: CallId) -> CallLog {
        CallLog { writer: self.clone(), call, state: Mutex::default() }
    }

    fn send(&self, line: LogLine) {
        let Some((shared, place)) = &self.to else { return };
        let lost = place.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format!("{lost} lines were dropped: the log could not keep up");
            let note = LogLine { stream: Stream::Platform, text, time: line.time, call: line.call };
            if shared.sender.try_send(Order::Line(Arc::clone(place), note)).is_err() {
                place.lost.fetch_add(lost + 1, Ordering::Relaxed);
                return;
            }
        }
        if shared.sender.try_send(Order::Line(Arc::clone(place), line)).is_err() {
            place.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The output of one call: splits it into lines and keeps the call's bound.
#[derive(Debug)]
pub struct CallLog {
    writer: LogWriter,
    call: CallId,
    state: Mutex<CallState>,
}

#[derive(Debug, Default)]
struct CallState {
    /// Bytes of whole lines written so far.
    written: usize,
    /// Bytes over the bound of the call.
    dropped: u64,
    /// The unfinished lines of standard output and standard error.
    open: [Vec<u8>; 2],
}

impl CallLog {
    /// Returns the call.
    #[must_use]
    pub fn id(&self) -> CallId {
        self.call
    }

    /// Takes output of the function.
    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        let Some((shared, _)) = &self.writer.to else { return };
        let mut state = lock(&self.state);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.piece(&shared.config, &mut state, stream, text, ends);
        }
    }

    /// Writes a line of the platform about the call; not counted against the call's bound.
    pub fn platform(&self, text: &str) {
        self.writer.line(self.call, Stream::Platform, text.as_bytes());
    }

    fn piece(&self, config: &LogConfig, state: &mut CallState, stream: Stream, text: &[u8], ends: bool) {
        let [out, err] = &mut state.open;
        let open = if stream == Stream::Stderr { err } else { out };
        let room = config
            .line_bytes_max
            .saturating_sub(open.len())
            .min(config.call_bytes_max.saturating_sub(state.written + open.len()));
        let (kept, over) = text.split_at(text.len().min(room));
        open.extend_from_slice(kept);
        state.dropped += over.len() as u64;
        if ends {
            let line = std::mem::take(open);
            self.finish(config, state, stream, &line);
        }
    }

    fn finish(&self, config: &LogConfig, state: &mut CallState, stream: Stream, line: &[u8]) {
        if state.written >= config.call_bytes_max {
            state.dropped += 1;
            return;
        }
        // An empty line costs one byte, or a flood of them would cost nothing.
        state.written += line.len() + 1;
        self.writer.line(self.call, stream, line);
    }
}

impl Drop for CallLog {
    fn drop(&mut self) {
        let Some((shared, _)) = &self.writer.to else { return };
        let mut state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (stream, line) in [Stream::Stdout, Stream::Stderr].into_iter().zip(std::mem::take(&mut state.open)) {
            if !line.is_empty() {
                self.finish(&shared.config, &mut state, stream, &line);
            }
        }
        if state.dropped > 0 {
            let max = shared.config.call_bytes_max;
            self.platform(&format!(
                "{} bytes of output were dropped: over the bounds of a line or of a call ({max} bytes)",
                state.dropped
            ));
        }
    }
}

/// Returns bytes as text in which every control character is written out.
fn escaped(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let bidi = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let line_ends = |c: char| matches!(c, '\u{2028}' | '\u{2029}');
    let unsafe_char = |c: char| (c.is_control() && c != '\t') || bidi(c) || line_ends(c);
    if !text.chars().any(unsafe_char) {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if unsafe_char(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Names a function's files: the digest of namespace and name.
fn place_id(function: &FunctionName) -> Digest {
    Digest::of(format!("{}/{}", function.namespace, function.name).as_bytes())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn stopped() -> io::Error {
    io::Error::other("the log writer has stopped")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
