//! Interleavings of callers around lines and permits, enumerated. Loom takes the real modules, with its own locks and counters
//! in them.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p turnkeeper-core --test loom --release`
#![allow(missing_docs)]
#![cfg(loom)]

mod threads;

use std::sync::Arc;

use loom::thread;
use threads::{
    A, B, C, Told, begun, cancel, due, end, is_idle, model, model_of_three, park, scheduler, submit, turn, wake,
};
use turnkeeper_core::{Cancel, Effect, Fact, Place, RunRequest, Why};

#[test]
fn submit_and_cancel() {
    model(|| {
        let scheduler = scheduler(1);
        let other = scheduler.clone();
        let submitting = thread::spawn(move || submit(&other, A, "run"));
        let (result, _) = cancel(&scheduler, A);
        let (dispatched, told) = submitting.join().unwrap();
        match result.covered.first().map(|covered| covered.was) {
            Some(Place::Reserved) => {
                assert!(dispatched.place.is_none() && told.starts("run") == 0);
                assert!(is_idle(&scheduler));
                return;
            }
            // Without a hit it came first, and found nobody.
            None | Some(Place::Running) => assert_eq!(told.starts("run"), 1),
            Some(place) => panic!("it cannot be {place:?}"),
        }
        let id = turn(&scheduler, A, "run");
        assert_eq!(scheduler.fold_point(A, id, 0, 0.0).is_err(), !result.covered.is_empty());
        assert_eq!(end(&scheduler, A, "run").starts("run"), 0);
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn finish_and_submit() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "first");
        let other = scheduler.clone();
        let submitting = thread::spawn(move || submit(&other, A, "second").1);
        let told = end(&scheduler, A, "first").and(submitting.join().unwrap());
        assert_eq!(told.starts("second"), 1, "it starts once, whoever is told");
        end(&scheduler, A, "second");
        assert!(is_idle(&scheduler));
    });
}

