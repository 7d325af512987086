//! The model: a list of runs, and rules that read like the specification.

use std::collections::BTreeSet;
use std::sync::Arc;

use turnkeeper_core::{Cancel, CancelMode, Delivery, Kind, Limits, Place};

pub(crate) type At = (usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Reserved,
    Queued,
    Waiting,
    Running,
    Parked,
    Woken,
    Concluded,
    Over,
}

#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) at: At,
    pub(crate) id: String,
    pub(crate) sequence: u64,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) permit: bool,
    pub(crate) cancel: Option<Arc<Cancel>>,
    pub(crate) steers: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Exists,
    Mismatch,
    Busy,
    LineFull,
    ProcessFull,
}

pub(crate) struct Request<'a> {
    pub(crate) kind: Kind,
    pub(crate) delivery: Delivery,
    pub(crate) require_idle: bool,
    pub(crate) expected: Option<&'a str>,
    pub(crate) cancelled: Option<Arc<Cancel>>,
}

/// A cancelled run: which, where it was, and what covers it now.
pub(crate) type Hit = (usize, Place, Arc<Cancel>);

#[derive(Default)]
pub(crate) struct Reached {
    pub(crate) covered: Vec<Hit>,
    pub(crate) concluded: Vec<usize>,
    pub(crate) start: Option<usize>,
}

pub(crate) struct Model {
    limits: Limits,
    pub(crate) runs: Vec<Run>,
    pub(crate) marks: Vec<(At, u64)>,
    pub(crate) last: u64,
    pub(crate) drained: bool,
    /// Runs that wait for a permit, woken ones too, in the order they came to the gate.
    pub(crate) gate: Vec<usize>,
    /// `(state, waiting, served)`: tenants that could have had a permit for a run of this state since the other one got one.
    passed: BTreeSet<(State, usize, usize)>,
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Self {
        let (runs, marks, gate, passed) = (Vec::new(), Vec::new(), Vec::new(), BTreeSet::new());
        Self {
            limits,
            runs,
            marks,
            last: 0,
            drained: false,
            gate,
            passed,
        }
    }

    /// Runs of the session that are not over, in accept order.
    pub(crate) fn here(&self, at: At) -> Vec<usize> {
        let mut here: Vec<_> = (0..self.runs.len()).filter(|run| self.runs[*run].at == at).collect();
        here.retain(|run| self.runs[*run].state != State::Over);
        here.sort_by_key(|run| self.runs[*run].sequence);
        here
    }

    pub(crate) fn find(&self, at: At, id: &str) -> Option<usize> {
        self.here(at).into_iter().find(|run| self.runs[*run].id == id)
    }

    pub(crate) fn open(&self, at: At) -> Option<usize> {
        let open = |run: &usize| {
            matches!(
                self.runs[*run].state,
                State::Waiting | State::Running | State::Parked | State::Woken | State::Concluded
            )
        };
        let all: Vec<_> = self.here(at).into_iter().filter(open).collect();
        assert!(all.len() <= 1, "one open run");
        all.first().copied()
    }

    pub(crate) fn line(&self, at: At) -> Vec<usize> {
        let in_line = |run: &usize| matches!(self.runs[*run].state, State::Reserved | State::Queued);
        self.here(at).into_iter().filter(in_line).collect()
    }

    fn uncancelled_line(&self, at: At) -> Vec<usize> {
        self.line(at)
            .into_iter()
            .filter(|run| self.runs[*run].cancel.is_none())
            .collect()
    }

    pub(crate) fn reserved(&self, at: At) -> usize {
        self.here(at)
            .iter()
            .filter(|run| self.runs[**run].state == State::Reserved)
            .count()
    }

    pub(crate) fn mark(&self, at: At) -> Option<u64> {
        self.marks.iter().find(|(place, _)| *place == at).map(|(_, mark)| *mark)
    }

    pub(crate) fn all_here(&self) -> usize {
        self.runs.iter().filter(|run| run.state != State::Over).count()
    }

    pub(crate) fn running(&self, tenant: Option<usize>) -> usize {
        let runs = self
            .runs
            .iter()
            .filter(|run| tenant.is_none_or(|tenant| run.at.0 == tenant));
        runs.filter(|run| run.permit).count()
    }

    pub(crate) fn parked(&self) -> usize {
        let parked = |run: &&Run| matches!(run.state, State::Parked | State::Concluded) && !run.permit;
        self.runs.iter().filter(parked).count()
    }

    /// The run of this name, if its turn has begun and its outcome is not fixed.
    pub(crate) fn begun(&self, at: At, id: &str) -> Option<usize> {
        let begun = |run: &usize| matches!(self.runs[*run].state, State::Running | State::Parked | State::Woken);
        self.find(at, id).filter(begun)
    }

    pub(crate) fn place(&self, run: usize) -> Place {
        let run = &self.runs[run];
        match run.state {
            State::Reserved => Place::Reserved,
            State::Queued => Place::Queued,
            State::Waiting => Place::Waiting,
            State::Woken => Place::Woken,
            _ if !run.permit => Place::Parked,
            _ => Place::Running,
        }
    }

