//! STEER: what it binds to, when it folds, when it is an ordinary run.

use turnkeeper_core::{
    Cancel, CancelScope, Conclusion, Delivery, Effect, End, Fact, Kind, Place, Proposal, RunId, Sequence, Steers, Why,
};

use crate::world::{ANSWER, World, by_delivery, by_kind, covered, is_cancelled, is_queued, names, stop};

const STEERABLE: Proposal = Proposal::Answer {
    may_step: true,
    most: usize::MAX,
    if_last: false,
};

fn target(steers: Option<&RunId>) -> Option<&str> {
    steers.map(RunId::as_str)
}

/// The same of a view or a receipt.
fn aim(steers: Option<&Steers>) -> Option<&str> {
    match steers {
        Some(Steers::Run(run)) => Some(run.as_str()),
        _ => None,
    }
}

/// The core's part of dispatch:B-3.
#[test]
fn a_covered_steer_does_not_fold() {
    let world = World::new();
    world.submit("main");
    world.steer("s");
    let bound = world.inspect().line[0].run.sequence();
    let scope = CancelScope::Clear(Some(bound));
    assert_eq!(world.cancel_as(Cancel::new("USER"), scope).covered.len(), 1);
    assert!(world.fold("main").is_empty());
    assert_eq!(world.conclude("main"), Conclusion::Concluded(End::Answered));
    assert!(world.finish("main").is_empty() && world.is_idle());
}

/// The core's part of dispatch:R-2: sequences 1 to 4 behind the open run, a mark at the second, and only the later STEER folds.
#[test]
fn a_mark_drops_up_to_it_and_the_later_steer_folds() {
    let world = World::new();
    world.submit("open");
    world.submit("q1");
    world.steer("s2");
    world.steer("s3");
    world.submit("q4");
    let held = world.try_accept("held", by_delivery(Delivery::Queue)).unwrap();
    let bound = world.inspect().line[1].run.sequence();
    let scope = CancelScope::Clear(Some(bound));
    let result = world.cancel_as(Cancel::new("USER"), scope);
    assert_eq!(names(result.covered.iter().map(|covered| &covered.run)), ["q1", "s2"]);
    assert_eq!(world.mark(), Some(bound));
    assert!(held.sequence > bound);
    assert_eq!(world.fold("open"), ["s3"]);
    assert_eq!(world.line(), ["q4", "held"]);
}

/// spec: dispatch:R-3
#[test]
fn a_partition_folds_all_bound_runs_in_order() {
    let world = World::new();
    world.submit("open");
    world.steer("s1");
    world.steer("s2");
    assert_eq!(world.fold("open"), ["s1", "s2"]);
    assert!(world.line().is_empty());
}

/// spec: dispatch:R-4
#[test]
fn a_partition_leaves_queued_runs_in_order() {
    let world = World::new();
    world.submit("open");
    world.steer("s");
    world.submit("a");
    world.submit("b");
    assert_eq!(world.fold("open"), ["s"]);
    assert_eq!(world.line(), ["a", "b"]);
}

/// The core's part of dispatch:R-8: a covered run is reported by the cancel, and never again.
#[test]
fn a_covered_run_has_one_end() {
    let world = World::new();
    world.submit("open");
    world.submit("d");
    world.steer("s");
    let scope = CancelScope::Clear(None);
    assert_eq!(covered(&world.cancel_as(Cancel::new("USER"), scope).covered).len(), 2);
    assert!(world.cancel_as(Cancel::new("USER"), scope).covered.is_empty());
    assert!(world.fold("open").is_empty() && world.end("open").is_empty());
    assert!(world.is_idle());
}

#[test]
fn a_limit_takes_the_first_and_leaves_the_rest_bound() {
    let world = World::new();
    world.submit("open");
    for run in ["s1", "s2", "s3"] {
        world.steer(run);
    }
    assert_eq!(names(&world.fold_point("open", 1).unwrap().steers), ["s1"]);
    assert!(world.fold_point("open", 1).is_err(), "a loan is open");
    world.take("open");
    assert!(world.fold_point("open", 0).unwrap().steers.is_empty());
    assert_eq!(world.fold("open"), ["s2", "s3"]);
}

#[test]
fn a_steer_is_returned_instead_of_a_conclusion_of_an_answer() {
    let world = World::new();
    world.submit("open");
    world.steer("s1");
    assert!(
        matches!(world.propose("open", STEERABLE).unwrap(), Conclusion::GoesOn(fold) if names(&fold.steers) == ["s1"])
    );
    world.take("open");
    world.steer("s2");
    assert_eq!(world.conclude("open"), Conclusion::Concluded(End::Answered));
    assert_eq!(world.finish("open"), ["s2"], "it has its own turn");
}

#[test]
fn a_conclusion_returns_no_more_than_it_is_asked_for() {
    let world = World::new();
    world.submit("open");
    for run in ["s1", "s2", "s3"] {
        world.steer(run);
    }
    let one = Proposal::Answer {
        may_step: true,
        most: 1,
        if_last: false,
    };
    for run in ["s1", "s2"] {
        assert!(
            matches!(world.propose("open", one).unwrap(), Conclusion::GoesOn(fold) if names(&fold.steers) == [run])
        );
        world.take("open");
    }
    assert_eq!(world.line(), ["s3"], "the rest stays bound");
    assert_eq!(world.conclude("open"), Conclusion::Concluded(End::Answered));
    assert_eq!(world.finish("open"), ["s3"]);
}

