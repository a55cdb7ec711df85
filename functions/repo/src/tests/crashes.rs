//! A publication and a removal, cut off after each of their steps: opening and
//! collecting must find the old state or the new one, and no file too many.

use faas_store::{Change, Key, Logged, Page, Partition, Read, Require, Space, Write, WriteId};
use tokio::time::Instant;

use super::*;

/// Everything that a client can see: the function's record, its versions, and the code files.
#[derive(Debug, PartialEq)]
struct Seen {
    live: Option<u64>,
    versions: Vec<u64>,
    code: Vec<Digest>,
}

async fn seen(bench: &Bench, f: &FunctionName) -> Seen {
    let live = bench.repo.resolve(f, &live()).await.ok().map(|(alias, _)| alias.version);
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().parse().expect("only code files are left");
    let mut code: Vec<_> = bench.files().into_iter().map(name).collect();
    code.sort_unstable();
    Seen { live, versions: bench.versions(f).await, code }
}

async fn after_crash(bench: Bench) -> Bench {
    let bench = bench.reopen().await;
    bench.repo.collect().await.unwrap();
    bench
}

/// Runs the first `steps` steps of a deploy of `two` over a deployed `one`.
/// What is left in memory is forgotten, as a crash would, without any clean-up.
async fn deploy_steps(bench: &Bench, f: &FunctionName, steps: usize) {
    let mut upload = bench.repo.begin().await.unwrap();
    upload.write(b"tw").await.unwrap();
    if steps == 0 {
        return std::mem::forget(upload);
    }
    upload.write(b"o").await.unwrap();
    let blob = upload.finish().await.unwrap();
    if steps == 1 {
        return std::mem::forget(blob);
    }
    let kept = bench.repo.keep(blob).await.unwrap();
    if steps > 2 {
        let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
        bench.publish_kept(f, &spec, &settings, &kept, Expect::Any).await.unwrap();
    }
    std::mem::forget(kept);
}

#[tokio::test]
async fn a_deploy_cut_off_after_any_step_leaves_the_old_state_or_the_new() {
    let f = named("f");
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    let mut both = vec![one, two];
    both.sort_unstable();
    for steps in 0..=3 {
        let bench = Bench::new().await;
        bench.publish(&f, "one", Expect::Any).await.unwrap();
        deploy_steps(&bench, &f, steps).await;
        let bench = after_crash(bench).await;
        let old = Seen { live: Some(1), versions: vec![1], code: vec![one] };
        let new = Seen { live: Some(2), versions: vec![1, 2], code: both.clone() };
        assert_eq!(seen(&bench, &f).await, if steps < 3 { old } else { new }, "{steps} steps");
        let next = bench.publish(&f, "three", Expect::Any).await.unwrap();
        assert_eq!(next.revision.version, if steps < 3 { 2 } else { 3 });
    }
}

#[tokio::test]
async fn a_first_deploy_cut_off_before_its_record_leaves_nothing() {
    let f = named("f");
    for steps in 0..=2 {
        let bench = Bench::new().await;
        deploy_steps(&bench, &f, steps).await;
        let bench = after_crash(bench).await;
        assert_eq!(seen(&bench, &f).await, Seen { live: None, versions: vec![], code: vec![] }, "{steps} steps");
    }
}

#[tokio::test]
async fn a_removal_cut_off_after_its_records_loses_its_code_at_the_next_start() {
    let (bench, f) = (Bench::new().await, named("f"));
    bench.publish(&f, "one", Expect::Any).await.unwrap();
    bench.remove(&f).await.unwrap();
    assert_eq!(bench.files().len(), 1);
    let bench = after_crash(bench).await;
    assert_eq!(seen(&bench, &f).await, Seen { live: None, versions: vec![], code: vec![] });
}

#[tokio::test]
async fn a_removal_cut_off_between_two_slices_is_ended_at_the_next_start() {
    let (bench, f) = (Bench::new().await, named("f"));
    bench.publish(&f, "one", Expect::Any).await.unwrap();
    bench.publish(&f, "two", Expect::Any).await.unwrap();
    remove_alias(&bench, &f).await;
    assert_eq!(bench.repo.list(&f.namespace).await.unwrap(), []);
    let bench = after_crash(bench).await;
    assert_eq!(seen(&bench, &f).await, Seen { live: None, versions: vec![], code: vec![] });
    let (page, by) = (Page { after: None, rows_max: 10, bytes_max: 1 << 20 }, Instant::now() + faas_store::PATIENCE);
    let left = bench.store.scan(&partition(&f), bytes::Bytes::new()..bytes::Bytes::new(), page, by).await.unwrap();
    assert_eq!(left.items, []);
}

#[tokio::test]
async fn a_namespace_that_was_noted_but_never_used_is_harmless() {
    let bench = Bench::new().await;
    let shop = Name::new("shop").unwrap();
    let sort = bytes::Bytes::from_static(b"shop");
    let partition =
        Partition { namespace: Name::namespace_default(), space: Space::Catalog, name: "#namespaces".into() };
    let put = Change::Put { sort: sort.clone(), value: "null".into(), expires: None, require: Require::Absent };
    let write = Write { partition: partition.clone(), id: WriteId::fresh(), changes: vec![put], log: Logged::No };
    let by = Instant::now() + faas_store::PATIENCE;
    bench.store.write(write, by).await.unwrap();
    assert!(bench.repo.namespaces().await.unwrap().contains(&shop));
    assert_eq!(bench.repo.list(&shop).await.unwrap(), []);
    let f = FunctionName::new(shop, Name::new("f").unwrap());
    bench.publish(&f, "one", Expect::Absent).await.unwrap();
    let row = bench.store.get(&Key { partition, sort }, Read::Linearizable, by).await.unwrap();
    assert!(row.is_some());
}

/// Does the first slice of a removal: it takes the aliases, which sort first.
pub(super) async fn remove_alias(bench: &Bench, f: &FunctionName) {
    let (sort, by) = (bytes::Bytes::from_static(b"a/live"), Instant::now() + faas_store::PATIENCE);
    let changes = vec![Change::Delete { sort, require: Require::Present }];
    let write = Write { partition: partition(f), id: WriteId::fresh(), changes, log: Logged::Values };
    bench.store.write(write, by).await.unwrap();
}

fn partition(f: &FunctionName) -> Partition {
    let name = bytes::Bytes::copy_from_slice(f.name.as_str().as_bytes());
    Partition { namespace: f.namespace.clone(), space: Space::Catalog, name }
}
