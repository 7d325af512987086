//! What a step leads to in the end: the next run opens, or the open one is over; and what deadlines lead to.

use std::sync::Arc;

use super::{Cancel, Cut, Cx, Error, Guard, RunAlarm, Sequence, Session, TurnAlarm, TurnId};
use crate::deadline::{Armed, What};
use crate::effect::{Act, Came, Decision, Fact, Status, Why};
use crate::id::WaitId;
use crate::outcome::Cancelled;

impl Session {
    /// Ends every step: the one place that says that a run is over.
    pub(crate) fn settle(&mut self, cx: &mut Cx<'_>) {
        self.advance(cx);
        let Some(open) = &mut self.open else { return };
        if open.concluded || open.acts > 0 || open.kids > 0 || !open.guards.is_empty() {
            return;
        }
        open.concluded = true;
        open.run.since = cx.now;
        for (_, armed) in open.run.alarms.drain(..) {
            cx.disarm(Some(armed));
        }
        let status = match &open.cut {
            None => Status::Completed(None),
            Some(Cut::Stop(stop)) => Status::Completed(Some(Arc::clone(stop))),
            Some(Cut::Abort(cancel)) => Status::Cancelled(Arc::clone(cancel)),
            Some(Cut::Deadline | Cut::Parent) => Status::Failed,
        };
        cx.fact(Fact::RunOver(open.run.name.clone(), status));
    }

    /// The terminal of the open run is durable: its floor is free.
    pub(crate) fn finish(&mut self, run_id: &str, cx: &mut Cx<'_>) -> Result<(), Error> {
        self.opened_as(run_id)
            .filter(|open| open.concluded)
            .ok_or_else(|| Self::unknown(run_id))?;
        if let Some(mut open) = self.open.take() {
            self.unbind(open.bound.take());
            self.gone(&mut open.run, cx);
            self.forget_family(open.run.sequence());
        }
        Ok(())
    }

    /// Adds something that keeps the open run from being over.
    pub(crate) fn hold(
        &mut self,
        run_id: &str,
        label: &str,
        deadline: Option<f64>,
        cx: &mut Cx<'_>,
    ) -> Result<u64, Error> {
        let open = self.opened_as(run_id).filter(|open| !open.concluded && !open.is_hard());
        let open = open.ok_or_else(|| Self::unknown(run_id))?;
        let (run, number) = (open.run.sequence(), open.last_guard + 1);
        let deadline = deadline.map(|when| cx.arm(when, self.due(What::Guard(run, number))));
        if let Some(open) = &mut self.open {
            open.last_guard = number;
            let guard = Guard {
                label: label.into(),
                since: cx.now,
                deadline,
            };
            open.guards.insert(number, guard);
        }
        Ok(number)
    }

    /// Takes it away again. False: it is gone.
    pub(crate) fn release(&mut self, run_id: &str, guard: u64, cx: &mut Cx<'_>) -> bool {
        let open = self.open.as_mut().filter(|open| open.run.id() == run_id);
        let Some(guard) = open.and_then(|open| open.guards.remove(guard)) else {
            return false;
        };
        cx.disarm(guard.deadline);
        true
    }

    /// A reservation's commit is under way: its dispatch has to follow.
    pub(crate) fn arm_reservation(&mut self, run_id: &str, when: f64, cx: &mut Cx<'_>) -> Result<(), Error> {
        let run = self.line.find(run_id);
        let run = run.filter(|run| self.line.get(*run).is_none_or(|entry| !entry.queued));
        let run = run.ok_or_else(|| Self::unknown(run_id))?;
        self.arm_run(run, RunAlarm::Reservation, when, cx);
        Ok(())
    }

    /// Nobody listens to the run any more: what it is given if nobody comes back.
    pub(crate) fn arm_disconnect(
        &mut self,
        run_id: &str,
        cancel: &Arc<Cancel>,
        when: f64,
        cx: &mut Cx<'_>,
    ) -> Result<(), Error> {
        let run = self.not_over(run_id).ok_or_else(|| Self::unknown(run_id))?;
        self.arm_run(run, RunAlarm::Disconnect, when, cx);
        if let Some(run) = self.run_mut(run) {
            run.disconnect = Some(Arc::clone(cancel));
        }
        Ok(())
    }

