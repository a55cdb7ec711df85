//! What the repository promises, over the partition-strict store in memory and
//! over the embedded one.

mod crashes;
mod faults;
mod flaky;
mod model;
mod races;
mod sharing;

use std::path::{Path, PathBuf};

use faas_store::{Embedded, EmbeddedConfig, Memory, Store};

use super::*;

/// A repository with everything below it.
struct Bench {
    repo: FolderRepo,
    store: Arc<dyn Store>,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::over(Arc::new(Memory::new())).await
    }

    async fn over(store: Arc<dyn Store>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repo = open(folder.path(), store.clone()).await;
        Self { repo, store, folder }
    }

    /// Opens the same data again, as after a crash.
    async fn reopen(self) -> Self {
        let Self { repo, store, folder } = self;
        drop(repo);
        let repo = open(folder.path(), store.clone()).await;
        Self { repo, store, folder }
    }

    async fn keep(&self, code: &str) -> Kept {
        let mut upload = self.repo.begin().await.unwrap();
        for piece in code.as_bytes().chunks(3) {
            upload.write(piece).await.unwrap();
        }
        self.repo.keep(upload.finish().await.unwrap()).await.unwrap()
    }

    async fn publish(&self, name: &FunctionName, code: &str, expected: Expect) -> Result<Published, RepoError> {
        let kept = self.keep(code).await;
        let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
        self.publish_kept(name, &spec, &settings, &kept, expected).await
    }

    async fn publish_kept(
        &self,
        name: &FunctionName,
        spec: &FunctionSpec,
        settings: &AliasSettings,
        kept: &Kept,
        expected: Expect,
    ) -> Result<Published, RepoError> {
        let turn = self.repo.turn(name).await?;
        let published = self.repo.publish(&turn, spec, settings, kept, expected).await;
        self.repo.done(turn).await?;
        published
    }

    async fn promote(
        &self,
        name: &FunctionName,
        alias: &Name,
        to: &RevisionId,
        settings: Option<&AliasSettings>,
        expected: Expect,
    ) -> Result<AliasRecord, RepoError> {
        let turn = self.repo.turn(name).await?;
        let moved = self.repo.promote(&turn, alias, to, settings, expected).await;
        self.repo.done(turn).await?;
        moved
    }

    async fn remove(&self, name: &FunctionName) -> Result<Vec<Digest>, RepoError> {
        let turn = self.repo.turn(name).await?;
        let removed = self.repo.remove(&turn).await;
        self.repo.done(turn).await?;
        removed
    }

    async fn versions(&self, name: &FunctionName) -> Vec<u64> {
        self.repo.revisions(name).await.map_or(vec![], |all| all.iter().map(|r| r.version).collect())
    }

    fn files(&self) -> Vec<PathBuf> {
        files(self.folder.path())
    }
}

async fn open(folder: &Path, store: Arc<dyn Store>) -> FolderRepo {
    let config = Config { code_bytes_max: faas_model::units::ByteSize(64), ..Config::default() };
    FolderRepo::open(folder, config, store).await.unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn named(name: &str) -> FunctionName {
    FunctionName::in_default(name).unwrap()
}

fn live() -> Name {
    Name::alias_live()
}

#[tokio::test]
async fn a_publication_is_readable_in_every_way() {
    let (bench, f) = (Bench::new().await, named("f"));
    let published = bench.publish(&f, "code", Expect::Absent).await.unwrap();
    assert!(published.created && published.moved);
    let revision = published.revision;
    assert_eq!((revision.version, revision.code, revision.code_bytes), (1, Digest::of(b"code"), 4));
    assert_eq!(revision.id, FunctionSpec::default().revision_id(&Digest::of(b"code")));
    let (alias, resolved) = bench.repo.resolve(&f, &live()).await.unwrap();
    assert_eq!((alias.revision, alias.version, alias.previous), (revision.id, 1, None));
    assert_eq!(resolved, revision);
    assert_eq!(bench.repo.revision(&f, &revision.id).await.unwrap(), revision);
    assert_eq!(bench.repo.list(&f.namespace).await.unwrap(), [bench.repo.function(&f).await.unwrap()]);
    let path = bench.repo.fetch(&revision.code).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"code");
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), revision.code.to_string());
}

#[tokio::test]
async fn the_same_content_again_is_the_same_revision_and_number() {
    let (bench, f) = (Bench::new().await, named("f"));
    let one = bench.publish(&f, "one", Expect::Any).await.unwrap().revision.id;
    let again = bench.publish(&f, "one", Expect::Revision(one)).await.unwrap();
    assert!(!again.created && !again.moved);
    let two = bench.publish(&f, "two", Expect::Revision(one)).await.unwrap();
    assert_eq!((two.revision.version, two.alias.previous), (2, Some(one)));
    let back = bench.publish(&f, "one", Expect::Any).await.unwrap();
    assert!(!back.created && back.moved);
    assert_eq!((back.revision.version, back.alias.previous), (1, Some(two.revision.id)));
    assert_eq!(bench.versions(&f).await, [1, 2]);
    assert_eq!(bench.files().len(), 2);
}

