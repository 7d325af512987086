//! Interleavings of callers around turns, waits and children, enumerated. Loom takes the real modules, with its own locks and
//! counters in them.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p turnkeeper-core --test loom_turns --release`
#![allow(missing_docs)]
#![cfg(loom)]

mod threads;

use std::sync::Arc;

use loom::thread;
use threads::{
    A, ANSWER, B, Told, begun, cancel, due, end, is_idle, model, model_of_three, park, scheduler, submit, turn, wake,
    with,
};
use turnkeeper_core::{
    Act, Came, Cancel, CancelScope, Conclusion, Decision, Delivery, Effect, Error, Fact, LaneLimits, Limits, NoChild,
    OnParentEnd, Proposal, RunRequest, Scheduler, Spawn, Status, TurnId, WaitKind, WaitRequest, Why,
};

const ASYNC: Spawn = Spawn {
    on_parent_end: OnParentEnd::Stop,
    is_async: true,
    is_valid: true,
    caller_cancelled: false,
    timeout: None,
    slot_wait: None,
    by: None,
    depth: None,
    children_per_turn: None,
    children_per_run: None,
};

/// A child of a turn.
fn child(scheduler: &Scheduler, parent: TurnId, spawn: &Spawn) -> TurnId {
    let step = scheduler.spawn(A, parent, spawn, 0.0).unwrap();
    step.answer.child.unwrap().id()
}

fn conclude(scheduler: &Scheduler, turn: TurnId, proposal: Proposal) -> Told {
    Told::of(scheduler.conclude(A, turn, proposal, 0.0).unwrap()).1
}

fn ends(told: &Told, turn: TurnId) -> usize {
    told.count(|effect| matches!(effect, Effect::Fact(Fact::Ended(ended, _)) if ended.id() == turn))
}

fn fates(told: &Told) -> (usize, usize) {
    let delivered = told.count(|effect| matches!(effect, Effect::Fact(Fact::Delivered { .. })));
    (
        delivered,
        told.count(|effect| matches!(effect, Effect::Fact(Fact::Orphaned(..)))),
    )
}

