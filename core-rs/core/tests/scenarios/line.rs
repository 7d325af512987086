//! First come, first served.

use turnkeeper_core::{Conclusion, Effect, End, Fact, HoldKind, Phase, Proposal, RunRequest, Why};

use crate::world::{World, is_queued, is_started};

/// spec: dispatch:G-14
#[test]
fn a_slow_commit_is_not_overtaken() {
    let world = World::new();
    world.hold_back("one");
    assert!(is_queued(&world.submit("two")));
    let dispatched = world.go("one");
    assert!(is_started(&dispatched) && dispatched.starts == ["one"]);
    assert_eq!(world.end("one"), ["two"]);
}

#[test]
fn an_open_reservation_blocks_the_line_until_it_is_abandoned() {
    let world = World::new();
    world.submit("a");
    world.hold_back("b");
    world.submit("c");
    assert!(world.end("a").is_empty(), "b is next, and not there yet");
    assert_eq!(world.abandon("b").unwrap(), ["c"]);
}

/// spec: dispatch:G-13
#[test]
fn ten_thousand_runs_start_in_accept_order() {
    let world = World::new();
    world.submit("open");
    let runs: Vec<_> = (0..10_000).map(|number| format!("run-{number}")).collect();
    for (place, run) in runs.iter().enumerate() {
        let accepted = world.hold_back(run);
        assert_eq!(accepted.position, place + 1);
    }
    assert!(matches!(
        world.try_accept("more", RunRequest::default()),
        Err(turnkeeper_core::Error::QueueFull { limit: 10_000, .. })
    ));
    for run in runs.iter().rev() {
        assert!(is_queued(&world.go(run)));
    }
    let mut open = "open".to_owned();
    for run in runs {
        assert_eq!(world.end(&open), std::slice::from_ref(&run));
        open = run;
    }
    world.end(&open);
    assert!(world.is_idle());
}

/// The core's part of dispatch:D-1, dispatch:D-2: one turn at a time, the others behind it in order.
#[test]
fn one_turn_at_a_time() {
    let world = World::new();
    assert!(is_started(&world.submit("run-0")));
    for number in 1..8 {
        let dispatched = world.submit(&format!("run-{number}"));
        assert!(is_queued(&dispatched) && dispatched.position == number);
    }
    for number in 1..8 {
        assert_eq!(world.end(&format!("run-{}", number - 1)), [format!("run-{number}")]);
        assert_eq!(world.scheduler.stats().running_turns, 1);
    }
}

/// The core's part of dispatch:G-1.
#[test]
fn the_line_moves_whatever_the_outcome() {
    let world = World::new();
    world.submit("fails");
    world.submit("next");
    assert_eq!(
        world.propose("fails", Proposal::Failed).unwrap(),
        Conclusion::Concluded(End::Failed)
    );
    assert_eq!(world.finish("fails"), ["next"]);
}

#[test]
fn positions_count_what_is_really_ahead() {
    let world = World::new();
    for number in 0..100 {
        world.submit(&format!("run-{number}"));
    }
    for number in (1..100).step_by(2) {
        world.cancel_run(&format!("run-{number}"));
    }
    assert_eq!(world.hold_back("late").position, 50);
    for number in (2..60).step_by(2) {
        world.cancel_run(&format!("run-{number}"));
    }
    assert_eq!(world.go("late").position, 21);
    world.cancel_run("run-0");
    assert_eq!(
        world.hold_back("later").position,
        21,
        "a cancelled open run is not counted"
    );
}