#[tokio::test]
async fn another_spec_or_function_with_the_same_code_is_another_revision_of_one_file() {
    let (bench, f) = (Bench::new().await, named("f"));
    bench.publish(&f, "code", Expect::Any).await.unwrap();
    bench.publish(&named("g"), "code", Expect::Any).await.unwrap();
    let kept = bench.keep("code").await;
    let spec = FunctionSpec { probe: Some("/ready".into()), ..FunctionSpec::default() };
    let other = bench.publish_kept(&f, &spec, &AliasSettings::default(), &kept, Expect::Any).await.unwrap();
    assert_eq!(other.revision.version, 2);
    assert_eq!(bench.files().len(), 1);
}

#[tokio::test]
async fn a_publication_with_another_expectation_changes_nothing() {
    let (bench, f) = (Bench::new().await, named("f"));
    let one = bench.publish(&f, "one", Expect::Any).await.unwrap().revision.id;
    let conflict = Err(RepoError::Conflict { current: Some(one) });
    assert_eq!(bench.publish(&f, "two", Expect::Absent).await, conflict);
    let other = Expect::Revision(RevisionId(Digest::of(b"other")));
    assert_eq!(bench.publish(&f, "two", other).await, conflict);
    assert_eq!(bench.publish(&named("g"), "two", other).await, Err(RepoError::Conflict { current: None }));
    assert_eq!(bench.versions(&f).await, [1]);
    assert_eq!(bench.repo.collect().await.unwrap().code, [Digest::of(b"two")]);
}

#[tokio::test]
async fn concurrent_publications_number_their_revisions_without_gaps() {
    let (bench, f) = (Bench::new().await, named("f"));
    let publications = (0..8).map(|n| {
        let (bench, f) = (&bench, &f);
        async move { bench.publish(f, &format!("code {n}"), Expect::Any).await.unwrap().revision.version }
    });
    let mut versions = futures_util::future::join_all(publications).await;
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());
    let (alias, _) = bench.repo.resolve(&f, &live()).await.unwrap();
    assert!((1..=8).contains(&alias.version));
}

#[tokio::test]
async fn an_alias_moves_by_compare_and_set_and_keeps_its_settings() {
    let (bench, f) = (Bench::new().await, named("f"));
    let one = bench.publish(&f, "one", Expect::Any).await.unwrap().revision.id;
    let two = bench.publish(&f, "two", Expect::Any).await.unwrap().revision.id;
    let canary = Name::new("canary").unwrap();
    let mut settings = AliasSettings::default();
    settings.scale.max = 7;
    let made = bench.promote(&f, &canary, &one, Some(&settings), Expect::Absent).await.unwrap();
    assert_eq!((made.version, made.previous), (1, None));
    let stale = bench.promote(&f, &canary, &two, None, Expect::Revision(two)).await;
    assert_eq!(stale, Err(RepoError::Conflict { current: Some(one) }));
    let moved = bench.promote(&f, &canary, &two, None, Expect::Revision(one)).await.unwrap();
    assert_eq!((moved.version, moved.previous, moved.settings.scale.max), (2, Some(one), 7));
    let missing = RevisionId(Digest::of(b"missing"));
    let unknown = bench.promote(&f, &canary, &missing, None, Expect::Any).await;
    assert!(matches!(unknown, Err(RepoError::NotFound(_))));
    assert_eq!(bench.repo.function(&f).await.unwrap().aliases.len(), 2);
}

#[tokio::test]
async fn aliases_of_a_function_are_bounded() {
    let (bench, f) = (Bench::new().await, named("f"));
    let id = bench.publish(&f, "one", Expect::Any).await.unwrap().revision.id;
    for n in 1..ALIASES_MAX {
        bench.promote(&f, &Name::new(&format!("a{n}")).unwrap(), &id, None, Expect::Any).await.unwrap();
    }
    let over = bench.promote(&f, &Name::new("over").unwrap(), &id, None, Expect::Any).await;
    assert!(matches!(over, Err(RepoError::TooLarge { max: 64, .. })));
    bench.promote(&f, &live(), &id, None, Expect::Any).await.unwrap();
}

#[tokio::test]
async fn revisions_are_found_by_number_and_by_the_beginning_of_their_id() {
    let (bench, f) = (Bench::new().await, named("f"));
    let one = bench.publish(&f, "one", Expect::Any).await.unwrap().revision;
    let two = bench.publish(&f, "two", Expect::Any).await.unwrap().revision;
    let find = async |text: &str| bench.repo.find(&f, &text.parse().unwrap()).await;
    assert_eq!(find("1").await, Ok(one.clone()));
    assert_eq!(find("2").await, Ok(two.clone()));
    assert_eq!(find(&two.id.0.short()).await, Ok(two));
    assert_eq!(find(&one.id.to_string()).await, Ok(one.clone()));
    assert!(matches!(find("3").await, Err(RepoError::NotFound(_))));
    let twins = [Revision::clone(&one), Revision::clone(&one)];
    let prefix: RevisionRef = one.id.0.short().parse().unwrap();
    assert!(matches!(prefix.pick(&twins), Err(RepoError::Ambiguous(_))));
}

