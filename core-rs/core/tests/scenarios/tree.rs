//! Children: slots, modes, cuts, results; each is delivered once or told to nobody.

use std::sync::Arc;

use turnkeeper_core::{
    Act, Came, Cancel, CancelScope, Conclusion, Cut, Decision, Effect, End, Ending, Error, Fact, Limits, NoChild,
    OnParentEnd, Orphan, Proposal, Spawn, Status, StopWhy, TurnId, WaitId, WaitKind, WaitRequest,
};

use crate::world::{ANSWER, World, stop, tool};

const STEERABLE: Proposal = Proposal::Answer {
    may_step: true,
    most: usize::MAX,
    if_last: false,
};

fn asynchronous(on_parent_end: OnParentEnd) -> Spawn {
    Spawn {
        on_parent_end,
        is_async: true,
        ..Spawn::default()
    }
}

/// What is said, in short words.
fn told(effects: &[Effect]) -> Vec<String> {
    effects.iter().map(said).collect()
}

fn said(effect: &Effect) -> String {
    match effect {
        Effect::Fact(fact) => match fact {
            Fact::Requested { turn: None, cut, .. } => format!("requested {}", word(cut)),
            Fact::Requested {
                turn: Some(turn), cut, ..
            } => format!("requested {} {}", turn.id(), word(cut)),
            Fact::Spawned { turn, .. } => format!("spawned {}", turn.id()),
            Fact::Begun(turn) => format!("begun {}", turn.id()),
            Fact::Ended(turn, _) => format!("ended {}", turn.id()),
            Fact::Delivered { turn, parent } => format!("delivered {} to {}", turn.id(), parent.id()),
            Fact::Orphaned(turn, why) => format!("orphaned {} {}", turn.id(), orphan(*why)),
            Fact::RunOver(_, Status::Completed(_)) => "completed".into(),
            Fact::RunOver(_, Status::Cancelled(_)) => "cancelled".into(),
            other => format!("{other:?}"),
        },
        Effect::Act(act) => match act {
            Act::Begin(turn) => format!("begin {}", turn.id()),
            Act::GoOn(turn) => format!("go on {}", turn.id()),
            Act::Stop(turn, StopWhy::ParentEnded) => format!("stop {} after its parent", turn.id()),
            Act::Stop(turn, StopWhy::Stop(_)) => format!("stop {}", turn.id()),
            Act::Abort(turn, _) => format!("abort {}", turn.id()),
            Act::Conclude(turn) => format!("conclude {}", turn.id()),
            Act::Decided(turn, _, Decision::Admitted(child)) => format!("{} has {}", turn.id(), child.id()),
            Act::Decided(turn, _, decision) => format!("{} has none: {decision:?}", turn.id()),
            Act::Came(turn, _, Came::Ended(child, end)) => format!("{} hears of {}: {end:?}", turn.id(), child.id()),
            other => format!("{other:?}"),
        },
    }
}

fn word(cut: &Cut) -> &'static str {
    match cut {
        Cut::Stop(_) => "stop",
        Cut::Abort(_) => "abort",
        Cut::Deadline => "deadline",
        Cut::Parent => "parent",
    }
}

fn orphan(why: Orphan) -> &'static str {
    match why {
        Orphan::ParentEnded => "parent ended",
        Orphan::ParentCancelled => "parent cancelled",
        Orphan::StepLimit => "step limit",
    }
}

/// The child, the number of the wait, what is said.
type Spawned = (Option<u64>, Option<WaitId>, Vec<String>);

/// A run whose turn is 1, and the turns below it as they are spawned: 2, 3 …
struct Tree(World);

impl Tree {
    fn new(limits: &Limits) -> Self {
        let world = World::with(limits);
        world.submit("run");
        assert_eq!(world.turn("run").get(), 1);
        Self(world)
    }

    fn spawn(&self, parent: u64, spawn: &Spawn) -> Result<Spawned, Error> {
        let step = self.0.scheduler.spawn(self.0.at(), TurnId::new(parent), spawn, 0.0)?;
        let child = step.answer.child.map(|child| child.id().get());
        Ok((child, step.answer.wait, told(&step.effects)))
    }

