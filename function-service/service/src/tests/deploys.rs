//! Deploying, pointing, going back, removing.

use faas_model::manifest::HttpTrigger;
use futures_util::future::join_all;

use super::flaky::Flaky;
use super::*;
use crate::{DeployPhase, RevisionRef};

fn route(path: &str) -> HttpTrigger {
    HttpTrigger { route: path.into(), hosts: vec![], methods: vec![] }
}

async fn fails(bench: &Bench, change: impl FnOnce(&mut Deploy)) -> (DeployPhase, Reason) {
    let before = bench.code_files();
    let error = bench.deploy_with("f", "two", change).await.unwrap_err();
    assert_eq!(bench.code_files(), before, "a failed deploy leaves no file");
    (error.phase, error.problem.reason)
}

#[tokio::test(start_paused = true)]
async fn a_first_deploy_is_version_one_and_can_be_called() {
    let bench = Bench::new().await;
    let deployed = bench.deploy("f", "one").await.unwrap();
    assert!(deployed.created && deployed.moved);
    assert_eq!((deployed.version, deployed.previous), (1, None));
    let phases: Vec<_> = deployed.timings.iter().map(|(phase, _)| phase.as_str()).collect();
    assert_eq!(phases, ["check", "upload", "compile", "probe", "publish"]);
    assert_eq!(bench.status("f").await, 200);
    assert_eq!(bench.call("f").await.unwrap().revision, deployed.revision);
}