    pub(crate) fn position(&self, at: At, sequence: u64) -> usize {
        let ahead = |run: &&usize| self.runs[**run].sequence < sequence && self.runs[**run].cancel.is_none();
        self.here(at).iter().filter(ahead).count()
    }

    // What happens.

    pub(crate) fn refusal(&self, at: At, id: &str, request: &Request<'_>) -> Option<Refusal> {
        if self.find(at, id).is_some() {
            return Some(Refusal::Exists);
        }
        if request.cancelled.is_some() {
            return None;
        }
        let open = self.open(at).map(|run| self.runs[run].id.as_str());
        if request.expected.is_some() && request.expected != open {
            return Some(Refusal::Mismatch);
        }
        let busy = !self.here(at).is_empty();
        if busy && (request.require_idle || request.delivery == Delivery::Reject) {
            return Some(Refusal::Busy);
        }
        if self.line(at).len() >= self.limits.queue_per_session {
            return Some(Refusal::LineFull);
        }
        (self.all_here() >= self.limits.open_runs).then_some(Refusal::ProcessFull)
    }

    /// Accepts what is not refused; the index of the run, and what it replaced.
    pub(crate) fn accept(&mut self, at: At, id: &str, request: Request<'_>) -> (usize, Reached) {
        let sequence = self.last + 1;
        let mut reached = Reached::default();
        let effective = request.cancelled.is_none();
        if effective && request.delivery == Delivery::Replace {
            let cancel = Cancel {
                superseded_by: Some(id.into()),
                ..Cancel::new("REPLACED")
            };
            reached = self.cancel_session(at, &Arc::new(cancel), self.last, false, true);
        }
        self.last = sequence;
        let steers = if effective && request.delivery == Delivery::Steer && request.kind == Kind::Prompt {
            self.target(at)
        } else {
            None
        };
        (
            self.put(at, id, sequence, request.kind, steers, request.cancelled),
            reached,
        )
    }

    pub(crate) fn put(
        &mut self,
        at: At,
        id: &str,
        sequence: u64,
        kind: Kind,
        steers: Option<usize>,
        cancel: Option<Arc<Cancel>>,
    ) -> usize {
        self.runs.push(Run {
            at,
            id: id.to_owned(),
            sequence,
            kind,
            state: State::Reserved,
            permit: false,
            cancel,
            steers,
        });
        self.last = self.last.max(sequence);
        self.runs.len() - 1
    }

    fn target(&self, at: At) -> Option<usize> {
        let open = self.open(at).filter(|run| self.can_be_steered(*run));
        open.or_else(|| self.line(at).into_iter().find(|run| self.can_be_steered(*run)))
    }

    pub(crate) fn can_be_steered(&self, run: usize) -> bool {
        let run = &self.runs[run];
        run.kind == Kind::Prompt && run.cancel.is_none() && run.steers.is_none() && run.state != State::Concluded
    }

    /// The run has no further part in anything.
    fn loosen(&mut self, gone: usize) {
        self.runs[gone].steers = None;
        for run in &mut self.runs {
            if run.steers == Some(gone) {
                run.steers = None;
            }
        }
        self.gate.retain(|run| *run != gone);
        // A tenant whose last waiter leaves starts anew, even if the next of the same session takes its place at once.
        self.settle_fairness();
    }

    pub(crate) fn leave(&mut self, run: usize) {
        self.loosen(run);
        self.runs[run].state = State::Over;
        self.runs[run].permit = false;
        self.reservation_closed(self.runs[run].at);
    }

    fn reservation_closed(&mut self, at: At) {
        if self.reserved(at) == 0 {
            self.marks.retain(|(place, _)| *place != at);
        }
    }

    pub(crate) fn queue(&mut self, run: usize) -> Option<usize> {
        self.runs[run].state = State::Queued;
        self.reservation_closed(self.runs[run].at);
        self.advance(self.runs[run].at)
    }

    /// The head of a free session goes to the gate; returned if it starts.
    pub(crate) fn advance(&mut self, at: At) -> Option<usize> {
        if self.drained || self.open(at).is_some() {
            return None;
        }
        let head = *self.uncancelled_line(at).first()?;
        if self.runs[head].state != State::Queued {
            return None;
        }
        assert_eq!(self.runs[head].steers, None, "nothing ahead of it that it could steer");
        self.ask(head, State::Waiting).then_some(head)
    }

    /// Whether it gets a permit at once; else it stands at the gate.
    fn ask(&mut self, run: usize, waiting: State) -> bool {
        let granted = self.permit_is_free(self.runs[run].at.0);
        self.runs[run].permit = granted;
        self.runs[run].state = if granted { State::Running } else { waiting };
        if !granted {
            self.gate.push(run);
        }
        granted
    }

    /// Wakes a parked run; whether it goes on at once.
    pub(crate) fn wake(&mut self, run: usize) -> bool {
        !self.drained && self.ask(run, State::Woken)
    }