    fn child(&self, parent: u64, spawn: &Spawn) -> u64 {
        self.spawn(parent, spawn).unwrap().0.unwrap()
    }

    fn conclude(&self, turn: u64, proposal: Proposal) -> (Conclusion, Vec<String>) {
        let step = self
            .0
            .scheduler
            .conclude(self.0.at(), TurnId::new(turn), proposal, 0.0)
            .unwrap();
        (step.answer, told(&step.effects))
    }

    fn ends(&self, turn: u64) -> Vec<String> {
        self.conclude(turn, ANSWER).1
    }

    fn strands(&self, turn: u64, count: usize) {
        self.0
            .scheduler
            .strands(self.0.at(), TurnId::new(turn), count, 0.0)
            .unwrap();
    }

    fn strand_ends(&self, turn: u64) {
        self.0
            .scheduler
            .strand_ends(self.0.at(), TurnId::new(turn), 0.0)
            .unwrap();
    }

    fn due(&self, now: f64) -> Vec<String> {
        let steps = self.0.scheduler.due(now, usize::MAX).unwrap();
        steps.into_iter().flat_map(|(_, step)| told(&step.effects)).collect()
    }

    fn cancel(&self, cancel: Cancel, scope: CancelScope<'_>) -> Vec<String> {
        let step = self
            .0
            .scheduler
            .cancel(self.0.at(), scope, &Arc::new(cancel), 0.0)
            .unwrap();
        told(&step.effects)
    }
}

#[test]
fn results_are_delivered_with_the_step_that_holds_them() {
    let tree = Tree::new(&Limits::default());
    for (turn, mode) in [(2, OnParentEnd::Wait), (3, OnParentEnd::Stop)] {
        assert_eq!(tree.child(1, &asynchronous(mode)), turn);
    }
    for turn in [2, 3] {
        assert_eq!(tree.ends(turn), [format!("ended {turn}")]);
    }
    let point = tree.0.fold_point("run", 0).unwrap();
    let results: Vec<_> = point.results.iter().map(|it| (it.child.id().get(), it.end)).collect();
    assert_eq!(results, [(2, Ending::Answered), (3, Ending::Answered)]);
    let step = tree.0.scheduler.taken(tree.0.at(), TurnId::new(1), 0.0).unwrap();
    assert_eq!(told(&step.effects), ["delivered 2 to 1", "delivered 3 to 1"]);
    assert_eq!(tree.ends(1), ["ended 1", "completed"]);
}

#[test]
fn an_answer_waits_for_wait_children_and_stops_stop_children() {
    let tree = Tree::new(&Limits::default());
    for mode in [OnParentEnd::Wait, OnParentEnd::Stop, OnParentEnd::Continue] {
        tree.child(1, &asynchronous(mode));
    }
    assert_eq!(tree.conclude(1, STEERABLE), (Conclusion::Held, vec![]));
    assert_eq!(tree.ends(2), ["ended 2", "go on 1"], "one step more for each result");
    tree.0.fold_point("run", 0).unwrap();
    tree.0.take("run");
    assert_eq!(tree.ends(1), ["ended 1", "stop 3 after its parent"]);
    assert!(tree.0.scheduler.finish(tree.0.at(), "run", 0.0).is_err(), "3 holds it");
    let at = tree.0.at();
    let point = tree.0.scheduler.fold_point(at, TurnId::new(3), 0, 0.0).unwrap().answer;
    assert!(point.parent_ended);
    assert_eq!(tree.ends(3), ["ended 3", "orphaned 3 parent ended", "completed"]);
    tree.0.finish("run");
    assert_eq!(tree.0.scheduler.stats().sessions, 1, "4 goes on");
    assert_eq!(tree.ends(4), ["ended 4", "orphaned 4 parent ended"]);
    assert!(tree.0.is_idle());
}

#[test]
fn a_child_that_does_not_follow_its_parent_is_cut() {
    let tree = Tree::new(&Limits::default());
    tree.child(1, &asynchronous(OnParentEnd::Stop));
    tree.child(2, &asynchronous(OnParentEnd::Continue));
    tree.ends(1);
    assert_eq!(
        tree.due(30.0),
        ["requested 2 parent", "abort 2"],
        "the CONTINUE child below it is spared"
    );
    assert_eq!(tree.ends(2), ["ended 2", "orphaned 2 parent ended", "completed"]);
}

