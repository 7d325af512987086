//! What a cancel covers, and what the mark says about it.

use std::sync::Arc;

use turnkeeper_core::{
    Act, Address, Cancel, CancelMode, CancelScope, Conclusion, Cut, Delivery, Effect, End, Error, Fact, Kind, Place,
    RunRequest, Sequence, Status, Why,
};

use crate::world::{
    World, by_delivery, by_kind, covered, is_cancelled, is_queued, is_started, names, reason, starts, stop,
};

/// spec: dispatch:A-1
#[test]
fn a_reservation_closes_once() {
    let world = World::new();
    world.hold_back("a");
    world.abandon("a").unwrap();
    for _ in 0..2 {
        assert!(world.abandon("a").is_err());
        assert_eq!(world.reserved(), 0);
    }
    assert!(world.is_idle());
}

/// spec: dispatch:A-2
#[test]
fn each_reservation_counts() {
    let world = World::new();
    world.hold_back("a");
    world.hold_back("b");
    assert_eq!(world.reserved(), 2);
    world.abandon("a").unwrap();
    assert_eq!(world.reserved(), 1);
    world.abandon("b").unwrap();
    assert_eq!(world.reserved(), 0);
}

/// spec: dispatch:A-4
#[test]
fn an_idle_cancel_leaves_no_mark() {
    let world = World::new();
    let result = world.cancel();
    assert!(result.covered.is_empty() && result.finished.is_empty());
    assert!(world.is_idle());
}

/// spec: dispatch:A-5
#[test]
fn a_cancel_over_a_reservation_leaves_a_mark() {
    let world = World::new();
    let stamp = world.hold_back("a").sequence;
    assert_eq!(covered(&world.cancel().covered), [("a".into(), Place::Reserved)]);
    assert_eq!(world.mark(), Some(stamp));
}

/// spec: dispatch:A-6
#[test]
fn a_second_cancel_leaves_the_mark_where_it_is() {
    let world = World::new();
    let stamp = world.hold_back("a").sequence;
    world.cancel();
    assert_eq!(world.mark(), Some(stamp));
    let again = world.cancel_as(Cancel::new("ADMIN"), CancelScope::Session);
    assert_eq!(world.mark(), Some(stamp));
    assert_eq!(reason(&again.covered[0]), "USER", "the first cancel stays");
}

/// The core's part of A-7: nothing starts, reservation and mark are gone.
#[test]
fn a_covered_reservation_is_cancelled_at_dispatch() {
    let world = World::new();
    world.hold_back("a");
    world.cancel();
    let dispatched = world.go("a");
    assert!(is_cancelled(&dispatched) && dispatched.starts.is_empty());
    assert!(world.is_idle());
}

/// spec: dispatch:B-1
#[test]
fn one_cancel_reaches_the_running_turn_and_the_reservation() {
    let world = World::new();
    world.submit("a");
    let stamp = world.hold_back("b").sequence;
    let result = world.cancel();
    assert_eq!(
        covered(&result.covered),
        [("a".into(), Place::Running), ("b".into(), Place::Reserved)]
    );
    assert_eq!(world.mark(), Some(stamp));
    let turn = world.turn("a");
    assert_eq!(world.fold_point("a", 0), Err(Error::Aborted { turn }));
}

/// The core's part of B-2: cancel beats busy.
#[test]
fn a_covered_follow_up_is_not_queued_behind_a_busy_session() {
    let world = World::new();
    world.submit("a");
    world.hold_back("b");
    world.cancel();
    assert!(is_cancelled(&world.go("b")));
    let counts = world.scheduler.counts(world.at()).unwrap();
    assert_eq!((counts.queued, counts.reserved, world.mark()), (0, 0, None));
    assert_eq!(world.running().as_deref(), Some("a"));
}

