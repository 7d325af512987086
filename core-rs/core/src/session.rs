//! One session: its line, its open run, its cancel mark. Every method is one step, under the session's lock.
//!
//! At most one run is open: it waits at the gate, runs, or is parked, until `finish`. The rest stand in line. A reservation is open from
//! accept to dispatch; a cancel meets it in between, so the cancel is recorded on it and the session's mark raised. Both
//! happen in `cover` alone, and whatever closes a reservation goes through `close_reservation`, which drops the mark with
//! the last one.

mod admit;
mod cancel;
mod observe;
mod park;
mod turn;

use std::sync::Arc;

use crate::error::Error;
use crate::gate::{Asked, Class, Entered, Gate, Grant, Ticket, Waiter};
use crate::id::{Address, RunId, Sequence, SessionKey};
use crate::ledger::Load;
use crate::line::{Entry, Line};
use crate::run::{Cancel, CancelMode, Covered, Kind, Place, Run, RunRef};
use crate::steer::Bound;
use crate::view::Hold;

pub(crate) use admit::Submit;
pub(crate) use cancel::Reach;

/// How the open run stands to its permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Its turn has not begun: this is its place at the gate.
    Waiting(Ticket),
    /// It has the permit.
    Running,
    /// It gave the permit back, and has not asked for it again.
    Parked,
    /// It wants the permit again: this is its place at the gate.
    Woken(Ticket),
}

/// The run that has, or is about to get, the floor.
#[derive(Debug)]
struct Open {
    run: Run,
    stand: Stand,
    concluded: bool,
    cancel: Option<Arc<Cancel>>,
    bound: Bound,
    holds: Option<Box<Holds>>,
}

#[derive(Debug, Default)]
struct Holds {
    last: u64,
    list: Vec<Hold>,
}

impl Open {
    fn place(&self) -> Place {
        match self.stand {
            Stand::Waiting(_) => Place::Waiting,
            Stand::Running => Place::Running,
            Stand::Parked => Place::Parked,
            Stand::Woken(_) => Place::Woken,
        }
    }

    /// Whether a STEER may bind to it (U-20).
    fn is_target(&self) -> bool {
        self.run.kind == Kind::Prompt && !self.concluded && self.cancel.is_none()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    key: SessionKey,
    hash: u64,
    line: Line,
    open: Option<Open>,
    /// Open reservations, covered ones included.
    reserved: usize,
    mark: Option<Sequence>,
}

impl Session {
    pub(crate) fn new(address: Address<'_>, hash: u64) -> Self {
        Self {
            key: SessionKey::new(address),
            hash,
            line: Line::default(),
            open: None,
            reserved: 0,
            mark: None,
        }
    }

    pub(crate) fn names(&self, address: Address<'_>) -> bool {
        self.key.names(address)
    }

