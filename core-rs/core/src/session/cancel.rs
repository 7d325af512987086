//! Cancels and expiry: what they reach, and what starts because of it.

use std::sync::Arc;

use super::{Cancel, Covered, Gate, Kind, Place, RunRef, Sequence, Session};
use crate::outcome::CancelResult;

/// What a cancel of a session covers: everything accepted up to a sequence, with exceptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) bound: Sequence,
    pub(crate) spare_open: bool,
    pub(crate) spare_bootstrap: bool,
}

impl Reach {
    fn spares(&self, kind: Kind) -> bool {
        self.spare_bootstrap && kind == Kind::Bootstrap
    }
}

impl Session {
    /// Covers what is in reach. While reservations are open the mark says how far.
    pub(crate) fn cover(&mut self, reach: &Reach, cancel: &Arc<Cancel>, gate: &Gate, now: f64) -> CancelResult {
        let mut result = CancelResult::default();
        if self.reserved > 0 {
            self.mark = self.mark.max(Some(reach.bound));
        }
        let open = self
            .open
            .as_ref()
            .filter(|open| open.run.sequence <= reach.bound && !reach.spares(open.run.kind));
        if open.is_some() && !reach.spare_open {
            self.cover_open(cancel, gate, &mut result);
        }
        for sequence in self.line.up_to(reach.bound) {
            let spared = self
                .line
                .get(sequence)
                .is_some_and(|entry| reach.spares(entry.run.kind))
                || self
                    .line
                    .covered(sequence)
                    .is_some_and(|covered| reach.spares(covered.run.kind));
            if !spared {
                result.covered.extend(self.cover_in_line(sequence, cancel));
            }
        }
        // A reservation that was covered earlier may stand behind a run that overtook it.
        result.covered.sort_by_key(|covered| covered.run.sequence());
        result.starts.extend(self.advance(gate, now));
        result
    }

    /// Covers one run, wherever it stands.
    pub(crate) fn cancel_run(&mut self, run_id: &str, cancel: &Arc<Cancel>, gate: &Gate, now: f64) -> CancelResult {
        let mut result = CancelResult::default();
        if self.open.as_ref().is_some_and(|open| open.run.id.as_str() == run_id) {
            self.cover_open(cancel, gate, &mut result);
        } else if let Some(sequence) = self.line.find(run_id) {
            result.covered.extend(self.cover_in_line(sequence, cancel));
        }
        result.starts.extend(self.advance(gate, now));
        result
    }

    /// Takes out a run that has not started and is no reservation; says whether there was one.
    pub(crate) fn expire(&mut self, run_id: &str, gate: &Gate, now: f64) -> (bool, Option<RunRef>) {
        if self.open.as_ref().is_some_and(|open| open.run.id.as_str() == run_id) {
            let taken = self.leave_gate(gate).is_some();
            return (taken, self.advance(gate, now));
        }
        let sequence = self.line.find(run_id);
        let queued = sequence.filter(|sequence| self.line.get(*sequence).is_some_and(|entry| entry.queued));
        let taken = queued.is_some_and(|sequence| self.take(sequence).is_some());
        (taken, self.advance(gate, now))
    }

    fn cover_open(&mut self, cancel: &Arc<Cancel>, gate: &Gate, result: &mut CancelResult) {
        if let Some(run) = self.leave_gate(gate) {
            let cancel = Arc::clone(cancel);
            result.covered.push(Covered {
                run: self.named(&run),
                was: Place::Waiting,
                cancel,
            });
            return;
        }
        let Some(open) = &mut self.open else { return };
        let (run, was) = (RunRef::new(&self.key, &open.run), open.place());
        if open.concluded {
            result.concluded.push(run);
            return;
        }
        let recorded = open.cancel.get_or_insert_with(|| Arc::clone(cancel));
        Cancel::escalate(recorded, cancel);
        result.covered.push(Covered {
            run,
            was,
            cancel: Arc::clone(recorded),
        });
    }

    fn cover_in_line(&mut self, sequence: Sequence, cancel: &Arc<Cancel>) -> Option<Covered> {
        if let Some(covered) = self.line.covered_mut(sequence) {
            Cancel::escalate(&mut covered.cancel, cancel);
            let run = RunRef::new(&self.key, &covered.run);
            return Some(Covered {
                run,
                was: Place::Reserved,
                cancel: Arc::clone(&covered.cancel),
            });
        }
        let queued = self.line.get(sequence)?.queued;
        let run = self.named(&self.line.get(sequence)?.run);
        if queued {
            self.take(sequence);
        } else {
            self.loosen(sequence);
            self.line.cover(sequence, Arc::clone(cancel));
        }
        let was = if queued { Place::Queued } else { Place::Reserved };
        Some(Covered {
            run,
            was,
            cancel: Arc::clone(cancel),
        })
    }
}