    /// Parks a run; whether it had a permit to give back.
    pub(crate) fn park(&mut self, run: usize) -> bool {
        self.gate.retain(|other| *other != run);
        self.settle_fairness();
        self.runs[run].state = State::Parked;
        std::mem::take(&mut self.runs[run].permit)
    }

    /// Fixes a run's outcome; it waits for no permit any more.
    pub(crate) fn conclude(&mut self, run: usize) {
        self.gate.retain(|other| *other != run);
        self.settle_fairness();
        self.runs[run].state = State::Concluded;
    }

    fn permit_is_free(&self, tenant: usize) -> bool {
        self.running(None) < self.limits.running_turns
            && self.running(Some(tenant)) < self.limits.running_turns_per_tenant
    }

    /// Tenants whose runs of this state wait, and could have a permit if there were one of the process.
    fn contenders(&self, state: State) -> BTreeSet<usize> {
        let below = |tenant: &usize| self.running(Some(*tenant)) < self.limits.running_turns_per_tenant;
        let waiting = self.gate.iter().filter(|run| self.runs[**run].state == state);
        waiting.map(|run| self.runs[*run].at.0).filter(below).collect()
    }

    /// Those that could have one now.
    fn eligible(&self, state: State) -> BTreeSet<usize> {
        let mut tenants = self.contenders(state);
        tenants.retain(|tenant| !self.drained && self.permit_is_free(*tenant));
        tenants
    }

    /// Judges what the core did with a released permit.
    pub(crate) fn granted(&mut self, choice: Option<usize>) {
        let states = [State::Woken, State::Waiting];
        let Some(state) = states.into_iter().find(|state| !self.eligible(*state).is_empty()) else {
            assert_eq!(choice, None, "nobody could have it");
            return;
        };
        let run = choice.expect("a permit is free and somebody waits for it");
        assert_eq!(
            self.runs[run].state, state,
            "those that go on come before those that begin"
        );
        let eligible = self.eligible(state);
        let tenant = self.runs[run].at.0;
        assert!(eligible.contains(&tenant), "no permit for this tenant");
        let same = |other: &&usize| self.runs[**other].at.0 == tenant && self.runs[**other].state == state;
        let first = self.gate.iter().find(same);
        assert_eq!(first, Some(&run), "first come, first served within a tenant");
        self.gate.retain(|other| *other != run);
        self.runs[run].state = State::Running;
        self.runs[run].permit = true;
        for other in eligible.into_iter().filter(|other| *other != tenant) {
            assert!(
                self.passed.insert((state, other, tenant)),
                "a tenant was passed over twice by the same one"
            );
        }
        self.passed
            .retain(|(of, waiting, _)| (*of, *waiting) != (state, tenant));
    }

    /// A tenant that could not be served a moment ago was not passed over.
    pub(crate) fn settle_fairness(&mut self) {
        let waiting = self.contenders(State::Waiting);
        let woken = self.contenders(State::Woken);
        self.passed
            .retain(|(state, tenant, _)| if *state == State::Woken { &woken } else { &waiting }.contains(tenant));
    }

    pub(crate) fn foldable(&self, run: usize) -> Vec<usize> {
        let bound = |other: &usize| self.runs[*other].steers == Some(run) && self.runs[*other].state == State::Queued;
        self.here(self.runs[run].at).into_iter().filter(bound).collect()
    }

    pub(crate) fn cancel_session(
        &mut self,
        at: At,
        cancel: &Arc<Cancel>,
        bound: u64,
        spare_open: bool,
        spare_bootstrap: bool,
    ) -> Reached {
        let mut reached = Reached::default();
        if self.reserved(at) > 0 {
            let mark = self.mark(at).map_or(bound, |mark| mark.max(bound));
            self.marks.retain(|(place, _)| *place != at);
            self.marks.push((at, mark));
        }
        for run in self.here(at) {
            let spared = (spare_open && self.open(at) == Some(run))
                || (spare_bootstrap && self.runs[run].kind == Kind::Bootstrap)
                || self.runs[run].sequence > bound;
            if !spared {
                self.cover(run, cancel, &mut reached);
            }
        }
        reached.start = self.advance(at);
        reached
    }

    pub(crate) fn cover(&mut self, run: usize, cancel: &Arc<Cancel>, reached: &mut Reached) {
        let state = self.runs[run].state;
        let now = match self.runs[run].cancel.clone() {
            Some(first) if !(first.mode == CancelMode::Stop && cancel.mode == CancelMode::Abort) => first,
            _ => Arc::clone(cancel),
        };
        let place = match state {
            State::Concluded => {
                reached.concluded.push(run);
                return;
            }
            State::Over => return,
            State::Queued | State::Waiting => {
                let place = if state == State::Queued {
                    Place::Queued
                } else {
                    Place::Waiting
                };
                self.leave(run);
                place
            }
            State::Reserved => {
                self.loosen(run);
                Place::Reserved
            }
            State::Running => Place::Running,
            State::Parked => Place::Parked,
            State::Woken => Place::Woken,
        };
        self.runs[run].cancel = Some(Arc::clone(&now));
        reached.covered.push((run, place, now));
    }
}