#[test]
fn spawn_and_abort() {
    model(|| {
        let scheduler = scheduler(1);
        let parent = begun(&scheduler, A, "run");
        let other = scheduler.clone();
        let spawning = thread::spawn(move || other.spawn(A, parent, &ASYNC, 0.0));
        let (_, told) = cancel(&scheduler, A);
        let mut told = told;
        match spawning.join().unwrap() {
            Err(error) => assert_eq!(error, Error::Spawn(NoChild::Cancelled)),
            Ok(step) => {
                let (admission, more) = Told::of(step);
                let child = admission.child.unwrap().id();
                told = told.and(more);
                assert_eq!(
                    told.count(|it| matches!(it, Effect::Act(Act::Abort(turn, _)) if turn.id() == child)),
                    1
                );
                assert_eq!(
                    scheduler.conclude(A, parent, Proposal::Cut, 0.0).unwrap().answer,
                    Conclusion::Held
                );
                told = told.and(conclude(&scheduler, child, Proposal::Cut));
            }
        }
        told = told.and(conclude(&scheduler, parent, Proposal::Cut));
        assert!(matches!(told.status(), Some(Status::Cancelled(_))));
        scheduler.finish(A, "run", 0.0).unwrap();
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn the_end_of_a_child_and_a_cancel_of_its_parent() {
    model(|| {
        let scheduler = scheduler(1);
        let parent = begun(&scheduler, A, "run");
        let id = child(&scheduler, parent, &ASYNC);
        let other = scheduler.clone();
        let ending = thread::spawn(move || conclude(&other, id, Proposal::Failed));
        let (_, told) = cancel(&scheduler, A);
        let told = told.and(ending.join().unwrap());
        let told = told.and(conclude(&scheduler, parent, Proposal::Cut));
        assert_eq!((ends(&told, id), fates(&told)), (1, (0, 1)));
        assert!(matches!(told.status(), Some(Status::Cancelled(_))));
        scheduler.finish(A, "run", 0.0).unwrap();
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn the_end_of_a_child_and_the_answer_of_its_parent() {
    model(|| {
        let scheduler = scheduler(1);
        let parent = begun(&scheduler, A, "run");
        let id = child(&scheduler, parent, &ASYNC);
        let other = scheduler.clone();
        let ending = thread::spawn(move || conclude(&other, id, Proposal::Failed));
        let (conclusion, told) = Told::of(scheduler.conclude(A, parent, ANSWER, 0.0).unwrap());
        let mut told = told.and(ending.join().unwrap());
        if let Conclusion::GoesOn(fold) = conclusion {
            assert_eq!(fold.results.len(), 1);
            told = told.and(Told::of(scheduler.taken(A, parent, 0.0).unwrap()).1);
            told = told.and(conclude(&scheduler, parent, ANSWER));
        }
        let (delivered, orphaned) = fates(&told);
        assert_eq!(delivered + orphaned, 1, "one or the other");
        assert_eq!((ends(&told, id), ends(&told, parent)), (1, 1));
        assert!(told.status().is_some());
        scheduler.finish(A, "run", 0.0).unwrap();
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_slot_comes_while_its_waiter_leaves_and_its_time_is_over() {
    model_of_three(|| {
        let scheduler = with(&Limits {
            running_turns: 1,
            children_per_turn: 1,
            slot_wait: Some(1.0),
            child_timeout: 100.0,
            ..Limits::default()
        });
        let parent = begun(&scheduler, A, "run");
        let first = child(&scheduler, parent, &ASYNC);
        let waiting = scheduler.spawn(A, parent, &ASYNC, 0.0).unwrap().answer;
        let wait = waiting.wait.unwrap();
        let (one, two) = (scheduler.clone(), scheduler.clone());
        let leaving = thread::spawn(move || Told::of(one.abandon_spawn(A, parent, wait, 0.0).unwrap()).1);
        let timing = thread::spawn(move || due(&two, 1.0));
        let told = conclude(&scheduler, first, Proposal::Failed);
        let told = told.and(leaving.join().unwrap()).and(timing.join().unwrap());
        let decisions = told.count(|effect| matches!(effect, Effect::Act(Act::Decided(..))));
        let admitted = told.count(|effect| matches!(effect, Effect::Act(Act::Decided(_, _, Decision::Admitted(_)))));
        assert_eq!((decisions, scheduler.stats().children), (1, admitted));
    });
}

#[test]
fn a_conclusion_and_the_end_of_its_grace() {
    model(|| {
        let scheduler = scheduler(1);
        let turn = begun(&scheduler, A, "run");
        cancel(&scheduler, A);
        let other = scheduler.clone();
        let timing = thread::spawn(move || due(&other, 100.0));
        let told = conclude(&scheduler, turn, Proposal::Cut).and(timing.join().unwrap());
        assert!(told.count(|effect| matches!(effect, Effect::Act(Act::Detach(_)))) <= 1);
        assert_eq!(ends(&told, turn), 1);
        scheduler.finish(A, "run", 0.0).unwrap();
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn what_a_strand_waited_for_and_its_deadline() {
    model(|| {
        let scheduler = scheduler(1);
        let turn = begun(&scheduler, A, "run");
        let (wait, _) = park(&scheduler, A, turn, Some(1.0));
        let other = scheduler.clone();
        let timing = thread::spawn(move || due(&other, 1.0));
        let (has_come, told) = wake(&scheduler, A, turn, wait);
        let told = told.and(timing.join().unwrap());
        let is_due = told.count(|effect| matches!(effect, Effect::Act(Act::Came(_, _, Came::Due))));
        assert_eq!((usize::from(has_come) + is_due, told.starts("run")), (1, 1));
        end(&scheduler, A, "run");
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_slot_of_a_provider_comes_to_a_turn_that_is_cut() {
    model(|| {
        let scheduler = with(&Limits {
            lanes: vec![LaneLimits {
                name: "p".into(),
                limit: Some(1),
                pace: None,
                waiters: None,
            }],
            ..Limits::default()
        });
        let (one, two) = (begun(&scheduler, A, "a"), begun(&scheduler, B, "b"));
        let entry = scheduler.enter_lane(A, one, "p", "", None, 0.0).unwrap().answer;
        assert!(entry.is_in && !scheduler.enter_lane(B, two, "p", "", None, 0.0).unwrap().answer.is_in);
        let other = scheduler.clone();
        let cutting = thread::spawn(move || {
            cancel(&other, B);
            end(&other, B, "b");
        });
        scheduler.leave_lane(A, one, entry.id, 0.0).unwrap();
        cutting.join().unwrap();
        assert_eq!(scheduler.stats().lane_slots, 0, "it is not lost");
        end(&scheduler, A, "a");
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn two_lines_do_not_wait_for_each_other() {
    model(|| {
        let scheduler = scheduler(2);
        let (one, two) = (begun(&scheduler, A, "a"), begun(&scheduler, B, "b"));
        let request = |session| WaitRequest {
            kind: WaitKind::Run(session),
            label: "",
            deadline: None,
            by: None,
        };
        let other = scheduler.clone();
        let waiting = thread::spawn(move || other.wait(B, two, request("a"), 0.0).err());
        let mine = scheduler.wait(A, one, request("b"), 0.0).err();
        let theirs = waiting.join().unwrap();
        let refused = [mine, theirs].into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(refused, [Error::WaitCycle]);
    });
}

#[test]
fn a_fold_and_a_cancel_of_what_folds() {
    model(|| {
        let scheduler = scheduler(1);
        let id = begun(&scheduler, A, "run");
        let request = RunRequest {
            delivery: Delivery::Steer,
            ..RunRequest::default()
        };
        scheduler.accept(A, "s", request, 0.0).unwrap();
        scheduler.dispatch(A, "s", 0.0).unwrap();
        let other = scheduler.clone();
        let cancelling = thread::spawn(move || {
            let cancel = Arc::new(Cancel::new("USER"));
            Told::of(other.cancel(A, CancelScope::Run("s"), &cancel, 0.0).unwrap())
        });
        scheduler.fold_point(A, id, 1, 0.0).unwrap();
        let (_, told) = Told::of(scheduler.taken(A, id, 0.0).unwrap());
        let (result, more) = cancelling.join().unwrap();
        let told = told.and(more);
        let folded = told.count(|effect| matches!(effect, Effect::Fact(Fact::Closed(_, Why::Folded(_)))));
        let closed = told.count(|effect| matches!(effect, Effect::Fact(Fact::Closed(_, Why::Cancelled(_)))));
        assert_eq!((folded + closed, result.covered.len()), (1, closed));
        end(&scheduler, A, "run");
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_deletion_an_accept_and_a_spawn() {
    model_of_three(|| {
        let scheduler = scheduler(1);
        let parent = begun(&scheduler, A, "run");
        let (one, two) = (scheduler.clone(), scheduler.clone());
        let accepting = thread::spawn(move || one.accept(A, "late", RunRequest::default(), 0.0).is_ok());
        let spawning = thread::spawn(move || two.spawn(A, parent, &ASYNC, 0.0).ok());
        let cancel = Arc::new(Cancel::new("DELETED"));
        scheduler.close_session(A, true, &cancel, 0.0).unwrap();
        let (is_accepted, admission) = (accepting.join().unwrap(), spawning.join().unwrap());
        if is_accepted {
            assert!(scheduler.dispatch(A, "late", 0.0).unwrap().answer.place.is_none());
        }
        if let Some(step) = admission {
            conclude(&scheduler, step.answer.child.unwrap().id(), Proposal::Cut);
        }
        assert!(scheduler.forget_session(A, 0.0).is_err());
        conclude(&scheduler, turn(&scheduler, A, "run"), Proposal::Cut);
        scheduler.finish(A, "run", 0.0).unwrap();
        scheduler.forget_session(A, 0.0).unwrap();
        assert!(is_idle(&scheduler));
        submit(&scheduler, A, "new");
    });
}
