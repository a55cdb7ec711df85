//! Changes of one function that overtake each other between reading and writing.

use super::flaky::{Fault, Flaky};
use super::*;

/// Returns a function with versions 1 to 3, `live` at 3, and their ids.
async fn three(bench: &Bench, f: &FunctionName) -> [RevisionId; 3] {
    let mut ids = Vec::new();
    for code in ["one", "two", "three"] {
        ids.push(bench.publish(f, code, Expect::Any).await.unwrap().revision.id);
    }
    ids.try_into().unwrap()
}

#[tokio::test]
async fn a_publication_that_was_overtaken_takes_the_next_number() {
    let (store, f) = (Flaky::new(), named("f"));
    let bench = Bench::over(store.clone()).await;
    bench.publish(&f, "one", Expect::Any).await.unwrap();
    let publish = |code| bench.publish(&f, code, Expect::Any);
    let (late, early) = store.overtaken(publish("two"), publish("three")).await;
    assert_eq!((early.unwrap().revision.version, late.unwrap().revision.version), (2, 3));
    assert_eq!(bench.versions(&f).await, [1, 2, 3]);
}

#[tokio::test]
async fn of_two_moves_of_an_alias_from_the_same_revision_one_wins() {
    let (store, f) = (Flaky::new(), named("f"));
    let bench = Bench::over(store.clone()).await;
    let ([one, two, from], live) = (three(&bench, &f).await, live());
    let to = |id| bench.promote(&f, &live, id, None, Expect::Revision(from));
    let (late, early) = store.overtaken(to(&one), to(&two)).await;
    assert_eq!((late, early.is_ok()), (Err(RepoError::Conflict { current: Some(two) }), true));
    let back = |code| bench.publish(&f, code, Expect::Revision(two));
    let (late, early) = store.overtaken(back("three"), back("one")).await;
    assert_eq!((late, early.is_ok()), (Err(RepoError::Conflict { current: Some(one) }), true));
}

#[tokio::test]
async fn an_alias_never_points_to_a_revision_that_is_removed_meanwhile() {
    let (store, f) = (Flaky::new(), named("f"));
    let bench = Bench::over(store.clone()).await;
    let ([one, ..], canary) = (three(&bench, &f).await, Name::new("canary").unwrap());
    let promotion = bench.promote(&f, &canary, &one, None, Expect::Any);
    let (late, removed) = store.overtaken(promotion, bench.remove(&f)).await;
    assert_eq!((late, removed.is_ok()), (Err(RepoError::Conflict { current: None }), true));
    assert_eq!(bench.repo.list(&f.namespace).await.unwrap(), []);
}

#[tokio::test]
async fn a_known_revision_is_published_anew_when_the_rest_of_a_removal_takes_it_away() {
    let (store, f) = (Flaky::new(), named("f"));
    let bench = Bench::over(store.clone()).await;
    bench.publish(&f, "one", Expect::Any).await.unwrap();
    super::crashes::remove_alias(&bench, &f).await;
    let publication = bench.publish(&f, "one", Expect::Any);
    let (late, _) = store.overtaken(publication, bench.repo.collect()).await;
    assert!(late.unwrap().created);
    assert_eq!(bench.repo.resolve(&f, &live()).await.unwrap().1.version, 1);
}

#[tokio::test]
async fn a_publication_is_whole_or_absent_wherever_the_store_goes_away() {
    for after in 0..4 {
        let (store, f) = (Flaky::new(), named("f"));
        let bench = Bench::over(store.clone()).await;
        bench.publish(&f, "one", Expect::Any).await.unwrap();
        store.fail(after, Fault::Away);
        let published = bench.publish(&f, "two", Expect::Any).await.is_ok();
        let (alias, _) = bench.repo.resolve(&f, &live()).await.unwrap();
        let whole = (2, vec![1, 2]);
        assert_eq!((alias.version, bench.versions(&f).await), if published { whole } else { (1, vec![1]) }, "{after}");
    }
}

#[tokio::test]
async fn discarded_code_is_not_found_by_the_process_that_knew_it() {
    let (bench, f) = (Bench::new().await, named("f"));
    let code = bench.publish(&f, "one", Expect::Any).await.unwrap().revision.code;
    bench.remove(&f).await.unwrap();
    assert!(bench.repo.discard(&code).await.unwrap());
    assert!(matches!(bench.repo.fetch(&code).await, Err(RepoError::NotFound(_))));
}