    pub(crate) fn disarm_disconnect(&mut self, run_id: &str, cx: &mut Cx<'_>) {
        if let Some(run) = self.not_over(run_id) {
            self.disarm_run(run, RunAlarm::Disconnect, cx);
        }
    }

    fn not_over(&self, run_id: &str) -> Option<Sequence> {
        if let Some(open) = self.opened_as(run_id) {
            return (!open.concluded).then(|| open.run.sequence());
        }
        self.line.find(run_id).or_else(|| self.find_lent(run_id))
    }

    /// A deadline has come. Whoever had it may have lost it, or have another by now.
    pub(crate) fn fire(&mut self, what: What, armed: Armed, cx: &mut Cx<'_>) {
        match what {
            What::Run(run, alarm) => self.fire_run(run, alarm, armed, cx),
            What::Turn(turn, alarm) => self.fire_turn(turn, alarm, armed, cx),
            What::Guard(run, number) => self.fire_guard(run, number, armed),
            What::Slot(turn, wait) => self.fire_slot(turn, wait, armed, cx),
            What::Wait(turn, wait) => self.fire_wait(turn, wait, armed, cx),
            What::Errand(_) => {}
        }
    }

    fn fire_run(&mut self, run: Sequence, alarm: RunAlarm, armed: Armed, cx: &mut Cx<'_>) {
        let Some(found) = self.run_mut(run) else { return };
        let Some(at) = found.alarms.iter().position(|(_, it)| *it == armed) else {
            return;
        };
        found.alarms.swap_remove(at);
        let disconnect = found.disconnect.clone();
        match alarm {
            RunAlarm::Reservation => {
                if let Some((name, cancel)) = self.take_reservation(run, cx) {
                    cx.fact(Fact::Closed(name, cancel.map_or(Why::Stranded, Why::Cancelled)));
                }
            }
            RunAlarm::Start => self.take_out(run, Why::Expired, cx),
            RunAlarm::Run => {
                if let Some(open) = &self.open {
                    cx.fact(Fact::Requested {
                        run: open.run.name.clone(),
                        turn: None,
                        cut: Cut::Deadline,
                    });
                    self.cut_open(&Cut::Deadline, cx);
                }
            }
            RunAlarm::StopGrace => {
                let stop = self.open.as_ref().and_then(|open| open.cut.as_ref()?.cancel().cloned());
                if let Some(stop) = stop {
                    self.cover_open(&stop.as_abort(), cx);
                }
            }
            RunAlarm::Disconnect => {
                if let Some(cancel) = disconnect {
                    self.cancel_one(run, &cancel, &mut Cancelled::default(), cx);
                }
            }
        }
    }

    fn fire_turn(&mut self, id: TurnId, alarm: TurnAlarm, armed: Armed, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        let Some(at) = turn.alarms.iter().position(|(_, it)| *it == armed) else {
            return;
        };
        turn.alarms.swap_remove(at);
        match alarm {
            TurnAlarm::CancelGrace => cx.act(Act::Detach(turn.name.clone())),
            TurnAlarm::Child => self.cut_turn(id, &Cut::Deadline, cx),
            TurnAlarm::StopGrace => {
                let cut = match &turn.stop {
                    Some(stop) => Cut::Abort(stop.as_abort()),
                    None => Cut::Parent,
                };
                self.cut_turn(id, &cut, cx);
            }
        }
    }

    fn fire_guard(&mut self, run: Sequence, number: u64, armed: Armed) {
        let open = self.open.as_mut().filter(|open| open.run.sequence() == run);
        if let Some(open) = open
            && open
                .guards
                .get(number)
                .is_some_and(|guard| guard.deadline == Some(armed))
        {
            open.guards.remove(number);
        }
    }

    fn fire_slot(&mut self, id: TurnId, wait: WaitId, armed: Armed, cx: &mut Cx<'_>) {
        let more = self.turns.get(id).and_then(|turn| turn.more.as_ref());
        let request = more.and_then(|more| more.tickets.get(&wait));
        if request.is_some_and(|request| request.deadline == Some(armed)) {
            self.decide(id, wait, Decision::SlotTimeout, cx);
        }
    }

    fn fire_wait(&mut self, id: TurnId, wait: WaitId, armed: Armed, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get(id) else { return };
        if turn.waits.get(wait).is_some_and(|it| it.deadline == Some(armed)) {
            cx.act(Act::Came(turn.name.clone(), wait, Came::Due));
            self.resolve(id, wait, cx);
        }
    }
}
