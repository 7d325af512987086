//! Cancels: what they reach, and how what has begun is cut.

use std::sync::Arc;

use super::{Cancel, Cut, Cx, Error, Kind, Place, RunAlarm, Sequence, Session, TurnAlarm, TurnId};
use crate::effect::{Act, Decision, Fact, StopWhy, Why};
use crate::outcome::Cancelled;
use crate::request::CancelScope;
use crate::run::{CancelMode, Covered, RunRef};
use crate::turn::{End, Turn};

/// Which runs a cancel is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) bound: Sequence,
    /// The line alone, without runs of kind bootstrap.
    pub(crate) line_only: bool,
}

impl Session {
    pub(crate) fn cancel(
        &mut self,
        scope: CancelScope<'_>,
        cancel: &Arc<Cancel>,
        cx: &mut Cx<'_>,
    ) -> Result<Cancelled, Error> {
        let last = cx.ledger().last();
        let (up_to, line_only) = match scope {
            CancelScope::Session => (None, false),
            CancelScope::UpTo(sequence) => (Some(sequence), false),
            CancelScope::Clear(up_to) => (up_to, true),
            CancelScope::Run(run_id) => return Ok(self.cancel_run(run_id, cancel, cx)),
            CancelScope::Subtree(turn) => return self.cancel_subtree(turn, cancel, cx),
        };
        let reach = Reach {
            bound: up_to.unwrap_or(last).min(last),
            line_only,
        };
        Ok(self.cancel_reach(reach, cancel, cx))
    }

    /// Cancels what was accepted so far within reach.
    pub(crate) fn cancel_reach(&mut self, reach: Reach, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) -> Cancelled {
        let mut out = Cancelled::default();
        for run in self.runs_in(reach) {
            self.cancel_one(run, cancel, &mut out, cx);
        }
        if !reach.line_only {
            let ghosts = self.ghosts(|turn| turn.name.run().sequence() <= reach.bound);
            self.cut_ghosts(ghosts, cancel, &mut out, cx);
        }
        out
    }

    /// What is in reach. While reservations are open the mark says how far.
    fn runs_in(&mut self, reach: Reach) -> Vec<Sequence> {
        if self.reserved > 0 {
            self.mark = self.mark.max(Some(reach.bound));
        }
        let mut runs = self.line.up_to(reach.bound);
        runs.extend(self.lent.iter().map(|(run, _)| *run).filter(|run| *run <= reach.bound));
        let open = self.open.as_ref().filter(|_| !reach.line_only);
        runs.extend(open.map(|open| open.run.sequence()).filter(|run| *run <= reach.bound));
        runs.sort_unstable();
        if reach.line_only {
            runs.retain(|run| self.kind_of(*run) != Some(Kind::Bootstrap));
        }
        runs
    }

    fn kind_of(&self, run: Sequence) -> Option<Kind> {
        if let Some(open) = self.open.as_ref().filter(|open| open.run.sequence() == run) {
            return Some(open.run.kind());
        }
        let covered = self.line.covered(run).map(|covered| covered.run.kind());
        covered.or_else(|| self.line.get(run).map(|entry| entry.run.kind()))
    }

    fn cancel_run(&mut self, run_id: &str, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) -> Cancelled {
        let mut out = Cancelled::default();
        let open = self.opened_as(run_id).map(|open| open.run.sequence());
        let run = open
            .or_else(|| self.line.find(run_id))
            .or_else(|| self.find_lent(run_id));
        if let Some(run) = run {
            self.cancel_one(run, cancel, &mut out, cx);
        }
        let ghosts = self.ghosts(|turn| turn.name.run().run_id().as_str() == run_id);
        self.cut_ghosts(ghosts, cancel, &mut out, cx);
        out
    }

    fn cancel_subtree(&mut self, id: TurnId, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) -> Result<Cancelled, Error> {
        let mut out = Cancelled::default();
        let turn = self.turns.get(id).ok_or(Error::TurnNotFound { turn: id })?;
        if turn.is_floor() {
            let run = turn.name.run().sequence();
            self.cancel_one(run, cancel, &mut out, cx);
        } else {
            out.turns.push(turn.name.clone());
            self.cut_turn(id, &Cut::of(cancel), cx);
        }
        Ok(out)
    }

    /// What a REPLACE covers: everything before it but bootstraps, not the children of ended runs.
    pub(super) fn replace(&mut self, by: &RunRef, cx: &mut Cx<'_>) -> Vec<Covered> {
        let cancel = Arc::new(Cancel::replaced_by(by.run_id()));
        let mut out = Cancelled::default();
        let reach = Reach {
            bound: Sequence::new(by.sequence().get() - 1),
            line_only: false,
        };
        for run in self.runs_in(reach) {
            let open = self.open.as_ref().filter(|open| open.run.sequence() == run);
            let is_past = open.is_some_and(|open| open.concluded || open.is_hard()) || self.line.covered(run).is_some();
            if !is_past && self.kind_of(run) != Some(Kind::Bootstrap) {
                self.cancel_one(run, &cancel, &mut out, cx);
            }
        }
        out.covered
    }