/// What is closed by the deadlines that have passed, and why.
fn due(world: &World, now: f64) -> Vec<(String, Why)> {
    let steps = world.scheduler.due(now, usize::MAX).unwrap();
    let effects = steps.into_iter().flat_map(|(_, step)| step.effects);
    effects
        .filter_map(|effect| match effect {
            Effect::Fact(Fact::Closed(run, why)) => Some((run.run_id().to_string(), why)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_queued_run_expires_and_a_reserved_or_running_one_does_not() {
    let world = World::new();
    let in_time = || RunRequest {
        start_timeout: Some(5.0),
        ..RunRequest::default()
    };
    world.submit_as("a", in_time());
    world.submit_as("b", in_time());
    world.try_accept("c", in_time()).unwrap();
    assert!(due(&world, 4.9).is_empty());
    assert_eq!(due(&world, 5.0), [("b".to_owned(), Why::Expired)]);
    assert_eq!(world.line(), ["c"]);
    world.go("c");
    assert_eq!(
        due(&world, 6.0),
        [("c".to_owned(), Why::Expired)],
        "it is late when it comes"
    );
    world.end("a");
    assert!(world.is_idle());
}

#[test]
fn a_reservation_whose_commit_never_ends_strands() {
    let world = World::new();
    world.hold_back("a");
    world.submit("b");
    world.scheduler.arm_reservation(world.at(), "a", 30.0, 0.0).unwrap();
    assert_eq!(due(&world, 30.0), [("a".to_owned(), Why::Stranded)]);
    assert_eq!(world.running().as_deref(), Some("b"));
    assert!(world.scheduler.dispatch(world.at(), "a", 31.0).is_err());
}

#[test]
fn calls_out_of_turn_are_refused_and_change_nothing() {
    let world = World::new();
    let (scheduler, at) = (&world.scheduler, world.at());
    world.submit("a");
    world.submit("b");
    let turn = world.turn("a");
    assert!(scheduler.dispatch(at, "b", 0.0).is_err());
    assert!(scheduler.abandon(at, "b", 0.0).is_err());
    assert!(scheduler.abandon(at, "a", 0.0).is_err());
    assert!(scheduler.strands(at, turn, 0, 0.0).is_err());
    assert!(scheduler.finish(at, "a", 0.0).is_err(), "not over");
    world.conclude("a");
    assert!(
        scheduler.conclude(at, turn, Proposal::Failed, 0.0).is_err(),
        "over already"
    );
    assert_eq!(world.finish("a"), ["b"]);
    assert!(scheduler.finish(at, "a", 0.0).is_err());
    let elsewhere = turnkeeper_core::Address::new("tenant", "elsewhere");
    assert!(scheduler.snapshot(elsewhere).is_none());
}

#[test]
fn drain_starts_nothing() {
    let world = World::new();
    world.submit("a");
    world.submit("b");
    world.hold_back("c");
    world.scheduler.drain(Phase::Draining, 0.0);
    assert!(world.end("a").is_empty());
    assert!(is_queued(&world.go("c")));
    assert!(world.try_accept("d", RunRequest::default()).is_err());
    assert_eq!(world.line(), ["b", "c"]);
    assert_eq!(world.cancel().covered.len(), 2);
    assert!(world.is_idle());
}

#[test]
fn holds_are_listed_with_their_age_and_keep_a_run_from_being_over() {
    let world = World::new();
    let (scheduler, at) = (&world.scheduler, world.at());
    world.submit("a");
    let upload = scheduler.hold(at, "a", "upload", None, 1.5).unwrap().answer;
    let index = scheduler.hold(at, "a", "index", Some(9.0), 2.5).unwrap().answer;
    let guards = || {
        let holds = scheduler.holds(at, "a").into_iter();
        let guards = holds.filter(|hold| hold.kind == HoldKind::Guard);
        guards
            .map(|hold| (hold.label.to_string(), hold.since, hold.deadline))
            .collect::<Vec<_>>()
    };
    let expected = [("upload".to_owned(), 1.5, None), ("index".to_owned(), 2.5, Some(9.0))];
    assert_eq!(guards(), expected);
    assert!(scheduler.hold(at, "b", "child", None, 0.0).is_err());
    world.conclude("a");
    assert!(scheduler.finish(at, "a", 0.0).is_err(), "two things hold it");
    assert!(scheduler.release(at, "a", upload, 0.0).unwrap().answer);
    assert!(!scheduler.release(at, "a", upload, 0.0).unwrap().answer);
    let steps = scheduler.due(9.0, 1).unwrap();
    assert!(matches!(steps[0].1.effects[..], [Effect::Fact(Fact::RunOver(..))]));
    assert!(!scheduler.release(at, "a", index, 9.0).unwrap().answer);
    assert!(scheduler.hold(at, "a", "late", None, 9.0).is_err(), "it is over");
    world.finish("a");
    assert!(world.is_idle());
}
