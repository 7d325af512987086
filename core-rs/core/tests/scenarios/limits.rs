//! Permits: how many turns run, who is next, and what becomes of the place of one that leaves.

use std::sync::Arc;

use turnkeeper_core::{
    Act, Address, Cancel, CancelScope, Delivery, Effect, Kind, Limits, Phase, Place, RunRequest, Scheduler, Step,
};

use crate::world::{ANSWER, World, by_delivery, by_kind, is_waiting, starts};

fn permits(total: usize, per_tenant: usize) -> Scheduler {
    let limits = Limits {
        running_turns: total,
        running_turns_per_tenant: per_tenant,
        ..Limits::default()
    };
    Scheduler::new(&limits, 0, 0).unwrap()
}

fn submit(scheduler: &Scheduler, tenant: &str, session: &str) -> bool {
    let at = Address::new(tenant, session);
    scheduler.accept(at, "run", RunRequest::default(), 0.0).unwrap();
    scheduler.dispatch(at, "run", 0.0).unwrap().answer.place == Some(Place::Running)
}

fn end(scheduler: &Scheduler, tenant: &str, session: &str) -> Vec<String> {
    let at = Address::new(tenant, session);
    let turn = scheduler.tree(at, "run")[0].turn.id();
    let mut begun = sessions(&scheduler.conclude(at, turn, ANSWER, 0.0).unwrap());
    begun.extend(sessions(&scheduler.finish(at, "run", 0.0).unwrap()));
    begun
}

/// Where turns begin.
fn sessions<T>(step: &Step<T>) -> Vec<String> {
    let acts = step.effects.iter().filter_map(|effect| match effect {
        Effect::Act(Act::Begin(turn)) => Some(turn.address()),
        _ => None,
    });
    acts.map(|at| format!("{}/{}", at.tenant, at.session)).collect()
}

#[test]
fn tenants_take_turns_and_a_tenant_is_served_in_order() {
    let scheduler = permits(1, 1);
    assert!(submit(&scheduler, "a", "0"));
    for session in ["1", "2", "3"] {
        assert!(!submit(&scheduler, "a", session));
    }
    assert!(!submit(&scheduler, "b", "1"));
    assert!(!submit(&scheduler, "b", "2"));
    assert_eq!(scheduler.stats().waiting_turns, 5);
    let mut order = Vec::new();
    let mut next = vec!["a/0".to_owned()];
    while let Some(at) = next.pop() {
        let (tenant, session) = at.split_once('/').unwrap();
        next = end(&scheduler, tenant, session);
        order.extend(next.iter().cloned());
    }
    assert_eq!(order, ["b/1", "a/1", "b/2", "a/2", "a/3"]);
    let stats = scheduler.stats();
    assert_eq!((stats.sessions, stats.running_turns, stats.waiting_turns), (0, 0, 0));
}

#[test]
fn a_tenant_at_its_limit_holds_up_no_other() {
    let scheduler = permits(3, 1);
    assert!(submit(&scheduler, "a", "1"));
    assert!(!submit(&scheduler, "a", "2"));
    assert!(submit(&scheduler, "b", "1"));
    assert_eq!(end(&scheduler, "b", "1"), [""; 0]);
    assert_eq!(end(&scheduler, "a", "1"), ["a/2"]);
}

#[test]
fn no_permits_start_nothing() {
    for scheduler in [permits(0, 5), permits(5, 0)] {
        assert!(!submit(&scheduler, "a", "1"));
        let at = Address::new("a", "1");
        assert_eq!(scheduler.stats().waiting_turns, 1);
        let cancel = Arc::new(Cancel::new("USER"));
        scheduler.cancel(at, CancelScope::Session, &cancel, 0.0).unwrap();
        assert_eq!(scheduler.stats().waiting_turns, 0);
        assert!(scheduler.snapshot(at).is_none());
    }
}

#[test]
fn a_waiting_head_that_leaves_makes_room_for_the_next_of_its_session() {
    let scheduler = permits(1, 1);
    submit(&scheduler, "a", "busy");
    let at = Address::new("a", "s");
    submit(&scheduler, "a", "s");
    scheduler.accept(at, "next", RunRequest::default(), 0.0).unwrap();
    let next = scheduler.dispatch(at, "next", 0.0).unwrap().answer;
    assert_eq!(next.place, Some(Place::Queued));
    let cancel = Arc::new(Cancel::new("USER"));
    let step = scheduler.cancel(at, CancelScope::Run("run"), &cancel, 0.0).unwrap();
    assert!(starts(&step).is_empty() && step.answer.covered.len() == 1);
    assert_eq!(scheduler.stats().waiting_turns, 1, "next waits in its stead");
    assert_eq!(end(&scheduler, "a", "busy"), ["a/s"]);
    assert_eq!(scheduler.place(at, "next"), Some((Place::Running, 0)));
}

#[test]
fn a_session_does_not_keep_its_permit_from_those_who_wait() {
    let scheduler = permits(1, 1);
    let at = Address::new("a", "s");
    submit(&scheduler, "a", "s");
    scheduler.accept(at, "again", RunRequest::default(), 0.0).unwrap();
    scheduler.dispatch(at, "again", 0.0).unwrap();
    submit(&scheduler, "b", "s");
    assert_eq!(end(&scheduler, "a", "s"), ["b/s"]);
    assert_eq!(end(&scheduler, "b", "s"), ["a/s"]);
}

#[test]
fn drain_grants_nothing() {
    let scheduler = permits(1, 1);
    submit(&scheduler, "a", "1");
    submit(&scheduler, "a", "2");
    scheduler.drain(Phase::Draining, 0.0);
    assert!(end(&scheduler, "a", "1").is_empty());
    let stats = scheduler.stats();
    assert_eq!((stats.running_turns, stats.waiting_turns), (0, 1));
    let cancel = Arc::new(Cancel::new("USER"));
    scheduler.cancel_tenant("a", &cancel, 0.0).unwrap();
    assert_eq!(scheduler.stats().sessions, 0);
}

#[test]
fn replace_of_a_waiting_head_starts_the_bootstrap_behind_it() {
    let world = World::with(&Limits {
        running_turns: 1,
        ..Limits::default()
    });
    let other = Address::new("tenant", "other");
    world
        .scheduler
        .accept(other, "busy", RunRequest::default(), 0.0)
        .unwrap();
    world.scheduler.dispatch(other, "busy", 0.0).unwrap();
    assert!(is_waiting(&world.submit("head")));
    world.submit_as("boot", by_kind(Kind::Bootstrap));
    let accepted = world.try_accept("new", by_delivery(Delivery::Replace)).unwrap();
    assert_eq!(accepted.replaced.len(), 1);
    let busy = world.scheduler.tree(other, "busy")[0].turn.id();
    let step = world.scheduler.conclude(other, busy, ANSWER, 0.0).unwrap();
    assert_eq!(starts(&step), ["boot"], "its permit is free at its conclusion");
    world.scheduler.finish(other, "busy", 0.0).unwrap();
}
