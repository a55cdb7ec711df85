//! A full disk, again and again: a small tmpfs with the data folder, filled by
//! a ballast file, by values and by output of functions. Writes are refused
//! with 507, everything else goes on, nothing acknowledged is lost, and the
//! platform takes writes again by itself as soon as there is space.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use faas_loadtest::bytes_of::noise;
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::samples;
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::failpoints;

/// Size of the disk.
const DISK_MIB: usize = 64;
/// Kept from values, so that there is something to free when they have filled the rest.
const RESERVE_MAX: usize = 12 << 20;
/// Left for values at least: the store's file never shrinks, what is deleted is free inside it.
const VALUES_LEAST: usize = 2 << 20;
/// Of the store's change log.
const LOG_BYTES_MAX: usize = 1 << 20;
/// Writes of 64 KiB on a full disk at most: twice as many as fit on an empty one.
const FULL_WRITES: usize = DISK_MIB * 32;
/// Longest wait for the first write after space is back.
const RECOVERY: Duration = Duration::from_secs(10);

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many times the disk is filled.
    #[arg(long, default_value_t = 20)]
    rounds: u64,
}

/// A small file system of our own; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let options = format!("size={DISK_MIB}m,mode=0700");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "faas-faults"]).arg(folder).output()?;
        if !mount.status.success() {
            let said = String::from_utf8_lossy(&mount.stderr).into_owned();
            bail!("no small disk can be mounted, run this as root (CAP_SYS_ADMIN): {}", said.trim());
        }
        Ok(Self(folder.to_owned()))
    }

    /// Writes a file of `bytes` bytes or until nothing more fits.
    fn ballast(&self, name: &str, bytes: usize) -> Result<()> {
        let mut file = std::fs::File::create(self.0.join(name))?;
        let mut left = bytes;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0u8; size];
            while left >= size {
                match file.write(&block) {
                    Ok(0) => break,
                    Ok(n) => left -= n,
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Returns the bytes that still fit.
    fn left(&self) -> Result<usize> {
        let found = rustix::fs::statvfs(&self.0)?;
        Ok(usize::try_from(found.f_bavail * found.f_frsize)?)
    }

    fn free(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join(name))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the platform may still end.
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    refused: u64,
    invoked: u64,
    restarts: u64,
    recovery: Duration,
}

/// The platform and what it acknowledged.
struct House {
    platform: Platform,
    client: Client,
    authorization: String,
    journal: BTreeMap<String, String>,
    tally: Tally,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = Disk::mount(&folder.path().join("state"))?;
    // What was deleted must give its space back, so the change log may not keep it for a day.
    let env = vec![("FAAS_EMBEDDED_LOG_BYTES_MAX".to_owned(), LOG_BYTES_MAX.to_string())];
    let platform = Platform::start(folder.path(), Options { env, ..Options::default() }).await?;
    platform.deploy(&samples::folder("hello")).await?;
    platform.deploy(&samples::folder("orders")).await?;
    let authorization = format!("Bearer {}", platform.token()?);
    let (client, journal, tally) = (Client::default(), BTreeMap::new(), Tally::default());
    let mut house = House { platform, client, authorization, journal, tally };
    for round in 0..arguments.rounds {
        house = Box::pin(one_round(house, &disk, round)).await.with_context(|| format!("round {round}"))?;
    }
    house.verify().await?;
    let log = std::fs::read_to_string(folder.path().join("platform.log"))?;
    ensure!(!log.contains("panicked"), "the platform panicked:\n{}", house.platform.log_tail());
    let Tally { acknowledged, refused, invoked, restarts, recovery } = house.tally;
    println!(
        "{} full disks of {DISK_MIB} MiB: {acknowledged} writes acknowledged, 0 lost; {refused} refused with 507; {invoked} calls answered meanwhile; {restarts} restarts while full; writes again after {} ms at worst",
        arguments.rounds,
        recovery.as_millis()
    );
    Ok(())
}

async fn one_round(mut house: House, disk: &Disk, round: u64) -> Result<House> {
    for n in 0..20 {
        let status = house.put(&format!("r{round}-{n}"), 1000).await?;
        ensure!(status.is_success(), "a write with space answers {status}");
    }
    // By values in one round, by somebody else's file in the next.
    if round.is_multiple_of(2) {
        disk.ballast("reserve", disk.left()?.saturating_sub(VALUES_LEAST).min(RESERVE_MAX))?;
        house.fill_by_values(round).await?;
    }
    disk.ballast("ballast", DISK_MIB << 20)?;
    house.full(round).await?;
    if round % 3 == 2 {
        house = house.restart_while_full(disk).await?;
    }
    disk.free("ballast")?;
    if round.is_multiple_of(2) {
        disk.free("reserve")?;
    }
    house.recovers().await?;
    if round.is_multiple_of(2) {
        house.delete_values(round).await?;
    }
    house.verify().await?;
    house.forget_values(round).await?;
    failpoints::nothing_left_over(&house.platform, &["hello", "orders", "late"]).await?;
    Ok(house)
}

impl House {
    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<faas_loadtest::http::Answer> {
        let headers = [("authorization", self.authorization.as_str())];
        self.client.send(method, &self.platform.baas(path), &headers, body).await
    }

    /// Writes a value; what is acknowledged goes into the journal.
    async fn put(&mut self, key: &str, bytes: usize) -> Result<StatusCode> {
        let value = format!("{key}{}", "x".repeat(bytes));
        let answer = self.send(Method::PUT, &format!("/kv/disk/{key}"), value.clone().into_bytes()).await?;
        if answer.status.is_success() {
            self.tally.acknowledged += 1;
            self.journal.insert(key.to_owned(), value);
        } else {
            self.tally.refused += 1;
        }
        Ok(answer.status)
    }

    /// Writes large values until the platform refuses one for want of space.
    async fn fill_by_values(&mut self, round: u64) -> Result<()> {
        for n in 0..2 * DISK_MIB as u64 {
            let answer =
                self.send(Method::PUT, &format!("/kv/fill/{round}-{n}"), noise(round << 20 | n, 512 << 10)).await?;
            if answer.status == StatusCode::INSUFFICIENT_STORAGE {
                return Ok(());
            }
            ensure!(answer.status.is_success(), "filling answers {}: {}", answer.status, answer.text());
        }
        bail!("{DISK_MIB} MiB of values fit on a disk of {DISK_MIB} MiB")
    }

    async fn delete_values(&self, round: u64) -> Result<()> {
        for n in 0..2 * DISK_MIB {
            let answer = self.send(Method::DELETE, &format!("/kv/fill/{round}-{n}"), Vec::new()).await?;
            ensure!(answer.status.as_u16() < 500, "deleting answers {}: {}", answer.status, answer.text());
        }
        Ok(())
    }

    /// Makes room for the next round.
    async fn forget_values(&mut self, round: u64) -> Result<()> {
        let prefix = format!("full{round}-");
        let keys: Vec<_> = self.journal.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        for key in keys {
            let answer = self.send(Method::DELETE, &format!("/kv/disk/{key}"), Vec::new()).await?;
            ensure!(answer.status.is_success(), "deleting answers {}: {}", answer.status, answer.text());
            self.journal.remove(&key);
        }
        Ok(())
    }

    /// What must hold while nothing fits.
    async fn full(&mut self, round: u64) -> Result<()> {
        // The store may have pages left: a write is either durable or refused.
        let mut refused = 0;
        for n in 0..FULL_WRITES {
            let status = self.put(&format!("full{round}-{n}"), 64 << 10).await?;
            let known = status.is_success() || status == StatusCode::INSUFFICIENT_STORAGE;
            ensure!(known || status == StatusCode::SERVICE_UNAVAILABLE, "a write on a full disk answers {status}");
            refused += u64::from(!status.is_success());
            if refused > 10 {
                break;
            }
        }
        ensure!(refused > 10, "{FULL_WRITES} writes of 64 KiB fit on a full disk of {DISK_MIB} MiB");
        for path in ["/function/hello", "/function/orders/totals"] {
            let answer = self.client.get(&self.platform.url(path)).await?;
            ensure!(answer.status == 200, "{path} on a full disk: {} {}", answer.status, answer.text());
            self.tally.invoked += 1;
        }
        let manifest = self.platform.data().join("late");
        samples::manifest(&manifest, "late", "hello", "")?;
        samples::mark(&manifest, round + 1)?;
        let folder = manifest.to_str().context("the folder is not UTF-8")?;
        let deploy = self.platform.cli(&["deploy", folder]).await?;
        ensure!(deploy.code != 0, "a deploy fits on a full disk");
        ensure!(deploy.stderr.contains("disk"), "a deploy on a full disk says {}", deploy.stderr);
        Ok(())
    }

    /// SIGTERM and a start with no space at all: the platform comes up and answers, or says what is wrong.
    async fn restart_while_full(mut self, disk: &Disk) -> Result<Self> {
        let code = self.platform.terminate().await?;
        ensure!(code == Some(0), "SIGTERM on a full disk ended with {code:?}: {}", self.platform.log_tail());
        disk.ballast("ballast", DISK_MIB << 20)?;
        self.platform = self.platform.start_again().await.context("no start on a full disk")?;
        self.tally.restarts += 1;
        let answer = self.client.get(&self.platform.url("/function/hello")).await?;
        ensure!(answer.status == 200, "after a start on a full disk: {} {}", answer.status, answer.text());
        self.verify().await?;
        Ok(self)
    }

    async fn recovers(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.put("again", 1000).await?.is_success() {
            ensure!(begun.elapsed() < RECOVERY, "no write {RECOVERY:?} after space is back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.tally.recovery = self.tally.recovery.max(begun.elapsed());
        let manifest = self.platform.data().join("late");
        self.platform.deploy(&manifest).await.context("a deploy after space is back")?;
        let removed = self.platform.cli(&["rm", "late"]).await?;
        ensure!(removed.code == 0, "a removal after space is back: {}", removed.stderr);
        Ok(())
    }

    /// Every acknowledged value reads back.
    async fn verify(&self) -> Result<()> {
        for (key, value) in &self.journal {
            let answer = self.send(Method::GET, &format!("/kv/disk/{key}"), Vec::new()).await?;
            ensure!(answer.status == 200 && answer.body == *value, "acknowledged {key} reads {}", answer.status);
        }
        Ok(())
    }
}
