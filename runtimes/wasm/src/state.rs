//! What a store holds, for one call or several, and what it may grow to.

use std::sync::Arc;

use faas_runtime::logs::{CallLog, Stream};
use tokio::time::Instant;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};
use crate::failure::Denied;
use crate::host::keyvalue::Grants;
use crate::host::outgoing::Hooks;
use crate::meter::Meter;
use crate::output::{CurrentLog, Output};
use crate::share::{Budget, Slot};

/// Random bytes of one host call at most.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Bytes of one list of headers at most.
const FIELDS_BYTES_MAX: usize = 64 << 10;
/// Bytes that one host call may copy out of the guest at most.
pub(crate) const HOSTCALL_BYTES_MAX: usize = 8 << 20;

/// What a store holds.
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    pub(crate) table: ResourceTable,
    pub(crate) limiter: Limiter,
    pub(crate) meter: Arc<Meter>,
    pub(crate) env: Arc<[(String, String)]>,
    pub(crate) grants: Grants,
    log: Arc<CurrentLog>,
    _slot: Slot,
}

impl State {
    /// Makes the store another call's.
    pub(crate) fn begin(&mut self, log: &Arc<CallLog>, meter: &Arc<Meter>, until: Instant) {
        self.log.turn_to(Some(Arc::clone(log)));
        self.hooks.begin(log);
        self.meter = Arc::clone(meter);
        self.grants.until = until;
    }

    /// Makes the store nobody's, and gives back what was only the call's.
    pub(crate) fn rest(&mut self) {
        self.log.turn_to(None);
        self.hooks.rest();
        // Nothing is always there.
        let _there = self.limiter.lend(0);
    }

    pub(crate) fn new(
        env: &Arc<[(String, String)]>,
        (log, hooks): (&Arc<CallLog>, Hooks),
        meter: Arc<Meter>,
        grants: Grants,
        limiter: Limiter,
        resources_max: u32,
        slot: Slot,
    ) -> Self {
        let mut wasi = WasiCtx::builder();
        let log = CurrentLog::new(log);
        wasi.envs(env)
            .stdout(Output::new(&log, Stream::Stdout))
            .stderr(Output::new(&log, Stream::Stderr))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(resources_max.clamp(32, 100_000) as usize);
        Self { wasi: wasi.build(), http, hooks, table, limiter, meter, env: Arc::clone(env), grants, log, _slot: slot }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// Bounds memory over all memories of a call and of all calls, and says whether it was ever denied.
pub(crate) struct Limiter {
    memory_bytes_max: u64,
    memory_bytes: u64,
    /// What a host call holds for the guest until it is copied into it.
    lent_bytes: u64,
    /// The memory of all guests.
    all: Arc<Budget>,
    pub(crate) denied: Option<Denied>,
}

impl Limiter {
    pub(crate) fn new(memory_bytes_max: u64, all: &Arc<Budget>) -> Self {
        Self { memory_bytes_max, memory_bytes: 0, lent_bytes: 0, all: Arc::clone(all), denied: None }
    }

    /// Returns the memory of the guest.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Counts what a host call holds for the guest, in place of what the one before held;
    /// `false` when there is no memory left for it.
    pub(crate) fn lend(&mut self, bytes: u64) -> bool {
        self.all.give(std::mem::take(&mut self.lent_bytes));
        let there = self.all.take(bytes);
        if there {
            self.lent_bytes = bytes;
        }
        there
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.all.give(self.memory_bytes + self.lent_bytes);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let wanted = self.memory_bytes.saturating_add(more);
        if wanted > self.memory_bytes_max {
            self.denied = Some(Denied::Call);
            return Ok(false);
        }
        if !self.all.take(more) {
            self.denied = Some(Denied::All);
            return Ok(false);
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize * 2
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64 << 10;

    #[test]
    fn guests_share_one_bound_and_what_a_call_had_comes_back_with_its_end() {
        let all = Arc::new(Budget::new(10 * PAGE as u64));
        let (mut one, mut two) = (Limiter::new(100 * PAGE as u64, &all), Limiter::new(5 * PAGE as u64, &all));
        let grow = |limiter: &mut Limiter, from, to| limiter.memory_growing(from * PAGE, to * PAGE, None).unwrap();
        assert!(grow(&mut one, 0, 6) && grow(&mut two, 0, 4));
        assert!(!grow(&mut two, 4, 5) && two.denied == Some(Denied::All));
        assert!(!grow(&mut two, 4, 6) && two.denied == Some(Denied::Call));
        drop(one);
        assert_eq!(all.used(), 4 * PAGE as u64, "what was denied is not counted");
        assert!(grow(&mut two, 4, 5));
        drop(two);
        assert_eq!(all.used(), 0);
    }

    #[test]
    fn what_a_host_call_holds_counts_until_the_next_one() {
        let all = Arc::new(Budget::new(100));
        let (mut one, mut two) = (Limiter::new(0, &all), Limiter::new(0, &all));
        assert!(one.lend(80) && !two.lend(30));
        assert!(one.lend(10) && two.lend(90) && all.used() == 100);
        drop((one, two));
        assert_eq!(all.used(), 0);
    }
}
