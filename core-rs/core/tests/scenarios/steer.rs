//! STEER: what it binds to, when it folds, when it is an ordinary run.

use turnkeeper_core::{Cancel, CancelScope, Conclusion, Delivery, Kind, RunId, Sequence};

use crate::world::{World, by_delivery, by_kind, covered, is_cancelled, is_queued, names, stop};

fn target(steers: Option<&RunId>) -> Option<&str> {
    steers.map(RunId::as_str)
}

/// The core's part of dispatch:B-3.
#[test]
fn a_covered_steer_does_not_fold() {
    let world = World::new();
    world.submit("main");
    world.steer("s");
    let bound = world.inspect().line[0].run.sequence();
    let scope = CancelScope {
        up_to: Some(bound),
        spare_open: true,
        spare_bootstrap: false,
    };
    assert_eq!(world.cancel_as(Cancel::new("USER"), scope).covered.len(), 1);
    assert!(world.fold("main").is_empty());
    assert!(matches!(world.conclude("main"), Conclusion::Concluded(None)));
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
    let scope = CancelScope {
        up_to: Some(bound),
        spare_open: true,
        spare_bootstrap: false,
    };
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
    let scope = CancelScope {
        spare_open: true,
        ..CancelScope::default()
    };
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
    let one = world.scheduler.partition(world.at(), "open", Some(1)).unwrap();
    assert_eq!(names(&one.fold), ["s1"]);
    assert!(
        world
            .scheduler
            .partition(world.at(), "open", Some(0))
            .unwrap()
            .fold
            .is_empty()
    );
    assert_eq!(world.fold("open"), ["s2", "s3"]);
}

#[test]
fn a_steer_is_returned_instead_of_a_conclusion_of_an_answer() {
    let world = World::new();
    let at = world.at();
    world.submit("open");
    world.steer("s1");
    assert!(
        matches!(world.scheduler.conclude(at, "open", usize::MAX).unwrap(), Conclusion::Steered(fold) if names(&fold) == ["s1"])
    );
    world.steer("s2");
    assert!(matches!(
        world.scheduler.conclude(at, "open", 0).unwrap(),
        Conclusion::Concluded(None)
    ));
    assert!(
        world.scheduler.partition(at, "open", None).is_err(),
        "nothing folds into a concluded run"
    );
    assert_eq!(world.finish("open"), ["s2"], "it has its own turn");
}

#[test]
fn a_conclusion_returns_no_more_than_it_is_asked_for() {
    let world = World::new();
    let at = world.at();
    world.submit("open");
    for run in ["s1", "s2", "s3"] {
        world.steer(run);
    }
    for run in ["s1", "s2"] {
        assert!(
            matches!(world.scheduler.conclude(at, "open", 1).unwrap(), Conclusion::Steered(fold) if names(&fold) == [run])
        );
    }
    assert_eq!(world.line(), ["s3"], "the rest stays bound");
    assert!(matches!(
        world.scheduler.conclude(at, "open", 0).unwrap(),
        Conclusion::Concluded(None)
    ));
    assert_eq!(world.finish("open"), ["s3"]);
}

#[test]
fn a_reserved_steer_does_not_fold_yet() {
    let world = World::new();
    world.submit("open");
    let accepted = world.try_accept("s", by_delivery(Delivery::Steer)).unwrap();
    assert_eq!(target(accepted.steers.as_ref()), Some("open"));
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
    assert_eq!(
        target(world.inspect().line[2].steers.as_ref()),
        None,
        "its target is gone"
    );
    assert_eq!(target(world.steer("t").steers.as_ref()), Some("p"));
    assert_eq!(world.end("sum"), ["boot"]);
    assert_eq!(world.end("boot"), ["p"]);
    assert_eq!(world.fold("p"), ["t"]);
}

#[test]
fn a_steer_does_not_bind_to_a_concluded_or_cancelled_run() {
    let world = World::new();
    world.submit("a");
    world.cancel_as(stop(), CancelScope::default());
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
    assert_eq!(names(&world.go("p").starts), ["p"]);
    assert_eq!(world.fold("p"), ["s"]);
}

#[test]
fn a_steer_whose_target_expires_or_is_abandoned_starts_itself() {
    let world = World::new();
    world.hold_back("p");
    world.steer("s");
    let starts = world.scheduler.abandon(world.at(), "p", 0.0).unwrap();
    assert_eq!(names(&starts), ["s"]);
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
    assert_eq!(target(held.steers.as_ref()), Some("s0"));
    let bound = line[100].run.sequence();
    let scope = CancelScope {
        up_to: Some(bound),
        spare_open: true,
        spare_bootstrap: false,
    };
    assert_eq!(world.cancel_as(Cancel::new("USER"), scope).covered.len(), 100);
    assert_eq!(world.end("sum"), ["s100"]);
    assert!(world.mark() > Some(Sequence::new(0)));
    world.cancel();
    assert!(is_cancelled(&world.go("held")));
}
