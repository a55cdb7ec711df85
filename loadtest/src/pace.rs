//! A clock that wakes within microseconds: tokio's timers know milliseconds only.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Result;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// A timer of the kernel.
#[derive(Debug)]
pub struct Pace(AsyncFd<OwnedFd>);

impl Pace {
    /// Makes one.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may change descriptors; an OwnedFd cannot"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Waits until `due`; lets others run once when that is past.
    ///
    /// # Errors
    /// When the kernel refuses the timer.
    pub async fn until(&self, due: Instant) -> Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let value = Itimerspec { it_interval: spec(Duration::ZERO)?, it_value: spec(left)? };
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &value)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            match rustix::io::read(self.0.get_ref(), &mut count) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn spec(time: Duration) -> Result<Timespec> {
    Ok(Timespec { tv_sec: i64::try_from(time.as_secs())?, tv_nsec: i64::from(time.subsec_nanos()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_wakes_early_and_may_be_used_again() {
        let pace = Pace::new().unwrap();
        for micros in [0, 50, 900, 2500] {
            let due = Instant::now() + Duration::from_micros(micros);
            pace.until(due).await.unwrap();
            assert!(Instant::now() >= due, "{micros}");
        }
        pace.until(Instant::now() - Duration::from_secs(1)).await.unwrap();
    }
}
