//! The running turn: what folds into it, how it ends, what keeps it from ending.

use super::{CancelMode, Error, Gate, Grant, Hold, RunRef, Session};
use crate::outcome::{Conclusion, Partition};

/// What a finish leads to.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The session's next run, if it begins at once.
    pub(crate) started: Option<RunRef>,
    /// The permit that was released, on its way to another session.
    pub(crate) grant: Option<Grant>,
}

impl Session {
    /// Takes the STEER runs that fold at this point (U-20).
    pub(crate) fn partition(&mut self, run_id: &str, limit: Option<usize>) -> Result<Partition, Error> {
        let open = self.running(run_id, false)?;
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

    /// Fixes the outcome, together with the last partition (U-10).
    pub(crate) fn conclude(&mut self, run_id: &str, answer: bool, steer: bool) -> Result<Conclusion, Error> {
        let open = self.running(run_id, false)?;
        if answer && steer && open.cancel.is_none() && open.bound.any_queued() {
            return Ok(Conclusion::Steered(self.fold(usize::MAX)));
        }
        open.concluded = true;
        Ok(match &open.cancel {
            Some(cancel) if cancel.mode == CancelMode::Abort => Conclusion::Cancelled(cancel.clone()),
            stop => Conclusion::Concluded(stop.clone()),
        })
    }

    /// Releases floor and permit and opens the next run: one step, in which the session is never seen idle.
    pub(crate) fn finish(&mut self, run_id: &str, gate: &Gate, now: f64) -> Result<Finished, Error> {
        let bound = self.running(run_id, true)?.bound.take();
        self.unbind(bound);
        self.open = None;
        let mut gate = gate.enter();
        let grant = gate.release(self.key.tenant());
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
