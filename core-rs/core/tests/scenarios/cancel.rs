//! What a cancel covers, and what the mark says about it.

use std::sync::Arc;

use turnkeeper_core::{
    Address, Cancel, CancelScope, Conclusion, Delivery, Dispatch, Kind, Place, RunRequest, Sequence,
};

use crate::world::{World, by_delivery, by_kind, covered, is_cancelled, is_queued, is_started, names, stop};

/// spec: dispatch:A-1
#[test]
fn a_reservation_closes_once() {
    let world = World::new();
    world.hold_back("a");
    world.scheduler.abandon(world.at(), "a", 0.0).unwrap();
    for _ in 0..2 {
        assert!(world.scheduler.abandon(world.at(), "a", 0.0).is_err());
        assert_eq!(world.inspect().reserved, 0);
    }
    assert!(world.is_idle());
}

/// spec: dispatch:A-2
#[test]
fn each_reservation_counts() {
    let world = World::new();
    world.hold_back("a");
    world.hold_back("b");
    assert_eq!(world.inspect().reserved, 2);
    world.scheduler.abandon(world.at(), "a", 0.0).unwrap();
    assert_eq!(world.inspect().reserved, 1);
    world.scheduler.abandon(world.at(), "b", 0.0).unwrap();
    assert_eq!(world.inspect().reserved, 0);
}

/// spec: dispatch:A-4
#[test]
fn an_idle_cancel_leaves_no_mark() {
    let world = World::new();
    let result = world.cancel();
    assert!(result.covered.is_empty() && result.concluded.is_empty());
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
    let again = world.cancel_as(Cancel::new("ADMIN"), CancelScope::default());
    assert_eq!(world.mark(), Some(stamp));
    assert_eq!(&*again.covered[0].cancel.reason, "USER", "the first cancel stays");
}

/// The core's part of dispatch:A-7: nothing starts, reservation and mark are gone.
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
    assert!(
        world
            .scheduler
            .partition(world.at(), "a", None)
            .unwrap()
            .cancel
            .is_some()
    );
}

/// The core's part of dispatch:B-2: cancel beats busy.
#[test]
fn a_covered_follow_up_is_not_queued_behind_a_busy_session() {
    let world = World::new();
    world.submit("a");
    world.hold_back("b");
    world.cancel();
    assert!(is_cancelled(&world.go("b")));
    let seen = world.inspect();
    assert_eq!((seen.queued, seen.reserved, seen.mark), (0, 0, None));
    assert_eq!(world.running().as_deref(), Some("a"));
}

/// spec: dispatch:B-4
#[test]
fn a_mark_that_covers_nothing_goes_with_the_last_reservation() {
    let world = World::new();
    world.hold_back("a");
    world.cancel_as(
        Cancel::new("USER"),
        CancelScope {
            up_to: Some(Sequence::new(0)),
            ..CancelScope::default()
        },
    );
    assert_eq!(world.mark(), Some(Sequence::new(0)));
    assert!(is_started(&world.go("a")));
    assert_eq!(world.mark(), None);
    assert!(matches!(world.conclude("a"), Conclusion::Concluded(None)));
    world.finish("a");
    assert!(world.is_idle());
}

/// The core's part of dispatch:B-6: one cancel, two reservations, in whatever order they are dispatched.
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

/// The core's part of dispatch:B-7.
#[test]
fn an_idle_cancel_does_not_reach_the_next_run() {
    let world = World::new();
    world.cancel();
    assert!(is_started(&world.submit("next")));
    assert_eq!(world.mark(), None);
    assert!(matches!(world.conclude("next"), Conclusion::Concluded(None)));
}

/// The core's part of dispatch:B-8: a later run is not covered, and does not wait for covered ones.
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
    assert!(matches!(world.conclude("c"), Conclusion::Concluded(None)));
    world.finish("c");
    assert!(is_cancelled(&world.go("a")) && is_cancelled(&world.go("b")));
    assert!(world.is_idle());
}

/// The core's part of dispatch:R-5.
#[test]
fn a_cancel_up_to_a_sequence_keeps_what_came_later() {
    let world = World::new();
    world.submit("open");
    world.submit("x");
    world.steer("y");
    let bound = world.inspect().line[1].run.sequence();
    world.submit("z");
    let scope = CancelScope {
        up_to: Some(bound),
        spare_open: true,
        spare_bootstrap: false,
    };
    let result = world.cancel_as(Cancel::new("USER"), scope);
    assert_eq!(
        covered(&result.covered),
        [("x".into(), Place::Queued), ("y".into(), Place::Queued)]
    );
    assert!(world.fold("open").is_empty());
    assert_eq!(world.line(), ["z"]);
}

