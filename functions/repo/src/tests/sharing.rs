//! Several processes over one store: each a repository with a folder of its own.

use std::time::Duration;

use bytes::Bytes;
use faas_model::manifest::RuntimeKind;
use faas_model::units::Millis;
use faas_store::{Change, Logged, Page, Partition, Require, Space, WallClock, WallTime, Write, WriteId};
use tokio::time::Instant;

use super::flaky::{Fault, Flaky};
use super::*;
use crate::shelf::{GRACE, PUBLISHED_WITHIN};

/// Code larger than one chunk.
fn large() -> Vec<u8> {
    (0..600_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

struct House {
    store: Arc<Flaky>,
    clock: WallClock,
}

impl House {
    fn new() -> Self {
        let clock = WallClock::manual(WallTime(1_700_000_000_000));
        Self { store: Flaky::with(Memory::with_clock(clock.clone())), clock }
    }

    async fn process(&self) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let repo = FolderRepo::open(folder.path(), Config::default(), self.store.clone()).await.unwrap();
        let repo = repo.sharing(self.store.clone(), self.clock.clone());
        Bench { repo, store: self.store.clone(), folder }
    }

    async fn code_partitions(&self) -> usize {
        let page = Page { after: None, rows_max: 1_000, bytes_max: 1 << 20 };
        let namespace = Name::namespace_default();
        let by = Instant::now() + Duration::from_secs(5);
        let slice = self.store.partitions(&namespace, Space::Code, b"", page, by).await.unwrap();
        slice.items.len()
    }
}

async fn keep(bench: &Bench, code: &[u8]) -> Kept {
    let mut upload = bench.repo.begin().await.unwrap();
    upload.write(code).await.unwrap();
    bench.repo.keep(upload.finish().await.unwrap()).await.unwrap()
}

async fn publish(bench: &Bench, f: &FunctionName, code: &[u8]) -> Published {
    let kept = keep(bench, code).await;
    let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
    bench.publish_kept(f, &spec, &settings, &kept, Expect::Any).await.unwrap()
}

#[tokio::test]
async fn code_kept_by_one_process_is_fetched_by_another() {
    let house = House::new();
    let (one, two, f) = (house.process().await, house.process().await, named("f"));
    let revision = publish(&one, &f, &large()).await.revision;
    let path = two.repo.fetch(&revision.code).await.unwrap();
    assert!(path.starts_with(two.folder.path()));
    assert_eq!(std::fs::read(&path).unwrap(), large());
    let absent = two.repo.fetch(&Digest::of(b"absent")).await;
    assert!(matches!(absent, Err(RepoError::NotFound(_))), "{absent:?}");
    assert_eq!(two.files().len(), 1, "nothing is left of the one that is absent");
}

#[tokio::test]
async fn a_damaged_file_is_fetched_anew_and_damaged_chunks_are_told() {
    let house = House::new();
    let (one, f) = (house.process().await, named("f"));
    let code = publish(&one, &f, b"code").await.revision.code;
    let two = house.process().await;
    std::fs::write(two.folder.path().join(code.to_string()), "c0de").unwrap();
    assert_eq!(std::fs::read(two.repo.fetch(&code).await.unwrap()).unwrap(), b"code");
    let page = Page { after: None, rows_max: 10, bytes_max: 1 << 20 };
    let by = Instant::now() + Duration::from_secs(5);
    let namespace = Name::namespace_default();
    let names = house.store.partitions(&namespace, Space::Code, code.as_bytes(), page, by).await.unwrap().items;
    let chunks = names.into_iter().find(|name| name.len() > 32).unwrap();
    let put = |value: &'static [u8]| Change::Put {
        sort: Bytes::from_static(&[0; 4]),
        value: Bytes::from_static(value),
        expires: None,
        require: Require::Present,
    };
    for (value, what) in [(&b"c0de"[..], "other bytes"), (b"cod", "fewer bytes")] {
        let partition = Partition { namespace: namespace.clone(), space: Space::Code, name: chunks.clone() };
        let write = Write { partition, id: WriteId::fresh(), changes: vec![put(value)], log: Logged::No };
        house.store.write(write, Instant::now() + Duration::from_secs(5)).await.unwrap();
        let three = house.process().await;
        let fetched = three.repo.fetch(&code).await;
        assert!(matches!(fetched, Err(RepoError::Corrupt(_) | RepoError::NotFound(_))), "{what}: {fetched:?}");
        assert_eq!(three.files(), Vec::<PathBuf>::new(), "{what}");
    }
}

