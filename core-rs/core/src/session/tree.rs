//! The tree: children, the slots for them, and who waits for one.

use super::{Cx, Error, Family, Session, Stand, TurnAlarm, TurnId};
use crate::deadline::What;
use crate::effect::{Act, Decision, Fact, StopWhy};
use crate::error::NoChild;
use crate::id::WaitId;
use crate::limits::Tree;
use crate::outcome::{Admission, Waiting};
use crate::request::Spawn;
use crate::turn::{Branch, Call, CallFor, End, OnParentEnd, Request, Spec, Turn, TurnRef, WaitFor};

impl Session {
    /// A strand, or a call from outside, asks for a child: it waits for its end if that is synchronous, else at most for a slot.
    pub(crate) fn spawn(&mut self, id: TurnId, spawn: &Spawn, cx: &mut Cx<'_>) -> Result<Admission, Error> {
        let limits = spawn.narrow(cx.settings().get());
        self.check_spawn(id, spawn, &limits, cx)?;
        let turn = self.driven(id)?;
        let may_strand = turn.stand == Stand::Running && turn.has_free_strand();
        if spawn.by.is_none() && !may_strand {
            return Err(Error::BadState { turn: id });
        }
        let spec = Spec {
            on_parent_end: if spawn.is_async {
                spawn.on_parent_end
            } else {
                OnParentEnd::Wait
            },
            is_async: spawn.is_async,
            timeout: spawn.timeout.unwrap_or(limits.child_timeout),
            slots: limits.children_per_turn,
        };
        if turn.children() < spec.slots && turn.tickets() == 0 {
            let tenant = self.key.tenant();
            if !cx.gate().enter().admit_child(tenant, true) {
                return Err(Error::Spawn(NoChild::ChildLimit));
            }
            return Ok(self.admit_at_once(id, spec, spawn.by, cx));
        }
        let slot_wait = spawn.slot_wait.or(limits.slot_wait);
        if slot_wait.is_some_and(|wait| wait <= 0.0) {
            return Err(Error::Spawn(NoChild::SlotTimeout));
        }
        let (wait, parked) = match spawn.by {
            None => {
                let Waiting { id, parked } = self.add_wait(id, WaitFor::Slot, "", None, cx);
                (id, parked)
            }
            Some(by) => {
                let call = turn.mint_wait();
                let what = CallFor::Slot;
                turn.more().calls.insert(call, Call { what, by });
                (call, true)
            }
        };
        let deadline = slot_wait.map(|wait_for| cx.arm(cx.now + wait_for, self.due(What::Slot(id, wait))));
        let request = Request {
            spec,
            since: cx.now,
            deadline,
        };
        self.driven(id)?.more().tickets.insert(wait, request);
        Ok(Admission {
            child: None,
            wait: Some(wait),
            parked,
        })
    }

    /// The refusals that leave no trace, in their order.
    fn check_spawn(&mut self, id: TurnId, spawn: &Spawn, limits: &Tree, cx: &Cx<'_>) -> Result<(), Error> {
        let refused = |why| Err(Error::Spawn(why));
        let turn = self.driven(id)?;
        let call_is_over = spawn.by.is_some_and(|by| !turn.is_tool(by));
        if turn.cut.is_some() || spawn.caller_cancelled || call_is_over {
            return refused(NoChild::Cancelled);
        }
        if !turn.begun || turn.held.is_some() {
            return refused(NoChild::ParentEnded);
        }
        if turn.name.depth() >= limits.depth {
            return refused(NoChild::DepthLimit);
        }
        if !spawn.is_valid {
            return refused(NoChild::Invalid);
        }
        let run = turn.name.run().sequence();
        let admitted = self.families.get(run).map_or(0, |family| family.admitted);
        if limits.children_per_turn == 0
            || admitted >= limits.children_per_run
            || !cx.gate().enter().may_admit_child(self.key.tenant())
        {
            return refused(NoChild::ChildLimit);
        }
        if !cx.ledger().is_serving() {
            return Err(Error::Draining);
        }
        Ok(())
    }

    fn admit_at_once(&mut self, id: TurnId, spec: Spec, by: Option<WaitId>, cx: &mut Cx<'_>) -> Admission {
        let mut awaited_by = None;
        if let Some(turn) = self.turns.get_mut(id)
            && !spec.is_async
        {
            let wait = WaitId::new(turn.last_wait + 1);
            if let Some(by) = by {
                turn.mint_wait();
                let what = CallFor::Child;
                turn.more().calls.insert(wait, Call { what, by });
            }
            awaited_by = Some(wait);
        }
        let child = self.new_child(id, spec, by.is_some(), awaited_by, cx);
        let mut parked = by.is_some();
        if by.is_none() && !spec.is_async {
            parked = self.add_wait(id, WaitFor::Child, "", None, cx).parked;
        }
        self.begin(child, cx);
        Admission {
            child: self.turns.get(child).map(|child| child.name.clone()),
            wait: awaited_by,
            parked,
        }
    }