/// spec: dispatch:B-4
#[test]
fn a_mark_that_covers_nothing_goes_with_the_last_reservation() {
    let world = World::new();
    world.hold_back("a");
    world.cancel_as(Cancel::new("USER"), CancelScope::UpTo(Sequence::new(0)));
    assert_eq!(world.mark(), Some(Sequence::new(0)));
    assert!(is_started(&world.go("a")));
    assert_eq!(world.mark(), None);
    assert_eq!(world.conclude("a"), Conclusion::Concluded(End::Answered));
    world.finish("a");
    assert!(world.is_idle());
}

/// The core's part of B-6: one cancel, two reservations, in whatever order they are dispatched.
#[test]
fn one_cancel_reaches_all_reservations() {
    for order in [["a", "b"], ["b", "a"]] {
        let world = World::new();
        world.hold_back("a");
        let last = world.hold_back("b").sequence;
        world.cancel();
        assert_eq!(world.mark(), Some(last));
        assert!(is_cancelled(&world.go(order[0])));
        assert_eq!(world.mark(), Some(last));
        assert!(is_cancelled(&world.go(order[1])));
        assert!(world.is_idle());
    }
}

/// The core's part of B-7.
#[test]
fn an_idle_cancel_does_not_reach_the_next_run() {
    let world = World::new();
    world.cancel();
    assert!(is_started(&world.submit("next")));
    assert_eq!(world.mark(), None);
    assert_eq!(world.conclude("next"), Conclusion::Concluded(End::Answered));
}

/// The core's part of B-8: a later run is not covered, and does not wait for covered ones.
#[test]
fn a_run_accepted_after_a_cancel_is_not_covered() {
    let world = World::new();
    world.hold_back("a");
    let last = world.hold_back("b").sequence;
    world.cancel();
    let accepted = world.hold_back("c");
    assert!(accepted.sequence > last && world.mark() == Some(last));
    assert_eq!(accepted.position, 0, "cancelled runs are not ahead of anybody");
    assert!(is_started(&world.go("c")));
    assert_eq!(world.mark(), Some(last), "siblings still have to see it");
    assert_eq!(world.conclude("c"), Conclusion::Concluded(End::Answered));
    world.finish("c");
    assert!(is_cancelled(&world.go("a")) && is_cancelled(&world.go("b")));
    assert!(world.is_idle());
}

/// The core's part of R-5.
#[test]
fn a_cancel_up_to_a_sequence_keeps_what_came_later() {
    let world = World::new();
    world.submit("open");
    world.submit("x");
    world.steer("y");
    let bound = world.inspect().line[1].run.sequence();
    world.submit("z");
    let result = world.cancel_as(Cancel::new("USER"), CancelScope::Clear(Some(bound)));
    assert_eq!(
        covered(&result.covered),
        [("x".into(), Place::Queued), ("y".into(), Place::Queued)]
    );
    assert!(world.fold("open").is_empty());
    assert_eq!(world.line(), ["z"]);
}

/// The core's part of R-7.
#[test]
fn a_cancel_empties_the_line_and_reports_each_run_once() {
    let world = World::new();
    world.submit("open");
    world.steer("s");
    world.submit("q");
    let result = world.cancel();
    let expected = [
        ("open".into(), Place::Running),
        ("s".into(), Place::Queued),
        ("q".into(), Place::Queued),
    ];
    assert_eq!(covered(&result.covered), expected);
    assert!(world.line().is_empty());
    assert_eq!(
        covered(&world.cancel().covered),
        expected[..1],
        "a second cancel acknowledges what is left"
    );
}

/// The core's part of G-2.
#[test]
fn a_run_accepted_while_a_cancelled_one_cleans_up_runs_after_it() {
    let world = World::new();
    world.submit("a");
    world.cancel();
    assert!(is_queued(&world.submit("b")));
    assert!(matches!(
        world.conclude("a"),
        Conclusion::Concluded(End::Cut(Cut::Abort(_)))
    ));
    assert_eq!(world.finish("a"), ["b"]);
    assert_eq!(world.conclude("b"), Conclusion::Concluded(End::Answered));
}

