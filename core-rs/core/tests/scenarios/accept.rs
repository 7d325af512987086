//! Preconditions and bounds, in their order; a refusal changes nothing.

use std::sync::Arc;

use turnkeeper_core::{Cancel, Delivery, Error, Limits, Place, RunRequest, SEQUENCE_END, Scheduler, Scope, Unit};

use crate::world::{World, by_delivery};

/// The core's part of dispatch:G-10.
#[test]
fn a_run_id_is_accepted_once_while_it_is_here() {
    let world = World::new();
    world.submit("open");
    world.submit("queued");
    world.hold_back("reserved");
    world.hold_back("covered");
    world.cancel_run("covered");
    let before = world.scheduler.stats();
    for run in ["open", "queued", "reserved", "covered"] {
        let refused = world.try_accept(run, by_delivery(Delivery::Reject)).unwrap_err();
        assert_eq!(
            refused,
            Error::RunExists { run_id: run.into() },
            "comes before all other checks"
        );
    }
    assert_eq!(world.scheduler.stats(), before, "not even a sequence is used up");
}

#[test]
fn reject_needs_an_idle_session() {
    let world = World::new();
    world.submit_as("a", by_delivery(Delivery::Reject));
    for request in [
        by_delivery(Delivery::Reject),
        RunRequest {
            require_idle: true,
            ..RunRequest::default()
        },
    ] {
        let busy = world.try_accept("b", request).unwrap_err();
        assert_eq!(
            busy,
            Error::SessionBusy {
                open_run_id: Some("a".into())
            }
        );
    }
    world.end("a");
    world.hold_back("c");
    assert_eq!(
        world.try_accept("d", by_delivery(Delivery::Reject)).unwrap_err(),
        Error::SessionBusy { open_run_id: None }
    );
    world.cancel();
    assert_eq!(
        world.try_accept("d", by_delivery(Delivery::Reject)).unwrap_err(),
        Error::SessionBusy { open_run_id: None },
        "a cancelled run is not over before it has left the line"
    );
    world.go("c");
    assert!(world.try_accept("d", by_delivery(Delivery::Reject)).is_ok());
}

#[test]
fn the_expected_run_has_to_be_open() {
    let world = World::new();
    let expecting = |run| RunRequest {
        expected_open_run_id: Some(run),
        ..RunRequest::default()
    };
    assert_eq!(
        world.try_accept("b", expecting("a")).unwrap_err(),
        Error::OpenRunMismatch { open_run_id: None }
    );
    assert!(world.is_idle());
    world.submit("a");
    assert!(world.try_accept("b", expecting("a")).is_ok());
    let both = RunRequest {
        require_idle: true,
        ..expecting("x")
    };
    let mismatch = Error::OpenRunMismatch {
        open_run_id: Some("a".into()),
    };
    assert_eq!(world.try_accept("c", both).unwrap_err(), mismatch);
}

#[test]
fn bounds_are_those_of_the_session_and_of_the_process() {
    let world = World::with(Limits {
        queue_per_session: 2,
        open_runs: 3,
        ..Limits::default()
    });
    world.submit("open");
    world.submit("a");
    world.hold_back("b");
    let full = world.try_accept("c", by_delivery(Delivery::Replace)).unwrap_err();
    assert_eq!(
        full,
        Error::QueueFull {
            scope: Scope::Session,
            unit: Unit::Runs,
            limit: 2
        }
    );
    assert_eq!(world.line(), ["a", "b"], "nothing was replaced");
    world.cancel_run("a");
    world.hold_back("c");
    world.cancel_run("open");
    let elsewhere = turnkeeper_core::Address::new("tenant", "elsewhere");
    let full = world
        .scheduler
        .accept(elsewhere, "d", RunRequest::default(), 0.0)
        .unwrap_err();
    assert_eq!(
        full,
        Error::QueueFull {
            scope: Scope::Process,
            unit: Unit::Runs,
            limit: 3
        }
    );
    assert!(world.scheduler.snapshot(elsewhere).is_none());
    world.end("open");
    assert!(
        world
            .scheduler
            .accept(elsewhere, "d", RunRequest::default(), 0.0)
            .is_ok()
    );
}

#[test]
fn zero_allows_none() {
    let world = World::with(Limits {
        queue_per_session: 0,
        ..Limits::default()
    });
    assert!(world.try_accept("a", RunRequest::default()).is_err());
    let world = World::with(Limits {
        open_runs: 0,
        ..Limits::default()
    });
    assert!(world.try_accept("a", RunRequest::default()).is_err());
    assert!(world.is_idle());
}