#[test]
fn a_reserved_steer_does_not_fold_yet() {
    let world = World::new();
    world.submit("open");
    let accepted = world.try_accept("s", by_delivery(Delivery::Steer)).unwrap();
    assert_eq!(aim(accepted.steers.as_ref()), Some("open"));
    assert!(world.fold("open").is_empty());
    assert!(is_queued(&world.go("s")));
    assert_eq!(world.fold("open"), ["s"]);
}

#[test]
fn a_steer_binds_to_the_first_prompt_ahead_where_the_open_run_takes_none() {
    let world = World::new();
    world.submit_as("sum", by_kind(Kind::Summary));
    world.submit_as("boot", by_kind(Kind::Bootstrap));
    assert_eq!(
        target(world.steer("alone").steers.as_ref()),
        None,
        "no prompt ahead: an ordinary run"
    );
    world.submit("p");
    assert_eq!(
        target(world.steer("s").steers.as_ref()),
        Some("alone"),
        "an ordinary run can be steered"
    );
    world.cancel_run("alone");
    assert_eq!(aim(world.inspect().line[2].steers.as_ref()), None, "its target is gone");
    assert_eq!(target(world.steer("t").steers.as_ref()), Some("p"));
    assert_eq!(world.end("sum"), ["boot"]);
    assert_eq!(world.end("boot"), ["p"]);
    assert_eq!(world.fold("p"), ["t"]);
}

#[test]
fn a_steer_does_not_bind_to_a_concluded_or_cancelled_run() {
    let world = World::new();
    world.submit("a");
    world.cancel_as(stop(), CancelScope::Session);
    assert_eq!(target(world.steer("s").steers.as_ref()), None);
    world.end("a");
    assert_eq!(world.running().as_deref(), Some("s"));
    world.conclude("s");
    assert_eq!(target(world.steer("t").steers.as_ref()), None);
}

#[test]
fn a_steer_of_a_reserved_run_starts_after_it() {
    let world = World::new();
    world.hold_back("p");
    assert_eq!(target(world.steer("s").steers.as_ref()), Some("p"));
    assert_eq!(world.go("p").starts, ["p"]);
    assert_eq!(world.fold("p"), ["s"]);
}

#[test]
fn a_steer_whose_target_expires_or_is_abandoned_starts_itself() {
    let world = World::new();
    world.hold_back("p");
    world.steer("s");
    assert_eq!(world.abandon("p").unwrap(), ["s"]);
    world.steer("t");
    world.steer("u");
    assert_eq!(world.fold("s"), ["t", "u"]);
}

#[test]
fn many_steers_of_a_long_line_find_their_target_and_leave_it() {
    let world = World::new();
    world.submit_as("sum", by_kind(Kind::Summary));
    world.submit("p");
    for number in 0..200 {
        assert_eq!(target(world.steer(&format!("s{number}")).steers.as_ref()), Some("p"));
    }
    let line = world.inspect().line;
    world.cancel_run("p");
    assert!(world.inspect().line.iter().all(|view| view.steers.is_none()));
    assert_eq!(target(world.steer("last").steers.as_ref()), Some("s0"));
    let held = world.try_accept("held", by_delivery(Delivery::Steer)).unwrap();
    assert_eq!(aim(held.steers.as_ref()), Some("s0"));
    let bound = line[100].run.sequence();
    let scope = CancelScope::Clear(Some(bound));
    assert_eq!(world.cancel_as(Cancel::new("USER"), scope).covered.len(), 100);
    assert_eq!(world.end("sum"), ["s100"]);
    assert!(world.mark() > Some(Sequence::new(0)));
    world.cancel();
    assert!(is_cancelled(&world.go("held")));
}

#[test]
fn what_no_draft_holds_goes_back_to_its_place_in_line() {
    let world = World::new();
    world.submit("open");
    world.steer("s1");
    world.submit("q");
    world.steer("s2");
    assert_eq!(
        names(&world.fold_point("open", usize::MAX).unwrap().steers),
        ["s1", "s2"]
    );
    assert_eq!(world.line(), ["q"]);
    assert_eq!(world.scheduler.place(world.at(), "s1"), Some((Place::Lent, 0)));
    assert!(
        world.try_accept("s1", by_delivery(Delivery::Queue)).is_err(),
        "it is here"
    );
    assert_eq!(
        world.propose("open", Proposal::Failed).unwrap(),
        Conclusion::Concluded(End::Failed)
    );
    assert_eq!(world.line(), ["s1", "q", "s2"]);
    assert_eq!(world.finish("open"), ["s1"]);
}

#[test]
fn a_cancel_that_meets_a_lent_run_waits_for_its_fold() {
    for is_taken in [true, false] {
        let world = World::new();
        world.submit("open");
        world.steer("s");
        world.fold_point("open", 1).unwrap();
        let cancel = std::sync::Arc::new(Cancel::new("USER"));
        let step = world
            .scheduler
            .cancel(world.at(), CancelScope::Run("s"), &cancel, 0.0)
            .unwrap();
        assert_eq!(names(&step.answer.lent), ["s"]);
        assert!(step.effects.is_empty());
        let turn = world.turn("open");
        let effects = if is_taken {
            world.scheduler.taken(world.at(), turn, 0.0).unwrap().effects
        } else {
            world.scheduler.conclude(world.at(), turn, ANSWER, 0.0).unwrap().effects
        };
        let end = effects.into_iter().find_map(|effect| match effect {
            Effect::Fact(Fact::Closed(_, why)) => Some(why),
            _ => None,
        });
        assert_eq!(matches!(end, Some(Why::Folded(_))), is_taken);
        assert_eq!(matches!(end, Some(Why::Cancelled(by)) if by == cancel), !is_taken);
        assert!(world.line().is_empty());
    }
}
