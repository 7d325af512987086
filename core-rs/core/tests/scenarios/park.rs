//! Parked turns: they keep the floor without a permit, and come back ahead of what has not begun (U-3).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use turnkeeper_core::{
    Address, Cancel, CancelScope, Conclusion, Cut, Delivery, End, Limits, Phase, Place, Proposal, RunRequest,
    Scheduler, TurnId, WaitId,
};

use crate::world::{ANSWER, World, by_delivery, covered, is_queued, is_started, is_waiting, starts, stop, tool};

/// So many permits, and the sessions of tenants that want them; each has one run of its own name.
struct Permits {
    core: Scheduler,
    waits: RefCell<HashMap<String, WaitId>>,
}

impl Permits {
    fn new(total: usize, per_tenant: usize) -> Self {
        let limits = Limits {
            running_turns: total,
            running_turns_per_tenant: per_tenant,
            ..Limits::default()
        };
        Self {
            core: Scheduler::new(&limits, 0, 0).unwrap(),
            waits: RefCell::default(),
        }
    }

    /// `a1` is a session of tenant `a`.
    fn at(session: &str) -> Address<'_> {
        Address::new(&session[..1], session)
    }

    fn turn(&self, session: &str) -> TurnId {
        self.core.tree(Self::at(session), session)[0].turn.id()
    }

    fn begins(&self, session: &str) -> bool {
        let at = Self::at(session);
        self.core.accept(at, session, RunRequest::default(), 0.0).unwrap();
        self.core.dispatch(at, session, 0.0).unwrap().answer.place == Some(Place::Running)
    }

    fn park(&self, session: &str) -> Vec<String> {
        let step = self
            .core
            .wait(Self::at(session), self.turn(session), tool(), 0.0)
            .unwrap();
        assert!(step.answer.parked);
        self.waits.borrow_mut().insert(session.to_owned(), step.answer.id);
        starts(&step)
    }

    /// Whether it goes on at once.
    fn wake(&self, session: &str) -> bool {
        let wait = self.waits.borrow()[session];
        let step = self
            .core
            .waited(Self::at(session), self.turn(session), wait, 0.0)
            .unwrap();
        assert!(step.answer);
        starts(&step) == [session]
    }

    fn end(&self, session: &str) -> Vec<String> {
        let at = Self::at(session);
        let mut all = starts(
            &self
                .core
                .conclude(at, self.turn(session), Proposal::Failed, 0.0)
                .unwrap(),
        );
        all.extend(starts(&self.core.finish(at, session, 0.0).unwrap()));
        all
    }

    fn counts(&self) -> (usize, usize, usize) {
        let stats = self.core.stats();
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
    assert!(!permits.wake("a1"));
    assert_eq!(permits.counts(), (1, 2, 0));
    assert_eq!(permits.end("a2"), ["a1"], "ahead of b1, which has waited longer");
    assert_eq!(permits.end("a1"), ["b1"]);
    assert!(permits.end("b1").is_empty());
    assert_eq!((permits.counts(), permits.core.stats().sessions), ((0, 0, 0), 0));
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
        assert!(!permits.wake(session));
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
    assert!(!permits.wake("a1"));
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
    assert!(!permits.wake("a1"));
    assert_eq!(permits.end("b1"), ["a1"]);
    assert!(permits.end("c1").is_empty(), "a2 would be one too many of its tenant");
    assert_eq!(permits.end("a1"), ["a2"]);
}

#[test]
fn a_free_permit_lets_a_woken_turn_go_on_at_once() {
    let permits = Permits::new(1, 1);
    assert!(permits.begins("a1"));
    permits.park("a1");
    assert!(permits.wake("a1"));
    assert_eq!(permits.counts(), (1, 0, 0));
    assert!(!permits.begins("a2"));
    assert_eq!(permits.end("a1"), ["a2"]);
}

#[test]
fn a_turn_is_parked_while_all_its_strands_wait() {
    let world = World::new();
    let (core, at) = (&world.scheduler, world.at());
    world.submit("a");
    let turn = world.turn("a");
    core.strands(at, turn, 2, 0.0).unwrap();
    let first = core.wait(at, turn, tool(), 0.0).unwrap().answer;
    assert!(!first.parked);
    let second = core.wait(at, turn, tool(), 0.0).unwrap().answer;
    assert!(second.parked);
    assert!(core.wait(at, turn, tool(), 0.0).is_err(), "no strand is left");
    assert_eq!(starts(&core.waited(at, turn, first.id, 0.0).unwrap()), ["a"]);
    assert!(!core.strand_ends(at, turn, 0.0).unwrap().answer, "the other one waits");
    assert_eq!(world.inspect().open.unwrap().place, Place::Parked);
    assert_eq!(starts(&core.waited(at, turn, second.id, 0.0).unwrap()), ["a"]);
    assert!(core.strand_ends(at, turn, 0.0).unwrap().answer, "back in its loop");
    assert_eq!(world.conclude("a"), Conclusion::Concluded(End::Answered));
}

