//! First come, first served.

use turnkeeper_core::{Conclusion, RunRequest};

use crate::world::{World, is_queued, is_started, names};

/// spec: dispatch:G-14
#[test]
fn a_slow_commit_is_not_overtaken() {
    let world = World::new();
    world.hold_back("one");
    assert!(is_queued(&world.submit("two")));
    let dispatched = world.go("one");
    assert!(is_started(&dispatched) && names(&dispatched.starts) == ["one"]);
    assert_eq!(world.end("one"), ["two"]);
}

#[test]
fn an_open_reservation_blocks_the_line_until_it_is_abandoned() {
    let world = World::new();
    world.submit("a");
    world.hold_back("b");
    world.submit("c");
    assert!(world.end("a").is_empty(), "b is next, and not there yet");
    let starts = world.scheduler.abandon(world.at(), "b", 0.0).unwrap();
    assert_eq!(names(&starts), ["c"]);
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

/// The core's part of dispatch:D-1 and dispatch:D-2: one turn at a time, the others behind it in order.
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
    assert!(matches!(world.conclude("fails"), Conclusion::Concluded(None)));
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
        assert!(world.scheduler.expire(world.at(), &format!("run-{number}"), 0.0).0);
    }
    assert_eq!(world.go("late").position, 21);
    world.cancel_run("run-0");
    assert_eq!(
        world.hold_back("later").position,
        21,
        "a cancelled open run is not counted"
    );
}

#[test]
fn a_queued_run_expires_and_a_reserved_or_running_one_does_not() {
    let world = World::new();
    world.submit("a");
    world.submit("b");
    world.hold_back("c");
    let expire = |run| world.scheduler.expire(world.at(), run, 0.0);
    assert_eq!(expire("a"), (false, vec![]));
    assert_eq!(expire("b"), (true, vec![]));
    assert_eq!(expire("b"), (false, vec![]));
    assert_eq!(expire("c"), (false, vec![]));
    assert_eq!(world.line(), ["c"]);
}

#[test]
fn calls_out_of_turn_are_refused_and_change_nothing() {
    let world = World::new();
    let (scheduler, at) = (&world.scheduler, world.at());
    world.submit("a");
    world.submit("b");
    assert!(scheduler.dispatch(at, "b", 0.0).is_err());
    assert!(scheduler.abandon(at, "b", 0.0).is_err());
    assert!(scheduler.partition(at, "b", None).is_err());
    assert!(scheduler.conclude(at, "b", usize::MAX).is_err());
    assert!(scheduler.finish(at, "a", 0.0).is_err(), "not concluded");
    world.conclude("a");
    assert!(scheduler.conclude(at, "a", usize::MAX).is_err(), "concluded already");
    assert_eq!(world.finish("a"), ["b"]);
    assert!(scheduler.finish(at, "a", 0.0).is_err());
    assert!(
        scheduler
            .snapshot(turnkeeper_core::Address::new("tenant", "elsewhere"))
            .is_none()
    );
}

#[test]
fn drain_starts_nothing() {
    let world = World::new();
    world.submit("a");
    world.submit("b");
    world.scheduler.drain();
    assert!(world.end("a").is_empty());
    assert!(is_queued(&world.submit("c")));
    assert_eq!(world.line(), ["b", "c"]);
    assert_eq!(world.cancel().covered.len(), 2);
    assert!(world.is_idle());
}

#[test]
fn holds_are_listed_with_their_age() {
    let world = World::new();
    let (scheduler, at) = (&world.scheduler, world.at());
    world.submit("a");
    let child = scheduler.hold(at, "a", "child", 1.5).unwrap();
    let task = scheduler.hold(at, "a", "task", 2.5).unwrap();
    let holds = world.inspect().open.unwrap().holds;
    assert_eq!(
        holds.iter().map(|hold| (&*hold.label, hold.since)).collect::<Vec<_>>(),
        [("child", 1.5), ("task", 2.5)]
    );
    assert_eq!(scheduler.release_hold(at, "a", child), 1);
    assert_eq!(scheduler.release_hold(at, "a", child), 1);
    assert_eq!(scheduler.release_hold(at, "a", task), 0);
    assert!(scheduler.hold(at, "b", "child", 0.0).is_err());
    world.end("a");
    assert_eq!(scheduler.release_hold(at, "a", task), 0);
}