#[tokio::test(start_paused = true)]
async fn the_same_content_again_changes_nothing() {
    let bench = Bench::new().await;
    let first = bench.deploy("f", "one").await.unwrap();
    let (installs, starts) = (bench.runtime.installs(), bench.runtime.starts());
    let again = bench.deploy("f", "one").await.unwrap();
    assert_eq!((again.revision, again.version), (first.revision, 1));
    assert!(!again.created && !again.moved);
    assert_eq!((bench.runtime.installs(), bench.runtime.starts()), (installs, starts));
    assert_eq!(bench.code_files().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn new_settings_are_no_new_revision_but_hold_at_once() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    let again = bench.deploy_with("f", "one", |d| d.settings.scale.max = 3).await.unwrap();
    assert!(!again.created && !again.moved);
    assert_eq!(again.version, 1);
    let description = bench.service.describe(&function("f")).await.unwrap();
    assert_eq!(description.aliases[&Name::alias_live()].settings.scale.max, 3);
    assert_eq!(bench.status("f").await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_running_call_ends_on_its_revision_and_the_next_one_runs_on_the_new() {
    let bench = Bench::new().await;
    let old = bench.deploy("f", "one").await.unwrap().revision;
    bench.follow(Act::Wait);
    let mut running = Box::pin(bench.call("f"));
    until(|| futures_util::FutureExt::now_or_never(&mut running).is_none() && bench.runtime.running() == 1).await;
    let new = bench.deploy("f", "two").await.unwrap();
    assert_eq!((new.version, new.previous), (2, Some(old)));
    let mut next = Box::pin(bench.call("f"));
    until(|| futures_util::FutureExt::now_or_never(&mut next).is_none() && bench.runtime.running() == 2).await;
    bench.runtime.release(2);
    assert_eq!(running.await.unwrap().revision, old);
    assert_eq!(next.await.unwrap().revision, new.revision);
}

#[tokio::test(start_paused = true)]
async fn a_deploy_fails_in_the_phase_that_found_the_fault_and_live_goes_on() {
    let bench = Bench::new().await;
    let live = bench.deploy("f", "one").await.unwrap().revision;
    bench.deploy_with("other", "other", |d| d.spec.trigger.http.push(route("/taken"))).await.unwrap();
    let (check, unprocessable) = (DeployPhase::Check, Reason::Unprocessable);
    assert_eq!(fails(&bench, |d| d.spec.limits.memory.0 = 1).await, (check, unprocessable));
    assert_eq!(fails(&bench, |d| d.settings.scale.max = 0).await, (check, unprocessable));
    assert_eq!(fails(&bench, |d| d.expected = Expect::Absent).await, (check, Reason::PreconditionFailed));
    assert_eq!(fails(&bench, |d| d.spec.trigger.http.push(route("/taken"))).await, (check, Reason::Conflict));

    bench.runtime.follow(Script { install_failure: Some(failure(unprocessable)), ..Script::default() });
    assert_eq!(fails(&bench, |_| {}).await, (DeployPhase::Compile, unprocessable));
    bench.runtime.follow(Script { start_failure: Some(failure(Reason::StartFailed)), ..Script::default() });
    assert_eq!(fails(&bench, |_| {}).await, (DeployPhase::Probe, unprocessable));
    bench.runtime.follow(Script { start_delay: seconds(31), ..Script::default() });
    assert_eq!(fails(&bench, |_| {}).await, (DeployPhase::Probe, unprocessable));
    let probed = |d: &mut Deploy| d.spec.probe = Some("/ready".into());
    bench.follow(Act::Status(http::StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(fails(&bench, probed).await, (DeployPhase::Probe, unprocessable));
    bench.follow(Act::Hang);
    assert_eq!(fails(&bench, probed).await, (DeployPhase::Probe, unprocessable));
    bench.follow(Act::Fail(failure(Reason::Crashed)));
    assert_eq!(fails(&bench, probed).await, (DeployPhase::Probe, unprocessable));

    bench.follow(Act::Routes);
    let reply = bench.call("f").await.unwrap();
    assert_eq!(reply.revision, live);
    assert_eq!(bench.service.revisions(&function("f")).await.unwrap().len(), 1);
    assert_eq!(bench.runtime.stops(), bench.runtime.starts() - 3, "probed instances are stopped; two starts failed");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_answers_below_500_is_good_enough() {
    let bench = Bench::new().await;
    bench.follow(Act::Status(http::StatusCode::NOT_FOUND));
    bench.deploy_with("f", "one", |d| d.spec.probe = Some("/ready".into())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_answers_fails_at_the_bound_of_a_run() {
    let bench = Bench::new().await;
    bench.follow(Act::Hang);
    let hanging = |d: &mut Deploy| (d.spec.probe, d.spec.timeout.run) = (Some("/ready".into()), Millis::seconds(2));
    let began = tokio::time::Instant::now();
    assert_eq!(fails(&bench, hanging).await, (DeployPhase::Probe, Reason::Unprocessable));
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn compiled_code_that_another_function_uses_is_not_forgotten() {
    let (mut bench, odd) = (Bench::new().await, super::simple::Odd::default());
    bench.service = open(bench.folder.path(), bench.store.clone(), Arc::new(odd.clone())).await;
    bench.deploy("other", "one").await.unwrap();
    bench.deploy("f", "one").await.unwrap();
    bench.deploy("f", "two").await.unwrap();
    bench.service.remove(&function("f")).await.unwrap();
    assert_eq!(*odd.forgotten.lock().unwrap(), [faas_model::Digest::of(b"two")]);
}

#[tokio::test(start_paused = true)]
async fn code_that_another_function_uses_survives_a_failed_deploy_and_a_removal() {
    let bench = Bench::new().await;
    bench.deploy("other", "two").await.unwrap();
    bench.runtime.follow(Script { start_failure: Some(failure(Reason::StartFailed)), ..Script::default() });
    bench.deploy_with("f", "two", |_| {}).await.unwrap_err();
    bench.follow(Act::Routes);
    bench.deploy("f", "two").await.unwrap();
    bench.service.remove(&function("f")).await.unwrap();
    assert_eq!(bench.code_files().len(), 1);
    assert_eq!(bench.status("other").await, 200);
}

#[tokio::test(start_paused = true)]
async fn of_two_first_deploys_at_once_one_wins_and_the_other_is_told() {
    let bench = Bench::new().await;
    let first = |code| bench.deploy_with("f", code, |d| d.expected = Expect::Absent);
    let (one, two) = tokio::join!(first("one"), first("two"));
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    let lost = one.err().or_else(|| two.err()).unwrap();
    assert_eq!(lost.problem.reason, Reason::PreconditionFailed);
    assert_eq!(bench.code_files().len(), 1, "the loser's code is gone");
}

#[tokio::test(start_paused = true)]
async fn of_two_functions_that_take_one_route_at_once_one_wins() {
    let bench = Bench::new().await;
    // The starts overlap, so both pass the first check.
    bench.runtime.follow(Script { start_delay: seconds(1), ..Script::default() });
    let with_route = |name| bench.deploy_with(name, name, |d| d.spec.trigger.http.push(route("/orders")));
    let (one, two) = tokio::join!(with_route("one"), with_route("two"));
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    let lost = one.err().or_else(|| two.err()).unwrap();
    assert_eq!((lost.phase, lost.problem.reason), (DeployPhase::Publish, Reason::Conflict));
    assert_eq!(bench.code_files().len(), 1);
    assert_eq!(bench.service.list(&Name::namespace_default()).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_does_not_stop_its_deploy() {
    let bench = Bench::new().await;
    bench.runtime.follow(Script { start_delay: seconds(1), ..Script::default() });
    let left = tokio::time::timeout(Duration::from_millis(500), bench.deploy("f", "one")).await;
    assert!(left.is_err());
    let catalogue = bench.service.catalogue();
    until(|| catalogue.borrow().function(&function("f")).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn rollback_goes_to_the_version_before_and_again_forward() {
    let bench = Bench::new().await;
    let one = bench.deploy("f", "one").await.unwrap().revision;
    let none = bench.service.rollback(&function("f")).await.unwrap_err();
    assert_eq!(none.reason, Reason::Conflict);
    let two = bench.deploy("f", "two").await.unwrap().revision;
    let back = bench.service.rollback(&function("f")).await.unwrap();
    assert_eq!((back.revision, back.version, back.previous), (one, 1, Some(two)));
    assert_eq!(bench.call("f").await.unwrap().revision, one);
    assert_eq!(bench.service.rollback(&function("f")).await.unwrap().revision, two);
    assert_eq!(bench.call("f").await.unwrap().revision, two);
}

#[tokio::test(start_paused = true)]
async fn live_does_not_go_back_to_a_route_that_another_function_took() {
    let bench = Bench::new().await;
    bench.deploy_with("f", "one", |d| d.spec.trigger.http.push(route("/orders"))).await.unwrap();
    let two = bench.deploy("f", "two").await.unwrap().revision;
    bench.deploy_with("other", "other", |d| d.spec.trigger.http.push(route("/orders"))).await.unwrap();
    assert_eq!(bench.service.rollback(&function("f")).await.unwrap_err().reason, Reason::Conflict);
    assert_eq!(bench.call("f").await.unwrap().revision, two);
}

#[tokio::test(start_paused = true)]
async fn nothing_moves_to_a_revision_that_does_not_compile_any_more() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    let two = bench.deploy("f", "two").await.unwrap().revision;
    let install_failure = Some(failure(Reason::Unprocessable));
    bench.runtime.follow(Script { install_failure, ..Script::default() });
    assert!(bench.service.rollback(&function("f")).await.is_err());
    bench.follow(Act::Routes);
    assert_eq!(bench.call("f").await.unwrap().revision, two);
}

#[tokio::test(start_paused = true)]
async fn an_alias_is_pointed_by_number_or_digits_if_it_is_where_the_caller_thinks() {
    let bench = Bench::new().await;
    let one = bench.deploy("f", "one").await.unwrap().revision;
    let two = bench.deploy("f", "two").await.unwrap().revision;
    let (name, live, canary) = (function("f"), Name::alias_live(), Name::new("canary").unwrap());
    let point =
        |alias, to: &str, expected| bench.service.point(&name, alias, to.parse::<RevisionRef>().unwrap(), expected);
    assert_eq!(point(&live, "1", Some(one)).await.unwrap_err().reason, Reason::PreconditionFailed);
    assert_eq!(point(&live, "1", Some(two)).await.unwrap().revision, one);
    assert_eq!(point(&canary, &two.0.short(), None).await.unwrap().version, 2);
    assert_eq!(point(&live, "7", None).await.unwrap_err().reason, Reason::NotFound);
    assert_eq!(bench.call("f").await.unwrap().revision, one);
    let mut to_canary = invocation("f");
    to_canary.alias = canary.clone();
    assert_eq!(bench.service.dispatch(to_canary).await.unwrap().revision, two);
    let catalogue = bench.service.catalogue().borrow().clone();
    assert_eq!(catalogue.function(&name).unwrap().aliases[&canary].id, two);
}

#[tokio::test(start_paused = true)]
async fn a_removed_function_leaves_nothing() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    bench.deploy("f", "two").await.unwrap();
    assert_eq!(bench.status("f").await, 200);
    let name = function("f");
    bench.service.remove(&name).await.unwrap();
    assert_eq!(bench.reason("f").await, Reason::NotFound);
    assert!(bench.service.catalogue().borrow().function(&name).is_none());
    assert_eq!(bench.service.describe(&name).await.unwrap_err().reason, Reason::NotFound);
    assert_eq!(bench.service.revisions(&name).await.unwrap_err().reason, Reason::NotFound);
    assert_eq!(bench.service.remove(&name).await.unwrap_err().reason, Reason::NotFound);
    assert_eq!(bench.code_files(), Vec::<PathBuf>::new());
    assert_eq!(bench.runtime.stops(), bench.runtime.starts());
    assert_eq!(bench.deploy("f", "three").await.unwrap().version, 1, "a new function begins at 1");
}

#[tokio::test(start_paused = true)]
async fn a_removal_lets_running_calls_end_within_the_grace_and_then_cuts_them() {
    let bench = Bench::new().await;
    bench.deploy_with("f", "one", |d| d.spec.timeout.grace = Millis::seconds(2)).await.unwrap();
    bench.follow(Act::Hang);
    let service = bench.service.clone();
    let call = tokio::spawn(async move { service.dispatch(invocation("f")).await.unwrap_err().reason });
    until(|| bench.runtime.running() == 1).await;
    let began = tokio::time::Instant::now();
    bench.service.remove(&function("f")).await.unwrap();
    assert!(began.elapsed() >= seconds(2));
    assert_eq!(call.await.unwrap(), Reason::Crashed);
}

#[tokio::test(start_paused = true)]
async fn no_call_fails_during_fifty_deploys() {
    let bench = Arc::new(Bench::new().await);
    bench.deploy("f", "code 0").await.unwrap();
    let callers = (0..8).map(|_| {
        let bench = bench.clone();
        tokio::spawn(async move {
            for _ in 0..200 {
                assert_eq!(bench.status("f").await, 200);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for n in 1..=50 {
        assert_eq!(bench.deploy("f", &format!("code {n}")).await.unwrap().version, n + 1);
    }
    for caller in join_all(callers).await {
        caller.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_same_revisions_are_live_and_orphans_are_gone() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    let live = bench.deploy("f", "two").await.unwrap().revision;
    let orphan = faas_model::Digest::of(b"a deploy that was cut off before its publication");
    std::fs::write(bench.folder.path().join("blobs").join(orphan.to_string()), b"cut off").unwrap();
    std::fs::write(bench.folder.path().join("blobs/tmp/upload"), b"cut off").unwrap();
    let bench = bench.reopen().await;
    assert_eq!(bench.code_files().len(), 2);
    let installs = bench.runtime.installs();
    assert_eq!(bench.call("f").await.unwrap().revision, live);
    assert_eq!(bench.runtime.installs(), installs, "what was installed needs nothing more");
    assert_eq!(bench.service.list(&Name::namespace_default()).await[0].version, 2);
    bench.runtime.forget(&faas_model::Digest::of(b"two")).await;
    bench.service.evict_idle();
    assert_eq!(bench.call("f").await.unwrap().revision, live);
    assert_eq!(bench.runtime.installs(), installs + 1, "what is lost is made ready at the next start");
}

#[tokio::test(start_paused = true)]
async fn code_that_was_damaged_on_disk_is_never_run() {
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    std::fs::write(&bench.code_files()[0], b"another").unwrap();
    // What was made of it before is as it was; code is read only where that is lost.
    bench.runtime.forget(&faas_model::Digest::of(b"one")).await;
    let bench = bench.reopen().await;
    assert_eq!(bench.reason("f").await, Reason::StartFailed);
    assert_eq!(bench.runtime.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_nothing_changes_and_calls_go_on() {
    let store = Flaky::new();
    let bench = Bench::over(store.clone()).await;
    let one = bench.deploy("f", "one").await.unwrap().revision;
    let two = bench.deploy("f", "two").await.unwrap().revision;
    let (name, unavailable) = (function("f"), Reason::StoreUnavailable);
    store.away(true);
    assert_eq!(fails(&bench, |d| d.spec.probe = Some("/hello".into())).await, (DeployPhase::Publish, unavailable));
    let three = bench.deploy("f", "three").await.unwrap_err();
    assert_eq!((three.phase, three.problem.reason), (DeployPhase::Publish, unavailable));
    assert_eq!(bench.code_files().len(), 2);
    assert_eq!(bench.service.rollback(&name).await.unwrap_err().reason, unavailable);
    assert_eq!(bench.service.remove(&name).await.unwrap_err().reason, unavailable);
    assert_eq!(bench.call("f").await.unwrap().revision, two);
    assert!(bench.service.catalogue().borrow().function(&name).is_some());
    store.away(false);
    assert_eq!(bench.service.rollback(&name).await.unwrap().revision, one);
    bench.service.remove(&name).await.unwrap();
    assert_eq!(bench.code_files(), Vec::<PathBuf>::new());
}
