//! One session: its line, its open run, its turns. Every method is one step, or a part of one, under the session's lock.
//!
//! At most one run is open. A run is open while anything holds it: its floor turn, children, guards; the step that takes the
//! last of them away says that it is over. The rest stand in line, or are lent to a turn at its fold point. A reservation is
//! open from accept to dispatch; a cancel that meets it in between is recorded on it.

mod admit;
mod cancel;
mod conclude;
mod end;
mod evict;
mod floor;
mod fold;
mod observe;
mod restore;
mod settle;
mod tree;
mod wait;

use std::sync::Arc;

use crate::deadline::{Armed, Due, What};
use crate::effect::Cx;
use crate::error::Error;
use crate::frame::Frame;
use crate::id::{Address, RunId, Sequence, SessionKey, TurnId};
use crate::line::{Entry, Line};
use crate::rare::Rare;
use crate::run::{Cancel, Cut, Kind, Place, Run, RunAlarm};
use crate::steer::{Bound, Target};
use crate::turn::{Stand, Turn, TurnAlarm, Turns};

pub(crate) use cancel::Reach;

/// Something beside a turn that keeps the open run from being over.
#[derive(Debug)]
struct Guard {
    label: Box<str>,
    since: f64,
    deadline: Option<Armed>,
}

/// How the open run came to its floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// By its dispatch.
    Dispatched,
    /// By its accept, and nobody has named this turn of it yet: it may be taken back.
    Fresh(TurnId),
    /// By its accept, and its turn has its driver.
    Driven(TurnId),
}

/// The run that has, or is about to get, the floor.
#[derive(Debug)]
struct Open {
    run: Run,
    start: Start,
    /// Its first turn has begun: from here on it is cut, never taken out.
    begun: bool,
    concluded: bool,
    cut: Option<Cut>,
    bound: Bound,
    /// Floor turns, and child turns that hold it.
    acts: u32,
    kids: u32,
    guards: Rare<u64, Guard>,
    last_guard: u64,
}

impl Open {
    /// Whether a STEER may bind to it (U-20).
    fn is_target(&self) -> bool {
        self.run.kind() == Kind::Prompt && !self.concluded && self.cut.is_none()
    }

    fn is_hard(&self) -> bool {
        self.cut.as_ref().is_some_and(Cut::is_hard)
    }
}

/// A STEER run that a fold point has taken out of the line, and a cancel that has met it since.
#[derive(Debug)]
struct Lent {
    entry: Entry,
    cancel: Option<Arc<Cancel>>,
}

/// The children of one run, at any depth.
#[derive(Clone, Copy, Debug, Default)]
struct Family {
    admitted: usize,
    live: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    key: SessionKey,
    hash: u64,
    line: Line,
    open: Option<Open>,
    lent: Rare<Sequence, Lent>,
    frame: Frame,
    turns: Turns,
    /// Of runs that had children and are not over, or whose children live.
    families: Rare<Sequence, Family>,
    closing: bool,
    /// Open reservations, covered ones included.
    reserved: usize,
    /// How far cancels of the session reached while reservations are open.
    mark: Option<Sequence>,
    /// Of the prompts of all its runs.
    bytes: usize,
}

impl Session {
    pub(crate) fn new(address: Address<'_>, hash: u64) -> Self {
        Self {
            key: SessionKey::new(address),
            hash,
            line: Line::default(),
            open: None,
            lent: Rare::default(),
            frame: Frame::default(),
            turns: Turns::default(),
            families: Rare::default(),
            closing: false,
            reserved: 0,
            mark: None,
            bytes: 0,
        }
    }

    pub(crate) fn names(&self, address: Address<'_>) -> bool {
        self.key.names(address)
    }

    pub(crate) fn key(&self) -> &SessionKey {
        &self.key
    }

