//! The running turn: what folds into it, how it ends, what keeps it from ending.

use super::{CancelMode, Error, Gate, Grant, Hold, RunRef, Session, Stand};
use crate::outcome::{Conclusion, Partition};

/// What a finish leads to.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The session's next run, if it begins at once.
    pub(crate) started: Option<RunRef>,
    /// The permit that was released, if it had one, on its way to another session.
    pub(crate) grant: Option<Grant>,
}

impl Session {
    /// Takes the STEER runs that fold at this point (U-20).
    pub(crate) fn partition(&mut self, run_id: &str, limit: Option<usize>) -> Result<Partition, Error> {
        let open = self.begun(run_id, false)?;
        if open.stand != Stand::Running {
            return Err(Self::unknown(run_id));
        }
        if let Some(cancel) = &open.cancel {
            return Ok(Partition {
                fold: Vec::new(),
                cancel: Some(cancel.clone()),
            });
        }
        Ok(Partition {
            fold: self.fold(limit.unwrap_or(usize::MAX)),
            cancel: None,
        })
    }

    /// Fixes the outcome, together with the last partition, of at most `steers` runs (U-10). No permit is needed for it.
    pub(crate) fn conclude(&mut self, run_id: &str, steers: usize, gate: &Gate) -> Result<Conclusion, Error> {
        let open = self.begun(run_id, false)?;
        if steers > 0 && open.stand == Stand::Running && open.cancel.is_none() && open.bound.any_queued() {
            return Ok(Conclusion::Steered(self.fold(steers)));
        }
        open.concluded = true;
        let conclusion = match &open.cancel {
            Some(cancel) if cancel.mode == CancelMode::Abort => Conclusion::Cancelled(cancel.clone()),
            stop => Conclusion::Concluded(stop.clone()),
        };
        if let Stand::Woken(ticket) = open.stand {
            open.stand = Stand::Parked;
            let mut gate = gate.enter();
            gate.park();
            gate.abandon(self.key.tenant(), ticket);
        }
        Ok(conclusion)
    }

    /// Releases floor and permit and opens the next run: one step, in which the session is never seen idle.
    pub(crate) fn finish(&mut self, run_id: &str, gate: &Gate, now: f64) -> Result<Finished, Error> {
        let open = self.begun(run_id, true)?;
        let (bound, stand) = (open.bound.take(), open.stand);
        self.unbind(bound);
        self.open = None;
        let mut gate = gate.enter();
        let grant = if stand == Stand::Parked {
            gate.unpark();
            None
        } else {
            gate.release(self.key.tenant())
        };
        let started = if self.startable() {
            self.open_head(&mut gate, now)
        } else {
            None
        };
        Ok(Finished { started, grant })
    }

    /// Adds a reason why the open run is not over.
    pub(crate) fn hold(&mut self, run_id: &str, label: &str, now: f64) -> Result<u64, Error> {
        let open = self.open.as_mut().filter(|open| open.run.id.as_str() == run_id);
        let holds = open.ok_or_else(|| Self::unknown(run_id))?.holds.get_or_insert_default();
        holds.last += 1;
        holds.list.push(Hold {
            number: holds.last,
            label: label.into(),
            since: now,
        });
        Ok(holds.last)
    }

    /// Takes a reason away, if it is still there; says how many are left.
    pub(crate) fn release_hold(&mut self, run_id: &str, number: u64) -> usize {
        let open = self.open.as_mut().filter(|open| open.run.id.as_str() == run_id);
        let Some(holds) = open.and_then(|open| open.holds.as_mut()) else {
            return 0;
        };
        holds.list.retain(|hold| hold.number != number);
        holds.list.len()
    }

    fn fold(&mut self, limit: usize) -> Vec<RunRef> {
        let mut fold = Vec::new();
        while fold.len() < limit {
            let next = self.open.as_mut().and_then(|open| open.bound.pop());
            let Some(entry) = next.and_then(|steer| self.line.remove(steer)) else {
                break;
            };
            fold.push(self.named(&entry.run));
        }
        fold
    }
}
