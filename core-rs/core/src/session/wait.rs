//! Strands and waits: a turn whose strands all wait is parked, and asks again when the first has something to do.

use super::{Cx, Error, Session, TurnId};
use crate::deadline::What;
use crate::gate::{Asked, Asker, Class, Who};
use crate::id::{Address, SessionKey, WaitId};
use crate::outcome::{LaneEntry, Waiting};
use crate::request::{WaitKind, WaitRequest};
use crate::turn::{Call, CallFor, Stand, Wait, WaitFor};

impl Session {
    /// A batch of calls begins.
    pub(crate) fn strands(&mut self, id: TurnId, count: usize) -> Result<(), Error> {
        let turn = self.live(id)?;
        if !turn.waits.is_empty() || turn.strands != 1 || count == 0 {
            return Err(Error::BadState { turn: id });
        }
        turn.strands = count;
        Ok(())
    }

    /// A call of the batch is over; the last one leads back to the loop. Answers whether the turn runs.
    pub(crate) fn strand_ends(&mut self, id: TurnId, cx: &mut Cx<'_>) -> Result<bool, Error> {
        let turn = self.driven(id)?;
        if !turn.has_free_strand() {
            return Err(Error::BadState { turn: id });
        }
        turn.strands -= 1;
        if turn.strands == 0 {
            turn.strands = 1;
        } else {
            self.park_if(id, cx);
        }
        Ok(self.turns.get(id).is_some_and(|turn| turn.stand == Stand::Running))
    }

    /// A strand, or a call from outside, waits for somebody outside.
    pub(crate) fn wait(&mut self, id: TurnId, request: WaitRequest<'_>, cx: &mut Cx<'_>) -> Result<Waiting, Error> {
        if let Some(by) = request.by {
            let turn = self.driven(id)?;
            if !matches!(request.kind, WaitKind::Run(_)) {
                return Err(Error::BadState { turn: id });
            }
            if turn.cut.is_some() || !turn.is_tool(by) {
                return Err(Error::Aborted { turn: id });
            }
        } else {
            self.live(id)?;
        }
        let target = match request.kind {
            WaitKind::Run(session) => self.edge(id, session, cx)?,
            _ => None,
        };
        if let Some(by) = request.by {
            let turn = self.driven(id)?;
            let call = turn.mint_wait();
            let what = CallFor::Run(target);
            turn.more().calls.insert(call, Call { what, by });
            return Ok(Waiting {
                id: call,
                parked: turn.stand != Stand::Running,
            });
        }
        let what = match request.kind {
            WaitKind::Approval => WaitFor::Approval,
            WaitKind::Tool => WaitFor::Tool,
            WaitKind::Backoff => WaitFor::Backoff,
            WaitKind::Servers => WaitFor::Servers,
            WaitKind::Drain => WaitFor::Drain,
            WaitKind::Run(_) => WaitFor::Run(target),
        };
        Ok(self.add_wait(id, what, request.label, request.deadline, cx))
    }

    /// What a strand, or a call, waited for has come. False: it waits no more.
    pub(crate) fn waited(&mut self, id: TurnId, wait: WaitId, cx: &mut Cx<'_>) -> Result<bool, Error> {
        let Some(turn) = self.turns.get_mut(id) else {
            return Ok(false);
        };
        if let Some(more) = &mut turn.more
            && let Some(call) = more.calls.get(&wait)
        {
            if !matches!(call.what, CallFor::Run(_)) {
                return Err(Error::BadState { turn: id });
            }
            if let Some(call) = more.calls.remove(&wait) {
                call.end(&self.key, cx);
            }
            return Ok(true);
        }
        match turn.waits.get(wait).map(|wait| &wait.what) {
            None => Ok(false),
            Some(WaitFor::Lane(..) | WaitFor::Slot | WaitFor::Child | WaitFor::Children) => {
                Err(Error::BadState { turn: id })
            }
            Some(_) => {
                self.resolve(id, wait, cx);
                Ok(true)
            }
        }
    }

