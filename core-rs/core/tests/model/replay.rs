//! Runs operations through the core and the model side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use turnkeeper_core::{
    Address, Cancel, CancelMode, CancelResult, CancelScope, Conclusion, Covered, Dispatch, Error, Kind, Limits, Place,
    Restore, RunId, RunRef, RunRequest, Scheduler, Scope, Sequence, Wake,
};

use crate::fates::{Fate, Fates};
use crate::naive::{At, Hit, Model, Reached, Refusal, Request, State};
use crate::ops::{Expect, Op, SESSIONS, TENANTS};

mod accept;
mod cancel;
mod check;
mod turn;

/// What every prompt counts for.
const BYTES: usize = 7;
const TENANT: [&str; TENANTS] = ["t0", "t1"];
const SESSION: [&str; SESSIONS] = ["s0", "s1", "s2", "s3", "s4"];

pub(crate) struct Replay {
    core: Scheduler,
    model: Model,
    fates: Fates,
    restored: BTreeSet<u64>,
    accepted: usize,
    ids: usize,
    now: f64,
}

fn place(session: usize) -> At {
    (session % TENANTS, session)
}

fn address(at: At) -> Address<'static> {
    Address::new(TENANT[at.0], SESSION[at.1])
}

fn at(run: &RunRef) -> At {
    let tenant = TENANT.iter().position(|tenant| *tenant == run.tenant()).unwrap();
    (
        tenant,
        SESSION.iter().position(|session| *session == run.session_id()).unwrap(),
    )
}

impl Replay {
    pub(crate) fn new(limits: Limits) -> Self {
        let core = Scheduler::new(limits, 0, 0).unwrap();
        let (model, fates) = (Model::new(limits), Fates::default());
        Self {
            core,
            model,
            fates,
            restored: BTreeSet::new(),
            accepted: 0,
            ids: 0,
            now: 0.0,
        }
    }

    pub(crate) fn run(mut self, ops: &[Op]) {
        for (number, op) in ops.iter().enumerate() {
            self.now += 1.0;
            self.step(op);
            if number % 16 == 0 {
                self.check_all();
            }
        }
        self.wind_up();
    }

    /// Everything comes to its end, and nothing is left.
    fn wind_up(&mut self) {
        self.check_all();
        for session in 0..SESSIONS {
            while let Some(run) = self.model.line(place(session)).first().copied() {
                if self.model.runs[run].state == State::Reserved {
                    self.dispatch(place(session), &self.id(run));
                } else {
                    self.cancel_run(place(session), &self.id(run), CancelMode::Abort);
                }
            }
        }
        for session in 0..SESSIONS {
            self.cancel_session(place(session), CancelMode::Abort, None, false, false);
        }
        for session in (0..SESSIONS).chain(0..SESSIONS) {
            self.end(place(session));
        }
        self.check_all();
        let stats = self.core.stats();
        let left = (
            stats.sessions,
            stats.open_runs,
            stats.running_turns,
            stats.waiting_turns,
            stats.parked_turns,
        );
        assert_eq!(left, (0, 0, 0, 0, 0));
        assert_eq!(self.fates.count(), self.accepted, "every accepted run has its end");
    }

    fn id(&self, run: usize) -> String {
        self.model.runs[run].id.clone()
    }

    fn fresh(&mut self) -> String {
        self.ids += 1;
        format!("run-{}", self.ids)
    }

    fn pick(&self, at: At, pick: usize) -> String {
        let here = self.model.here(at);
        // The first few are what most calls are about; beyond the last there is nobody.
        here.get(pick.min(here.len() + usize::from(pick == 11)))
            .or(here.last().filter(|_| pick < 11))
            .map_or_else(|| "nobody".to_owned(), |run| self.id(*run))
    }

    fn pick_in(&self, at: At, pick: usize, state: State) -> String {
        let some: Vec<_> = self
            .model
            .here(at)
            .into_iter()
            .filter(|run| self.model.runs[*run].state == state)
            .collect();
        match some.get(pick) {
            Some(run) => self.id(*run),
            None => self.pick(at, pick),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    fn step(&mut self, op: &Op) {
        match *op {
            Op::Accept {
                session,
                kind,
                delivery,
                require_idle,
                expect,
                tombstone,
            } => {
                let at = place(session);
                let expected = match expect {
                    Expect::Nothing => None,
                    Expect::TheOpenRun => self.model.open(at).map(|run| self.id(run)),
                    Expect::Another => Some("another".to_owned()),
                };
                let id = self.fresh();
                let cancelled = tombstone.then(|| Arc::new(Cancel::new("TOMBSTONE")));
                let expected = expected.as_deref();
                self.accept(
                    at,
                    &id,
                    Request {
                        kind,
                        delivery,
                        require_idle,
                        expected,
                        cancelled,
                    },
                );
            }
            Op::AcceptAgain { session, pick } => {
                let at = place(session);
                let id = self.pick(at, pick);
                let (kind, delivery) = (Kind::Prompt, turnkeeper_core::Delivery::Queue);
                self.accept(
                    at,
                    &id,
                    Request {
                        kind,
                        delivery,
                        require_idle: false,
                        expected: None,
                        cancelled: None,
                    },
                );
            }
            Op::Burst {
                session,
                ref deliveries,
            } => {
                for (delivery, kind, dispatch) in deliveries {
                    let at = place(session);
                    let id = self.fresh();
                    let (kind, delivery) = (*kind, *delivery);
                    let request = Request {
                        kind,
                        delivery,
                        require_idle: false,
                        expected: None,
                        cancelled: None,
                    };
                    self.accept(at, &id, request);
                    if *dispatch {
                        self.dispatch(at, &id);
                    }
                }
            }
            Op::Restore {
                session,
                kind,
                back,
                steers,
                cancelled,
            } => {
                self.restore(place(session), kind, back, steers, cancelled);
            }
            Op::Dispatch { session, pick } => {
                let id = self.pick_in(place(session), pick, State::Reserved);
                self.dispatch(place(session), &id);
            }
            Op::Abandon { session, pick } => self.abandon(place(session), pick),
            Op::Partition { session, pick, limit } => self.partition(place(session), pick, limit),
            Op::Conclude { session, pick, steers } => {
                let id = self.pick(place(session), pick / 4);
                self.conclude(place(session), &id, steers);
            }
            Op::Park { session, pick } => {
                let id = self.pick_in(place(session), pick / 6, State::Running);
                self.park(place(session), &id);
            }
            Op::Wake { session, pick } => {
                let id = self.pick_in(place(session), pick / 6, State::Parked);
                self.wake(place(session), &id);
            }
            Op::Finish { session, pick } => {
                let id = self.pick_in(place(session), pick / 6, State::Concluded);
                self.finish(place(session), &id);
            }
            Op::End { session } => self.end(place(session)),
            Op::CancelSession {
                session,
                mode,
                back,
                spare_open,
                spare_bootstrap,
            } => {
                self.cancel_session(place(session), mode, back, spare_open, spare_bootstrap);
            }
            Op::CancelRun { session, mode, pick } => {
                let id = self.pick(place(session), pick);
                self.cancel_run(place(session), &id, mode);
            }
            Op::CancelTenant { tenant, mode } => self.cancel_tenant(tenant, mode),
            Op::Expire { session, pick } => self.expire(place(session), pick),
            Op::Drain => {
                self.core.drain();
                self.model.drained = true;
            }
        }
    }

    fn end(&mut self, at: At) {
        let Some(open) = self.model.open(at) else { return };
        let id = self.id(open);
        self.conclude(at, &id, 0);
        self.finish(at, &id);
    }
}
