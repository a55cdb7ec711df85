//! The writer thread and the files: `{id}.jsonl`, and `{id}.old.jsonl` before it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Weak, mpsc};

use faas_model::Digest;

use super::{LogLine, Order, Shared, lock};

/// Files kept open at most.
const OPEN_MAX: usize = 64;
/// Lines taken at once before they are written.
const BATCH_LINES: usize = 512;

/// The state of the writer thread.
pub(super) struct Disk {
    dir: PathBuf,
    file_bytes_max: u64,
    open: HashMap<Digest, Ring>,
    /// Whether the last write failed, so that a full disk is told once.
    failing: bool,
}

struct Ring {
    file: File,
    bytes: u64,
    pending: Vec<u8>,
}

impl Disk {
    pub(super) fn new(dir: PathBuf, file_bytes_max: u64) -> Self {
        Self { dir, file_bytes_max, open: HashMap::new(), failing: false }
    }

    /// Runs until every log book and writer is gone.
    pub(super) fn run(mut self, orders: &mpsc::Receiver<Order>, shared: &Weak<Shared>) {
        while let Ok(first) = orders.recv() {
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(order) = next {
                self.take(order, shared);
                taken += 1;
                next = if taken < BATCH_LINES { orders.try_recv().ok() } else { None };
            }
            self.write_all();
        }
    }

    fn take(&mut self, order: Order, shared: &Weak<Shared>) {
        match order {
            Order::Line(place, line) => {
                if let Some(shared) = shared.upgrade()
                    && let Some(follower) = lock(&shared.followers).get(&place.id)
                {
                    // No receiver is no error: the follower has just left.
                    follower.send(line.clone()).ok();
                }
                let taken = self.append(place.id, &line);
                self.tell(taken);
            }
            Order::Flush(done) => {
                self.write_all();
                done.send(()).ok();
            }
            Order::Remove(id, done) => {
                self.open.remove(&id);
                done.send(remove(&self.dir, &id)).ok();
            }
        }
    }

    fn append(&mut self, id: Digest, line: &LogLine) -> io::Result<()> {
        if !self.open.contains_key(&id) {
            if self.open.len() >= OPEN_MAX {
                self.write_all();
                self.open.clear();
            }
            let file = OpenOptions::new().create(true).append(true).open(current(&self.dir, &id))?;
            let bytes = file.metadata()?.len();
            // A crash may have cut the last line: end it, or it would swallow the next one.
            let pending = if bytes > 0 { b"\n".to_vec() } else { Vec::new() };
            self.open.insert(id, Ring { file, bytes, pending });
        }
        let Some(ring) = self.open.get_mut(&id) else { return Ok(()) };
        let start = ring.pending.len();
        serde_json::to_writer(&mut ring.pending, line)?;
        ring.pending.push(b'\n');
        let added = (ring.pending.len() - start) as u64;
        if ring.bytes + added > self.file_bytes_max && ring.bytes > 0 {
            // What is pending up to here belongs to the file that is full now.
            let line = ring.pending.split_off(start);
            ring.write()?;
            std::fs::rename(current(&self.dir, &id), older(&self.dir, &id))?;
            ring.file = OpenOptions::new().create(true).append(true).open(current(&self.dir, &id))?;
            ring.bytes = 0;
            ring.pending = line;
        }
        ring.bytes += added;
        Ok(())
    }

    fn write_all(&mut self) {
        let written = self.open.values_mut().try_for_each(Ring::write);
        self.tell(written);
    }

    fn tell(&mut self, result: io::Result<()>) {
        match result {
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(%error, "function output is lost");
            }
            Err(_) => {}
            Ok(()) => self.failing = false,
        }
    }
}

impl Ring {
    fn write(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.pending);
        self.pending.clear();
        written
    }
}

fn current(dir: &Path, id: &Digest) -> PathBuf {
    dir.join(format!("{id}.jsonl"))
}

fn older(dir: &Path, id: &Digest) -> PathBuf {
    dir.join(format!("{id}.old.jsonl"))
}

fn remove(dir: &Path, id: &Digest) -> io::Result<()> {
    for path in [current(dir, id), older(dir, id)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Reads the newest `lines` lines, oldest first. A line cut by a crash is skipped.
pub(super) fn tail(dir: &Path, id: &Digest, lines: usize) -> io::Result<Vec<LogLine>> {
    let mut found = Vec::new();
    for path in [current(dir, id), older(dir, id)] {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read?,
        };
        let newest_first = bytes.rsplit(|b| *b == b'\n').filter(|line| !line.is_empty());
        let wanted = lines - found.len();
        found.extend(newest_first.filter_map(|line| serde_json::from_slice(line).ok()).take(wanted));
    }
    found.reverse();
    Ok(found)
}
