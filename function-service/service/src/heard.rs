//! What was heard of the changes of other processes, and what of it is not shown yet. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use faas_model::{Digest, FunctionName};
use faas_repo::{Coming, News};
use tokio::time::Instant;

/// First and longest pause before a function that could not be made ready is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// How long code that was foretold may remain unpublished before it is thought to be of no use.
const IN_VAIN: Duration = Duration::from_secs(600);

/// The state of one listener.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// How many changes were heard of.
    upto: u64,
    /// The number of the last code that was foretold.
    foretold: u64,
    /// Code that was made ready because it was foretold, and since when.
    ready: Vec<(Digest, Instant)>,
    /// Whether the last try to listen failed.
    deaf: bool,
    behind: BTreeMap<FunctionName, Behind>,
}

/// A function that may have to be shown anew.
#[derive(Debug)]
struct Behind {
    due: Instant,
    failures: u32,
    running: bool,
    /// Heard of again while it was looked at.
    again: bool,
}

impl Heard {
    pub(crate) fn upto(&self) -> u64 {
        self.upto
    }

    /// Returns the functions that are not shown as they are.
    pub(crate) fn behind(&self) -> impl Iterator<Item = &FunctionName> {
        self.behind.keys()
    }

    /// Notes whether listening went well; returns whether that is news.
    pub(crate) fn listened(&mut self, well: bool) -> bool {
        std::mem::replace(&mut self.deaf, !well) == well
    }

    /// Takes in news; returns the code that is foretold in them.
    pub(crate) fn hear(&mut self, news: News, now: Instant) -> Vec<Coming> {
        self.upto = news.upto;
        let before = self.foretold;
        self.foretold = news.coming.last().map_or(before, |last| last.number);
        for function in news.changed.into_iter().chain(news.open) {
            self.note(function, now);
        }
        news.coming.into_iter().filter(|coming| coming.number > before).collect()
    }

    /// Notes that foretold code was made ready.
    pub(crate) fn made_ready(&mut self, code: Digest, now: Instant) {
        self.ready.push((code, now));
    }

    /// Returns foretold code that should have been published long ago.
    pub(crate) fn in_vain(&mut self, now: Instant) -> Vec<Digest> {
        let late = |(_, since): &mut (Digest, Instant)| now.duration_since(*since) >= IN_VAIN;
        self.ready.extract_if(.., late).map(|(code, _)| code).collect()
    }

    /// Notes that a function changed.
    pub(crate) fn note(&mut self, function: FunctionName, now: Instant) {
        let behind =
            self.behind.entry(function).or_insert(Behind { due: now, failures: 0, running: false, again: false });
        behind.again = behind.running;
        behind.due = behind.due.min(now);
    }

    /// Returns at most `most` functions that are to be looked at now.
    pub(crate) fn take(&mut self, most: usize, now: Instant) -> BTreeSet<FunctionName> {
        let running = self.behind.values().filter(|b| b.running).count();
        let due = self.behind.iter_mut().filter(|(_, b)| !b.running && b.due <= now);
        let taken = due.take(most.saturating_sub(running)).map(|(function, behind)| {
            behind.running = true;
            behind.again = false;
            function.clone()
        });
        taken.collect()
    }

    /// Notes how a look at a function ended; returns after which pause it is tried again.
    pub(crate) fn ended(&mut self, function: &FunctionName, well: bool, now: Instant) -> Option<Duration> {
        let behind = self.behind.get_mut(function)?;
        behind.running = false;
        if well && !behind.again {
            self.behind.remove(function);
            return None;
        }
        let pause = if well || behind.again {
            behind.failures = 0;
            Duration::ZERO
        } else {
            let doubled = PAUSE.0.saturating_mul(1 << behind.failures.min(16));
            behind.failures += 1;
            doubled.min(PAUSE.1)
        };
        behind.due = now + pause;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use faas_model::manifest::RuntimeKind;

    use super::*;

    fn named(name: &str) -> FunctionName {
        FunctionName::in_default(name).unwrap()
    }

    fn news(upto: u64, changed: &[&str]) -> News {
        News { upto, changed: changed.iter().map(|name| named(name)).collect(), ..News::default() }
    }

    #[test]
    fn what_is_heard_is_looked_at_once_unless_it_is_heard_again_meanwhile() {
        let (mut heard, now, f) = (Heard::default(), Instant::now(), named("f"));
        heard.hear(news(7, &["f"]), now);
        assert_eq!((heard.upto(), heard.take(4, now)), (7, [f.clone()].into()));
        assert_eq!(heard.take(4, now), [].into());
        heard.hear(News { open: Some(f.clone()), ..news(7, &[]) }, now);
        assert_eq!(heard.take(4, now), [].into(), "one look at a time");
        assert_eq!(heard.ended(&f, true, now), Some(Duration::ZERO));
        assert_eq!(heard.take(4, now), [f.clone()].into());
        assert_eq!((heard.ended(&f, true, now), heard.behind().count()), (None, 0));
    }

    #[test]
    fn what_fails_is_tried_again_after_growing_pauses_and_at_once_when_heard_of() {
        let (mut heard, mut now, f) = (Heard::default(), Instant::now(), named("f"));
        heard.hear(news(1, &["f"]), now);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert_eq!(heard.take(4, now).len(), 1);
            let pause = heard.ended(&f, false, now).unwrap();
            pauses.push(u64::try_from(pause.as_millis()).unwrap());
            assert_eq!(heard.take(4, now + pause - Duration::from_millis(1)), [].into());
            now += pause;
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(heard.take(4, now).len(), 1);
        heard.ended(&f, false, now);
        heard.hear(news(2, &["f"]), now);
        assert_eq!(heard.take(4, now), [f].into());
    }

    #[test]
    fn only_the_first_failure_to_listen_is_news_and_the_end_of_it() {
        let mut heard = Heard::default();
        let news = [true, false, false, true, true].map(|well| heard.listened(well));
        assert_eq!(news, [false, true, false, true, false]);
    }

    #[test]
    fn what_is_foretold_is_told_once_and_is_in_vain_after_a_while() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        let coming = |n: u8| Coming::new(n.into(), RuntimeKind::Wasm, Digest::of(&[n]), uuid::Uuid::nil());
        let foretold =
            |numbers: &[u8]| News { coming: numbers.iter().map(|n| coming(*n)).collect(), ..News::default() };
        assert_eq!(heard.hear(foretold(&[1, 2]), now).len(), 2);
        assert_eq!(heard.hear(foretold(&[2, 3]), now), [coming(3)]);
        assert_eq!(heard.hear(foretold(&[]), now), []);
        assert_eq!(heard.hear(foretold(&[2, 3]), now), []);
        heard.made_ready(coming(3).code, now);
        assert_eq!(heard.in_vain(now + IN_VAIN - Duration::from_millis(1)), []);
        assert_eq!(heard.in_vain(now + IN_VAIN), [coming(3).code]);
        assert_eq!(heard.in_vain(now + IN_VAIN), []);
    }

    #[test]
    fn looks_at_once_are_bounded() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        heard.hear(news(5, &["a", "b", "c", "d", "e"]), now);
        assert_eq!(heard.take(2, now), [named("a"), named("b")].into());
        assert_eq!(heard.take(2, now), [].into());
        heard.ended(&named("a"), true, now);
        assert_eq!(heard.take(2, now), [named("c")].into());
    }
}