    pub(crate) fn tenant(&self) -> &str {
        self.key.tenant()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether it has nothing to keep: then it needs no entry.
    pub(crate) fn is_idle(&self) -> bool {
        self.runs() == 0 && self.turns.is_empty() && !self.closing
    }

    /// The turn that has the floor.
    pub(crate) fn floor(&self) -> Option<TurnId> {
        self.frame.top()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Runs that are not over.
    fn runs(&self) -> usize {
        self.line.len() + self.lent.len() + usize::from(self.open.is_some())
    }

    fn open_run_id(&self) -> Option<RunId> {
        self.open.as_ref().map(|open| open.run.name.run_id().clone())
    }

    fn unknown(run_id: &str) -> Error {
        Error::UnknownRun { run_id: run_id.into() }
    }

    fn busy(&self) -> Error {
        Error::SessionBusy {
            open_run_id: self.open_run_id(),
        }
    }

    fn opened_as(&self, run_id: &str) -> Option<&Open> {
        self.open.as_ref().filter(|open| open.run.id() == run_id)
    }

    fn find_lent(&self, run_id: &str) -> Option<Sequence> {
        let found = self.lent.iter().find(|(_, lent)| lent.entry.run.id() == run_id);
        found.map(|(sequence, _)| *sequence)
    }

    /// The turn, for its driver: from now on it cannot be taken back.
    fn driven(&mut self, id: TurnId) -> Result<&mut Turn, Error> {
        if let Some(open) = &mut self.open
            && open.start == Start::Fresh(id)
        {
            open.start = Start::Driven(id);
        }
        self.turns.get_mut(id).ok_or(Error::BadState { turn: id })
    }

    /// The same, if it has a strand that runs.
    fn live(&mut self, id: TurnId) -> Result<&mut Turn, Error> {
        let turn = self.driven(id)?;
        if turn.cut.is_some() {
            return Err(Error::Aborted { turn: id });
        }
        if turn.stand != Stand::Running || !turn.has_free_strand() || turn.held.is_some() {
            return Err(Error::BadState { turn: id });
        }
        Ok(turn)
    }

    /// Uncancelled runs ahead of one with this sequence.
    fn position(&self, sequence: Sequence) -> usize {
        let open = self
            .open
            .as_ref()
            .is_some_and(|open| open.cut.is_none() && open.run.sequence() < sequence);
        self.line.ahead(sequence) + usize::from(open)
    }

    fn open_place(&self) -> Option<Place> {
        let open = self.open.as_ref()?;
        if open.concluded {
            return Some(Place::Concluded);
        }
        let Some(turn) = self.frame.top().and_then(|turn| self.turns.get(turn)) else {
            return Some(Place::Held);
        };
        Some(match turn.stand {
            Stand::Running => Place::Running,
            Stand::Waiting(_) if turn.begun => Place::Woken,
            Stand::Waiting(_) => Place::Waiting,
            Stand::Parked => Place::Parked,
        })
    }

    fn bound_to(&mut self, target: Target) -> Option<&mut Bound> {
        match target {
            Target::Turn(turn) => Some(&mut self.turns.get_mut(turn)?.more().bound),
            Target::Run(run) => match &mut self.open {
                Some(open) if open.run.sequence() == run => Some(&mut open.bound),
                _ => self.line.get_mut(run).map(|entry| &mut entry.bound),
            },
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

    /// What steered something that is gone has its own turn, at its own sequence.
    fn unbind(&mut self, bound: impl Iterator<Item = Sequence>) {
        for steer in bound {
            self.line.unbind(steer);
        }
    }

    fn close_reservation(&mut self) {
        self.reserved -= 1;
        if self.reserved == 0 {
            self.mark = None;
        }
    }

    /// Takes an uncovered run out of the line.
    fn take(&mut self, sequence: Sequence) -> Option<Entry> {
        self.loosen(sequence);
        self.line.remove(sequence)
    }

    /// A run is over: nothing of it is counted or due any more.
    fn gone(&mut self, run: &mut Run, cx: &mut Cx<'_>) {
        for (_, armed) in run.alarms.drain(..) {
            cx.disarm(Some(armed));
        }
        self.bytes -= run.size;
        cx.ledger().leave(1, run.size);
    }

    fn due(&self, what: What) -> Due {
        Due {
            session: self.key.clone(),
            hash: self.hash,
            what,
        }
    }

    fn run_mut(&mut self, sequence: Sequence) -> Option<&mut Run> {
        match &mut self.open {
            Some(open) if open.run.sequence() == sequence => return Some(&mut open.run),
            _ => {}
        }
        if let Some(lent) = self.lent.get_mut(sequence) {
            return Some(&mut lent.entry.run);
        }
        if self.line.covered(sequence).is_some() {
            return self.line.covered_mut(sequence).map(|covered| &mut covered.run);
        }
        self.line.get_mut(sequence).map(|entry| &mut entry.run)
    }

    /// Arms a deadline of a run, in the place of one that it may have.
    fn arm_run(&mut self, sequence: Sequence, alarm: RunAlarm, when: f64, cx: &mut Cx<'_>) {
        self.disarm_run(sequence, alarm, cx);
        let armed = cx.arm(when, self.due(What::Run(sequence, alarm)));
        if let Some(run) = self.run_mut(sequence) {
            run.alarms.push((alarm, armed));
        }
    }

    fn disarm_run(&mut self, sequence: Sequence, alarm: RunAlarm, cx: &mut Cx<'_>) {
        let Some(run) = self.run_mut(sequence) else { return };
        if let Some(at) = run.alarms.iter().position(|(it, _)| *it == alarm) {
            cx.disarm(Some(run.alarms.swap_remove(at).1));
        }
    }

    /// Arms a deadline of a turn that has none of this kind.
    fn arm_turn(&mut self, id: TurnId, alarm: TurnAlarm, when: f64, cx: &mut Cx<'_>) {
        let armed = cx.arm(when, self.due(What::Turn(id, alarm)));
        if let Some(turn) = self.turns.get_mut(id) {
            turn.alarms.push((alarm, armed));
        }
    }
}