#[tokio::test]
async fn each_process_hears_of_each_change_once() {
    let house = House::new();
    let (one, two) = (house.process().await, house.process().await);
    assert_eq!(two.repo.news(0).await.unwrap(), News::default());
    publish(&one, &named("f"), b"1").await;
    publish(&two, &named("g"), b"2").await;
    let news = two.repo.news(0).await.unwrap();
    assert_eq!((news.upto, news.lost), (2, false));
    assert_eq!((news.changed, news.open), ([named("f"), named("g")].into(), None));
    let turn = one.repo.turn(&named("h")).await.unwrap();
    let news = two.repo.news(1).await.unwrap();
    assert_eq!((news.upto, news.changed), (2, [named("g")].into()));
    assert_eq!(news.open, Some(named("h")), "what is being changed is told as well");
    one.repo.done(turn).await.unwrap();
    assert_eq!(two.repo.news(3).await.unwrap(), News { upto: 3, ..News::default() });
}

#[tokio::test]
async fn changes_that_are_not_recorded_any_more_are_told_as_lost() {
    let house = House::new();
    let one = house.process().await;
    publish(&one, &named("f"), b"1").await;
    house.clock.advance(Duration::from_secs(3_599));
    publish(&one, &named("g"), b"2").await;
    house.clock.advance(Duration::from_secs(1));
    let news = one.repo.news(0).await.unwrap();
    assert_eq!((news.changed, news.lost), ([named("g")].into(), true));
    assert!(!one.repo.news(1).await.unwrap().lost);
    assert!(one.repo.news(7).await.unwrap().lost, "another store than before");
}

#[tokio::test]
async fn code_is_foretold_to_others_and_the_last_of_it_is_told() {
    let house = House::new();
    let (one, two) = (house.process().await, house.process().await);
    let turn = one.repo.turn(&named("f")).await.unwrap();
    for n in 1..=20_u64 {
        let kept = keep(&one, format!("{n}").as_bytes()).await;
        two.repo.foretell(RuntimeKind::Wasm, &kept).await.unwrap();
    }
    let coming = one.repo.news(0).await.unwrap().coming;
    let numbers: Vec<_> = coming.iter().map(|coming| coming.number).collect();
    assert_eq!(numbers, (5..=20).collect::<Vec<_>>());
    assert_eq!((coming[15].runtime, coming[15].code), (RuntimeKind::Wasm, Digest::of(b"20")));
    assert_eq!(two.repo.news(0).await.unwrap().coming, [], "it knows that itself");
    one.repo.done(turn).await.unwrap();
    assert_eq!(two.repo.news(0).await.unwrap().upto, 1, "turns are not disturbed by it");
}

#[tokio::test(start_paused = true)]
async fn one_change_is_made_at_a_time_and_who_waits_too_long_is_told_for_whom() {
    let house = House::new();
    let config = Config { turn_wait: Millis(500), ..Config::default() };
    let folder = tempfile::tempdir().unwrap();
    let impatient = FolderRepo::open(folder.path(), config, house.store.clone()).await.unwrap();
    let impatient = impatient.sharing(house.store.clone(), house.clock.clone());
    let (one, two) = (house.process().await, house.process().await);
    let turn = one.repo.turn(&named("f")).await.unwrap();
    let busy = impatient.turn(&named("g")).await.unwrap_err();
    assert_eq!(busy, RepoError::Busy { function: named("f"), waited: Duration::from_millis(500) });
    let g = named("g");
    let (next, _) = tokio::join!(two.repo.turn(&g), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        one.repo.done(turn).await.unwrap();
    });
    two.repo.done(next.unwrap()).await.unwrap();
    assert_eq!(one.repo.news(0).await.unwrap().changed, [named("f"), named("g")].into());
}

