//! Interleavings of two or three callers, enumerated. Loom takes the real modules, with its own locks and counters in them.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p turnkeeper-core --test loom --release`
#![allow(missing_docs)]
#![cfg(loom)]

use loom::thread;
use std::sync::Arc;
use turnkeeper_core::{
    Address, Cancel, CancelResult, CancelScope, Dispatch, Dispatched, Limits, Place, RunRef, RunRequest, Scheduler,
    Wake,
};

// Each in a shard of its own.
const A: Address<'static> = Address::new("tenant", "a");
const B: Address<'static> = Address::new("tenant", "b");
const C: Address<'static> = Address::new("other", "d");

/// At most five preemptions, unless `LOOM_MAX_PREEMPTIONS` says otherwise: so that the tests end soon.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(5));
    builder.check(check);
}

fn scheduler(running_turns: usize) -> Arc<Scheduler> {
    Arc::new(
        Scheduler::new(
            Limits {
                running_turns,
                ..Limits::default()
            },
            0,
            0,
        )
        .unwrap(),
    )
}

fn submit(scheduler: &Scheduler, at: Address<'_>, run: &str) -> Dispatched {
    scheduler.accept(at, run, RunRequest::default(), 0.0).unwrap();
    scheduler.dispatch(at, run, 0.0).unwrap()
}

fn end(scheduler: &Scheduler, at: Address<'_>, run: &str) -> Vec<RunRef> {
    scheduler.conclude(at, run, 0).unwrap();
    scheduler.finish(at, run, 0.0).unwrap()
}

fn cancel(scheduler: &Scheduler, at: Address<'_>) -> CancelResult {
    scheduler.cancel_session(at, &Arc::new(Cancel::new("USER")), CancelScope::default(), 0.0)
}

fn count(starts: &[RunRef], run: &str) -> usize {
    starts.iter().filter(|start| start.run_id().as_str() == run).count()
}

fn is_idle(scheduler: &Scheduler) -> bool {
    let stats = scheduler.stats();
    (
        stats.sessions,
        stats.open_runs,
        stats.running_turns,
        stats.waiting_turns,
        stats.parked_turns,
    ) == (0, 0, 0, 0, 0)
}

