//! Two processes over one store: what one changes the other shows, once it is ready for it.

use faas_model::RevisionId;
use faas_model::manifest::HttpTrigger;
use faas_repo::CodeRepo as _;
use faas_store::WallClock;

use super::flaky::Flaky;
use super::*;
use crate::RevisionRef;

/// The default of `functions.follow`.
const FOLLOW: Duration = Duration::from_millis(250);

async fn process(store: &Arc<dyn Store>) -> Bench {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Scripted::default());
    let repo =
        FolderRepo::open(folder.path().join("blobs"), faas_repo::Config::default(), store.clone()).await.unwrap();
    let repo = repo.on_this_thread().sharing(store.clone(), WallClock::system());
    let logs = LogBook::open(folder.path().join("logs"), LogConfig::default()).unwrap();
    let runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::new(runtime.clone())];
    let service = FunctionService::open(Config::default(), Arc::new(repo), runtimes, logs).await.unwrap();
    Bench { service, runtime, store: store.clone(), folder }
}

async fn two() -> [Bench; 2] {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    [process(&store).await, process(&store).await]
}

impl Bench {
    /// Returns what the function's callers get here.
    async fn live(&self, name: &str) -> Option<RevisionId> {
        self.call(name).await.ok().map(|reply| reply.revision)
    }

