//! Tokens that several processes share: each puts the digest of its own into their store and takes those of all,
//! so that any of them lets in who has the token of one.
//!
//! Layout: partition `tokens` of [`Space::Control`] in the default namespace; one row per token, its sort the
//! digest, its value empty. A row lives for [`KEPT`] and is written anew by the process whose token it is: the
//! token of a process that is gone for good ceases to be let in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Digest, Name};
use faas_store::{
    Change, Logged, PATIENCE, Page, Partition, Require, Space, Store, StoreError, WallClock, Write, WriteId,
};
use tokio::time::{Instant, sleep};

use super::Tokens;

/// How long a token is let in after its process was seen last.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often a process shows its token.
const SHOWN_EVERY: Duration = Duration::from_secs(3600);
/// How often the tokens of others are read: a new one is let in by all within that time.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Most tokens that are shared.
const TOKENS_MAX: u32 = 1_000;

/// One process's part in the shared tokens.
#[derive(Debug)]
pub struct Sharing {
    tokens: Tokens,
    store: Arc<dyn Store>,
    clock: WallClock,
    shown: Instant,
}

impl Sharing {
    /// Shows the token of this process to others and takes theirs.
    ///
    /// # Errors
    /// What the store failed with.
    pub async fn begin(tokens: Tokens, store: Arc<dyn Store>, clock: WallClock) -> Result<Self, StoreError> {
        let mut sharing = Self { tokens, store, clock, shown: Instant::now() };
        sharing.show().await?;
        sharing.read().await?;
        Ok(sharing)
    }

    /// Goes on with it until it is dropped. While the store is away the tokens known last are let in.
    pub async fn go_on(mut self) {
        loop {
            sleep(READ_EVERY).await;
            if self.shown.elapsed() >= SHOWN_EVERY
                && let Err(error) = self.show().await
            {
                tracing::warn!(%error, "this process's token cannot be shown to others; tried again");
            }
            if let Err(error) = self.read().await {
                tracing::debug!(%error, "the tokens of other processes cannot be read; tried again");
            }
        }
    }

    async fn show(&mut self) -> Result<(), StoreError> {
        let expires = Some(self.clock.now().plus(KEPT));
        let sort = self.tokens.own().to_string().into();
        let put = Change::Put { sort, value: Bytes::new(), expires, require: Require::Nothing };
        let write = Write { partition: partition(), id: WriteId::fresh(), changes: vec![put], log: Logged::No };
        match self.store.write(write, Instant::now() + PATIENCE).await {
            // Written twice it is the same.
            Ok(_) | Err(StoreError::Unknown(_)) => self.shown = Instant::now(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn read(&self) -> Result<(), StoreError> {
        let page = Page { after: None, rows_max: TOKENS_MAX, bytes_max: 1 };
        let (mut all, mut after) = (Vec::new(), None);
        while all.len() < TOKENS_MAX as usize {
            let page = Page { after, ..page.clone() };
            let everything = Bytes::new()..Bytes::new();
            let slice = self.store.scan(&partition(), everything, page, Instant::now() + PATIENCE).await?;
            all.extend(
                slice.items.iter().filter_map(|row| std::str::from_utf8(&row.sort).ok()?.parse::<Digest>().ok()),
            );
            after = slice.next;
            if after.is_none() {
                break;
            }
        }
        self.tokens.take(all);
        Ok(())
    }
}

fn partition() -> Partition {
    Partition { namespace: Name::namespace_default(), space: Space::Control, name: Bytes::from_static(b"tokens") }
}

#[cfg(test)]
mod tests {
    use faas_store::{Memory, WallTime};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_lets_in_the_token_of_the_other_until_that_one_is_gone_for_a_day() {
        let clock = WallClock::manual(WallTime(1_700_000_000_000));
        let store: Arc<dyn Store> = Arc::new(Memory::with_clock(clock.clone()));
        let (one, two) = (Tokens::of("the token of one"), Tokens::of("the token of two"));
        let first = Sharing::begin(one.clone(), store.clone(), clock.clone()).await.unwrap();
        let second = Sharing::begin(two.clone(), store.clone(), clock.clone()).await.unwrap();
        assert!(two.is(b"the token of one") && !one.is(b"the token of two"), "one has not read yet");
        let following = tokio::spawn(first.go_on());
        tokio::time::sleep(Duration::from_millis(1_001)).await;
        assert!(one.is(b"the token of two") && !one.is(b"the token of nobody"));
        drop(second);
        // The wall clock is moved by hand, an hour of it after each hour of the process.
        for _ in 0..23 {
            tokio::time::sleep(SHOWN_EVERY + READ_EVERY).await;
            clock.advance(SHOWN_EVERY);
        }
        tokio::time::sleep(READ_EVERY * 2).await;
        assert!(one.is(b"the token of two"), "not before the day is over");
        clock.advance(SHOWN_EVERY);
        tokio::time::sleep(READ_EVERY * 2).await;
        assert!(!one.is(b"the token of two") && one.is(b"the token of one"));
        let third = Tokens::of("the token of three");
        Sharing::begin(third.clone(), store, clock).await.unwrap();
        assert!(third.is(b"the token of one"), "it was shown again");
        following.abort();
    }
}