/// spec: dispatch:G-8
#[test]
fn a_steer_accepted_after_a_cancel_folds_though_the_mark_stands() {
    let world = World::new();
    world.submit("a");
    world.hold_back("b");
    world.cancel();
    world.end("a");
    world.submit("c");
    assert_eq!(world.steer("d").steers.unwrap().as_str(), "c");
    assert!(world.mark().is_some());
    assert_eq!(world.fold("c"), ["d"]);
    assert!(is_cancelled(&world.go("b")));
}

#[test]
fn a_stop_is_reported_and_an_abort_overrides_it() {
    let world = World::new();
    world.submit("a");
    world.cancel_as(stop(), CancelScope::Session);
    assert_eq!(world.fold_point("a", 0).unwrap().stop.unwrap().mode, CancelMode::Stop);
    let again = world.cancel_as(stop(), CancelScope::Session);
    assert_eq!(again.covered.len(), 1);
    let abort = world.cancel_as(Cancel::new("ADMIN"), CancelScope::Session);
    assert_eq!(reason(&abort.covered[0]), "ADMIN");
    let later = world.cancel_as(Cancel::new("USER"), CancelScope::Session);
    assert_eq!(reason(&later.covered[0]), "ADMIN", "the abort stays");
    assert!(
        matches!(world.conclude("a"), Conclusion::Concluded(End::Cut(Cut::Abort(cancel))) if &*cancel.reason == "ADMIN")
    );
}

#[test]
fn a_stop_leaves_the_conclusion_alone_and_cancels_the_rest_outright() {
    let world = World::new();
    world.submit("a");
    world.submit("b");
    world.hold_back("c");
    let result = world.cancel_as(stop(), CancelScope::Session);
    assert_eq!(result.covered.len(), 3);
    assert_eq!(world.line(), ["c"]);
    assert!(is_cancelled(&world.go("c")));
    assert!(matches!(world.conclude("a"), Conclusion::Concluded(End::Stopped(_))));
    assert!(world.finish("a").is_empty() && world.is_idle());
}

#[test]
fn a_cancel_after_the_conclusion_reports_it() {
    let world = World::new();
    world.submit("a");
    world.conclude("a");
    let result = world.cancel();
    assert!(result.covered.is_empty());
    assert_eq!(names(&result.finished), ["a"]);
    assert!(world.cancel_run("unknown").covered.is_empty());
    assert_eq!(names(&world.cancel_run("a").finished), ["a"]);
}

#[test]
fn a_cancelled_queued_run_leaves_at_once_and_a_cancelled_reservation_does_not_block() {
    let world = World::new();
    world.submit("a");
    world.submit("b");
    world.hold_back("c");
    world.submit("d");
    assert_eq!(covered(&world.cancel_run("b").covered), [("b".into(), Place::Queued)]);
    assert_eq!(covered(&world.cancel_run("c").covered), [("c".into(), Place::Reserved)]);
    assert_eq!(world.mark(), None, "only a cancel of the session raises the mark");
    assert_eq!(world.end("a"), ["d"]);
    assert!(is_cancelled(&world.go("c")));
}

#[test]
fn a_cancelled_reservation_at_the_head_lets_the_next_run_start() {
    let world = World::new();
    world.hold_back("a");
    assert!(is_queued(&world.submit("b")));
    assert_eq!(world.cancel_run("a").starts, ["b"]);
}

#[test]
fn clearing_the_queue_spares_the_open_run_and_bootstraps() {
    let world = World::new();
    world.submit("a");
    world.submit_as("boot", by_kind(Kind::Bootstrap));
    world.submit("b");
    let result = world.cancel_as(Cancel::new("QUEUE_CLEARED"), CancelScope::Clear(None));
    assert_eq!(covered(&result.covered), [("b".into(), Place::Queued)]);
    assert_eq!(world.end("a"), ["boot"]);
}

