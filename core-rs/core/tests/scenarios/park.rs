//! Parked turns: they keep the floor without a permit, and come back ahead of what has not begun (U-3).

use std::sync::Arc;

use turnkeeper_core::{Address, Cancel, CancelScope, Conclusion, Delivery, Limits, Place, RunRequest, Scheduler, Wake};

use crate::world::{World, by_delivery, covered, is_queued, is_started, is_waiting, names, stop};

/// One permit, and the sessions of two tenants that want it; each has one run of its own name.
struct Permits(Scheduler);

impl Permits {
    fn new(total: usize, per_tenant: usize) -> Self {
        let limits = Limits {
            running_turns: total,
            running_turns_per_tenant: per_tenant,
            ..Limits::default()
        };
        Self(Scheduler::new(limits, 0, 0).unwrap())
    }

    /// `a1` is a session of tenant `a`.
    fn at(session: &str) -> Address<'_> {
        Address::new(&session[..1], session)
    }

    fn begins(&self, session: &str) -> bool {
        let at = Self::at(session);
        self.0.accept(at, session, RunRequest::default(), 0.0).unwrap();
        is_started(&self.0.dispatch(at, session, 0.0).unwrap())
    }

    fn park(&self, session: &str) -> Vec<String> {
        names(&self.0.park(Self::at(session), session, 0.0).unwrap())
    }

    fn wake(&self, session: &str) -> Wake {
        self.0.wake(Self::at(session), session, 0.0).unwrap()
    }

    fn end(&self, session: &str) -> Vec<String> {
        self.0.conclude(Self::at(session), session, 0).unwrap();
        names(&self.0.finish(Self::at(session), session, 0.0).unwrap())
    }

    fn counts(&self) -> (usize, usize, usize) {
        let stats = self.0.stats();
        (stats.running_turns, stats.waiting_turns, stats.parked_turns)
    }
}

#[test]
fn a_parked_turn_gives_its_permit_to_the_next_and_comes_back_before_new_ones() {
    let permits = Permits::new(1, 5);
    assert!(permits.begins("a1"));
    assert!(!permits.begins("a2") && !permits.begins("b1"));
    assert_eq!(permits.park("a1"), ["a2"]);
    assert_eq!(permits.counts(), (1, 1, 1));
    assert_eq!(permits.wake("a1"), Wake::Waiting);
    assert_eq!(permits.counts(), (1, 2, 0));
    assert_eq!(permits.end("a2"), ["a1"], "ahead of b1, which has waited longer");
    assert_eq!(permits.end("a1"), ["b1"]);
    assert!(permits.end("b1").is_empty());
    assert_eq!((permits.counts(), permits.0.stats().sessions), ((0, 0, 0), 0));
}

#[test]
fn woken_turns_come_in_the_order_of_their_waking_and_tenants_take_turns() {
    let permits = Permits::new(1, 1);
    for session in ["a1", "a2", "a3", "b1"] {
        assert!(permits.begins(session));
        assert!(permits.park(session).is_empty());
    }
    assert!(permits.begins("b2"));
    assert!(!permits.begins("a4"));
    for session in ["a2", "a1", "b1", "a3"] {
        assert_eq!(permits.wake(session), Wake::Waiting);
    }
    let mut order = Vec::new();
    let mut next = vec!["b2".to_owned()];
    while let Some(session) = next.pop() {
        next = permits.end(&session);
        order.extend(next.iter().cloned());
    }
    assert_eq!(order, ["a2", "b1", "a1", "a3", "a4"]);
    assert_eq!(permits.counts(), (0, 0, 0));
}

#[test]
fn a_tenant_at_its_limit_with_a_woken_turn_holds_up_no_other() {
    let permits = Permits::new(2, 1);
    assert!(permits.begins("a1"));
    assert!(permits.park("a1").is_empty());
    assert!(permits.begins("a2") && permits.begins("b1"));
    assert_eq!(permits.wake("a1"), Wake::Waiting);
    assert!(!permits.begins("b2") && !permits.begins("a3"));
    assert_eq!(permits.end("b1"), ["b2"]);
    assert_eq!(permits.end("a2"), ["a1"]);
    assert_eq!(permits.end("a1"), ["a3"]);
}

