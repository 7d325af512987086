//! Preconditions and bounds, in their order; a refusal changes nothing.

use turnkeeper_core::{Delivery, Error, Limits, Place, RunRequest, SEQUENCE_END, Scheduler, Scope, Unit};

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
    assert!(
        world.try_accept("d", by_delivery(Delivery::Reject)).is_err(),
        "a covered reservation is not over"
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
    let world = World::with(&Limits {
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
            of: Unit::Runs,
            limit: 2
        }
    );
    assert_eq!(world.line(), ["a", "b"], "nothing was replaced");
    world.cancel_run("a");
    world.hold_back("c");
    let elsewhere = turnkeeper_core::Address::new("tenant", "elsewhere");
    let full = world
        .scheduler
        .accept(elsewhere, "d", RunRequest::default(), 0.0)
        .unwrap_err();
    assert_eq!(
        full,
        Error::QueueFull {
            scope: Scope::Process,
            of: Unit::Runs,
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
    let world = World::with(&Limits {
        queue_per_session: 0,
        ..Limits::default()
    });
    assert!(world.try_accept("a", RunRequest::default()).is_err());
    let world = World::with(&Limits {
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
        let scheduler = Scheduler::new(&limits, epoch, last)?;
        let at = turnkeeper_core::Address::new("t", "s");
        scheduler
            .accept(at, "r", RunRequest::default(), 0.0)
            .map(|step| step.answer.sequence.get())
    };
    assert_eq!(first(0, 0), Ok(1));
    assert_eq!(first(7, 12), Ok((7 << 32) + 1));
    assert_eq!(first(1, 9 << 32), Ok((9 << 32) + 1));
    assert_eq!(first(1 << 21, 0), Err(Error::SequencesExhausted));
    assert_eq!(first(0, SEQUENCE_END - 2), Ok(SEQUENCE_END - 1));
    assert_eq!(first(0, SEQUENCE_END - 1), Err(Error::SequencesExhausted));
    let scheduler = Scheduler::new(&limits, 0, SEQUENCE_END - 2).unwrap();
    let at = turnkeeper_core::Address::new("t", "s");
    scheduler.accept(at, "r", RunRequest::default(), 0.0).unwrap();
    let before = scheduler.stats();
    let refused = scheduler.accept(at, "q", RunRequest::default(), 0.0).unwrap_err();
    assert_eq!((refused, scheduler.stats()), (Error::SequencesExhausted, before));
}

#[test]
fn bytes_are_bounded_as_runs_are() {
    let world = World::with(&Limits {
        session_bytes: 10,
        open_bytes: 15,
        ..Limits::default()
    });
    let of = |size| RunRequest {
        size,
        ..RunRequest::default()
    };
    world.submit_as("a", of(7));
    let full = |scope, limit| Error::QueueFull {
        scope,
        of: Unit::Bytes,
        limit,
    };
    assert_eq!(world.try_accept("b", of(4)).unwrap_err(), full(Scope::Session, 10));
    world.submit_as("b", of(3));
    let elsewhere = turnkeeper_core::Address::new("tenant", "elsewhere");
    let accept = |size| world.scheduler.accept(elsewhere, "c", of(size), 0.0);
    assert_eq!(accept(6).unwrap_err(), full(Scope::Process, 15));
    assert_eq!(world.scheduler.stats().open_bytes, 10);
    world.cancel_run("b");
    assert!(accept(6).is_ok());
    world.conclude("a");
    assert_eq!(world.scheduler.stats().open_bytes, 13, "until its terminal is durable");
    world.finish("a");
    assert_eq!(world.scheduler.stats().open_bytes, 6);
}

#[test]
fn places_are_told_without_a_walk_along_the_line() {
    let world = World::new();
    assert!(world.scheduler.counts(world.at()).is_none());
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
    let counts = world.scheduler.counts(world.at()).unwrap();
    let named = |run: &Option<turnkeeper_core::RunId>| run.as_ref().map(ToString::to_string);
    assert_eq!(
        (named(&counts.open_run_id), named(&counts.head_run_id)),
        (Some("open".into()), Some("a".into()))
    );
    assert_eq!((counts.reserved, counts.queued), (1, 2));
}
