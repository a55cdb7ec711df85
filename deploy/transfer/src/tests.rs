//! From one store in memory into another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_model::{AliasSettings, FunctionName, FunctionSpec, Name, Revision};
use faas_repo::{CodeRepo, Expect, FolderRepo};
use faas_store::{Change, Key, Logged, Memory, Partition, Read, Require, Space, Store, WallClock, WallTime};
use faas_store::{Write, WriteId};
use tokio::time::Instant;

use super::*;

struct House {
    store: Arc<dyn Store>,
    repo: FolderRepo,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new(shared: bool) -> Self {
        let (store, folder): (Arc<dyn Store>, _) = (Arc::new(Memory::new()), tempfile::tempdir().unwrap());
        let repo = FolderRepo::open(folder.path(), faas_repo::Config::default(), store.clone()).await.unwrap();
        let repo = if shared { repo.sharing(store.clone(), WallClock::system()) } else { repo };
        Self { store, repo, _folder: folder }
    }

    /// Deploys two versions of one function, and writes values small, empty, large and mortal.
    async fn filled(shared: bool) -> Self {
        let house = Self::new(shared).await;
        for code in [code(1), code(2)] {
            let mut upload = house.repo.begin().await.unwrap();
            upload.write(&code).await.unwrap();
            let kept = house.repo.keep(upload.finish().await.unwrap()).await.unwrap();
            let turn = house.repo.turn(&function()).await.unwrap();
            let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
            house.repo.publish(&turn, &spec, &settings, &kept, Expect::Any).await.unwrap();
            house.repo.done(turn).await.unwrap();
        }
        for n in 0..300_u32 {
            house.put("many", &n.to_be_bytes(), format!("value {n}").into_bytes(), None).await;
        }
        house.put("empty", b"", Vec::new(), None).await;
        house.put("large", b"", vec![7; 1 << 20], None).await;
        house.put("mortal", b"", b"x".to_vec(), Some(WallTime(4_000_000_000_000))).await;
        house
    }

    async fn put(&self, partition: &str, sort: &[u8], value: Vec<u8>, expires: Option<WallTime>) {
        let change =
            Change::Put { sort: Bytes::copy_from_slice(sort), value: value.into(), expires, require: Require::Nothing };
        let id = WriteId::fresh();
        let write = Write { partition: of(partition), id, changes: vec![change], log: Logged::No };
        self.store.write(write, by()).await.unwrap();
    }

    async fn get(&self, partition: &str, sort: &[u8]) -> Option<(Bytes, Option<WallTime>)> {
        let key = Key { partition: of(partition), sort: Bytes::copy_from_slice(sort) };
        let row = self.store.get(&key, Read::Linearizable, by()).await.unwrap();
        row.map(|row| (row.value, row.expires))
    }

    async fn export(&self) -> (Vec<u8>, Tally) {
        let mut out = Vec::new();
        let tally = export(&*self.store, &self.repo, &mut out).await.unwrap();
        (out, tally)
    }

    async fn import(&self, existing: Existing, text: &[u8]) -> Result<Tally, TransferError> {
        import(&*self.store, &self.repo, existing, &mut &*text).await
    }

    async fn is_like(&self, other: &Self) {
        let (mine, others) = (self.repo.revisions(&function()).await, other.repo.revisions(&function()).await);
        assert_eq!(mine.as_ref().map(Vec::len), Ok(2));
        assert_eq!(mine, others);
        assert_eq!(self.repo.function(&function()).await, other.repo.function(&function()).await);
        for Revision { code, .. } in mine.unwrap() {
            let content = async |house: &Self| std::fs::read(house.repo.fetch(&code).await.unwrap()).unwrap();
            assert_eq!(content(self).await, content(other).await);
        }
        for (partition, sort) in [("many", &299_u32.to_be_bytes()[..]), ("empty", b""), ("large", b""), ("mortal", b"")]
        {
            assert!(self.get(partition, sort).await.is_some(), "{partition}");
            assert_eq!(self.get(partition, sort).await, other.get(partition, sort).await, "{partition}");
        }
    }
}

fn code(n: u8) -> Vec<u8> {
    (0..600_000_u32).map(|m| u8::try_from(m % 251).unwrap() ^ n).collect()
}

fn function() -> FunctionName {
    FunctionName::in_default("f").unwrap()
}

fn of(partition: &str) -> Partition {
    let name = Bytes::copy_from_slice(partition.as_bytes());
    Partition { namespace: Name::namespace_default(), space: Space::Value, name }
}