#[tokio::test(start_paused = true)]
async fn the_turn_of_a_process_that_died_is_ended_and_its_write_comes_too_late() {
    let house = House::new();
    let (dead, alive, f) = (house.process().await, house.process().await, named("f"));
    publish(&alive, &f, b"1").await;
    let kept = keep(&dead, b"2").await;
    let lost = dead.repo.turn(&f).await.unwrap();
    let began = Instant::now();
    publish(&alive, &named("g"), b"3").await;
    assert!(began.elapsed() >= Duration::from_secs(10), "not before turn_max is over");
    let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
    let late = dead.repo.publish(&lost, &spec, &settings, &kept, Expect::Any).await;
    assert!(matches!(late, Err(RepoError::Store(_))), "{late:?}");
    dead.repo.done(lost).await.unwrap();
    assert_eq!(alive.versions(&f).await, [1]);
    assert_eq!(alive.repo.news(0).await.unwrap().upto, 3);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_process_died_after_its_write_is_told() {
    let house = House::new();
    let (dead, alive, f) = (house.process().await, house.process().await, named("f"));
    let kept = keep(&dead, b"1").await;
    let turn = dead.repo.turn(&f).await.unwrap();
    let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
    dead.repo.publish(&turn, &spec, &settings, &kept, Expect::Any).await.unwrap();
    std::mem::forget(turn);
    let told = async {
        loop {
            let news = alive.repo.news(0).await.unwrap();
            if news.upto == 1 {
                assert_eq!((news.changed, news.open), ([f.clone()].into(), None));
                break;
            }
            assert_eq!(news.open, Some(f.clone()), "at once, and later as well");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(11), told).await.unwrap();
    assert_eq!(alive.versions(&f).await, [1]);
}

#[tokio::test]
async fn a_turn_whose_answer_is_lost_is_had_all_the_same_or_taken_again() {
    for fault in [Fault::LostAnswer, Fault::LostWrite] {
        let house = House::new();
        let one = house.process().await;
        house.store.fail(0, fault);
        let turn = one.repo.turn(&named("f")).await.unwrap();
        house.store.fail(0, fault);
        one.repo.done(turn).await.unwrap();
        // Where the end got lost, others see the turn open and end it later.
        let upto = one.repo.news(0).await.unwrap().upto;
        assert_eq!(upto, u64::from(fault == Fault::LostAnswer), "{fault:?}");
    }
}

#[tokio::test]
async fn the_rest_of_a_removal_leaves_a_function_alone_that_was_deployed_anew() {
    let house = House::new();
    let (one, two, f) = (house.process().await, house.process().await, named("f"));
    for n in 0..600 {
        let kept = keep(&one, b"1").await;
        let spec = FunctionSpec { probe: Some(format!("/{n}")), ..FunctionSpec::default() };
        let settings = AliasSettings::default();
        one.publish_kept(&f, &spec, &settings, &kept, Expect::Any).await.unwrap();
    }
    // Not in the first slice.
    let last = one.repo.revisions(&f).await.unwrap().into_iter().max_by_key(|r| r.id.to_string()).unwrap();
    // The first slice is gone when the other process, which fenced this one, deploys what is still there.
    let turn = one.repo.turn(&f).await.unwrap();
    let again = async {
        let kept = keep(&two, b"1").await;
        let alone = Turn::new(f.clone(), None);
        two.repo.publish(&alone, &last.spec, &AliasSettings::default(), &kept, Expect::Any).await.unwrap()
    };
    let (removed, again) = house.store.overtaken_after(1, one.repo.remove(&turn), again).await;
    let live = two.repo.resolve(&f, &live()).await;
    assert_eq!(live.map(|(alias, _)| alias.revision), Ok(again.revision.id), "{removed:?}");
}

#[tokio::test(start_paused = true)]
async fn code_that_is_published_too_late_is_refused() {
    let house = House::new();
    let (one, f) = (house.process().await, named("f"));
    let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
    let kept = keep(&one, b"1").await;
    tokio::time::advance(PUBLISHED_WITHIN).await;
    one.publish_kept(&f, &spec, &settings, &kept, Expect::Any).await.unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    let late = one.publish_kept(&f, &spec, &settings, &kept, Expect::Any).await;
    assert_eq!(late, Err(RepoError::Late { after: PUBLISHED_WITHIN }));
}

#[tokio::test]
async fn shared_code_that_nobody_uses_is_removed_after_an_hour_and_no_other() {
    let house = House::new();
    let (one, two, f) = (house.process().await, house.process().await, named("f"));
    publish(&one, &f, b"used").await;
    keep(&one, b"unused").await;
    // An upload that was cut off between its chunks and its label.
    house.store.fail(1, Fault::Away);
    let mut upload = one.repo.begin().await.unwrap();
    upload.write(b"cut off").await.unwrap();
    one.repo.keep(upload.finish().await.unwrap()).await.unwrap_err();
    assert_eq!(house.code_partitions().await, 5);
    house.clock.advance(GRACE);
    assert_eq!(two.repo.tidy().await.unwrap(), Collected::default(), "not before the hour is over");
    house.clock.advance(Duration::from_millis(1));
    assert_eq!(two.repo.tidy().await.unwrap().code, [Digest::of(b"unused")]);
    assert_eq!(house.code_partitions().await, 2, "chunks of cut off uploads as well");
    assert_eq!(std::fs::read(two.repo.fetch(&Digest::of(b"used")).await.unwrap()).unwrap(), b"used");
}

#[tokio::test]
async fn chunks_of_an_upload_that_goes_on_stay() {
    let house = House::new();
    let (one, two) = (house.process().await, house.process().await);
    keep(&one, b"stale").await;
    house.clock.advance(GRACE + Duration::from_millis(1));
    // The chunk is written, its label not yet.
    let (kept, removed) = house.store.overtaken_after(1, keep(&one, b"fresh"), two.repo.tidy()).await;
    assert_eq!(removed.unwrap().code, [Digest::of(b"stale")]);
    let fetched = two.repo.fetch(&kept.digest()).await.unwrap();
    assert_eq!(std::fs::read(fetched).unwrap(), b"fresh");
}

#[tokio::test(start_paused = true)]
async fn one_process_tidies_up_until_it_falls_silent() {
    let house = House::new();
    let (one, two) = (house.process().await, house.process().await);
    assert_eq!(one.repo.tidy().await.unwrap(), Collected::default());
    keep(&one, b"stale").await;
    house.clock.advance(GRACE + Duration::from_millis(1));
    assert_eq!(two.repo.tidy().await.unwrap(), Collected::default(), "it is the other's");
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(two.repo.tidy().await.unwrap().code, [Digest::of(b"stale")]);
}

#[tokio::test]
async fn code_that_is_asked_for_again_while_it_is_removed_stays() {
    let house = House::new();
    let (one, two) = (house.process().await, house.process().await);
    keep(&one, b"code").await;
    house.clock.advance(GRACE + Duration::from_millis(1));
    // The first write is that of the lease.
    let (removed, _) = house.store.overtaken_after(1, two.repo.tidy(), keep(&one, b"code")).await;
    assert_eq!(removed.unwrap(), Collected::default());
    let fetched = two.repo.fetch(&Digest::of(b"code")).await.unwrap();
    assert_eq!(std::fs::read(fetched).unwrap(), b"code");
}