    pub(super) fn cancel_one(&mut self, run: Sequence, cancel: &Arc<Cancel>, out: &mut Cancelled, cx: &mut Cx<'_>) {
        if let Some(lent) = self.lent.get_mut(run) {
            // Its fold is decided and being written: it is taken or given back first.
            lent.cancel.get_or_insert_with(|| cancel.as_abort());
            out.lent.push(lent.entry.run.name.clone());
            return;
        }
        if let Some(open) = self.open.as_ref().filter(|open| open.run.sequence() == run) {
            if open.concluded {
                out.finished.push(open.run.name.clone());
                let rest = self
                    .turns
                    .ids(|turn| turn.name.run().sequence() == run && !turn.is_floor());
                for turn in rest {
                    self.cut_turn(turn, &Cut::of(cancel), cx);
                }
                return;
            }
            out.covered.extend(self.cover_open(cancel, cx));
        } else {
            out.covered.extend(self.cover_in_line(run, cancel, cx));
        }
    }

    /// Covers the open run. An abort comes over a stop; else the first stays.
    pub(super) fn cover_open(&mut self, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) -> Option<Covered> {
        let was = self.open_place()?;
        let open = self.open.as_mut()?;
        let (name, run) = (open.run.name.clone(), open.run.sequence());
        let is_stop = cancel.mode == CancelMode::Stop;
        if open.is_hard() || (open.cut.is_some() && is_stop) {
            let cancel = open.cut.as_ref().and_then(Cut::cancel).cloned();
            return Some(Covered { run: name, was, cancel });
        }
        cx.fact(Fact::Requested {
            run: name.clone(),
            turn: None,
            cut: Cut::of(cancel),
        });
        let covered = Covered {
            run: name,
            was,
            cancel: Some(Arc::clone(cancel)),
        };
        if !open.begun {
            self.take_out(run, Why::Cancelled(Arc::clone(cancel)), cx);
        } else if is_stop {
            open.cut = Some(Cut::of(cancel));
            let grace = cx.settings().get().stop_grace;
            self.arm_run(run, RunAlarm::StopGrace, cx.now + grace, cx);
            if let Some(turn) = self.frame.top() {
                self.stop_turn(turn, cancel, cx);
            }
        } else {
            self.cut_open(&Cut::of(cancel), cx);
        }
        Some(covered)
    }

    fn cover_in_line(&mut self, run: Sequence, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) -> Option<Covered> {
        if let Some(covered) = self.line.covered(run) {
            return Some(Covered {
                run: covered.run.name.clone(),
                was: Place::Reserved,
                cancel: Some(Arc::clone(&covered.cancel)),
            });
        }
        let entry = self.line.get(run)?;
        let (name, queued) = (entry.run.name.clone(), entry.queued);
        cx.fact(Fact::Requested {
            run: name.clone(),
            turn: None,
            cut: Cut::of(cancel),
        });
        if queued {
            self.take_out(run, Why::Cancelled(Arc::clone(cancel)), cx);
        } else {
            self.loosen(run);
            self.line.cover(run, Arc::clone(cancel));
        }
        Some(Covered {
            run: name,
            was: if queued { Place::Queued } else { Place::Reserved },
            cancel: Some(Arc::clone(cancel)),
        })
    }

    /// Cuts the open run, which has begun: guards go, and all its turns that the cut does not spare.
    pub(super) fn cut_open(&mut self, cut: &Cut, cx: &mut Cx<'_>) {
        let Some(open) = &mut self.open else { return };
        let run = open.run.sequence();
        open.cut = Some(cut.clone());
        for guard in open.guards.take() {
            cx.disarm(guard.deadline);
        }
        self.disarm_run(run, RunAlarm::StopGrace, cx);
        self.disarm_run(run, RunAlarm::Run, cx);
        let spares = cut.spares_continue();
        let reached = |turn: &Turn| turn.name.run().sequence() == run && (turn.holds || !spares);
        let turns = self.turns.ids(reached);
        self.cut_all(turns, cut, cx);
    }