fn by() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn everything_is_the_same_on_the_other_side_whoever_shares() {
    for (from, to) in [(false, false), (false, true), (true, false), (true, true)] {
        let (one, two) = (House::filled(from).await, House::new(to).await);
        let (text, exported) = one.export().await;
        let imported = two.import(Existing::Refuse, &text).await.unwrap();
        assert_eq!((exported, imported.codes, imported.left), (imported, 2, 0));
        two.is_like(&one).await;
        let (again, _) = two.export().await;
        assert_eq!(again, text, "and so is its export");
        assert_eq!(two.repo.news(0).await.unwrap(), faas_repo::News::default(), "the journal stayed behind");
    }
}

#[tokio::test]
async fn a_shared_import_is_told_as_changes_that_were_missed() {
    let (one, two) = (House::filled(false).await, House::new(true).await);
    two.import(Existing::Refuse, &one.export().await.0).await.unwrap();
    two.repo.changed_beside_turns().await.unwrap();
    let news = two.repo.news(0).await.unwrap();
    assert_eq!((news.upto, news.lost), (1, true));
    assert!(!two.repo.news(1).await.unwrap().lost);
}

#[tokio::test]
async fn what_is_there_already_is_refused_kept_or_replaced() {
    let (one, two) = (House::filled(false).await, House::new(false).await);
    let (text, all) = one.export().await;
    two.put("many", &7_u32.to_be_bytes(), b"mine".to_vec(), None).await;
    let refused = two.import(Existing::Refuse, &text).await.unwrap_err();
    assert!(matches!(&refused, TransferError::Exists { partition, .. } if partition == "many"), "{refused}");
    let mine = async || two.get("many", &7_u32.to_be_bytes()).await.unwrap().0;
    assert_eq!(mine().await, "mine");
    let kept = two.import(Existing::Keep, &text).await.unwrap();
    assert_eq!((kept.rows + kept.left, mine().await), (all.rows, Bytes::from("mine")));
    let again = two.import(Existing::Keep, &text).await.unwrap();
    assert_eq!((again.rows, again.left), (0, all.rows));
    let replaced = two.import(Existing::Replace, &text).await.unwrap();
    assert_eq!((replaced.rows, replaced.left, mine().await), (all.rows, 0, Bytes::from("value 7")));
    two.is_like(&one).await;
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_changed_is_told_with_its_line() {
    let (text, _) = House::filled(false).await.export().await;
    let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
    let joined = |lines: &[&[u8]]| lines.concat();
    let count = lines.len();
    let mut swapped = lines.clone();
    swapped.swap(count - 2, count - 3);
    let mut piece_lost = lines.clone();
    piece_lost.remove(2);
    let mut row_lost = lines.clone();
    row_lost.remove(count - 2);
    let long = [lines[0], &vec![b' '; usize::try_from(LINE_BYTES_MAX).unwrap() + 1], b"\n"].concat();
    let cases = [
        (b"".to_vec(), 1, "cut off"),
        (joined(&lines[..count - 1]), count, "cut off"),
        (text[..text.len() - 1].to_vec(), count, "cut off"),
        (joined(&lines[1..]), 1, "must be a head"),
        (joined(&[lines[0], lines[0]]), 2, "second head"),
        (b"{\"head\":{\"format\":2}}\n".to_vec(), 1, "format 2"),
        (b"{\"nothing\":{}}\n".to_vec(), 1, "unknown variant"),
        (joined(&[lines[0], lines[2]]), 2, "piece of no code"),
        (joined(&piece_lost), 5, "are not code"),
        (joined(&row_lost), count - 1, "was changed"),
        (joined(&swapped), count, "was changed"),
        (long, 2, "longer than"),
    ];
    for (text, line, what) in cases {
        let error = House::new(false).await.import(Existing::Refuse, &text).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("line {line}:")) && error.contains(what), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_line_at_its_bound_is_read() {
    let value = line::Row {
        namespace: Name::namespace_default(),
        space: Space::Value,
        partition: line::Base64(vec![1; faas_store::PARTITION_BYTES_MAX].into()),
        sort: line::Base64(vec![2; faas_store::SORT_BYTES_MAX].into()),
        value: line::Base64(vec![3; faas_store::ROW_VALUE_BYTES_MAX].into()),
        expires_ms: Some(u64::MAX),
    };
    let text = serde_json::to_vec(&line::Line::Row(value)).unwrap();
    assert!((text.len() as u64) < LINE_BYTES_MAX, "{}", text.len());
}