#[test]
fn a_cancel_of_other_sessions_leaves_this_one_alone() {
    let world = World::new();
    world.submit("a");
    let other = Address::new("tenant", "other");
    let cancel = Arc::new(Cancel::new("USER"));
    let elsewhere = world.scheduler.cancel(other, CancelScope::Session, &cancel, 0.0);
    assert!(elsewhere.unwrap().answer.covered.is_empty());
    let another = world.scheduler.cancel_tenant("another", &cancel, 0.0);
    assert!(another.unwrap().answer.covered.is_empty());
    assert_eq!(world.conclude("a"), Conclusion::Concluded(End::Answered));
}

#[test]
fn a_cancel_of_a_tenant_reaches_all_its_sessions_in_accept_order() {
    let world = World::new();
    let scheduler = &world.scheduler;
    let sessions: Vec<_> = (0..20).map(|number| format!("session-{number}")).collect();
    for session in &sessions {
        let at = Address::new("tenant", session);
        scheduler.accept(at, "run", RunRequest::default(), 0.0).unwrap();
        scheduler.dispatch(at, "run", 0.0).unwrap();
    }
    scheduler
        .accept(Address::new("other", "s"), "run", RunRequest::default(), 0.0)
        .unwrap();
    let cancel = Arc::new(Cancel::new("ADMIN"));
    let result = scheduler.cancel_tenant("tenant", &cancel, 0.0).unwrap().answer;
    let reached: Vec<_> = result.covered.iter().map(|covered| covered.run.session_id()).collect();
    assert_eq!(reached, sessions);
    let step = scheduler.dispatch(Address::new("other", "s"), "run", 0.0).unwrap();
    assert_eq!(starts(&step), ["run"]);
}

#[test]
fn replace_covers_all_before_it_but_bootstraps() {
    let world = World::new();
    world.submit("a");
    world.submit_as("boot", by_kind(Kind::Bootstrap));
    world.submit_as("sum", by_kind(Kind::Summary));
    world.hold_back("c");
    let accepted = world.try_accept("new", by_delivery(Delivery::Replace)).unwrap();
    let expected = [
        ("a".into(), Place::Running),
        ("sum".into(), Place::Queued),
        ("c".into(), Place::Reserved),
    ];
    assert_eq!(covered(&accepted.replaced), expected);
    assert!(accepted.replaced.iter().all(|covered| {
        let cancel = covered.cancel.as_ref().unwrap();
        &*cancel.reason == "REPLACED" && cancel.superseded_by.as_ref().unwrap().as_str() == "new"
    }));
    assert_eq!(accepted.position, 1, "only the bootstrap stands before it");
    world.go("new");
    assert_eq!(world.end("a"), ["boot"]);
    assert_eq!(world.end("boot"), ["new"]);
    assert!(is_cancelled(&world.go("c")));
}

#[test]
fn a_tombstoned_run_is_accepted_past_all_checks_and_never_starts() {
    let world = World::new();
    world.submit("a");
    let request = RunRequest {
        delivery: Delivery::Reject,
        require_idle: true,
        expected_open_run_id: Some("another"),
        cancelled: Some(Arc::new(Cancel::new("USER"))),
        ..RunRequest::default()
    };
    assert!(world.try_accept("b", request.clone()).unwrap().replaced.is_empty());
    let replace = RunRequest {
        delivery: Delivery::Replace,
        ..request
    };
    assert!(world.try_accept("c", replace).unwrap().replaced.is_empty());
    for run in ["b", "c"] {
        assert!(is_cancelled(&world.go(run)));
    }
    assert_eq!(world.running().as_deref(), Some("a"));
}

/// The effects of what is due, in order.
fn due(world: &World, now: f64) -> Vec<Effect> {
    let steps = world.scheduler.due(now, usize::MAX).unwrap();
    steps.into_iter().flat_map(|(_, step)| step.effects).collect()
}

