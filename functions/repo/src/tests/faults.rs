//! What goes wrong below the repository is told as what it is.

use std::os::unix::fs::PermissionsExt as _;

use faas_model::Reason;
use faas_store::StoreError;

use super::flaky::{Fault, Flaky};
use super::*;

#[tokio::test]
async fn code_over_the_bound_is_refused_at_the_first_byte_too_many() {
    let bench = Bench::new().await;
    let mut upload = bench.repo.begin().await.unwrap();
    upload.write(&[0; 64]).await.unwrap();
    assert_eq!(upload.write(&[0]).await, Err(RepoError::TooLarge { what: "the code", max: 64 }));
    assert_eq!(upload.bytes(), 64);
    drop(upload);
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    let bench = Bench::new().await;
    let kept = bench.keep("code").await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(kept.path()), 0o600);
    assert_eq!(mode(&bench.folder.path().join("tmp")), 0o700);
}

#[tokio::test]
async fn damaged_code_is_found_at_the_first_fetch_of_a_process() {
    let (bench, f) = (Bench::new().await, named("f"));
    let code = bench.publish(&f, "code", Expect::Any).await.unwrap().revision.code;
    std::fs::write(bench.repo.fetch(&code).await.unwrap(), "c0de").unwrap();
    let bench = bench.reopen().await;
    assert!(matches!(bench.repo.fetch(&code).await, Err(RepoError::Corrupt(_))));
    bench.keep("code").await;
    assert!(bench.repo.fetch(&code).await.is_ok(), "a new upload of the same code heals it");
    std::fs::remove_file(&bench.files()[0]).unwrap();
    let bench = bench.reopen().await;
    assert!(matches!(bench.repo.fetch(&code).await, Err(RepoError::NotFound(_))));
}

#[tokio::test]
async fn files_that_are_not_code_are_left_alone() {
    let bench = Bench::new().await;
    std::fs::write(bench.folder.path().join("README"), "mine").unwrap();
    assert_eq!(bench.repo.collect().await.unwrap(), Collected::default());
    assert_eq!(bench.files().len(), 1);
}

#[test]
fn each_failure_has_the_reason_that_a_client_can_act_on() {
    use std::io::ErrorKind;
    let reasons = [
        (RepoError::NotFound("function f".into()), Reason::NotFound),
        (RepoError::Conflict { current: None }, Reason::PreconditionFailed),
        (RepoError::Ambiguous("ab".into()), Reason::Conflict),
        (RepoError::TooLarge { what: "the code", max: 1 }, Reason::BodyTooLarge),
        (RepoError::Disk(ErrorKind::StorageFull), Reason::DiskFull),
        (RepoError::Disk(ErrorKind::PermissionDenied), Reason::Internal),
        (RepoError::Corrupt("alias".into()), Reason::Internal),
        (StoreError::Full.into(), Reason::DiskFull),
        (StoreError::Deadline.into(), Reason::StoreUnavailable),
        (StoreError::Unavailable { after: std::time::Duration::ZERO }.into(), Reason::StoreUnavailable),
    ];
    for (error, reason) in reasons {
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn a_publication_whose_answer_was_lost_is_made_exactly_once() {
    for fault in [Fault::LostAnswer, Fault::LostWrite] {
        let (store, f) = (Flaky::new(), named("f"));
        let bench = Bench::over(store.clone()).await;
        let one = bench.publish(&f, "one", Expect::Any).await.unwrap().revision.id;
        store.fail(0, fault);
        let two = bench.publish(&f, "two", Expect::Revision(one)).await.unwrap();
        assert_eq!((two.revision.version, two.alias.previous), (2, Some(one)), "{fault:?}");
        assert_eq!(bench.versions(&f).await, [1, 2]);
        store.fail(0, fault);
        let back = bench.promote(&f, &live(), &one, None, Expect::Revision(two.revision.id)).await.unwrap();
        assert_eq!((back.version, back.previous), (1, Some(two.revision.id)));
        store.fail(0, fault);
        assert_eq!(bench.remove(&f).await.unwrap().len(), 2);
        assert_eq!(bench.versions(&f).await, Vec::<u64>::new());
    }
}

#[tokio::test]
async fn a_publication_into_a_store_that_is_away_changes_nothing() {
    let (store, f) = (Flaky::new(), named("f"));
    let bench = Bench::over(store.clone()).await;
    bench.publish(&f, "one", Expect::Any).await.unwrap();
    store.fail(0, Fault::Away);
    let away = bench.publish(&f, "two", Expect::Any).await.unwrap_err();
    assert_eq!(away.reason(), Reason::StoreUnavailable);
    assert_eq!(bench.versions(&f).await, [1]);
}
