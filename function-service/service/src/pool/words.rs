//! What goes into a pool and what comes out.

use std::time::Duration;

/// Time since the service began.
pub(crate) type Time = Duration;

/// Names one call that asked for an instance; unique within a pool, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Names one instance; unique within a pool, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InstanceId(pub(crate) u64);

/// The bounds of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Instances kept without traffic.
    pub(crate) min: usize,
    /// Instances at most, at least 1.
    pub(crate) max: usize,
    /// Calls of one instance at most, at least 1.
    pub(crate) concurrency: u32,
    /// Waiting calls at most.
    pub(crate) depth: usize,
    /// How long an instance without calls is kept.
    pub(crate) idle: Duration,
    /// How long a call waits while instances run.
    pub(crate) wait: Duration,
    /// How long a call waits for the first instance.
    pub(crate) cold: Duration,
    /// Consecutive failed starts from which on starts pause.
    pub(crate) failures_max: u32,
    /// First pause; each next doubles.
    pub(crate) pause_min: Duration,
    /// Longest pause.
    pub(crate) pause_max: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A call asks for an instance.
    Arrive(Ticket),
    /// A started instance is ready.
    Started(InstanceId),
    /// A start came to nothing.
    StartFailed(InstanceId),
    /// A start waited in vain for its code to be made ready, which goes on.
    StartPutOff(InstanceId),
    /// A call of an instance ended.
    Finished(InstanceId, Fate),
    /// A waiting call left.
    Cancelled(Ticket),
    /// A new generation takes over.
    Roll(Limits),
    /// Idle instances are not worth their memory now.
    Evict,
    /// Nothing is to be started any more.
    Drain(Farewell),
    /// Time passed.
    Tick,
}

/// What the end of a call says about its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It can go on.
    Sound,
    /// It must take no further call.
    Broken,
}

/// Why a pool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The platform stops.
    Stopping,
    /// The function is removed.
    Removed,
}

/// Why a call gets no instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As many calls wait as may.
    QueueFull,
    /// No instance became free in time.
    QueueTimeout,
    /// No instance started in time.
    ColdTimeout,
    /// Starts keep failing; the pause before the next.
    CrashLoop(Duration),
    /// The pool ends.
    Ended(Farewell),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start an instance of the newest generation.
    Start(InstanceId),
    /// Run the call on the instance.
    Assign(Ticket, InstanceId),
    /// Refuse the call.
    Reject(Ticket, Refusal),
    /// Fail the call with what the last start failed with.
    Fail(Ticket),
    /// Stop the instance; it runs no call.
    Stop(InstanceId),
}

/// How much of everything there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) instances: usize,
    pub(crate) starting: usize,
    pub(crate) busy: u64,
    pub(crate) waiting: usize,
    pub(crate) crash_loop: bool,
}