#[test]
fn a_parked_session_is_busy_and_starts_nothing_else() {
    let world = World::new();
    let at = world.at();
    world.submit("parked");
    let turn = world.turn("parked");
    let wait = world.scheduler.wait(at, turn, tool(), 7.0).unwrap().answer.id;
    assert!(is_queued(&world.submit("next")));
    assert_eq!(world.steer("s").steers.unwrap().as_str(), "parked");
    assert!(world.try_accept("r", by_delivery(Delivery::Reject)).is_err());
    assert_eq!(world.inspect().open.unwrap().place, Place::Parked);
    // Without a permit nothing folds or concludes.
    assert!(world.fold_point("parked", 1).is_err());
    assert!(world.propose("parked", ANSWER).is_err());
    assert!(world.scheduler.waited(at, turn, wait, 9.0).unwrap().answer);
    assert!(!world.scheduler.waited(at, turn, wait, 9.0).unwrap().answer);
    assert_eq!(world.fold("parked"), ["s"]);
    assert_eq!(world.end("parked"), ["next"]);
}

#[test]
fn a_parked_turn_is_cut_without_a_permit_and_what_is_next_begins() {
    let world = World::with(&Limits {
        running_turns: 1,
        ..Limits::default()
    });
    let (at, other) = (world.at(), Address::new("tenant", "other"));
    world.submit("parked");
    world.submit("next");
    world.scheduler.wait(at, world.turn("parked"), tool(), 0.0).unwrap();
    world
        .scheduler
        .accept(other, "busy", RunRequest::default(), 0.0)
        .unwrap();
    let busy = world.scheduler.dispatch(other, "busy", 0.0).unwrap();
    assert_eq!(starts(&busy), ["busy"]);
    let result = world.cancel_run("parked");
    assert_eq!(covered(&result.covered), [("parked".into(), Place::Parked)]);
    assert!(matches!(
        world.conclude("parked"),
        Conclusion::Concluded(End::Cut(Cut::Abort(_)))
    ));
    assert!(world.finish("parked").is_empty(), "it had no permit to pass on");
    assert_eq!(world.inspect().open.unwrap().place, Place::Waiting);
    let turn = world.scheduler.tree(other, "busy")[0].turn.id();
    let step = world.scheduler.conclude(other, turn, ANSWER, 0.0).unwrap();
    assert_eq!(starts(&step), ["next"], "the permit is free at the conclusion");
}

#[test]
fn a_woken_turn_that_is_cut_leaves_the_gate_at_its_conclusion() {
    let permits = Permits::new(1, 1);
    assert!(permits.begins("a1"));
    permits.park("a1");
    assert!(permits.begins("a2"));
    permits.wake("a1");
    let at = Permits::at("a1");
    let cancel = Arc::new(Cancel::new("USER"));
    let result = permits.core.cancel(at, CancelScope::Run("a1"), &cancel, 0.0).unwrap();
    assert_eq!(covered(&result.answer.covered), [("a1".into(), Place::Woken)]);
    assert_eq!(permits.counts(), (1, 1, 0));
    permits.core.conclude(at, permits.turn("a1"), ANSWER, 0.0).unwrap();
    assert_eq!(permits.counts(), (1, 0, 0));
    assert!(permits.core.finish(at, "a1", 0.0).unwrap().effects.is_empty());
    assert!(permits.end("a2").is_empty());
}

#[test]
fn replace_covers_a_parked_run_and_its_line() {
    let world = World::new();
    world.submit("parked");
    world.submit("q");
    world
        .scheduler
        .wait(world.at(), world.turn("parked"), tool(), 0.0)
        .unwrap();
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
    let turn = world.turn("parked");
    let wait = world.scheduler.wait(at, turn, tool(), 0.0).unwrap().answer.id;
    let result = world.cancel_as(stop(), CancelScope::Session);
    assert_eq!(result.covered[0].was, Place::Parked);
    assert_eq!(
        starts(&world.scheduler.waited(at, turn, wait, 0.0).unwrap()),
        ["parked"]
    );
    assert_eq!(*world.fold_point("parked", 1).unwrap().stop.unwrap(), stop());
}

#[test]
fn drained_a_parked_turn_does_not_go_on_but_ends() {
    let permits = Permits::new(1, 1);
    for session in ["a1", "a2"] {
        assert!(permits.begins(session));
        permits.park(session);
    }
    assert!(permits.begins("a3"));
    assert!(!permits.wake("a1"));
    permits.core.drain(Phase::Draining, 0.0);
    assert!(!permits.wake("a2"));
    assert!(permits.end("a3").is_empty(), "nothing is granted");
    assert_eq!(permits.counts(), (0, 2, 0));
    assert!(permits.end("a1").is_empty() && permits.end("a2").is_empty());
    assert_eq!((permits.counts(), permits.core.stats().sessions), ((0, 0, 0), 0));
}

#[test]
fn the_next_run_of_a_parked_session_waits_like_any_other() {
    let world = World::with(&Limits {
        running_turns: 1,
        ..Limits::default()
    });
    assert!(is_started(&world.submit("first")));
    world
        .scheduler
        .wait(world.at(), world.turn("first"), tool(), 0.0)
        .unwrap();
    let other = Address::new("tenant", "other");
    world
        .scheduler
        .accept(other, "busy", RunRequest::default(), 0.0)
        .unwrap();
    world.scheduler.dispatch(other, "busy", 0.0).unwrap();
    world.cancel_run("first");
    world.end("first");
    assert!(is_waiting(&world.submit("second")));
}
