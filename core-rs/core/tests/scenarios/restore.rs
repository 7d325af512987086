//! Runs of an earlier process.

use std::sync::Arc;

use turnkeeper_core::{Cancel, Error, Kind, Restore, Sequence};

use crate::world::{World, is_cancelled, is_started, names};

fn stored(sequence: u64) -> Restore<'static> {
    Restore {
        sequence: Sequence::new(sequence),
        kind: Kind::Prompt,
        bytes: 0,
        steers: None,
        cancelled: None,
    }
}

#[test]
fn restored_runs_stand_in_their_old_order_and_later_stamps_are_above_them() {
    let world = World::new();
    let restore = |run, stored| world.scheduler.restore(world.at(), run, stored, 0.0);
    restore("c", stored(30)).unwrap();
    restore("a", stored(10)).unwrap();
    restore(
        "b",
        Restore {
            cancelled: Some(Arc::new(Cancel::new("USER"))),
            ..stored(20)
        },
    )
    .unwrap();
    assert_eq!(world.line(), ["a", "b", "c"]);
    assert_eq!(
        restore("a", stored(40)).unwrap_err(),
        Error::RunExists { run_id: "a".into() }
    );
    assert_eq!(
        restore("d", stored(20)).unwrap_err(),
        Error::SequenceRefused { sequence: 20 }
    );
    assert_eq!(
        restore("d", stored(0)).unwrap_err(),
        Error::SequenceRefused { sequence: 0 }
    );
    assert_eq!(world.hold_back("new").sequence.get(), 31);
    world.go("c");
    assert!(is_started(&world.go("a")));
    assert!(is_cancelled(&world.go("b")));
    assert_eq!(world.end("a"), ["c"]);
}

#[test]
fn a_restored_steer_is_bound_again_if_its_target_is_there() {
    let world = World::new();
    let restore = |run, stored| world.scheduler.restore(world.at(), run, stored, 0.0).unwrap();
    restore("p", stored(1));
    restore(
        "s",
        Restore {
            steers: Some("p"),
            ..stored(2)
        },
    );
    restore(
        "t",
        Restore {
            steers: Some("gone"),
            ..stored(3)
        },
    );
    restore(
        "u",
        Restore {
            steers: Some("s"),
            ..stored(4)
        },
    );
    for run in ["p", "s", "t", "u"] {
        world.go(run);
    }
    assert_eq!(world.fold("p"), ["s"]);
    let line = world.inspect().line;
    assert_eq!(names(line.iter().map(|view| &view.run)), ["t", "u"]);
}

#[test]
fn a_long_line_restored_backwards_is_in_order() {
    let world = World::new();
    for sequence in (1..=100).rev() {
        world
            .scheduler
            .restore(world.at(), &format!("run-{sequence}"), stored(sequence), 0.0)
            .unwrap();
    }
    for sequence in (1..=100).rev() {
        let dispatched = world.go(&format!("run-{sequence}"));
        let ahead = usize::try_from(sequence - 1).unwrap();
        assert_eq!((dispatched.position, is_started(&dispatched)), (ahead, sequence == 1));
    }
    for sequence in 2..=100 {
        assert_eq!(world.end(&format!("run-{}", sequence - 1)), [format!("run-{sequence}")]);
    }
}