    /// Cuts one child and what is below it, or asks it alone to stop.
    pub(super) fn cut_turn(&mut self, id: TurnId, cut: &Cut, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get(id).filter(|turn| turn.cut.is_none()) else {
            return;
        };
        if let Cut::Stop(cancel) = cut {
            if turn.stop.is_some() {
                return;
            }
            let begun = turn.begun;
            self.request(id, cut, cx);
            if begun {
                self.stop_turn(id, cancel, cx);
                self.arm_stop_grace(id, cx);
            } else {
                self.end(id, &End::Cut(Cut::Abort(Arc::clone(cancel))), cx);
            }
            return;
        }
        self.request(id, cut, cx);
        let (mut reached, mut todo) = (Vec::new(), vec![id]);
        while let Some(next) = todo.pop() {
            reached.push(next);
            let more = self.turns.get(next).and_then(|turn| turn.more.as_ref());
            let children = more.into_iter().flat_map(|more| &more.children);
            todo.extend(children.filter(|child| {
                let child = self.turns.get(**child);
                child.is_some_and(|child| !cut.spares_continue() || !child.goes_on_alone())
            }));
        }
        self.cut_all(reached, cut, cx);
    }

    fn request(&self, id: TurnId, cut: &Cut, cx: &mut Cx<'_>) {
        if let Some(turn) = self.turns.get(id) {
            cx.fact(Fact::Requested {
                run: turn.name.run().clone(),
                turn: Some(turn.name.clone()),
                cut: cut.clone(),
            });
        }
    }

    fn stop_turn(&mut self, id: TurnId, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        turn.stop = Some(Arc::clone(cancel));
        if turn.begun {
            cx.act(Act::Stop(turn.name.clone(), StopWhy::Stop(Arc::clone(cancel))));
        }
        if turn.held.is_some() {
            self.unhold(id, false, cx);
        }
    }

    /// One step: admission is closed everywhere first, then they are cut, innermost first.
    fn cut_all(&mut self, mut turns: Vec<TurnId>, cut: &Cut, cx: &mut Cx<'_>) {
        turns.retain(|id| self.turns.get(*id).is_some_and(|turn| turn.cut.is_none()));
        turns.sort_by_key(|id| {
            let depth = self.turns.get(*id).map(|turn| turn.name.depth());
            (std::cmp::Reverse(depth), *id)
        });
        for id in &turns {
            if let Some(turn) = self.turns.get_mut(*id) {
                turn.cut = Some(cut.clone());
                turn.held = None;
            }
        }
        for id in &turns {
            self.decide_all(*id, &Decision::Cancelled, cx);
        }
        let grace = cx.settings().get().cancel_grace;
        for id in turns {
            let Some(turn) = self.turns.get_mut(id) else { continue };
            turn.disarm(TurnAlarm::StopGrace, cx);
            turn.disarm(TurnAlarm::Child, cx);
            let (begun, closing, name) = (turn.begun, turn.closing, turn.name.clone());
            self.orphan_inbox(id, cx);
            if !begun {
                self.end(id, &End::Cut(cut.clone()), cx);
            } else if !closing {
                cx.act(Act::Abort(name, cut.clone()));
                self.arm_turn(id, TurnAlarm::CancelGrace, cx.now + grace, cx);
            }
        }
    }

    /// Children of ended runs.
    fn ghosts(&self, is_meant: impl Fn(&Turn) -> bool) -> Vec<TurnId> {
        let open = self.open.as_ref().map(|open| open.run.sequence());
        self.turns
            .ids(|turn| !turn.is_floor() && Some(turn.name.run().sequence()) != open && is_meant(turn))
    }

    fn cut_ghosts(&mut self, ghosts: Vec<TurnId>, cancel: &Arc<Cancel>, out: &mut Cancelled, cx: &mut Cx<'_>) {
        for id in ghosts {
            if let Some(turn) = self.turns.get(id).filter(|turn| turn.cut.is_none()) {
                out.turns.push(turn.name.clone());
                self.cut_turn(id, &Cut::of(cancel), cx);
            }
        }
    }

    /// Takes nothing in any more, and cancels all that is there.
    pub(crate) fn close(&mut self, force: bool, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) -> Result<Cancelled, Error> {
        if self.closing {
            return Ok(Cancelled::default());
        }
        if !force && (self.runs() > 0 || !self.turns.is_empty()) {
            return Err(self.busy());
        }
        self.closing = true;
        Ok(self.cancel_everything(cancel, cx))
    }

    pub(super) fn cancel_everything(&mut self, cancel: &Arc<Cancel>, cx: &mut Cx<'_>) -> Cancelled {
        let reach = Reach {
            bound: cx.ledger().last(),
            line_only: false,
        };
        let out = self.cancel_reach(reach, &cancel.as_abort(), cx);
        let errands = cx.gate().enter().cut_errands(Some(&self.key));
        cx.errands_cut(errands);
        out
    }

    /// After the erase: the session is as if it had never been.
    pub(crate) fn forget(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        let has_work = self.runs() > 0 || !self.turns.is_empty();
        if has_work || cx.gate().enter().has_errands(&self.key) {
            return Err(self.busy());
        }
        self.closing = false;
        Ok(())
    }
}