    /// The first who waits for a slot gets it.
    fn admit_next(&mut self, id: TurnId, wait: WaitId, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        let more = turn.more();
        let Some(request) = more.tickets.remove(&wait) else {
            return;
        };
        let spec = request.spec;
        let outside = more.calls.contains_key(&wait);
        cx.disarm(request.deadline);
        cx.gate().enter().admit_child(self.key.tenant(), false);
        let awaited_by = (!spec.is_async).then_some(wait);
        let child = self.new_child(id, spec, outside, awaited_by, cx);
        let Some(turn) = self.turns.get_mut(id) else { return };
        let parent = turn.name.clone();
        if outside {
            let calls = &mut turn.more().calls;
            if spec.is_async {
                calls.remove(&wait);
            } else if let Some(call) = calls.get_mut(&wait) {
                call.what = CallFor::Child;
            }
        } else if let Some(strand) = turn.waits.get_mut(wait) {
            strand.what = WaitFor::Child;
        }
        if let Some(name) = self.turns.get(child).map(|child| child.name.clone()) {
            cx.act(Act::Decided(parent, wait, Decision::Admitted(name)));
        }
        if !outside && spec.is_async {
            self.resolve(id, wait, cx);
        }
        self.begin(child, cx);
    }

    fn new_child(
        &mut self,
        parent: TurnId,
        spec: Spec,
        outside: bool,
        awaited_by: Option<WaitId>,
        cx: &mut Cx<'_>,
    ) -> TurnId {
        let id = cx.ledger().mint_turn();
        let Some(above) = self.turns.get_mut(parent) else {
            return id;
        };
        let name = TurnRef::child(id, above.name.run().clone(), parent, above.name.depth() + 1);
        let holds = above.holds && spec.on_parent_end != OnParentEnd::Continue;
        above.more().children.insert(id);
        let branch = Branch {
            on_parent_end: spec.on_parent_end,
            is_async: spec.is_async,
            awaited_by,
        };
        let run = name.run().sequence();
        let Family { admitted, live } = self.families.get(run).copied().unwrap_or_default();
        let family = Family {
            admitted: admitted + 1,
            live: live + 1,
        };
        self.families.insert(run, family);
        if holds && let Some(open) = &mut self.open {
            open.kids += 1;
        }
        let deadline = cx.now + spec.timeout;
        cx.fact(Fact::Spawned {
            turn: name.clone(),
            on_parent_end: spec.on_parent_end,
            is_async: spec.is_async,
            outside,
            deadline,
        });
        self.turns.insert(Turn::new(name, Some(branch), holds, cx.now));
        self.arm_turn(id, TurnAlarm::Child, deadline, cx);
        id
    }

    /// Gives free slots to those who wait for one.
    pub(super) fn fill_slots(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        while cx.ledger().is_serving() {
            let Some(turn) = self.turns.get(id) else { return };
            let Some(more) = &turn.more else { return };
            let Some((wait, request)) = more.tickets.first_key_value() else {
                return;
            };
            if more.children.len() >= request.spec.slots {
                return;
            }
            let wait = *wait;
            self.admit_next(id, wait, cx);
        }
    }

    /// The caller gave up waiting for a slot.
    pub(crate) fn abandon_spawn(&mut self, id: TurnId, wait: WaitId, cx: &mut Cx<'_>) -> bool {
        self.decide(id, wait, Decision::Cancelled, cx)
    }

    /// Somebody who waits for a slot gets none. False: it waits no more.
    pub(super) fn decide(&mut self, id: TurnId, wait: WaitId, decision: Decision, cx: &mut Cx<'_>) -> bool {
        let Some(turn) = self.turns.get_mut(id) else {
            return false;
        };
        let Some(more) = &mut turn.more else { return false };
        let Some(request) = more.tickets.remove(&wait) else {
            return false;
        };
        more.calls.remove(&wait);
        cx.disarm(request.deadline);
        cx.act(Act::Decided(turn.name.clone(), wait, decision));
        self.resolve(id, wait, cx);
        true
    }

    /// Nobody who waits for a slot of this turn gets one.
    pub(super) fn decide_all(&mut self, id: TurnId, decision: &Decision, cx: &mut Cx<'_>) {
        let more = self.turns.get(id).and_then(|turn| turn.more.as_ref());
        let Some(more) = more.filter(|more| !more.tickets.is_empty()) else {
            return;
        };
        let tickets: Vec<_> = more.tickets.keys().copied().collect();
        for wait in tickets {
            self.decide(id, wait, decision.clone(), cx);
        }
    }

    /// A child hears that its parent has ended.
    pub(super) fn tell_ended(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        let Some(child) = self.turns.get_mut(id) else { return };
        if child.cut.is_some() || child.parent_ended {
            return;
        }
        child.parent_ended = true;
        if !child.begun {
            self.end(id, &End::ParentEnded, cx);
            return;
        }
        let held = child.held.is_some();
        cx.act(Act::Stop(child.name.clone(), StopWhy::ParentEnded));
        self.arm_stop_grace(id, cx);
        if held {
            self.unhold(id, false, cx);
        }
    }

    /// The first stands: a stop after the parent's end, or the reverse, gives no more time.
    pub(super) fn arm_stop_grace(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        if self
            .turns
            .get(id)
            .is_some_and(|turn| !turn.is_armed(TurnAlarm::StopGrace))
        {
            let when = cx.now + cx.settings().get().stop_grace;
            self.arm_turn(id, TurnAlarm::StopGrace, when, cx);
        }
    }
}