#[test]
fn a_synchronous_child_parks_its_parent_and_wakes_it() {
    let tree = Tree::new(&Limits::default());
    let (child, wait, effects) = tree.spawn(1, &Spawn::default()).unwrap();
    assert_eq!(
        (child, effects),
        (Some(2), vec!["spawned 2".into(), "begun 2".into(), "begin 2".into()])
    );
    assert!(wait.is_some());
    assert_eq!(tree.0.scheduler.stats().parked_turns, 1);
    assert_eq!(
        tree.conclude(2, Proposal::Failed).1,
        ["ended 2", "1 hears of 2: Failed", "go on 1"]
    );
    assert_eq!(tree.ends(1), ["ended 1", "completed"]);
}

#[test]
fn who_waits_for_a_slot_is_decided_once() {
    let tree = Tree::new(&Limits {
        children_per_turn: 1,
        slot_wait: Some(5.0),
        ..Limits::default()
    });
    tree.strands(1, 4);
    tree.child(1, &asynchronous(OnParentEnd::Wait));
    for _ in 0..3 {
        assert_eq!(tree.spawn(1, &asynchronous(OnParentEnd::Wait)).unwrap().0, None);
    }
    assert!(
        tree.0
            .scheduler
            .abandon_spawn(tree.0.at(), TurnId::new(1), WaitId::new(2), 0.0)
            .unwrap()
            .answer
    );
    assert_eq!(tree.ends(2), ["ended 2", "spawned 3", "1 has 3", "begun 3", "begin 3"]);
    assert_eq!(tree.due(5.0), ["1 has none: SlotTimeout"]);
    let at_once = Spawn {
        slot_wait: Some(0.0),
        ..asynchronous(OnParentEnd::Wait)
    };
    assert_eq!(tree.spawn(1, &at_once).unwrap_err(), Error::Spawn(NoChild::SlotTimeout));
}

#[test]
fn refusals_come_in_their_order() {
    let tree = Tree::new(&Limits {
        depth: 1,
        children_per_run: 1,
        ..Limits::default()
    });
    let refused = |parent, spawn: Spawn| match tree.spawn(parent, &spawn) {
        Err(Error::Spawn(why)) => why,
        other => panic!("{other:?}"),
    };
    let child = tree.child(1, &asynchronous(OnParentEnd::Continue));
    let invalid = Spawn {
        is_valid: false,
        ..Spawn::default()
    };
    assert_eq!(refused(child, invalid), NoChild::DepthLimit);
    assert_eq!(refused(1, invalid), NoChild::Invalid);
    assert_eq!(refused(1, Spawn::default()), NoChild::ChildLimit);
    let gone = Spawn {
        caller_cancelled: true,
        ..invalid
    };
    assert_eq!(refused(child, gone), NoChild::Cancelled);
    let narrowed = Spawn {
        depth: Some(0),
        ..Spawn::default()
    };
    assert_eq!(refused(1, narrowed), NoChild::DepthLimit);
    tree.cancel(Cancel::new("USER"), CancelScope::Session);
    assert_eq!(refused(1, Spawn::default()), NoChild::Cancelled);
}

#[test]
fn three_generations_are_cut_at_once_and_end_innermost_first() {
    let tree = Tree::new(&Limits {
        children_per_turn: 1,
        ..Limits::default()
    });
    tree.child(1, &Spawn::default());
    tree.strands(2, 2);
    tree.child(2, &asynchronous(OnParentEnd::Wait));
    assert_eq!(tree.spawn(2, &Spawn::default()).unwrap().0, None, "it waits for a slot");
    tree.child(3, &Spawn::default());
    assert_eq!(
        tree.cancel(Cancel::new("USER"), CancelScope::Run("run")),
        [
            "requested abort",
            "2 has none: Cancelled",
            "abort 4",
            "abort 3",
            "abort 2",
            "abort 1",
        ]
    );
    for turn in [1, 2, 3] {
        assert_eq!(tree.conclude(turn, Proposal::Cut), (Conclusion::Held, vec![]));
    }
    assert_eq!(tree.conclude(4, Proposal::Cut).1, ["ended 4", "conclude 3"]);
    assert_eq!(tree.ends(3), ["ended 3", "orphaned 3 parent cancelled", "conclude 2"]);
    assert_eq!(tree.ends(2), ["ended 2", "conclude 1"]);
    assert_eq!(tree.ends(1), ["ended 1", "cancelled"]);
    tree.0.finish("run");
    assert!(tree.0.is_idle());
}

