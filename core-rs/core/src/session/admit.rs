//! Into the session: accept stamps a reservation, dispatch and abandon close it.

use std::sync::Arc;

use super::{Bound, Cancel, Cx, Entry, Error, Kind, Place, Run, RunAlarm, Sequence, Session, Start, Target, TurnId};
use crate::effect::{Fact, Why};
use crate::line::CoveredReservation;
use crate::outcome::{Accepted, Dispatched, Steers};
use crate::request::RunRequest;
use crate::run::{Delivery, RunRef};
use crate::turn::Held;

impl Session {
    /// Checks, then stamps; nothing has changed before the last check is passed (U-9).
    pub(crate) fn accept(&mut self, run_id: &str, request: RunRequest<'_>, cx: &mut Cx<'_>) -> Result<Accepted, Error> {
        self.refuse_known(run_id)?;
        if self.closing {
            return Err(Error::SessionDeleting);
        }
        if !cx.ledger().is_serving() {
            return Err(Error::Draining);
        }
        let bounded = request.cancelled.is_none();
        if bounded {
            self.check_preconditions(&request)?;
            cx.ledger().check_session(self.line.len(), self.bytes, request.size)?;
        }
        let sequence = cx.ledger().admit(request.size, bounded)?;
        self.bytes += request.size;
        let run = Run {
            name: RunRef::new(&self.key, run_id, sequence, request.kind),
            since: cx.now,
            size: request.size,
            start_at: request.start_timeout.map(|timeout| cx.now + timeout),
            timeout: request.run_timeout,
            alarms: Vec::new(),
            disconnect: None,
        };
        let mut accepted = Accepted {
            sequence,
            position: 0,
            steers: None,
            replaced: Vec::new(),
            starts: None,
        };
        if let Some(cancel) = request.cancelled {
            accepted.position = self.position(sequence);
            self.reserve_covered(run, cancel);
            return Ok(accepted);
        }
        if request.delivery == Delivery::Replace && self.runs() > 0 {
            accepted.replaced = self.replace(&run.name, cx);
        }
        accepted.position = self.position(sequence);
        let may_start = request.may_start && request.kind == Kind::Prompt && self.runs() == 0;
        if may_start && cx.gate().enter().take(self.key.tenant(), cx.now) {
            accepted.starts = self.start(run, cx);
            return Ok(accepted);
        }
        let steers = match request.steer_turn {
            _ if request.delivery != Delivery::Steer || request.kind != Kind::Prompt => None,
            Some(turn) => Some(Target::Turn(turn)),
            None => self.target(),
        };
        accepted.steers = self.named(steers);
        self.reserve(run, steers);
        Ok(accepted)
    }

    /// Closes a reservation by deciding what becomes of its run: cancel beats busy.
    pub(crate) fn dispatch(&mut self, run_id: &str, cx: &mut Cx<'_>) -> Result<Dispatched, Error> {
        let sequence = self.line.find(run_id).ok_or_else(|| Self::unknown(run_id))?;
        let Some(entry) = self.line.get_mut(sequence) else {
            if let Some((run, Some(cancel))) = self.take_reservation(sequence, cx) {
                cx.fact(Fact::Closed(run, Why::Cancelled(cancel)));
            }
            return Ok(Dispatched {
                place: None,
                position: 0,
                steers: None,
            });
        };
        if entry.queued {
            return Err(Self::unknown(run_id));
        }
        entry.queued = true;
        entry.run.since = cx.now;
        let (steers, start_at) = (entry.steers, entry.run.start_at);
        if !entry.run.alarms.is_empty() {
            self.disarm_run(sequence, RunAlarm::Reservation, cx);
        }
        self.close_reservation();
        if let Some(when) = start_at {
            self.arm_run(sequence, RunAlarm::Start, when, cx);
        }
        if let Some(target) = steers {
            if let Some(bound) = self.bound_to(target) {
                bound.dispatched(sequence);
            }
            self.wake_for_steer(target, cx);
        }
        self.settle(cx);
        let place = match &self.open {
            Some(open) if open.run.sequence() == sequence => self.open_place(),
            _ => Some(Place::Queued),
        };
        let queued = place == Some(Place::Queued);
        Ok(Dispatched {
            place,
            position: if queued { self.position(sequence) } else { 0 },
            steers: self.named(steers),
        })
    }