#[test]
fn a_woken_turn_that_takes_its_tenant_to_the_limit_leaves_the_new_ones_waiting() {
    let permits = Permits::new(2, 1);
    assert!(permits.begins("a1"));
    permits.park("a1");
    assert!(permits.begins("b1") && permits.begins("c1"));
    assert!(!permits.begins("a2"));
    assert_eq!(permits.wake("a1"), Wake::Waiting);
    assert_eq!(permits.end("b1"), ["a1"]);
    assert!(permits.end("c1").is_empty(), "a2 would be one too many of its tenant");
    assert_eq!(permits.end("a1"), ["a2"]);
}

#[test]
fn a_free_permit_lets_a_woken_turn_go_on_at_once() {
    let permits = Permits::new(1, 1);
    assert!(permits.begins("a1"));
    permits.park("a1");
    assert_eq!(permits.wake("a1"), Wake::Running);
    assert_eq!(permits.counts(), (1, 0, 0));
    assert!(!permits.begins("a2"));
    assert_eq!(permits.end("a1"), ["a2"]);
}

#[test]
fn a_woken_turn_that_parks_again_gives_up_its_place() {
    let permits = Permits::new(1, 1);
    assert!(permits.begins("a1"));
    permits.park("a1");
    assert!(permits.begins("a2"));
    assert_eq!(permits.wake("a1"), Wake::Waiting);
    assert!(permits.park("a1").is_empty());
    assert_eq!(permits.counts(), (1, 0, 1));
    assert!(permits.end("a2").is_empty());
    assert_eq!(permits.wake("a1"), Wake::Running);
    permits.end("a1");
    assert_eq!(permits.counts(), (0, 0, 0));
}

#[test]
fn a_parked_session_is_busy_and_starts_nothing_else() {
    let world = World::new();
    let at = world.at();
    world.submit("parked");
    world.scheduler.park(at, "parked", 7.0).unwrap();
    assert!(is_queued(&world.submit("next")));
    assert_eq!(world.steer("s").steers.unwrap().as_str(), "parked");
    let refused = world.try_accept("r", by_delivery(Delivery::Reject));
    assert!(refused.is_err());
    let open = world.inspect().open.unwrap();
    assert_eq!((open.place, open.since.to_bits()), (Place::Parked, 7.0_f64.to_bits()));
    // Without a permit nothing folds, and nothing is parked twice.
    assert!(world.scheduler.partition(at, "parked", None).is_err());
    assert!(world.scheduler.park(at, "parked", 8.0).is_err());
    assert!(world.scheduler.wake(at, "next", 8.0).is_err());
    assert_eq!(world.scheduler.expire(at, "parked", 8.0), (false, vec![]));
    assert_eq!(world.scheduler.wake(at, "parked", 9.0).unwrap(), Wake::Running);
    assert!(world.scheduler.wake(at, "parked", 9.0).is_err());
    assert_eq!(world.fold("parked"), ["s"]);
    assert_eq!(world.end("parked"), ["next"]);
}

#[test]
fn a_run_that_has_not_begun_or_is_concluded_cannot_be_parked() {
    let permits = Permits::new(1, 1);
    assert!(permits.begins("a1"));
    assert!(!permits.begins("a2"));
    let park = |session| permits.0.park(Permits::at(session), session, 0.0);
    assert!(park("a2").is_err(), "it waits for its first permit");
    permits.0.conclude(Permits::at("a1"), "a1", 0).unwrap();
    assert!(park("a1").is_err(), "it is concluded");
}

#[test]
fn a_parked_turn_is_cut_without_a_permit_and_what_is_next_begins() {
    let world = World::with(Limits {
        running_turns: 1,
        ..Limits::default()
    });
    let (at, other) = (world.at(), Address::new("tenant", "other"));
    world.submit("parked");
    world.submit("next");
    world.scheduler.park(at, "parked", 0.0).unwrap();
    world
        .scheduler
        .accept(other, "busy", RunRequest::default(), 0.0)
        .unwrap();
    assert!(is_started(&world.scheduler.dispatch(other, "busy", 0.0).unwrap()));
    let result = world.cancel_run("parked");
    assert_eq!(covered(&result.covered), [("parked".into(), Place::Parked)]);
    assert!(matches!(world.conclude("parked"), Conclusion::Cancelled(_)));
    assert!(world.finish("parked").is_empty(), "it had no permit to pass on");
    assert_eq!(world.inspect().open.unwrap().place, Place::Waiting);
    world.scheduler.conclude(other, "busy", 0).unwrap();
    assert_eq!(names(&world.scheduler.finish(other, "busy", 0.0).unwrap()), ["next"]);
}