    /// A strand asks for a slot of a provider. One that has to wait has no permit.
    pub(crate) fn enter_lane(
        &mut self,
        id: TurnId,
        lane: &str,
        label: &str,
        deadline: Option<f64>,
        cx: &mut Cx<'_>,
    ) -> Result<LaneEntry, Error> {
        let most = cx.settings().get().lane_waiters;
        let entry = WaitId::new(self.live(id)?.last_wait + 1);
        let asker = Asker {
            session: &self.key,
            hash: self.hash,
            who: Who::Wait(id, entry),
        };
        let mut gate = cx.gate().enter();
        let (lane, outcome) = gate.ask_provider(lane, Class::GoesOn, most, cx.now, asker)?;
        let next = gate.next_start();
        drop(gate);
        match outcome {
            Asked::Granted => {
                let turn = self.live(id)?;
                turn.mint_wait();
                turn.slots.push((entry, lane));
                Ok(LaneEntry {
                    id: entry,
                    is_in: true,
                    parked: false,
                })
            }
            Asked::Waiting(ticket) => {
                cx.wake(next);
                let Waiting { id, parked } = self.add_wait(id, WaitFor::Lane(lane, ticket), label, deadline, cx);
                Ok(LaneEntry {
                    id,
                    is_in: false,
                    parked,
                })
            }
        }
    }

    /// Gives a slot back, or a place in the queue for one.
    pub(crate) fn leave_lane(&mut self, id: TurnId, entry: WaitId, cx: &mut Cx<'_>) -> bool {
        let Some(turn) = self.turns.get_mut(id) else {
            return false;
        };
        if let Some(at) = turn.slots.iter().position(|(slot, _)| *slot == entry) {
            let (_, lane) = turn.slots.swap_remove(at);
            cx.leave_slot(lane, &self.key);
            return true;
        }
        let waits = turn
            .waits
            .get(entry)
            .is_some_and(|wait| matches!(wait.what, WaitFor::Lane(..)));
        if waits {
            self.resolve(id, entry, cx);
        }
        waits
    }

    pub(super) fn add_wait(
        &mut self,
        id: TurnId,
        what: WaitFor,
        label: &str,
        deadline: Option<f64>,
        cx: &mut Cx<'_>,
    ) -> Waiting {
        let Some(wait) = self.turns.get_mut(id).map(super::Turn::mint_wait) else {
            return Waiting {
                id: WaitId::new(0),
                parked: true,
            };
        };
        let deadline = deadline.map(|when| cx.arm(when, self.due(What::Wait(id, wait))));
        let mut parked = true;
        if let Some(turn) = self.turns.get_mut(id) {
            turn.waits.insert(
                wait,
                Wait {
                    what,
                    label: label.into(),
                    since: cx.now,
                    deadline,
                },
            );
            parked = !turn.has_free_strand();
        }
        self.park_if(id, cx);
        Waiting { id: wait, parked }
    }

    /// A wait is over, whatever for: its strand has something to do.
    pub(super) fn resolve(&mut self, id: TurnId, wait: WaitId, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        let Some(ended) = turn.waits.remove(wait) else { return };
        let was_tool = matches!(ended.what, WaitFor::Tool);
        ended.end(&self.key, cx);
        if was_tool {
            self.drop_calls(id, wait, cx);
        }
        self.wake_if(id, cx);
    }

    /// A tool is over: what it asked for and has not got is given up; what it started goes on.
    fn drop_calls(&mut self, id: TurnId, by: WaitId, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        let Some(more) = &mut turn.more else { return };
        let calls = more.calls.iter().filter(|(_, call)| call.by == by);
        let calls: Vec<_> = calls.map(|(call, _)| *call).collect();
        for call in calls {
            let Some(more) = self.turns.get_mut(id).and_then(|turn| turn.more.as_mut()) else {
                return;
            };
            let Some(ended) = more.calls.remove(&call) else {
                continue;
            };
            if matches!(ended.what, CallFor::Slot) {
                self.decide(id, call, crate::effect::Decision::Cancelled, cx);
            }
            ended.end(&self.key, cx);
        }
    }

    /// What keeps two lines from waiting for each other; only who holds its line has one.
    fn edge(&self, id: TurnId, session: &str, cx: &mut Cx<'_>) -> Result<Option<SessionKey>, Error> {
        let holds_line = self.turns.get(id).is_some_and(|turn| {
            let open = self.open.as_ref().map(|open| open.run.sequence());
            turn.holds && open == Some(turn.name.run().sequence())
        });
        if !holds_line {
            return Ok(None);
        }
        let target = SessionKey::new(Address::new(self.key.tenant(), session));
        cx.waits_for().add(&self.key, &target)?;
        Ok(Some(target))
    }
}