/// The core's part of dispatch:R-7.
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

/// The core's part of dispatch:G-2.
#[test]
fn a_run_accepted_while_a_cancelled_one_cleans_up_runs_after_it() {
    let world = World::new();
    world.submit("a");
    world.cancel();
    assert!(is_queued(&world.submit("b")));
    assert!(matches!(world.conclude("a"), Conclusion::Cancelled(_)));
    assert_eq!(world.finish("a"), ["b"]);
    assert!(matches!(world.conclude("b"), Conclusion::Concluded(None)));
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
    world.cancel_as(stop(), CancelScope::default());
    assert_eq!(
        world
            .scheduler
            .partition(world.at(), "a", None)
            .unwrap()
            .cancel
            .unwrap()
            .mode,
        stop().mode
    );
    let again = world.cancel_as(stop(), CancelScope::default());
    assert_eq!(again.covered.len(), 1);
    let abort = world.cancel_as(Cancel::new("ADMIN"), CancelScope::default());
    assert_eq!(&*abort.covered[0].cancel.reason, "ADMIN");
    let later = world.cancel_as(Cancel::new("USER"), CancelScope::default());
    assert_eq!(&*later.covered[0].cancel.reason, "ADMIN", "the abort stays");
    assert!(matches!(world.conclude("a"), Conclusion::Cancelled(cancel) if &*cancel.reason == "ADMIN"));
}

#[test]
fn a_stop_leaves_the_conclusion_alone_and_cancels_the_rest_outright() {
    let world = World::new();
    world.submit("a");
    world.submit("b");
    world.hold_back("c");
    let result = world.cancel_as(stop(), CancelScope::default());
    assert_eq!(result.covered.len(), 3);
    assert_eq!(world.line(), ["c"]);
    assert!(is_cancelled(&world.go("c")));
    assert!(matches!(world.conclude("a"), Conclusion::Concluded(Some(_))));
    assert!(world.finish("a").is_empty() && world.is_idle());
}

#[test]
fn a_cancel_after_the_conclusion_reports_it() {
    let world = World::new();
    world.submit("a");
    world.conclude("a");
    let result = world.cancel();
    assert!(result.covered.is_empty());
    assert_eq!(names(&result.concluded), ["a"]);
    assert!(world.cancel_run("unknown").covered.is_empty());
    assert_eq!(names(&world.cancel_run("a").concluded), ["a"]);
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
    assert_eq!(names(&world.cancel_run("a").starts), ["b"]);
}

#[test]
fn clearing_the_queue_spares_the_open_run_and_bootstraps() {
    let world = World::new();
    world.submit("a");
    world.submit_as("boot", by_kind(Kind::Bootstrap));
    world.submit("b");
    let scope = CancelScope {
        spare_open: true,
        spare_bootstrap: true,
        up_to: None,
    };
    let result = world.cancel_as(Cancel::new("QUEUE_CLEARED"), scope);
    assert_eq!(covered(&result.covered), [("b".into(), Place::Queued)]);
    assert_eq!(world.end("a"), ["boot"]);
}

#[test]
fn a_cancel_of_other_sessions_leaves_this_one_alone() {
    let world = World::new();
    world.submit("a");
    let other = Address::new("tenant", "other");
    let cancel = Arc::new(Cancel::new("USER"));
    assert!(
        world
            .scheduler
            .cancel_session(other, &cancel, CancelScope::default(), 0.0)
            .covered
            .is_empty()
    );
    assert!(
        world
            .scheduler
            .cancel_tenant("another", &cancel, 0.0)
            .covered
            .is_empty()
    );
    assert!(matches!(world.conclude("a"), Conclusion::Concluded(None)));
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
    let result = scheduler.cancel_tenant("tenant", &Arc::new(Cancel::new("ADMIN")), 0.0);
    let reached: Vec<_> = result.covered.iter().map(|covered| covered.run.session_id()).collect();
    assert_eq!(reached, sessions);
    assert!(is_started(
        &scheduler.dispatch(Address::new("other", "s"), "run", 0.0).unwrap()
    ));
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
        &*covered.cancel.reason == "REPLACED" && covered.cancel.superseded_by.as_ref().unwrap().as_str() == "new"
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
        assert!(matches!(world.go(run).status, Dispatch::Cancelled(_)));
    }
    assert_eq!(world.running().as_deref(), Some("a"));
}