#[test]
fn a_subtree_is_cut_or_its_root_alone_stops() {
    let tree = Tree::new(&Limits::default());
    tree.child(1, &asynchronous(OnParentEnd::Wait));
    tree.child(2, &asynchronous(OnParentEnd::Wait));
    let at = CancelScope::Subtree(TurnId::new(2));
    assert_eq!(tree.cancel(stop(), at), ["requested 2 stop", "stop 2"]);
    assert_eq!(
        tree.cancel(Cancel::new("USER"), at),
        ["requested 2 abort", "abort 3", "abort 2"]
    );
    tree.ends(3);
    assert!(matches!(
        tree.conclude(2, ANSWER).0,
        Conclusion::Concluded(End::Cut(Cut::Abort(_)))
    ));
    assert_eq!(tree.ends(1), ["ended 1", "orphaned 2 step limit", "completed"]);
}

#[test]
fn a_child_that_takes_too_long_is_cut_and_spares_what_continues() {
    let tree = Tree::new(&Limits::default());
    let slow = Spawn {
        timeout: Some(9.0),
        ..asynchronous(OnParentEnd::Wait)
    };
    tree.child(1, &slow);
    tree.child(2, &asynchronous(OnParentEnd::Continue));
    assert_eq!(tree.due(9.0), ["requested 2 deadline", "abort 2"]);
    assert_eq!(
        tree.conclude(2, Proposal::Cut).0,
        Conclusion::Concluded(End::Cut(Cut::Deadline))
    );
}

#[test]
fn a_tool_outside_spawns_while_its_strand_waits_for_it() {
    let tree = Tree::new(&Limits::default());
    let (core, at, turn) = (&tree.0.scheduler, tree.0.at(), TurnId::new(1));
    let wait = core.wait(at, turn, tool(), 0.0).unwrap().answer;
    assert!(wait.parked);
    let by = Spawn {
        by: Some(wait.id),
        ..Spawn::default()
    };
    let (child, call, _) = tree.spawn(1, &by).unwrap();
    assert!(child.is_some() && call.is_some());
    let target = WaitRequest {
        kind: WaitKind::Run("other"),
        by: Some(wait.id),
        ..tool()
    };
    let asked = core.wait(at, turn, target, 0.0).unwrap().answer;
    assert!(core.waited(at, turn, asked.id, 0.0).unwrap().answer);
    assert_eq!(
        tree.ends(2),
        ["ended 2", "1 hears of 2: Answered"],
        "its strand still waits for the tool"
    );
    core.waited(at, turn, wait.id, 0.0).unwrap();
    assert_eq!(
        tree.spawn(1, &by).unwrap_err(),
        Error::Spawn(NoChild::Cancelled),
        "that tool is over"
    );
    tree.strand_ends(1);
}

#[test]
fn the_last_answer_of_a_run_is_foreseen() {
    let tree = Tree::new(&Limits::default());
    let asks = Proposal::Answer {
        may_step: true,
        most: 0,
        if_last: true,
    };
    tree.child(1, &asynchronous(OnParentEnd::Stop));
    assert_eq!(
        tree.conclude(1, asks),
        (Conclusion::Last, vec![]),
        "a child does not answer"
    );
    let guard = tree
        .0
        .scheduler
        .hold(tree.0.at(), "run", "tool", None, 0.0)
        .unwrap()
        .answer;
    assert!(
        matches!(tree.conclude(1, asks).0, Conclusion::Concluded(End::Answered)),
        "it may take the floor"
    );
    tree.0.scheduler.release(tree.0.at(), "run", guard, 0.0).unwrap();
}
