//! accept, dispatch, conclude, finish of one run: alone, and among many sessions that are busy.
//!
//! `cargo bench -p turnkeeper-core`. In `busy`, every session has a turn running; a cycle takes the next session in a
//! scattered order, queues a run there, ends the running one and so starts the new one: the session is cold in the caches.
#![allow(missing_docs)]

#[cfg(not(loom))]
mod plain;

#[cfg(not(loom))]
mod cycle {
    use criterion::{BenchmarkId, Criterion};
    use std::hint::black_box;
    use turnkeeper_core::{Act, Address, Effect, Limits, Proposal, RunRequest, Scheduler, Step, TurnId};

    use crate::plain::Plain;

    const MANY: usize = usize::MAX;

    const ANSWER: Proposal = Proposal::Answer {
        may_step: true,
        most: MANY,
        if_last: false,
    };

    fn scheduler() -> Scheduler {
        let limits = Limits {
            queue_per_session: MANY,
            open_runs: MANY,
            running_turns: MANY,
            running_turns_per_tenant: MANY,
            ..Limits::default()
        };
        Scheduler::new(&limits, 0, 0).unwrap()
    }

    /// The turn that a step begins.
    fn begun<T>(step: &Step<T>) -> TurnId {
        match step.effects.last() {
            Some(Effect::Act(Act::Begin(turn))) => turn.id(),
            other => panic!("no turn begins: {other:?}"),
        }
    }

    pub(crate) fn alone(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("alone");
        let core = scheduler();
        let at = Address::new("tenant", "session");
        group.bench_function("core", |bencher| {
            bencher.iter(|| {
                black_box(core.accept(at, "run", RunRequest::default(), 0.0).unwrap());
                let turn = begun(&black_box(core.dispatch(at, "run", 0.0).unwrap()));
                black_box(core.conclude(at, turn, ANSWER, 0.0).unwrap());
                black_box(core.finish(at, "run", 0.0).unwrap());
            });
        });
        let request = || RunRequest {
            may_start: true,
            ..RunRequest::default()
        };
        group.bench_function("core, begun by its accept", |bencher| {
            bencher.iter(|| {
                let turn = begun(&black_box(core.accept(at, "run", request(), 0.0).unwrap()));
                black_box(core.conclude(at, turn, ANSWER, 0.0).unwrap());
                black_box(core.finish(at, "run", 0.0).unwrap());
            });
        });
        let plain = Plain::default();
        group.bench_function("plain maps", |bencher| {
            bencher.iter(|| {
                black_box(plain.accept("tenant", "session", "run"));
                black_box(plain.dispatch("tenant", "session", "run"));
                black_box(plain.conclude("tenant", "session", "run"));
                black_box(plain.finish("tenant", "session"));
            });
        });
    }

    /// A session as its client knows it, small and in one place: what is measured is not the client.
    struct Client {
        name: [u8; 15],
        odd: bool,
        turn: TurnId,
    }

    impl Client {
        /// The session's name, the run that it has, and the next one.
        fn next(&mut self) -> (&str, &'static str, &'static str) {
            self.odd = !self.odd;
            let name = std::str::from_utf8(&self.name).unwrap();
            if self.odd {
                (name, "even", "odd")
            } else {
                (name, "odd", "even")
            }
        }
    }

    fn clients(count: usize) -> Vec<Client> {
        let name = |number| format!("session-{number:07}").into_bytes().try_into().unwrap();
        (0..count)
            .map(|number| Client {
                name: name(number),
                odd: false,
                turn: TurnId::new(0),
            })
            .collect()
    }

    pub(crate) fn busy(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("busy");
        for count in [1_000, 1_000_000] {
            // Visits all of them, far from each other.
            let scattered = |turn: usize| turn.wrapping_mul(7_777_777) % count;
            let core = scheduler();
            let mut all = clients(count);
            for client in &mut all {
                let (session, _, run) = client.next();
                let at = Address::new("tenant", session);
                core.accept(at, run, RunRequest::default(), 0.0).unwrap();
                let turn = begun(&core.dispatch(at, run, 0.0).unwrap());
                client.turn = turn;
            }
            let mut turn = 0;
            group.bench_function(BenchmarkId::new("core", count), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    let client = &mut all[scattered(turn)];
                    let running = client.turn;
                    let (session, run, next) = client.next();
                    let at = Address::new("tenant", session);
                    black_box(core.accept(at, next, RunRequest::default(), 0.0).unwrap());
                    black_box(core.dispatch(at, next, 0.0).unwrap());
                    black_box(core.conclude(at, running, ANSWER, 0.0).unwrap());
                    client.turn = begun(&black_box(core.finish(at, run, 0.0).unwrap()));
                });
            });
            drop(core);
            let plain = Plain::default();
            let mut all = clients(count);
            for client in &mut all {
                let (session, _, run) = client.next();
                plain.accept("tenant", session, run);
                plain.dispatch("tenant", session, run);
            }
            group.bench_function(BenchmarkId::new("plain maps", count), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    let (session, run, next) = all[scattered(turn)].next();
                    black_box(plain.accept("tenant", session, next));
                    black_box(plain.dispatch("tenant", session, next));
                    black_box(plain.conclude("tenant", session, run));
                    black_box(plain.finish("tenant", session));
                });
            });
        }
    }
}

#[cfg(not(loom))]
criterion::criterion_group! {
    name = cycles;
    config = criterion::Criterion::default().sample_size(50);
    targets = cycle::alone, cycle::busy
}

#[cfg(not(loom))]
criterion::criterion_main!(cycles);

#[cfg(loom)]
fn main() {}
