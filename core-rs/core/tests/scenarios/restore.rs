//! Sessions of an earlier process.

use std::sync::Arc;

use turnkeeper_core::{
    Act, Cancel, Cut, Effect, Error, Fact, Image, Kind, OnParentEnd, ResultImage, Role, RunImage, Sequence, Status,
    Steers, TurnId, TurnImage, WaitImage, WaitImageKind, Why,
};

use crate::world::{World, names, starts};

fn stored(run: &str, sequence: u64) -> RunImage {
    RunImage {
        run_id: run.into(),
        sequence: Sequence::new(sequence),
        kind: Kind::Prompt,
        opened: false,
        steers: None,
        cut: None,
        size: 0,
        admitted: 0,
        start_deadline: None,
        run_deadline: None,
        run_timeout: None,
    }
}

fn open(run: &str, sequence: u64) -> RunImage {
    RunImage {
        opened: true,
        ..stored(run, sequence)
    }
}

fn floor(id: u64, run: &str, sequence: u64) -> TurnImage {
    TurnImage {
        id: TurnId::new(id),
        run_id: run.into(),
        sequence: Sequence::new(sequence),
        role: Role::Prompt,
        begun: true,
        parent: None,
        depth: 0,
        on_parent_end: OnParentEnd::Wait,
        is_async: false,
        outside: false,
        holds: true,
        parent_ended: false,
        cut: None,
        deadline: None,
        inbox: Vec::new(),
        strands: 1,
        waits: Vec::new(),
    }
}

fn restore(world: &World, runs: Vec<RunImage>, turns: Vec<TurnImage>) -> Vec<Effect> {
    let image = Image {
        runs,
        turns,
        closing: None,
    };
    world.scheduler.restore(world.at(), &image, 0.0).unwrap().effects
}

fn abort() -> Cut {
    Cut::Abort(Arc::new(Cancel::new("USER")))
}

#[test]
fn restored_runs_stand_in_their_old_order_and_later_stamps_are_above_them() {
    let world = World::new();
    let cancelled = RunImage {
        cut: Some(abort()),
        ..stored("b", 20)
    };
    let effects = restore(&world, vec![stored("a", 10), cancelled, stored("c", 30)], Vec::new());
    assert!(matches!(&effects[0], Effect::Fact(Fact::Closed(run, Why::Cancelled(_))) if run.run_id().as_str() == "b"));
    assert!(matches!(&effects[3], Effect::Act(Act::Begin(turn)) if turn.run().run_id().as_str() == "a"));
    assert_eq!(world.line(), ["c"]);
    assert_eq!(world.hold_back("new").sequence.get(), 31);
    assert_eq!(world.end("a"), ["c"]);
}

#[test]
fn an_image_that_contradicts_itself_is_refused() {
    let world = World::new();
    let refused = |runs, turns| {
        let image = Image {
            runs,
            turns,
            closing: None,
        };
        matches!(
            world.scheduler.restore(world.at(), &image, 0.0),
            Err(Error::ImageRefused { .. })
        )
    };
    assert!(refused(vec![stored("a", 0)], vec![]));
    assert!(refused(vec![stored("a", 2), stored("b", 2)], vec![]));
    assert!(refused(vec![stored("a", 1), stored("a", 2)], vec![]));
    assert!(refused(vec![stored("a", 1 << 53)], vec![]));
    assert!(refused(vec![open("a", 1), open("b", 2)], vec![]));
    assert!(refused(vec![stored("a", 1)], vec![floor(1, "a", 1)]));
    assert!(world.is_idle());
    restore(&world, vec![stored("a", 1)], Vec::new());
    let again = world.scheduler.restore(world.at(), &Image::default(), 0.0);
    assert!(matches!(again, Err(Error::SessionBusy { .. })));
}

