//! Runs operations through the core and the model side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use turnkeeper_core::{
    Address, Cancel, CancelMode, CancelResult, CancelScope, Conclusion, Covered, Dispatch, Error, Kind, Limits, Place,
    Restore, RunRef, RunRequest, Scheduler, Scope, Sequence,
};

use crate::fates::{Fate, Fates};
use crate::naive::{At, Hit, Model, Reached, Refusal, Request, State};
use crate::ops::{Expect, Op, SESSIONS, TENANTS};

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
        );
        assert_eq!(left, (0, 0, 0, 0));
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
            Op::Conclude {
                session,
                pick,
                answer,
                steer,
            } => {
                let id = self.pick(place(session), pick / 4);
                self.conclude(place(session), &id, answer, steer);
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
        self.conclude(at, &id, false, false);
        self.finish(at, &id);
    }

    fn accept(&mut self, at: At, id: &str, request: Request<'_>) {
        let before = self.core.stats();
        let core = self.core.accept(
            address(at),
            id,
            RunRequest {
                kind: request.kind,
                delivery: request.delivery,
                require_idle: request.require_idle,
                expected_open_run_id: request.expected,
                cancelled: request.cancelled.clone(),
            },
            self.now,
        );
        let accepted = match (self.model.refusal(at, id, &request), core) {
            (None, Ok(accepted)) => accepted,
            (Some(refusal), Err(error)) => {
                let same = match error {
                    Error::RunExists { .. } => refusal == Refusal::Exists,
                    Error::OpenRunMismatch { .. } => refusal == Refusal::Mismatch,
                    Error::SessionBusy { .. } => refusal == Refusal::Busy,
                    Error::QueueFull {
                        scope: Scope::Session, ..
                    } => refusal == Refusal::LineFull,
                    Error::QueueFull { .. } => refusal == Refusal::ProcessFull,
                    _ => false,
                };
                assert!(same, "{refusal:?} expected");
                assert_eq!(self.core.stats(), before, "a refusal changes nothing");
                return self.check(at);
            }
            (expected, got) => panic!("expected {expected:?}, got {got:?}"),
        };
        let (run, reached) = self.model.accept(at, id, request);
        self.accepted += 1;
        let model = &self.model.runs[run];
        assert_eq!(accepted.sequence.get(), model.sequence);
        assert_eq!(accepted.position, self.model.position(at, model.sequence));
        assert_eq!(
            accepted.steers.map(|id| id.to_string()),
            model.steers.map(|target| self.id(target))
        );
        self.covered(&accepted.replaced, &reached.covered);
        self.started(&accepted.starts, reached.start);
        self.check(at);
    }

    fn restore(&mut self, at: At, kind: Kind, back: u64, steers: Option<usize>, cancelled: bool) {
        let sequence = self.model.last.saturating_sub(back);
        let id = self.fresh();
        let cancelled = cancelled.then(|| Arc::new(Cancel::new("STORED")));
        let target = steers.map(|pick| self.pick(at, pick));
        let restore = Restore {
            sequence: Sequence::new(sequence),
            kind,
            steers: target.as_deref(),
            cancelled: cancelled.clone(),
        };
        let core = self.core.restore(address(at), &id, restore, self.now);
        let here = self.model.here(at);
        let taken = sequence == 0 || here.iter().any(|run| self.model.runs[*run].sequence == sequence);
        assert_eq!(core.is_err(), taken);
        // Two runs of different sessions never have one sequence; the rest of this test relies on it.
        let reused = self.model.runs.iter().any(|run| run.sequence == sequence);
        if taken {
            return self.check(at);
        }
        if reused {
            self.core.abandon(address(at), &id, self.now).unwrap();
            return self.check_mark_gone(at);
        }
        let steers = target.and_then(|id| self.model.find(at, &id)).filter(|target| {
            let open = self.model.open(at) == Some(*target);
            kind == Kind::Prompt
                && cancelled.is_none()
                && self.model.can_be_steered(*target)
                && (open || self.model.runs[*target].sequence < sequence)
        });
        self.model.put(at, &id, sequence, kind, steers, cancelled);
        self.restored.insert(sequence);
        self.accepted += 1;
        self.check(at);
    }

    /// A reservation that came and went took the mark along, if it was the only one: there was none, then.
    fn check_mark_gone(&mut self, at: At) {
        let start = self.model.advance(at);
        assert_eq!(start, None, "an abandoned reservation held nobody up");
        self.check(at);
    }

    fn dispatch(&mut self, at: At, id: &str) {
        let core = self.core.dispatch(address(at), id, self.now);
        let Some(run) = self
            .model
            .find(at, id)
            .filter(|run| self.model.runs[*run].state == State::Reserved)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        let dispatched = core.unwrap();
        if let Some(cancel) = self.model.runs[run].cancel.clone() {
            assert!(matches!(&dispatched.status, Dispatch::Cancelled(told) if *told == cancel));
            assert!(dispatched.starts.is_empty());
            self.fates.end(self.model.runs[run].sequence, Fate::Cancelled);
            self.model.leave(run);
            return self.check(at);
        }
        let start = self.model.queue(run);
        let model = &self.model.runs[run];
        let position = self.model.position(at, model.sequence);
        match dispatched.status {
            Dispatch::Cancelled(_) => panic!("nothing covers it"),
            Dispatch::Queued => assert_eq!((model.state, dispatched.position), (State::Queued, position)),
            Dispatch::Waiting => assert_eq!(model.state, State::Waiting),
            Dispatch::Started => assert_eq!(model.state, State::Running),
        }
        assert_eq!(
            dispatched.steers.map(|id| id.to_string()),
            model.steers.map(|target| self.id(target))
        );
        self.started(&dispatched.starts, start);
        self.check(at);
    }

    fn abandon(&mut self, at: At, pick: usize) {
        let id = self.pick_in(at, pick, State::Reserved);
        let core = self.core.abandon(address(at), &id, self.now);
        let Some(run) = self
            .model
            .find(at, &id)
            .filter(|run| self.model.runs[*run].state == State::Reserved)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        self.fates.end(self.model.runs[run].sequence, Fate::Abandoned);
        self.model.leave(run);
        let start = self.model.advance(at);
        self.started(&core.unwrap(), start);
        self.check(at);
    }

    fn folded(&mut self, told: &[RunRef], expected: &[usize]) {
        let expected: Vec<_> = expected.iter().map(|run| self.model.runs[*run].sequence).collect();
        assert_eq!(
            told.iter().map(|run| run.sequence().get()).collect::<Vec<_>>(),
            expected
        );
        for run in told {
            self.fates.end(run.sequence().get(), Fate::Folded);
            let run = self.model.find(at(run), run.run_id().as_str()).unwrap();
            self.model.leave(run);
        }
    }

    fn partition(&mut self, at: At, pick: usize, limit: Option<usize>) {
        let id = self.pick(at, pick / 4);
        let core = self.core.partition(address(at), &id, limit);
        let Some(run) = self
            .model
            .find(at, &id)
            .filter(|run| self.model.runs[*run].state == State::Running)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        let partition = core.unwrap();
        assert_eq!(partition.cancel, self.model.runs[run].cancel);
        let mut fold = self.model.foldable(run);
        fold.truncate(if partition.cancel.is_some() {
            0
        } else {
            limit.unwrap_or(usize::MAX)
        });
        self.folded(&partition.fold, &fold);
        self.check(at);
    }

    fn conclude(&mut self, at: At, id: &str, answer: bool, steer: bool) {
        let core = self.core.conclude(address(at), id, answer, steer);
        let Some(run) = self
            .model
            .find(at, id)
            .filter(|run| self.model.runs[*run].state == State::Running)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        let fold = self.model.foldable(run);
        let cancel = self.model.runs[run].cancel.clone();
        match core.unwrap() {
            Conclusion::Steered(told) => {
                assert!(answer && steer && cancel.is_none() && !told.is_empty());
                self.folded(&told, &fold);
            }
            Conclusion::Cancelled(told) => {
                assert_eq!((Some(&told), told.mode), (cancel.as_ref(), CancelMode::Abort));
                self.model.runs[run].state = State::Concluded;
            }
            Conclusion::Concluded(stop) => {
                assert!(fold.is_empty() || !answer || !steer || cancel.is_some());
                assert!(stop == cancel && stop.is_none_or(|stop| stop.mode == CancelMode::Stop));
                self.model.runs[run].state = State::Concluded;
            }
        }
        self.check(at);
    }

    fn finish(&mut self, at: At, id: &str) {
        let core = self.core.finish(address(at), id, self.now);
        let Some(run) = self
            .model
            .find(at, id)
            .filter(|run| self.model.runs[*run].state == State::Concluded)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        let (own, others): (Vec<_>, Vec<_>) = core.unwrap().into_iter().partition(|run| crate::replay::at(run) == at);
        self.fates.end(self.model.runs[run].sequence, Fate::Finished);
        self.model.leave(run);
        assert!(others.len() <= 1, "one permit was released");
        let choice = others
            .first()
            .map(|run| self.model.find(crate::replay::at(run), run.run_id().as_str()).unwrap());
        self.model.granted(choice);
        let start = self.model.advance(at);
        for run in &others {
            self.note_start(run);
            self.check(crate::replay::at(run));
        }
        self.started(&own, start);
        self.check(at);
    }

    fn cancel_session(&mut self, at: At, mode: CancelMode, back: Option<u64>, spare_open: bool, spare_bootstrap: bool) {
        let cancel = Arc::new(Cancel {
            mode,
            ..Cancel::new(&format!("SESSION {}", self.now))
        });
        // A bound beyond what is accepted covers nothing that comes later.
        let up_to = back.map(|back| (self.model.last + 3).saturating_sub(back));
        let scope = CancelScope {
            up_to: up_to.map(Sequence::new),
            spare_open,
            spare_bootstrap,
        };
        let core = self.core.cancel_session(address(at), &cancel, scope, self.now);
        let bound = up_to.unwrap_or(self.model.last).min(self.model.last);
        let reached = self
            .model
            .cancel_session(at, &cancel, bound, spare_open, spare_bootstrap);
        self.reached(&core, &reached);
        self.check(at);
    }

    fn cancel_run(&mut self, at: At, id: &str, mode: CancelMode) {
        let cancel = Arc::new(Cancel {
            mode,
            ..Cancel::new(&format!("RUN {}", self.now))
        });
        let core = self.core.cancel_run(address(at), id, &cancel, self.now);
        let mut reached = Reached::default();
        if let Some(run) = self.model.find(at, id) {
            self.model.cover(run, &cancel, &mut reached);
        }
        reached.start = self.model.advance(at);
        self.reached(&core, &reached);
        self.check(at);
    }

    fn cancel_tenant(&mut self, tenant: usize, mode: CancelMode) {
        let cancel = Arc::new(Cancel {
            mode,
            ..Cancel::new("TENANT")
        });
        let core = self.core.cancel_tenant(TENANT[tenant], &cancel, self.now);
        let mut reached = Reached::default();
        for session in (0..SESSIONS).filter(|session| place(*session).0 == tenant) {
            let one = self
                .model
                .cancel_session(place(session), &cancel, self.model.last, false, false);
            assert_eq!(one.start, None, "it covers all there is");
            reached.covered.extend(one.covered);
            reached.concluded.extend(one.concluded);
        }
        reached.covered.sort_by_key(|(run, ..)| self.model.runs[*run].sequence);
        reached.concluded.sort_by_key(|run| self.model.runs[*run].sequence);
        self.reached(&core, &reached);
        self.check_all();
    }

    fn expire(&mut self, at: At, pick: usize) {
        let id = self.pick(at, pick);
        let (taken, starts) = self.core.expire(address(at), &id, self.now);
        let run = self.model.find(at, &id);
        let run = run.filter(|run| matches!(self.model.runs[*run].state, State::Queued | State::Waiting));
        assert_eq!(taken, run.is_some());
        if let Some(run) = run {
            self.fates.end(self.model.runs[run].sequence, Fate::Expired);
            self.model.leave(run);
        }
        let start = self.model.advance(at);
        self.started(&starts, start);
        self.check(at);
    }

    fn reached(&mut self, core: &CancelResult, model: &Reached) {
        self.covered(&core.covered, &model.covered);
        let concluded: Vec<_> = model
            .concluded
            .iter()
            .map(|run| self.model.runs[*run].sequence)
            .collect();
        assert_eq!(
            core.concluded
                .iter()
                .map(|run| run.sequence().get())
                .collect::<Vec<_>>(),
            concluded
        );
        self.started(&core.starts, model.start);
    }

    fn covered(&mut self, told: &[Covered], expected: &[Hit]) {
        let hit = |(run, place, cancel): &Hit| (self.model.runs[*run].sequence, *place, Arc::clone(cancel));
        let expected: Vec<_> = expected.iter().map(hit).collect();
        let told: Vec<_> = told
            .iter()
            .map(|hit| (hit.run.sequence().get(), hit.was, Arc::clone(&hit.cancel)))
            .collect();
        assert_eq!(told, expected);
        for (sequence, place, _) in told {
            if matches!(place, Place::Queued | Place::Waiting) {
                self.fates.end(sequence, Fate::Cancelled);
            }
        }
    }

    fn started(&mut self, told: &[RunRef], expected: Option<usize>) {
        let expected: Vec<_> = expected.into_iter().map(|run| self.model.runs[run].sequence).collect();
        assert_eq!(
            told.iter().map(|run| run.sequence().get()).collect::<Vec<_>>(),
            expected
        );
        for run in told {
            self.note_start(run);
        }
    }

    fn note_start(&mut self, run: &RunRef) {
        // A restored run may stand before what has already started.
        let sequence = run.sequence().get();
        self.fates.start(at(run), sequence, self.restored.contains(&sequence));
    }

    fn check_all(&mut self) {
        for session in 0..SESSIONS {
            self.check(place(session));
        }
    }

    /// The session, and all counts, are what the model says.
    fn check(&mut self, at: At) {
        self.model.settle_fairness();
        let stats = self.core.stats();
        let sessions = (0..SESSIONS)
            .filter(|session| !self.model.here(place(*session)).is_empty())
            .count();
        assert_eq!(stats.sessions, sessions, "only sessions with work have an entry");
        assert_eq!(stats.open_runs, self.model.all_here());
        assert_eq!(stats.running_turns, self.model.running(None));
        assert_eq!(stats.waiting_turns, self.model.gate.len());
        assert_eq!(stats.last_sequence, self.model.last);
        let Some(seen) = self.core.snapshot(address(at)) else {
            return assert!(self.model.here(at).is_empty());
        };
        assert_eq!(seen.mark.map(Sequence::get), self.model.mark(at));
        assert_eq!(seen.reserved, self.model.reserved(at));
        assert_eq!(seen.queued, seen.line.len() - seen.reserved);
        let views = seen.open.iter().chain(&seen.line);
        let expected = self.model.open(at).into_iter().chain(self.model.line(at));
        let seen: Vec<_> = views
            .map(|view| {
                let steers = view.steers.as_ref().map(ToString::to_string);
                (
                    view.run.sequence().get(),
                    view.place,
                    view.concluded,
                    view.cancel.clone(),
                    steers,
                )
            })
            .collect();
        let expected: Vec<_> = expected
            .map(|run| {
                let run = &self.model.runs[run];
                let place = match run.state {
                    State::Reserved => Place::Reserved,
                    State::Queued => Place::Queued,
                    State::Waiting => Place::Waiting,
                    _ => Place::Running,
                };
                let steers = run.steers.map(|target| self.id(target));
                (
                    run.sequence,
                    place,
                    run.state == State::Concluded,
                    run.cancel.clone(),
                    steers,
                )
            })
            .collect();
        assert_eq!(seen, expected);
    }
}