#[test]
fn a_stop_that_is_not_followed_becomes_an_abort_and_then_lets_go() {
    let world = World::new();
    world.submit("a");
    world.cancel_as(stop(), CancelScope::Session);
    assert!(due(&world, 29.0).is_empty());
    let effects = due(&world, 30.0);
    let [
        Effect::Fact(Fact::Requested {
            cut: Cut::Abort(cancel),
            turn: None,
            ..
        }),
        Effect::Act(Act::Abort(..)),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!((&*cancel.reason, cancel.mode), ("USER", CancelMode::Abort));
    assert!(matches!(due(&world, 32.0)[..], [Effect::Act(Act::Detach(_))]));
    world.conclude("a");
    world.finish("a");
    assert!(world.is_idle());
}

#[test]
fn a_run_that_takes_too_long_fails() {
    let world = World::new();
    let request = RunRequest {
        run_timeout: Some(5.0),
        ..RunRequest::default()
    };
    world.submit_as("a", request);
    let effects = due(&world, 5.0);
    let requested = Effect::Fact(Fact::Requested {
        run: world.inspect().open.unwrap().run,
        turn: None,
        cut: Cut::Deadline,
    });
    assert_eq!(effects[0], requested);
    let at = world.at();
    let step = world
        .scheduler
        .conclude(at, world.turn("a"), crate::world::ANSWER, 5.0)
        .unwrap();
    assert_eq!(step.answer, Conclusion::Concluded(End::Cut(Cut::Deadline)));
    assert!(matches!(
        step.effects[1],
        Effect::Fact(Fact::RunOver(_, Status::Failed))
    ));
    world.finish("a");
    assert!(world.is_idle());
}

#[test]
fn a_lost_listener_cancels_unless_somebody_comes_back() {
    let world = World::new();
    let (at, cancel) = (world.at(), Arc::new(Cancel::new("DISCONNECTED")));
    world.submit("a");
    world.submit("b");
    for run in ["a", "b"] {
        world.scheduler.arm_disconnect(at, run, &cancel, 9.0, 0.0).unwrap();
    }
    world.scheduler.disarm_disconnect(at, "a", 1.0).unwrap();
    let effects = due(&world, 9.0);
    assert!(
        matches!(&effects[1], Effect::Fact(Fact::Closed(run, Why::Cancelled(by))) if run.run_id().as_str() == "b" && *by == cancel)
    );
    assert_eq!(world.running().as_deref(), Some("a"));
}

#[test]
fn a_run_that_began_with_its_accept_is_cut_and_not_taken_back() {
    let world = World::new();
    let request = RunRequest {
        may_start: true,
        ..RunRequest::default()
    };
    let starts = world.try_accept("a", request.clone()).unwrap().starts.unwrap();
    assert!(world.abandon("a").unwrap().is_empty());
    assert!(world.is_idle(), "no trace of it");
    let again = world.try_accept("a", request.clone()).unwrap().starts.unwrap();
    assert!(again.id() > starts.id());
    assert!(world.try_accept("b", request).unwrap().starts.is_none(), "a is there");
    assert_eq!(covered(&world.cancel_run("a").covered), [("a".into(), Place::Running)]);
    assert!(matches!(world.conclude("a"), Conclusion::Concluded(End::Cut(_))));
}

#[test]
fn a_session_that_is_deleted_takes_nothing_and_is_forgotten() {
    let world = World::new();
    let (scheduler, at) = (&world.scheduler, world.at());
    let cancel = Arc::new(Cancel::new("DELETED"));
    world.submit("a");
    world.hold_back("b");
    assert!(scheduler.close_session(at, false, &cancel, 0.0).is_err());
    let reached = scheduler.close_session(at, true, &cancel, 0.0).unwrap().answer;
    assert_eq!(reached.covered.len(), 2);
    assert_eq!(
        world.try_accept("c", RunRequest::default()).unwrap_err(),
        Error::SessionDeleting
    );
    assert!(is_cancelled(&world.go("b")));
    assert!(scheduler.forget_session(at, 0.0).is_err());
    world.end("a");
    assert!(scheduler.snapshot(at).unwrap().closing);
    scheduler.forget_session(at, 0.0).unwrap();
    assert!(world.is_idle());
    assert!(is_started(&world.submit("new")));
}