#[test]
fn texts_that_name_no_revision_are_refused() {
    for bad in ["", "abc", "-1", "v3", "ABCDEF", "x".repeat(64).as_str(), "a".repeat(65).as_str(), "live"] {
        assert!(bad.parse::<RevisionRef>().is_err(), "{bad:?}");
    }
    assert_eq!("12345678901".parse(), Ok(RevisionRef::Version(12_345_678_901)));
    assert_eq!("123456789012".parse(), Ok(RevisionRef::Id("123456789012".into())), "twelve digits are an id as shown");
    assert_eq!("dead".parse(), Ok(RevisionRef::Id("dead".into())));
}

#[tokio::test]
async fn a_removed_function_leaves_no_record_and_its_code_can_be_discarded() {
    let (bench, f, g) = (Bench::new().await, named("f"), named("g"));
    bench.publish(&f, "one", Expect::Any).await.unwrap();
    bench.publish(&f, "two", Expect::Any).await.unwrap();
    bench.publish(&g, "two", Expect::Any).await.unwrap();
    let code = bench.remove(&f).await.unwrap();
    let mut both = [Digest::of(b"one"), Digest::of(b"two")];
    both.sort_unstable();
    assert_eq!(code, both);
    assert!(matches!(bench.remove(&f).await, Err(RepoError::NotFound(_))));
    assert!(matches!(bench.repo.resolve(&f, &live()).await, Err(RepoError::NotFound(_))));
    assert_eq!(bench.repo.orphans().await.unwrap(), [Digest::of(b"one")]);
    assert!(bench.repo.discard(&Digest::of(b"one")).await.unwrap());
    assert!(!bench.repo.discard(&Digest::of(b"two")).await.unwrap(), "g uses it");
    assert!(bench.repo.discard(&Digest::of(b"one")).await.unwrap(), "gone is gone");
    assert_eq!(bench.files().len(), 1);
    assert_eq!(bench.publish(&f, "one", Expect::Absent).await.unwrap().revision.version, 1);
}

/// Found by seeds 3019 and 4085 of the simulation: what follows a removal must not depend on a hash map.
#[tokio::test]
async fn code_comes_in_the_order_of_digests() {
    let (bench, f) = (Bench::new().await, named("f"));
    let all: Vec<_> = (0..12).map(|n| format!("code {n}")).collect();
    for code in &all {
        bench.publish(&f, code, Expect::Any).await.unwrap();
    }
    let mut sorted: Vec<_> = all.iter().map(|code| Digest::of(code.as_bytes())).collect();
    sorted.sort_unstable();
    assert_eq!(bench.remove(&f).await.unwrap(), sorted);
    assert_eq!(bench.repo.orphans().await.unwrap(), sorted);
    assert_eq!(bench.repo.collect().await.unwrap().code, sorted);
}

#[tokio::test]
async fn code_of_uploads_in_flight_is_never_collected() {
    let (bench, f) = (Bench::new().await, named("f"));
    let kept = bench.keep("code").await;
    let mut upload = bench.repo.begin().await.unwrap();
    upload.write(b"more").await.unwrap();
    assert_eq!(bench.repo.collect().await.unwrap(), Collected::default());
    assert!(!bench.repo.discard(&kept.digest()).await.unwrap());
    assert_eq!(bench.files().len(), 2);
    let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
    bench.publish_kept(&f, &spec, &settings, &kept, Expect::Any).await.unwrap();
    drop((kept, upload));
    assert_eq!(bench.repo.collect().await.unwrap(), Collected::default());
    assert_eq!(bench.files().len(), 1, "the dropped upload removed its file");
}

#[tokio::test]
async fn namespaces_are_kept_apart_and_all_are_found_again() {
    let bench = Bench::new().await;
    let shop = FunctionName::new(Name::new("shop").unwrap(), Name::new("f").unwrap());
    bench.publish(&named("f"), "one", Expect::Any).await.unwrap();
    bench.publish(&shop, "two", Expect::Absent).await.unwrap();
    let names: Vec<_> = bench.repo.namespaces().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["default", "shop"]);
    for namespace in bench.repo.namespaces().await.unwrap() {
        assert_eq!(bench.repo.list(&namespace).await.unwrap().len(), 1);
    }
    assert_eq!(bench.repo.collect().await.unwrap().code, []);
}

#[tokio::test]
async fn the_embedded_store_keeps_it_all_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Embedded::open(&path, EmbeddedConfig::default()).unwrap();
    let (bench, f) = (Bench::over(Arc::new(store)).await, named("f"));
    for n in 1..=5 {
        bench.publish(&f, &format!("code {n}"), Expect::Any).await.unwrap();
    }
    let before = bench.repo.function(&f).await.unwrap();
    let bench = bench.reopen().await;
    assert_eq!(bench.repo.function(&f).await.unwrap(), before);
    assert_eq!(bench.versions(&f).await, [1, 2, 3, 4, 5]);
    assert_eq!(bench.repo.collect().await.unwrap().code, []);
    bench.remove(&f).await.unwrap();
    assert_eq!(bench.repo.collect().await.unwrap().code.len(), 5);
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}