#[test]
fn sequences_start_above_epoch_and_stored_maximum_and_end_below_two_to_53() {
    let limits = Limits::default();
    let first = |epoch, last| {
        let scheduler = Scheduler::new(limits, epoch, last)?;
        let at = turnkeeper_core::Address::new("t", "s");
        scheduler
            .accept(at, "r", RunRequest::default(), 0.0)
            .map(|accepted| accepted.sequence.get())
    };
    assert_eq!(first(0, 0), Ok(1));
    assert_eq!(first(7, 12), Ok((7 << 32) + 1));
    assert_eq!(first(1, 9 << 32), Ok((9 << 32) + 1));
    assert_eq!(first(1 << 21, 0), Err(Error::SequencesExhausted));
    assert_eq!(first(0, SEQUENCE_END - 2), Ok(SEQUENCE_END - 1));
    assert_eq!(first(0, SEQUENCE_END - 1), Err(Error::SequencesExhausted));
    let scheduler = Scheduler::new(limits, 0, SEQUENCE_END - 2).unwrap();
    let at = turnkeeper_core::Address::new("t", "s");
    scheduler.accept(at, "r", RunRequest::default(), 0.0).unwrap();
    let before = scheduler.stats();
    let refused = scheduler.accept(at, "q", RunRequest::default(), 0.0).unwrap_err();
    assert_eq!((refused, scheduler.stats()), (Error::SequencesExhausted, before));
}

/// A prompt of so many bytes.
fn of_bytes(bytes: usize) -> RunRequest<'static> {
    RunRequest {
        bytes,
        ..RunRequest::default()
    }
}

#[test]
fn prompts_in_line_are_bounded_by_their_bytes() {
    let world = World::with(Limits {
        line_bytes_per_session: 10,
        line_bytes: 15,
        ..Limits::default()
    });
    let full = |scope, limit| Error::QueueFull {
        scope,
        unit: Unit::Bytes,
        limit,
    };
    let bytes = || (world.counts().bytes, world.scheduler.stats().line_bytes);
    world.submit_as("open", of_bytes(10));
    assert_eq!(bytes(), (0, 0), "what is open is not in line");
    world.submit_as("a", of_bytes(6));
    world.try_accept("b", of_bytes(4)).unwrap();
    assert_eq!(
        world.try_accept("c", of_bytes(1)).unwrap_err(),
        full(Scope::Session, 10)
    );
    world.try_accept("empty", of_bytes(0)).unwrap();
    let elsewhere = World {
        session: "elsewhere",
        ..world
    };
    elsewhere.submit_as("open", of_bytes(5));
    elsewhere.try_accept("a", of_bytes(5)).unwrap();
    let before = elsewhere.scheduler.stats();
    assert_eq!(
        elsewhere.try_accept("b", of_bytes(1)).unwrap_err(),
        full(Scope::Process, 15)
    );
    assert_eq!(elsewhere.scheduler.stats(), before, "a refused run counts for nothing");
    let tombstoned = RunRequest {
        cancelled: Some(Arc::new(Cancel::new("USER"))),
        ..of_bytes(100)
    };
    elsewhere.try_accept("tombstoned", tombstoned).unwrap();
    assert_eq!(elsewhere.scheduler.stats().line_bytes, 115);
    elsewhere.go("tombstoned");
    elsewhere.scheduler.abandon(elsewhere.at(), "a", 0.0).unwrap();
    assert_eq!(elsewhere.scheduler.stats().line_bytes, 10);
    let world = World {
        session: "s",
        ..elsewhere
    };
    world.cancel();
    assert_eq!(world.counts().bytes, 4, "a covered reservation has not left yet");
    world.go("b");
    assert_eq!(world.scheduler.stats().line_bytes, 0);
}

#[test]
fn places_are_told_without_a_walk_along_the_line() {
    let world = World::new();
    assert_eq!(world.counts().open, None);
    world.submit("open");
    world.submit("a");
    world.hold_back("b");
    world.submit("c");
    let place = |run| world.scheduler.place(world.at(), run);
    assert_eq!(place("open"), Some((Place::Running, 0)));
    assert_eq!(place("b"), Some((Place::Reserved, 2)));
    assert_eq!(place("c"), Some((Place::Queued, 3)));
    assert_eq!(place("nobody"), None);
    world.cancel_run("b");
    assert_eq!(place("b"), Some((Place::Reserved, 2)), "covered, it is still here");
    assert_eq!(place("c"), Some((Place::Queued, 2)), "and ahead of nobody");
    let counts = world.counts();
    let named = |run: &Option<turnkeeper_core::RunId>| run.as_ref().map(ToString::to_string);
    assert_eq!(
        (named(&counts.open), named(&counts.head)),
        (Some("open".into()), Some("a".into()))
    );
    assert_eq!((counts.reserved, counts.queued), (1, 2));
}