#[test]
fn submit_and_cancel() {
    model(|| {
        let scheduler = scheduler(1);
        let other = scheduler.clone();
        let submitting = thread::spawn(move || submit(&other, A, "run"));
        let result = cancel(&scheduler, A);
        let dispatched = submitting.join().unwrap();
        match result.covered.first().map(|covered| covered.was) {
            Some(Place::Reserved) => {
                assert!(matches!(dispatched.status, Dispatch::Cancelled(_)));
                assert!(is_idle(&scheduler));
                return;
            }
            // Without a hit it came first, and found nobody.
            None | Some(Place::Running) => assert!(matches!(dispatched.status, Dispatch::Started)),
            Some(place) => panic!("it cannot be {place:?}"),
        }
        let cancelled = scheduler.partition(A, "run", None).unwrap().cancel.is_some();
        assert_eq!(cancelled, !result.covered.is_empty());
        assert!(end(&scheduler, A, "run").is_empty());
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn finish_and_submit() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "first");
        let other = scheduler.clone();
        let submitting = thread::spawn(move || submit(&other, A, "second"));
        let started = count(&end(&scheduler, A, "first"), "second");
        let dispatched = submitting.join().unwrap();
        assert_eq!(
            started + count(&dispatched.starts, "second"),
            1,
            "it starts once, whoever is told"
        );
        assert!(end(&scheduler, A, "second").is_empty());
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
        let mut starts = end(&scheduler, A, "holder");
        let left = leaving.join().unwrap();
        starts.extend(left.starts);
        let was = left.covered[0].was;
        assert_eq!(was == Place::Running, count(&starts, "leaver") == 1);
        if was == Place::Running {
            starts.extend(end(&scheduler, B, "leaver"));
        }
        assert_eq!(count(&starts, "next"), 1, "the permit goes on");
        assert!(end(&scheduler, C, "next").is_empty());
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn expire_and_release() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "holder");
        submit(&scheduler, B, "late");
        let other = scheduler.clone();
        let expiring = thread::spawn(move || other.expire(B, "late", 0.0));
        let starts = end(&scheduler, A, "holder");
        let (taken, more) = expiring.join().unwrap();
        assert!(more.is_empty());
        assert_eq!(count(&starts, "late"), usize::from(!taken), "it starts or expires");
        if !taken {
            end(&scheduler, B, "late");
        }
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn park_and_wake_and_release() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "parks");
        submit(&scheduler, B, "other");
        submit(&scheduler, C, "new");
        let starts = scheduler.park(A, "parks", 0.0).unwrap();
        assert_eq!(count(&starts, "other"), 1);
        let waking = scheduler.clone();
        let waking = thread::spawn(move || waking.wake(A, "parks", 0.0).unwrap());
        let starts = end(&scheduler, B, "other");
        let woken = waking.join().unwrap();
        // Whoever came first, nobody has the permit twice and the woken one is never behind a new one that waits too.
        assert_eq!(scheduler.stats().running_turns, 1);
        if count(&starts, "new") == 1 {
            assert_eq!(woken, Wake::Waiting);
            assert_eq!(count(&end(&scheduler, C, "new"), "parks"), 1);
            end(&scheduler, A, "parks");
        } else {
            assert_eq!(count(&starts, "parks"), usize::from(woken == Wake::Waiting));
            assert_eq!(count(&end(&scheduler, A, "parks"), "new"), 1);
            end(&scheduler, C, "new");
        }
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_woken_turn_is_cut_while_its_permit_is_on_the_way() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "parks");
        submit(&scheduler, B, "holder");
        assert_eq!(count(&scheduler.park(A, "parks", 0.0).unwrap(), "holder"), 1);
        assert_eq!(scheduler.wake(A, "parks", 0.0).unwrap(), Wake::Waiting);
        submit(&scheduler, C, "next");
        let cutting = scheduler.clone();
        let cutting = thread::spawn(move || {
            let covered = cancel(&cutting, A).covered;
            let starts = end(&cutting, A, "parks");
            (covered[0].was, starts)
        });
        let mut starts = end(&scheduler, B, "holder");
        let (was, more) = cutting.join().unwrap();
        assert!(was == Place::Woken || (was == Place::Running && count(&starts, "parks") == 1));
        starts.extend(more);
        assert_eq!(count(&starts, "next"), 1, "the permit goes on, once");
        assert!(end(&scheduler, C, "next").is_empty());
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_turn_parks_again_while_its_permit_is_on_the_way() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "parks");
        submit(&scheduler, B, "holder");
        let _ = scheduler.park(A, "parks", 0.0).unwrap();
        assert_eq!(scheduler.wake(A, "parks", 0.0).unwrap(), Wake::Waiting);
        let parking = scheduler.clone();
        let parking = thread::spawn(move || {
            parking.park(A, "parks", 0.0).unwrap();
            parking.wake(A, "parks", 0.0).unwrap()
        });
        let starts = end(&scheduler, B, "holder");
        let woken = parking.join().unwrap();
        // However often it is told, it has one permit in the end.
        assert!(woken == Wake::Running || count(&starts, "parks") >= 1);
        assert_eq!(
            (scheduler.stats().running_turns, scheduler.stats().waiting_turns),
            (1, 0)
        );
        assert!(end(&scheduler, A, "parks").is_empty());
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn two_sessions_share_a_permit_while_one_is_cancelled() {
    model(|| {
        let scheduler = scheduler(1);
        let (first, second) = (scheduler.clone(), scheduler.clone());
        let one = thread::spawn(move || submit(&first, A, "a"));
        let two = thread::spawn(move || cancel(&second, A));
        let mut starts = submit(&scheduler, B, "b").starts;
        let dispatched = one.join().unwrap();
        let result = two.join().unwrap();
        starts.extend(dispatched.starts);
        starts.extend(result.starts);
        assert!(scheduler.stats().running_turns <= 1);
        let gone = matches!(dispatched.status, Dispatch::Cancelled(_))
            || result.covered.iter().any(|covered| covered.was == Place::Waiting);
        // Each that has not gone is started by the one before it, once.
        for (at, run) in [(A, "a"), (B, "b"), (A, "a")] {
            if count(&starts, run) == 1 && scheduler.snapshot(at).is_some() {
                starts.extend(end(&scheduler, at, run));
            }
        }
        assert_eq!((count(&starts, "a"), count(&starts, "b")), (usize::from(!gone), 1));
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn two_releases_and_an_abandoned_place_in_between() {
    model(|| {
        let scheduler = scheduler(1);
        submit(&scheduler, A, "holder");
        submit(&scheduler, B, "leaver");
        let (first, second) = (scheduler.clone(), scheduler.clone());
        let leaving = thread::spawn(move || cancel(&first, B));
        let coming = thread::spawn(move || submit(&second, B, "next"));
        let mut starts = end(&scheduler, A, "holder");
        let left = leaving.join().unwrap();
        starts.extend(left.starts.iter().cloned());
        let dispatched = coming.join().unwrap();
        starts.extend(dispatched.starts.iter().cloned());
        let running = left.covered.iter().any(|covered| covered.was == Place::Running);
        assert_eq!(running, count(&starts, "leaver") == 1);
        if running {
            starts.extend(end(&scheduler, B, "leaver"));
        }
        if matches!(dispatched.status, Dispatch::Cancelled(_)) || left.covered.len() == 2 {
            assert_eq!(count(&starts, "next"), 0);
        } else {
            assert_eq!(count(&starts, "next"), 1);
            assert!(end(&scheduler, B, "next").is_empty());
        }
        assert!(is_idle(&scheduler));
    });
}

#[test]
fn a_cancel_of_the_tenant_covers_what_was_there_before_and_nothing_later() {
    model(|| {
        let scheduler = scheduler(2);
        let before = scheduler
            .accept(A, "before", RunRequest::default(), 0.0)
            .unwrap()
            .sequence;
        let other = scheduler.clone();
        let accepting = thread::spawn(move || other.accept(B, "beside", RunRequest::default(), 0.0).unwrap().sequence);
        let result = scheduler.cancel_tenant("tenant", &Arc::new(Cancel::new("ADMIN")), 0.0);
        let beside = accepting.join().unwrap();
        let after = scheduler
            .accept(A, "after", RunRequest::default(), 0.0)
            .unwrap()
            .sequence;
        let covered: Vec<_> = result.covered.iter().map(|covered| covered.run.sequence()).collect();
        assert!(covered.contains(&before) && !covered.contains(&after));
        let cancelled = matches!(
            scheduler.dispatch(B, "beside", 0.0).unwrap().status,
            Dispatch::Cancelled(_)
        );
        assert_eq!(cancelled, covered.contains(&beside));
        assert!(matches!(
            scheduler.dispatch(A, "after", 0.0).unwrap().status,
            Dispatch::Started
        ));
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
        let result = scheduler.cancel_tenant("tenant", &Arc::new(Cancel::new("ADMIN")), 0.0);
        accepting.join().unwrap();
        let covered: Vec<_> = result.covered.iter().map(|covered| covered.run.session_id()).collect();
        assert!(["a", "b"].starts_with(&covered), "{covered:?}");
    });
}