#[test]
fn a_woken_turn_that_is_cut_leaves_the_gate_at_its_conclusion() {
    let permits = Permits::new(1, 1);
    assert!(permits.begins("a1"));
    permits.park("a1");
    assert!(permits.begins("a2"));
    permits.wake("a1");
    let at = Permits::at("a1");
    let result = permits.0.cancel_run(at, "a1", &Arc::new(Cancel::new("USER")), 0.0);
    assert_eq!(covered(&result.covered), [("a1".into(), Place::Woken)]);
    assert_eq!(permits.counts(), (1, 1, 0));
    permits.0.conclude(at, "a1", 0).unwrap();
    assert_eq!(permits.counts(), (1, 0, 1));
    assert!(permits.0.finish(at, "a1", 0.0).unwrap().is_empty());
    assert_eq!(permits.counts(), (1, 0, 0));
    assert!(permits.end("a2").is_empty());
}

#[test]
fn replace_covers_a_parked_run_and_its_line() {
    let world = World::new();
    world.submit("parked");
    world.submit("q");
    world.scheduler.park(world.at(), "parked", 0.0).unwrap();
    let accepted = world.try_accept("new", by_delivery(Delivery::Replace)).unwrap();
    let expected = [("parked".into(), Place::Parked), ("q".into(), Place::Queued)];
    assert_eq!(covered(&accepted.replaced), expected);
    assert!(is_queued(&world.go("new")));
    assert_eq!(world.end("parked"), ["new"]);
}

#[test]
fn a_stop_reaches_a_parked_turn_and_shows_when_it_goes_on() {
    let world = World::new();
    let at = world.at();
    world.submit("parked");
    world.scheduler.park(at, "parked", 0.0).unwrap();
    let result = world.cancel_as(stop(), CancelScope::default());
    assert_eq!(result.covered[0].was, Place::Parked);
    assert_eq!(world.scheduler.wake(at, "parked", 0.0).unwrap(), Wake::Running);
    let cancel = world.scheduler.partition(at, "parked", None).unwrap().cancel;
    assert_eq!(cancel.unwrap().mode, stop().mode);
}

#[test]
fn drained_a_parked_turn_does_not_go_on_but_ends() {
    let permits = Permits::new(1, 1);
    for session in ["a1", "a2"] {
        assert!(permits.begins(session));
        permits.park(session);
    }
    assert!(permits.begins("a3"));
    assert_eq!(permits.wake("a1"), Wake::Waiting);
    permits.0.drain();
    assert_eq!(permits.wake("a2"), Wake::Closed);
    assert!(permits.end("a3").is_empty(), "nothing is granted");
    assert_eq!(permits.counts(), (0, 1, 1));
    assert!(permits.end("a1").is_empty() && permits.end("a2").is_empty());
    assert_eq!((permits.counts(), permits.0.stats().sessions), ((0, 0, 0), 0));
}

#[test]
fn a_conclusion_without_a_permit_is_not_steered() {
    let world = World::new();
    world.submit("parked");
    world.steer("s");
    world.scheduler.park(world.at(), "parked", 0.0).unwrap();
    let concluded = world.scheduler.conclude(world.at(), "parked", usize::MAX).unwrap();
    assert!(matches!(concluded, Conclusion::Concluded(None)));
    assert_eq!(world.finish("parked"), ["s"]);
}

#[test]
fn the_next_run_of_a_parked_session_waits_like_any_other() {
    let world = World::with(Limits {
        running_turns: 1,
        ..Limits::default()
    });
    world.submit("first");
    world.scheduler.park(world.at(), "first", 0.0).unwrap();
    let other = Address::new("tenant", "other");
    world
        .scheduler
        .accept(other, "busy", RunRequest::default(), 0.0)
        .unwrap();
    world.scheduler.dispatch(other, "busy", 0.0).unwrap();
    world.end("first");
    assert!(is_waiting(&world.submit("second")));
    assert!(
        world.scheduler.wake(world.at(), "second", 0.0).is_err(),
        "it was never parked"
    );
}
