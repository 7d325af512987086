//! Into the session: accept and restore stamp a reservation, dispatch and abandon close it.

use std::sync::Arc;

use super::{Cancel, Entry, Error, Gate, Kind, Place, Reach, Run, RunRef, Sequence, Session};
use crate::error::{Scope, Unit};
use crate::ledger::Ledger;
use crate::line::CoveredReservation;
use crate::outcome::{Accepted, Dispatch, Dispatched};
use crate::request::{Restore, RunRequest};
use crate::run::Delivery;
use crate::steer::Bound;

/// An accept, with what it is measured against.
pub(crate) struct Submit<'a> {
    pub(crate) request: RunRequest<'a>,
    pub(crate) now: f64,
    pub(crate) queue_limit: usize,
    pub(crate) byte_limit: usize,
    pub(crate) ledger: &'a Ledger,
    pub(crate) gate: &'a Gate,
}

impl Session {
    /// Checks, then stamps; nothing has changed before the last check is passed (U-9).
    pub(crate) fn accept(&mut self, run_id: &str, submit: Submit<'_>) -> Result<Accepted, Error> {
        let Submit {
            request,
            now,
            queue_limit,
            byte_limit,
            ledger,
            gate,
        } = submit;
        self.refuse_known(run_id)?;
        if request.cancelled.is_none() {
            self.check_preconditions(&request)?;
            let full = |unit, limit| Error::QueueFull {
                scope: Scope::Session,
                unit,
                limit,
            };
            if self.line.len() >= queue_limit {
                return Err(full(Unit::Runs, queue_limit));
            }
            if self.line.bytes().saturating_add(request.bytes) > byte_limit {
                return Err(full(Unit::Bytes, byte_limit));
            }
        }
        let sequence = ledger.admit(request.cancelled.is_none(), request.bytes)?;
        let run = Run {
            id: run_id.into(),
            sequence,
            kind: request.kind,
            bytes: request.bytes,
            since: now,
        };
        if let Some(cancel) = request.cancelled {
            let position = self.position(sequence);
            self.reserve_covered(run, cancel);
            return Ok(Accepted {
                sequence,
                position,
                steers: None,
                replaced: Vec::new(),
                starts: Vec::new(),
            });
        }
        let (mut replaced, mut starts) = (Vec::new(), Vec::new());
        if request.delivery == Delivery::Replace && self.runs() > 0 {
            let reach = Reach {
                bound: Sequence::new(sequence.get() - 1),
                spare_open: false,
                spare_bootstrap: true,
            };
            let cancel = Arc::new(Cancel::replaced_by(&run.id));
            let outcome = self.cover(&reach, &cancel, gate, now);
            (replaced, starts) = (outcome.covered, outcome.starts);
        }
        let position = self.position(sequence);
        let steers = if request.delivery == Delivery::Steer {
            self.target(request.kind)
        } else {
            None
        };
        self.reserve(run, steers);
        Ok(Accepted {
            sequence,
            position,
            steers: self.target_id(steers),
            replaced,
            starts,
        })
    }

    /// Puts back a reservation that an earlier process stamped, past all bounds (U-16).
    pub(crate) fn restore(&mut self, run_id: &str, restore: Restore<'_>, now: f64) -> Result<(), Error> {
        let sequence = restore.sequence;
        self.refuse_known(run_id)?;
        let open = self.open.as_ref().is_some_and(|open| open.run.sequence == sequence);
        if open || self.line.get(sequence).is_some() || self.line.covered(sequence).is_some() {
            return Err(Error::SequenceRefused {
                sequence: sequence.get(),
            });
        }
        let run = Run {
            id: run_id.into(),
            sequence,
            kind: restore.kind,
            bytes: restore.bytes,
            since: now,
        };
        if let Some(cancel) = restore.cancelled {
            self.reserve_covered(run, cancel);
            return Ok(());
        }
        let steers = restore.steers.filter(|_| restore.kind == Kind::Prompt);
        let steers = steers.and_then(|target| self.restored_target(target, sequence));
        self.reserve(run, steers);
        Ok(())
    }