    async fn shows(&self, name: &str, revision: Option<RevisionId>) {
        tokio::time::timeout(seconds(60), async {
            while self.live(name).await != revision {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it is shown");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_a_rollback_and_a_removal_are_shown_by_the_other_at_its_next_look() {
    let [one, two] = two().await;
    let first = one.deploy("f", "one").await.unwrap().revision;
    tokio::time::sleep(FOLLOW * 2).await;
    assert_eq!(two.live("f").await, Some(first));
    let second = two.deploy("f", "two").await.unwrap();
    assert_eq!((second.version, second.previous), (2, Some(first)));
    tokio::time::sleep(FOLLOW * 2).await;
    assert_eq!(one.live("f").await, Some(second.revision));
    one.service.rollback(&function("f")).await.unwrap();
    tokio::time::sleep(FOLLOW * 2).await;
    assert_eq!((one.live("f").await, two.live("f").await), (Some(first), Some(first)));
    two.service.remove(&function("f")).await.unwrap();
    tokio::time::sleep(FOLLOW * 2).await;
    assert_eq!(one.reason("f").await, Reason::NotFound);
    assert_eq!(one.service.catalogue().borrow().len(), 0);
    until(|| one.code_files().is_empty()).await;
    assert_eq!(two.code_files(), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn a_change_is_known_at_once_to_who_changes_the_same_function() {
    let [one, two] = two().await;
    let first = one.deploy("f", "one").await.unwrap().revision;
    // Nothing was heard of yet.
    let expected = Expect::Revision(first);
    let second = two.deploy_with("f", "two", |d| d.expected = expected).await.unwrap().revision;
    let stale = one.deploy_with("f", "three", |d| d.expected = expected).await.unwrap_err();
    assert_eq!(stale.problem.reason, Reason::PreconditionFailed);
    let back = one.service.point(&function("f"), &Name::alias_live(), RevisionRef::Version(1), Some(second)).await;
    assert_eq!(back.unwrap().previous, Some(second));
    let [three, four] = super::sharing::two().await;
    three.deploy("g", "one").await.unwrap();
    four.service.remove(&function("g")).await.unwrap();
    three.shows("g", None).await;
}

#[tokio::test(start_paused = true)]
async fn the_old_revision_answers_until_the_code_of_the_new_one_is_ready_here() {
    let [one, two] = two().await;
    let first = one.deploy("f", "one").await.unwrap().revision;
    two.shows("f", Some(first)).await;
    two.runtime.follow(Script { install_delay: seconds(20), ..Script::default() });
    let second = one.deploy("f", "two").await.unwrap().revision;
    tokio::time::sleep(seconds(15)).await;
    assert_eq!(two.live("f").await, Some(first));
    tokio::time::sleep(seconds(6)).await;
    let starts = two.runtime.installs();
    assert_eq!(two.live("f").await, Some(second));
    assert_eq!(two.runtime.installs(), starts, "no call waits for the compiler");
}

#[tokio::test(start_paused = true)]
async fn foretold_code_is_made_ready_while_the_other_still_compiles() {
    let [one, two] = two().await;
    one.runtime.follow(Script { install_delay: seconds(20), ..Script::default() });
    two.runtime.follow(Script { install_delay: seconds(20), ..Script::default() });
    let began = tokio::time::Instant::now();
    let revision = one.deploy("f", "one").await.unwrap().revision;
    two.shows("f", Some(revision)).await;
    assert!(began.elapsed() < seconds(22), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn foretold_code_that_never_came_is_removed_after_a_while() {
    let [one, two] = two().await;
    one.runtime.follow(Script { install_failure: Some(failure(Reason::Unprocessable)), ..Script::default() });
    one.deploy("f", "bad").await.unwrap_err();
    tokio::time::sleep(FOLLOW * 2).await;
    assert_eq!((one.code_files().len(), two.code_files().len()), (0, 1));
    tokio::time::sleep(seconds(1_300)).await;
    assert_eq!(two.code_files(), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_shows_what_another_process_did_meanwhile() {
    let flaky = Flaky::new();
    let near: Arc<dyn Store> = flaky.clone();
    let (one, two) = (process(&near).await, process(&flaky.beyond()).await);
    let first = one.deploy("f", "one").await.unwrap().revision;
    one.follow(Act::Wait);
    let calling = one.service.clone();
    let call = tokio::spawn(async move { calling.dispatch(invocation("f")).await });
    tokio::time::sleep(seconds(1)).await;
    let removing = one.service.clone();
    let removal = tokio::spawn(async move { removing.remove(&function("f")).await });
    tokio::time::sleep(seconds(1)).await;
    let second = two.deploy("f", "two").await.unwrap();
    assert_eq!(second.previous, Some(first));
    flaky.vague(Some("f"));
    assert_eq!(removal.await.unwrap().unwrap_err().reason, Reason::StoreUnavailable);
    drop(call);
    flaky.vague(None);
    one.follow(Act::default());
    one.shows("f", Some(second.revision)).await;
}

#[tokio::test(start_paused = true)]
async fn code_that_cannot_be_made_ready_is_tried_again_and_the_old_revision_answers() {
    let [one, two] = two().await;
    let first = one.deploy("f", "one").await.unwrap().revision;
    two.shows("f", Some(first)).await;
    two.runtime.follow(Script { install_failure: Some(failure(Reason::DiskFull)), ..Script::default() });
    let second = one.deploy("f", "two").await.unwrap().revision;
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(two.live("f").await, Some(first));
    two.runtime.follow(Script::default());
    two.shows("f", Some(second)).await;
}

#[tokio::test(start_paused = true)]
async fn a_route_is_taken_once_whatever_was_heard() {
    let [one, two] = two().await;
    let route = |d: &mut Deploy| {
        d.spec.trigger.http = vec![HttpTrigger { route: "/shop".into(), hosts: vec![], methods: vec![] }];
    };
    one.deploy_with("a", "one", route).await.unwrap();
    let taken = two.deploy_with("b", "two", route).await.unwrap_err();
    assert_eq!(taken.problem.reason, Reason::Conflict);
    assert!(taken.problem.detail.contains("a.default"), "{}", taken.problem.detail);
    one.service.remove(&function("a")).await.unwrap();
    two.deploy_with("b", "two", route).await.expect("it was given back, heard of or not");
    let both = ["c", "d"].map(|name| (name, format!("code of {name}")));
    let other = |d: &mut Deploy| {
        d.spec.trigger.http = vec![HttpTrigger { route: "/other".into(), hosts: vec![], methods: vec![] }];
    };
    let (c, d) = tokio::join!(one.deploy_with("c", &both[0].1, other), two.deploy_with("d", &both[1].1, other));
    assert_eq!([c.is_ok(), d.is_ok()].into_iter().filter(|ok| *ok).count(), 1, "{c:?} {d:?}");
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_removed_here_is_not_shown_again_by_what_others_did_meanwhile() {
    let [one, two] = two().await;
    let first = one.deploy("f", "one").await.unwrap().revision;
    two.shows("f", Some(first)).await;
    one.follow(Act::Wait);
    let running = one.service.clone();
    let call = tokio::spawn(async move { running.dispatch(invocation("f")).await });
    tokio::time::sleep(seconds(1)).await;
    let removal = one.service.clone();
    let removal = tokio::spawn(async move { removal.remove(&function("f")).await });
    tokio::time::sleep(seconds(1)).await;
    two.deploy("f", "two").await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(one.reason("f").await, Reason::NotFound, "its removal goes on");
    removal.await.unwrap().unwrap();
    assert!(call.await.unwrap().is_err());
    two.shows("f", None).await;
    one.shows("f", None).await;
    one.follow(Act::default());
    let again = two.deploy("f", "three").await.unwrap().revision;
    one.shows("f", Some(again)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_took_long_to_make_ready_never_covers_a_later_one() {
    let [one, two] = two().await;
    one.deploy("g", "other").await.unwrap();
    let mut catalogue = one.service.catalogue();
    let shown = tokio::spawn(async move {
        let mut shown = Vec::new();
        while let Ok(Ok(())) = tokio::time::timeout(seconds(100), catalogue.changed()).await {
            shown.extend(catalogue.borrow_and_update().function(&function("f")).map(|entry| entry.live.id));
        }
        shown
    });
    one.runtime.follow(Script { install_delay: seconds(20), ..Script::default() });
    let first = two.deploy("f", "one").await.unwrap().revision;
    tokio::time::sleep(seconds(1)).await;
    one.runtime.follow(Script::default());
    let second = one.deploy("f", "two").await.unwrap();
    assert_eq!(second.previous, Some(first));
    assert_eq!(shown.await.unwrap(), [second.revision]);
    assert_eq!(one.live("f").await, Some(second.revision));
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_beside_all_turns_is_read_anew() {
    let [one, two] = two().await;
    let folder = tempfile::tempdir().unwrap();
    let open = async |name: &str| {
        let folder = folder.path().join(name);
        FolderRepo::open(folder, faas_repo::Config::default(), one.store.clone()).await.unwrap()
    };
    let (alone, shared) = (open("alone").await, open("shared").await.sharing(one.store.clone(), WallClock::system()));
    let mut upload = shared.begin().await.unwrap();
    upload.write(b"code").await.unwrap();
    let kept = shared.keep(upload.finish().await.unwrap()).await.unwrap();
    let turn = alone.turn(&function("f")).await.unwrap();
    let (spec, settings) = (FunctionSpec::default(), AliasSettings::default());
    let published = shared.publish(&turn, &spec, &settings, &kept, Expect::Any).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(one.live("f").await, None, "nobody said so");
    shared.changed_beside_turns().await.unwrap();
    for process in [&one, &two] {
        process.shows("f", Some(published.revision.id)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_which_nobody_knows_the_outcome_stays_open_until_another_settles_it() {
    let flaky = Flaky::new();
    let near: Arc<dyn Store> = flaky.clone();
    let (one, two) = (process(&near).await, process(&flaky.beyond()).await);
    flaky.vague(Some("f"));
    let lost = one.deploy("f", "one").await.unwrap_err();
    assert_eq!(lost.problem.reason, Reason::StoreUnavailable);
    flaky.vague(None);
    let began = tokio::time::Instant::now();
    two.deploy("g", "two").await.unwrap();
    assert!(began.elapsed() > seconds(5), "it waited until the change was settled: {:?}", began.elapsed());
    assert_eq!((one.live("f").await, two.live("f").await), (None, None));
}

#[tokio::test(start_paused = true)]
async fn changes_that_were_made_while_the_store_was_away_are_shown_when_it_is_back() {
    let flaky = Flaky::new();
    let near: Arc<dyn Store> = flaky.clone();
    let one = process(&near).await;
    let two = process(&flaky.beyond()).await;
    flaky.blind(true);
    let first = two.deploy("f", "one").await.unwrap().revision;
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(one.live("f").await, None);
    flaky.blind(false);
    one.shows("f", Some(first)).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_process_knows_what_was_deployed_and_misses_nothing_that_comes_meanwhile() {
    let [one, _two] = two().await;
    let first = one.deploy("f", "one").await.unwrap().revision;
    let (third, second) = tokio::join!(process(&one.store), one.deploy("g", "two"));
    assert_eq!(third.live("f").await, Some(first));
    third.shows("g", Some(second.unwrap().revision)).await;
}