    /// Closes a reservation without a trace, or takes back what the accept has started.
    pub(crate) fn abandon(&mut self, run_id: &str, cx: &mut Cx<'_>) -> Result<(), Error> {
        if let Some(open) = self.opened_as(run_id).filter(|open| !open.concluded) {
            return match open.start {
                Start::Dispatched => Err(Self::unknown(run_id)),
                Start::Driven(turn) => Err(Error::BadState { turn }),
                Start::Fresh(_) => {
                    self.discard_open(cx);
                    Ok(())
                }
            };
        }
        let sequence = self.line.find(run_id).ok_or_else(|| Self::unknown(run_id))?;
        if self.line.get(sequence).is_some_and(|entry| entry.queued) {
            return Err(Self::unknown(run_id));
        }
        self.take_reservation(sequence, cx);
        Ok(())
    }

    /// Takes a reservation out; the cancel that covers it, if one does.
    pub(super) fn take_reservation(
        &mut self,
        sequence: Sequence,
        cx: &mut Cx<'_>,
    ) -> Option<(RunRef, Option<Arc<Cancel>>)> {
        let (mut run, cancel) = match self.line.remove_covered(sequence) {
            Some(covered) => (covered.run, Some(covered.cancel)),
            None => (self.take(sequence)?.run, None),
        };
        self.close_reservation();
        self.gone(&mut run, cx);
        Some((run.name, cancel))
    }

    pub(super) fn refuse_known(&self, run_id: &str) -> Result<(), Error> {
        let known = self.opened_as(run_id).is_some() || self.line.find(run_id).is_some();
        if known || self.find_lent(run_id).is_some() {
            return Err(Error::RunExists { run_id: run_id.into() });
        }
        Ok(())
    }

    fn check_preconditions(&self, request: &RunRequest<'_>) -> Result<(), Error> {
        let open = self.open.as_ref().map(|open| open.run.id());
        if request
            .expected_open_run_id
            .is_some_and(|expected| open != Some(expected))
        {
            return Err(Error::OpenRunMismatch {
                open_run_id: self.open_run_id(),
            });
        }
        if self.runs() > 0 && (request.require_idle || request.delivery == Delivery::Reject) {
            return Err(self.busy());
        }
        if let Some(turn) = request.steer_turn {
            let child = self.turns.get(turn).filter(|child| !child.is_floor());
            child
                .filter(|child| child.cut.is_none())
                .ok_or(Error::TurnNotFound { turn })?;
        }
        Ok(())
    }

    /// The run that a STEER accepted now binds to.
    fn target(&self) -> Option<Target> {
        let sequence = match &self.open {
            Some(open) if open.is_target() => open.run.sequence(),
            _ => self.line.first_target()?.run.sequence(),
        };
        Some(Target::Run(sequence))
    }

    pub(super) fn named(&self, target: Option<Target>) -> Option<Steers> {
        match target? {
            Target::Turn(turn) => Some(Steers::Turn(turn)),
            Target::Run(run) => {
                let name = match &self.open {
                    Some(open) if open.run.sequence() == run => &open.run.name,
                    _ => &self.line.get(run)?.run.name,
                };
                Some(Steers::Run(name.run_id().clone()))
            }
        }
    }

    fn reserve(&mut self, run: Run, steers: Option<Target>) {
        if let Some(bound) = steers.and_then(|target| self.bound_to(target)) {
            bound.insert(run.sequence());
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

    /// A turn that has answered and waits for its children takes a STEER now.
    fn wake_for_steer(&mut self, target: Target, cx: &mut Cx<'_>) {
        let turn: Option<TurnId> = match target {
            Target::Turn(turn) => Some(turn),
            Target::Run(run) => {
                let is_open = self.open.as_ref().is_some_and(|open| open.run.sequence() == run);
                self.frame.top().filter(|_| is_open)
            }
        };
        let Some(turn) = turn else { return };
        if self.turns.get(turn).is_some_and(|turn| turn.held == Some(Held::Step)) {
            self.unhold(turn, true, cx);
        }
    }
}