/// The session of the run that ends has an entry no longer, or still.
#[test]
fn finish_and_a_start_by_accept() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "first");
        let other = scheduler.clone();
        let accepting = thread::spawn(move || {
            let request = RunRequest {
                may_start: true,
                ..RunRequest::default()
            };
            let (accepted, told) = Told::of(other.accept(A, "second", request, 0.0).unwrap());
            match accepted.starts {
                Some(_) => told,
                None => told.and(Told::of(other.dispatch(A, "second", 0.0).unwrap()).1),
            }
        });
        let told = end(&scheduler, A, "first").and(accepting.join().unwrap());
        assert_eq!(told.starts("second"), 1);
        end(&scheduler, A, "second");
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn release_and_abandon() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "holder");
        submit(&scheduler, B, "leaver");
        submit(&scheduler, C, "next");
        let other = scheduler.clone();
        let leaving = thread::spawn(move || cancel(&other, B));
        let told = end(&scheduler, A, "holder");
        let (left, more) = leaving.join().unwrap();
        let mut told = told.and(more);
        let was = left.covered[0].was;
        assert_eq!(was == Place::Running, told.starts("leaver") == 1);
        if was == Place::Running {
            told = told.and(end(&scheduler, B, "leaver"));
        }
        assert_eq!(told.starts("next"), 1, "the permit goes on");
        end(&scheduler, C, "next");
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn expire_and_release() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "holder");
        let request = RunRequest {
            start_timeout: Some(1.0),
            ..RunRequest::default()
        };
        scheduler.accept(B, "late", request, 0.0).unwrap();
        scheduler.dispatch(B, "late", 0.0).unwrap();
        let other = scheduler.clone();
        let expiring = thread::spawn(move || due(&other, 1.0));
        let told = end(&scheduler, A, "holder").and(expiring.join().unwrap());
        let expired = told.count(|effect| matches!(effect, Effect::Fact(Fact::Closed(_, Why::Expired))));
        assert_eq!(told.starts("late") + expired, 1, "it starts or expires");
        if expired == 0 {
            end(&scheduler, B, "late");
        }
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn park_and_wake_and_release() {
    model(|| {
        let scheduler = scheduler(1);
        let parks = begun(&scheduler, A, "parks");
        submit(&scheduler, B, "other");
        submit(&scheduler, C, "new");
        let (wait, told) = park(&scheduler, A, parks, None);
        assert_eq!(told.starts("other"), 1);
        let waking = scheduler.clone();
        let waking = thread::spawn(move || wake(&waking, A, parks, wait).1);
        let told = end(&scheduler, B, "other").and(waking.join().unwrap());
        // Whoever came first, nobody has the permit twice and the woken one is never behind a new one that waits too.
        assert_eq!(scheduler.stats().running_turns, 1);
        assert_eq!(told.starts("new") + told.starts("parks"), 1);
        if told.starts("new") == 1 {
            assert_eq!(end(&scheduler, C, "new").starts("parks"), 1);
            end(&scheduler, A, "parks");
        } else {
            assert_eq!(end(&scheduler, A, "parks").starts("new"), 1);
            end(&scheduler, C, "new");
        }
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_woken_turn_is_cut_while_its_permit_is_on_the_way() {
    model(|| {
        let scheduler = scheduler(1);
        let parks = begun(&scheduler, A, "parks");
        submit(&scheduler, B, "holder");
        let (wait, told) = park(&scheduler, A, parks, None);
        assert_eq!(told.starts("holder"), 1);
        assert_eq!(wake(&scheduler, A, parks, wait).1.starts("parks"), 0);
        submit(&scheduler, C, "next");
        let cutting = scheduler.clone();
        let cutting = thread::spawn(move || {
            let (result, told) = cancel(&cutting, A);
            (result.covered[0].was, told.and(end(&cutting, A, "parks")))
        });
        let told = end(&scheduler, B, "holder");
        let (was, more) = cutting.join().unwrap();
        assert!(was == Place::Woken || was == Place::Running);
        assert_eq!(told.and(more).starts("next"), 1, "the permit goes on, once");
        end(&scheduler, C, "next");
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_turn_whose_permit_is_on_the_way_parks_once_it_has_it() {
    model(|| {
        let scheduler = scheduler(1);
        let parks = begun(&scheduler, A, "parks");
        submit(&scheduler, B, "holder");
        let (wait, _) = park(&scheduler, A, parks, None);
        assert_eq!(wake(&scheduler, A, parks, wait).1.starts("parks"), 0);
        let other = scheduler.clone();
        let folding = thread::spawn(move || other.fold_point(A, parks, 0, 0.0).is_ok());
        let told = end(&scheduler, B, "holder");
        folding.join().unwrap();
        assert_eq!(told.starts("parks"), 1);
        let (wait, _) = park(&scheduler, A, parks, None);
        assert_eq!(
            (scheduler.stats().running_turns, scheduler.stats().parked_turns),
            (0, 1)
        );
        assert_eq!(wake(&scheduler, A, parks, wait).1.starts("parks"), 1);
        end(&scheduler, A, "parks");
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn two_sessions_share_a_permit_while_one_is_cancelled() {
    model_of_three(|| {
        let scheduler = scheduler(1);
        let (first, second) = (scheduler.clone(), scheduler.clone());
        let one = thread::spawn(move || submit(&first, A, "a"));
        let two = thread::spawn(move || cancel(&second, A));
        let (_, told) = submit(&scheduler, B, "b");
        let (dispatched, more) = one.join().unwrap();
        let (result, rest) = two.join().unwrap();
        let mut told = told.and(more).and(rest);
        assert!(scheduler.stats().running_turns <= 1);
        let is_gone = dispatched.place.is_none() || result.covered.iter().any(|covered| covered.was == Place::Waiting);
        // Each that has not gone is started by the one before it, once.
        for (at, run) in [(A, "a"), (B, "b"), (A, "a")] {
            if told.starts(run) == 1 && scheduler.snapshot(at).is_some() {
                told = told.and(end(&scheduler, at, run));
            }
        }
        assert_eq!((told.starts("a"), told.starts("b")), (usize::from(!is_gone), 1));
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn two_releases_and_an_abandoned_place_in_between() {
    model_of_three(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "holder");
        submit(&scheduler, B, "leaver");
        let (first, second) = (scheduler.clone(), scheduler.clone());
        let leaving = thread::spawn(move || cancel(&first, B));
        let coming = thread::spawn(move || submit(&second, B, "next"));
        let told = end(&scheduler, A, "holder");
        let (left, more) = leaving.join().unwrap();
        let (dispatched, rest) = coming.join().unwrap();
        let mut told = told.and(more).and(rest);
        let running = left.covered.iter().any(|covered| covered.was == Place::Running);
        assert_eq!(running, told.starts("leaver") == 1);
        if running {
            told = told.and(end(&scheduler, B, "leaver"));
        }
        if dispatched.place.is_none() || left.covered.len() == 2 {
            assert_eq!(told.starts("next"), 0);
        } else {
            assert_eq!(told.starts("next"), 1);
            end(&scheduler, B, "next");
        }
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_cancel_of_the_tenant_covers_what_was_there_before_and_nothing_later() {
    model(|| {
        let scheduler = scheduler(2);
        let accept = |at, run| scheduler.accept(at, run, RunRequest::default(), 0.0).unwrap();
        let before = accept(A, "before").answer.sequence;
        let other = scheduler.clone();
        let accepting = thread::spawn(move || other.accept(B, "beside", RunRequest::default(), 0.0).unwrap());
        let cancel = Arc::new(Cancel::new("ADMIN"));
        let result = scheduler.cancel_tenant("tenant", &cancel, 0.0).unwrap().answer;
        let beside = accepting.join().unwrap().answer.sequence;
        let after = accept(A, "after").answer.sequence;
        let covered: Vec<_> = result.covered.iter().map(|covered| covered.run.sequence()).collect();
        assert!(covered.contains(&before) && !covered.contains(&after));
        let place = scheduler.dispatch(B, "beside", 0.0).unwrap().answer.place;
        assert_eq!(place.is_none(), covered.contains(&beside));
        let place = scheduler.dispatch(A, "after", 0.0).unwrap().answer.place;
        assert_eq!(place, Some(Place::Running));
    });
}

#[test]
fn a_cancel_of_the_tenant_never_covers_the_later_of_two_alone() {
    model(|| {
        let scheduler = scheduler(2);
        let other = scheduler.clone();
        let accepting = thread::spawn(move || {
            // The shard of the first is visited before that of the second.
            for at in [A, B] {
                other.accept(at, "run", RunRequest::default(), 0.0).unwrap();
            }
        });
        let cancel = Arc::new(Cancel::new("ADMIN"));
        let result = scheduler.cancel_tenant("tenant", &cancel, 0.0).unwrap().answer;
        accepting.join().unwrap();
        let covered: Vec<_> = result.covered.iter().map(|covered| covered.run.session_id()).collect();
        assert!(["a", "b"].starts_with(&covered), "{covered:?}");
    });
}