    /// Closes a reservation by deciding what becomes of its run: cancel beats busy.
    pub(crate) fn dispatch(&mut self, run_id: &str, gate: &Gate, now: f64) -> Result<Dispatched, Error> {
        let sequence = self.line.find(run_id).ok_or_else(|| Self::unknown(run_id))?;
        let Some(entry) = self.line.get_mut(sequence) else {
            let covered = self
                .line
                .remove_covered(sequence)
                .ok_or_else(|| Self::unknown(run_id))?;
            self.close_reservation();
            let status = Dispatch::Cancelled(covered.cancel);
            return Ok(Dispatched {
                status,
                position: 0,
                steers: None,
                starts: Vec::new(),
            });
        };
        if entry.queued {
            return Err(Self::unknown(run_id));
        }
        entry.queued = true;
        entry.run.since = now;
        let steers = entry.steers;
        if let Some(bound) = steers.and_then(|target| self.bound_to(target)) {
            bound.dispatched(sequence);
        }
        self.close_reservation();
        let starts: Vec<_> = self.advance(gate, now).into_iter().collect();
        let status = match &self.open {
            Some(open) if open.run.sequence == sequence && open.place() == Place::Waiting => Dispatch::Waiting,
            Some(open) if open.run.sequence == sequence => Dispatch::Started,
            _ => Dispatch::Queued,
        };
        let queued = matches!(status, Dispatch::Queued);
        let position = if queued { self.position(sequence) } else { 0 };
        Ok(Dispatched {
            status,
            position,
            steers: self.target_id(steers),
            starts,
        })
    }

    /// Closes a reservation without a trace.
    pub(crate) fn abandon(&mut self, run_id: &str, gate: &Gate, now: f64) -> Result<Option<RunRef>, Error> {
        let sequence = self.line.find(run_id).ok_or_else(|| Self::unknown(run_id))?;
        if self.line.get(sequence).is_some_and(|entry| entry.queued) {
            return Err(Self::unknown(run_id));
        }
        if self.line.remove_covered(sequence).is_none() {
            self.take(sequence);
        }
        self.close_reservation();
        Ok(self.advance(gate, now))
    }

    fn refuse_known(&self, run_id: &str) -> Result<(), Error> {
        let open = self.open.as_ref().is_some_and(|open| open.run.id.as_str() == run_id);
        if open || self.line.find(run_id).is_some() {
            return Err(Error::RunExists { run_id: run_id.into() });
        }
        Ok(())
    }

    fn check_preconditions(&self, request: &RunRequest<'_>) -> Result<(), Error> {
        let open = self.open.as_ref().map(|open| open.run.id.as_str());
        if request
            .expected_open_run_id
            .is_some_and(|expected| open != Some(expected))
        {
            return Err(Error::OpenRunMismatch {
                open_run_id: self.open_run_id(),
            });
        }
        // A run that a cancel covers is not over before its terminal.
        let idle = self.runs() == 0;
        if !idle && (request.require_idle || request.delivery == Delivery::Reject) {
            return Err(Error::SessionBusy {
                open_run_id: self.open_run_id(),
            });
        }
        Ok(())
    }

    /// The run that a STEER accepted now binds to.
    fn target(&self, kind: Kind) -> Option<Sequence> {
        if kind != Kind::Prompt {
            return None;
        }
        match &self.open {
            Some(open) if open.is_target() => Some(open.run.sequence),
            _ => self.line.first_target().map(|entry| entry.run.sequence),
        }
    }

    /// The run that a stored STEER was bound to, if it still may be.
    fn restored_target(&self, target: &str, steer: Sequence) -> Option<Sequence> {
        match &self.open {
            Some(open) if open.run.id.as_str() == target => open.is_target().then_some(open.run.sequence),
            _ => {
                let entry = self.line.get(self.line.find(target)?)?;
                let may = entry.is_target() && entry.run.sequence < steer;
                may.then_some(entry.run.sequence)
            }
        }
    }

    fn reserve(&mut self, run: Run, steers: Option<Sequence>) {
        if let Some(bound) = steers.and_then(|target| self.bound_to(target)) {
            bound.insert(run.sequence);
        }
        self.reserved += 1;
        self.line.insert(Entry {
            run,
            queued: false,
            steers,
            bound: Bound::default(),
        });
    }

    fn reserve_covered(&mut self, run: Run, cancel: Arc<Cancel>) {
        self.reserved += 1;
        self.line.insert_covered(CoveredReservation { run, cancel });
    }
}
