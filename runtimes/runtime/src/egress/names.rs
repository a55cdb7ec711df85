//! Names to addresses: bounded in time, in number and in what is remembered.
//!
//! What is answered here is judged and connected to as it is; nobody resolves a
//! second time, so a name cannot turn into another address in between.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::config::Config;
use super::error::Error;

/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 16;

/// Resolves a name; runs on a thread that may block.
pub type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Returns the lookup of this machine.
pub(super) fn system() -> Lookup {
    Arc::new(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
}

/// What is known of one name.
#[derive(Debug)]
struct Known {
    until: Instant,
    addresses: Arc<[IpAddr]>,
}

/// Resolves names for all functions.
pub(super) struct Names {
    lookup: Lookup,
    config: Arc<Config>,
    lookups: Arc<Semaphore>,
    known: Mutex<HashMap<Box<str>, Known>>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Names {
    pub(super) fn new(lookup: Lookup, config: Arc<Config>) -> Self {
        let lookups = Arc::new(Semaphore::new(config.lookups_max.clamp(1, 512)));
        Self { lookup, config, lookups, known: Mutex::default() }
    }

    /// Returns the addresses of a name. `own` are the lookups that the function may have at once,
    /// so that one whose names hang leaves the others theirs.
    ///
    /// # Errors
    /// [`Error::NameUnknown`], or [`Error::NameTimeout`] after `lookup_timeout`.
    pub(super) async fn resolve(&self, name: &str, own: &Arc<Semaphore>) -> Result<Arc<[IpAddr]>, Error> {
        if let Some(addresses) = self.remembered(name) {
            return Ok(addresses);
        }
        let found = timeout(self.config.lookup_timeout.duration(), self.ask(name, own)).await;
        let addresses = found.map_err(|_| Error::NameTimeout)??;
        self.remember(name, &addresses);
        Ok(addresses)
    }

    async fn ask(&self, name: &str, own: &Arc<Semaphore>) -> Result<Arc<[IpAddr]>, Error> {
        let own = Arc::clone(own).acquire_owned().await.map_err(|_| Error::NameUnknown)?;
        let all = Arc::clone(&self.lookups).acquire_owned().await.map_err(|_| Error::NameUnknown)?;
        let (lookup, name) = (Arc::clone(&self.lookup), name.to_owned());
        // A lookup cannot be cut: the places are its thread's until it ends, also when nobody waits any more.
        let asked = tokio::task::spawn_blocking(move || {
            let found = lookup(&name);
            drop((own, all));
            found
        });
        let mut found = asked.await.map_err(|_| Error::NameUnknown)?.map_err(|_| Error::NameUnknown)?;
        found.truncate(ADDRESSES_MAX);
        if found.is_empty() { Err(Error::NameUnknown) } else { Ok(found.into()) }
    }

    fn remembered(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|known| known.until > Instant::now()).map(|known| Arc::clone(&known.addresses))
    }

    fn remember(&self, name: &str, addresses: &Arc<[IpAddr]>) {
        let (now, max) = (Instant::now(), self.config.names_max.min(65_536));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= max {
            known.retain(|_, known| known.until > now);
        }
        while known.len() >= max {
            let Some(first) = known.iter().min_by_key(|(_, k)| k.until).map(|(name, _)| name.clone()) else { return };
            known.remove(&first);
        }
        let entry = Known { until: now + self.config.name_age_max.duration(), addresses: Arc::clone(addresses) };
        known.insert(name.into(), entry);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