    pub(crate) fn tenant(&self) -> &str {
        self.key.tenant()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Runs that are not over; without any, the session needs no entry.
    pub(crate) fn runs(&self) -> usize {
        self.line.len() + usize::from(self.open.is_some())
    }

    /// What it counts for.
    pub(crate) fn load(&self) -> Load {
        Load {
            runs: self.runs(),
            bytes: self.line.bytes(),
        }
    }

    fn named(&self, run: &Run) -> RunRef {
        RunRef::new(&self.key, run)
    }

    fn open_run_id(&self) -> Option<RunId> {
        self.open.as_ref().map(|open| open.run.id.clone())
    }

    fn unknown(run_id: &str) -> Error {
        Error::UnknownRun { run_id: run_id.into() }
    }

    /// The open run, if its turn has begun under this id and its outcome is (or is not) fixed.
    fn begun(&mut self, run_id: &str, concluded: bool) -> Result<&mut Open, Error> {
        let open = self.open.as_mut().filter(|open| open.run.id.as_str() == run_id);
        open.filter(|open| !matches!(open.stand, Stand::Waiting(_)) && open.concluded == concluded)
            .ok_or_else(|| Self::unknown(run_id))
    }

    /// Uncancelled runs ahead of one with this sequence.
    fn position(&self, sequence: Sequence) -> usize {
        let open = self
            .open
            .as_ref()
            .is_some_and(|open| open.cancel.is_none() && open.run.sequence < sequence);
        self.line.ahead(sequence) + usize::from(open)
    }

    fn target_id(&self, target: Option<Sequence>) -> Option<RunId> {
        let target = target?;
        match &self.open {
            Some(open) if open.run.sequence == target => Some(open.run.id.clone()),
            _ => self.line.get(target).map(|entry| entry.run.id.clone()),
        }
    }

    fn bound_to(&mut self, target: Sequence) -> Option<&mut Bound> {
        match &mut self.open {
            Some(open) if open.run.sequence == target => Some(&mut open.bound),
            _ => self.line.get_mut(target).map(|entry| &mut entry.bound),
        }
    }

    /// Loosens a run of the line from all others before it leaves: from its target, and those that steer it from it.
    fn loosen(&mut self, sequence: Sequence) {
        let Some(entry) = self.line.get_mut(sequence) else {
            return;
        };
        let target = entry.steers;
        let bound = entry.bound.take();
        self.unbind(bound);
        if let Some(bound) = target.and_then(|target| self.bound_to(target)) {
            bound.remove(sequence);
        }
    }

    /// What steered a run that is gone has its own turn, at its own sequence.
    fn unbind(&mut self, bound: impl Iterator<Item = Sequence>) {
        for steer in bound {
            self.line.unbind(steer);
        }
    }

    /// Takes an uncovered run out of the line.
    fn take(&mut self, sequence: Sequence) -> Option<Entry> {
        self.loosen(sequence);
        self.line.remove(sequence)
    }

    fn close_reservation(&mut self) {
        self.reserved -= 1;
        if self.reserved == 0 {
            self.mark = None;
        }
    }

    fn startable(&self) -> bool {
        self.open.is_none() && self.line.front().is_some_and(|head| head.queued)
    }

    /// Opens the head of the line, if the floor is free and the head is dispatched. Returns it if its turn begins.
    fn advance(&mut self, gate: &Gate, now: f64) -> Option<RunRef> {
        if self.startable() {
            self.open_head(&mut gate.enter(), now)
        } else {
            None
        }
    }

    fn open_head(&mut self, gate: &mut Entered<'_>, now: f64) -> Option<RunRef> {
        let stand = match gate.ask(self.key.tenant(), Class::Begins, || self.waiter()) {
            Asked::Granted => Stand::Running,
            Asked::Waiting(ticket) => Stand::Waiting(ticket),
            Asked::Closed => return None,
        };
        let head = self.line.front()?.run.sequence;
        let entry = self.line.remove(head)?;
        let run = Run {
            since: now,
            ..entry.run
        };
        let started = (stand == Stand::Running).then(|| self.named(&run));
        self.open = Some(Open {
            run,
            stand,
            concluded: false,
            cancel: None,
            bound: entry.bound,
            holds: None,
        });
        started
    }

    fn waiter(&self) -> Waiter {
        Waiter {
            session: self.key.clone(),
            hash: self.hash,
        }
    }

    /// Applies a grant: the floor turn begins or goes on, unless whoever had the ticket is gone.
    pub(crate) fn grant(&mut self, ticket: Ticket, now: f64) -> Option<RunRef> {
        let open = self.open.as_mut()?;
        if open.stand != Stand::Waiting(ticket) && open.stand != Stand::Woken(ticket) {
            return None;
        }
        open.stand = Stand::Running;
        open.run.since = now;
        Some(RunRef::new(&self.key, &open.run))
    }

    /// Takes a waiting run from the floor, which it never had.
    fn leave_gate(&mut self, gate: &Gate) -> Option<Run> {
        let Stand::Waiting(ticket) = self.open.as_ref()?.stand else {
            return None;
        };
        gate.enter().abandon(self.key.tenant(), ticket);
        let mut open = self.open.take()?;
        self.unbind(open.bound.take());
        Some(open.run)
    }
}