#[test]
fn a_restored_steer_is_bound_again_if_its_target_is_there() {
    let world = World::new();
    let steering = |run, sequence, target: &str| RunImage {
        steers: Some(Steers::Run(target.into())),
        ..stored(run, sequence)
    };
    let line = vec![
        open("p", 1),
        steering("s", 2, "p"),
        steering("t", 3, "gone"),
        steering("u", 4, "s"),
    ];
    restore(&world, line, vec![floor(7, "p", 1)]);
    assert_eq!(world.fold("p"), ["s"]);
    let line = world.inspect().line;
    assert_eq!(names(line.iter().map(|view| &view.run)), ["t", "u"]);
}

#[test]
fn what_had_begun_gets_its_driver_and_its_permit_again() {
    let world = World::new();
    let mut turn = floor(7, "a", 1);
    turn.strands = 2;
    turn.waits = vec![WaitImage {
        kind: WaitImageKind::Approval,
        label: "rm".into(),
        deadline: Some(9.0),
    }];
    let child = TurnImage {
        role: Role::Child,
        parent: Some(TurnId::new(7)),
        depth: 1,
        ..floor(8, "a", 1)
    };
    let effects = restore(&world, vec![open("a", 1)], vec![turn, child]);
    let [
        Effect::Act(Act::Resume {
            turn: parent,
            waits,
            children,
        }),
        Effect::Act(Act::Resume { turn: child, .. }),
        Effect::Act(Act::GoOn(goes_on)),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!((parent.id().get(), child.id().get(), goes_on.id()), (7, 8, child.id()));
    assert_eq!((waits.len(), children.len()), (1, 1));
    let stats = world.scheduler.stats();
    assert_eq!((stats.running_turns, stats.parked_turns), (1, 1));
    let step = world.scheduler.waited(world.at(), parent.id(), waits[0], 1.0).unwrap();
    assert_eq!(starts(&step), ["a"]);
}

#[test]
fn cuts_and_ends_that_were_recorded_go_on() {
    let world = World::new();
    let cut = RunImage {
        cut: Some(abort()),
        ..open("a", 1)
    };
    let spawned = TurnImage {
        role: Role::Child,
        begun: false,
        parent: Some(TurnId::new(7)),
        depth: 1,
        is_async: true,
        ..floor(8, "a", 1)
    };
    let mut turn = floor(7, "a", 1);
    turn.inbox = vec![ResultImage {
        child: TurnId::new(6),
        end: turnkeeper_core::Ending::Answered,
    }];
    let effects = restore(&world, vec![cut], vec![turn, spawned]);
    assert!(matches!(
        effects[..],
        [
            Effect::Fact(Fact::Ended(..)),
            Effect::Fact(Fact::Orphaned(..)),
            Effect::Fact(Fact::Orphaned(..)),
            Effect::Act(Act::Abort(..)),
        ]
    ));
    let step = world
        .scheduler
        .conclude(world.at(), TurnId::new(7), crate::world::ANSWER, 0.0);
    let effects = step.unwrap().effects;
    assert!(matches!(
        effects[1],
        Effect::Fact(Fact::RunOver(_, Status::Cancelled(_)))
    ));
    world.finish("a");
    assert!(world.is_idle());
}

#[test]
fn a_run_that_was_about_to_be_over_is() {
    let world = World::new();
    let effects = restore(&world, vec![open("a", 1)], Vec::new());
    assert!(matches!(
        effects[..],
        [Effect::Fact(Fact::RunOver(_, Status::Completed(None)))]
    ));
}

#[test]
fn a_deletion_goes_on() {
    let world = World::new();
    let image = Image {
        runs: vec![open("a", 1), stored("b", 2)],
        turns: vec![floor(7, "a", 1)],
        closing: Some(Arc::new(Cancel::new("DELETED"))),
    };
    world.scheduler.restore(world.at(), &image, 0.0).unwrap();
    assert!(world.line().is_empty());
    world.end("a");
    world.scheduler.forget_session(world.at(), 0.0).unwrap();
    assert!(world.is_idle());
}
