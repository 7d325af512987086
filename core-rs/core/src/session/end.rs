//! The end of a turn: all that it had is given back, and everybody whom it concerns is told, in one step.

use super::{Cx, Session, TurnId};
use crate::effect::{Act, Came, Decision, Fact, Orphan};
use crate::id::WaitId;
use crate::turn::{Branch, ChildResult, End, Ending, Held, Turn, TurnRef};

impl Session {
    /// Ends a turn that lives.
    pub(super) fn end(&mut self, id: TurnId, end: &End, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        // Nothing wakes it any more.
        turn.closing = true;
        let is_cut = turn.cut.is_some();
        self.decide_all(
            id,
            &if is_cut {
                Decision::Cancelled
            } else {
                Decision::ParentEnded
            },
            cx,
        );
        if let Some(turn) = self.turns.get_mut(id) {
            turn.leave(&self.key, cx);
            turn.drop_waits(&self.key, cx);
        }
        self.give_back(id, cx);
        let Some(mut turn) = self.turns.remove(id) else { return };
        for (_, armed) in turn.alarms.drain(..) {
            cx.disarm(Some(armed));
        }
        if let Some(more) = &mut turn.more {
            let bound = more.bound.take();
            self.unbind(bound);
        }
        if turn.begun || !turn.is_floor() {
            cx.fact(Fact::Ended(turn.name.clone(), end.clone()));
        }
        let cause = match end {
            _ if is_cut => Orphan::ParentCancelled,
            End::Answered => Orphan::StepLimit,
            _ => Orphan::ParentEnded,
        };
        orphan(turn.take_inbox(), cause, cx);
        for child in turn.more.take().into_iter().flat_map(|more| more.children) {
            if self.turns.get(child).is_some_and(|child| !child.goes_on_alone()) {
                self.tell_ended(child, cx);
            }
        }
        if let (Some(parent), Some(branch)) = (turn.name.parent(), turn.branch) {
            self.child_ended(&turn, parent, branch, end.ending(), cx);
            return;
        }
        self.frame.remove(id);
        if let Some(open) = &mut self.open {
            open.acts -= 1;
        }
    }

    fn child_ended(&mut self, child: &Turn, parent: TurnId, branch: Branch, end: Ending, cx: &mut Cx<'_>) {
        cx.gate().enter().leave_child(self.key.tenant());
        if child.holds
            && let Some(open) = &mut self.open
        {
            open.kids -= 1;
        }
        self.leave_family(child.name.run().sequence());
        let name = child.name.clone();
        let Some(above) = self.turns.get_mut(parent) else {
            if branch.is_async {
                cx.fact(Fact::Orphaned(name, Orphan::ParentEnded));
            }
            return;
        };
        above.more().children.remove(&child.id());
        self.fill_slots(parent, cx);
        if branch.is_async {
            self.deliver(parent, name, end, cx);
        } else if let Some(wait) = branch.awaited_by {
            self.answer(parent, wait, name, end, cx);
        }
        let Some(above) = self.turns.get(parent) else { return };
        let (held, closing, above) = (above.held.is_some(), above.closing, above.name.clone());
        if held {
            self.unhold(parent, false, cx);
        }
        if closing && !self.has_children(parent, |child| !child.goes_on_alone()) {
            cx.act(Act::Conclude(above));
        }
    }

    /// An asynchronous child's result goes into its parent's inbox, if that has a step left for it.
    fn deliver(&mut self, parent: TurnId, child: TurnRef, end: Ending, cx: &mut Cx<'_>) {
        let Some(above) = self.turns.get_mut(parent) else {
            return;
        };
        if above.cut.is_some() {
            cx.fact(Fact::Orphaned(child, Orphan::ParentCancelled));
        } else if above.held == Some(Held::End) {
            cx.fact(Fact::Orphaned(child, Orphan::StepLimit));
        } else {
            above.more().inbox.push(ChildResult { child, end });
        }
    }

    /// The strand, or the call, that waits for a synchronous child has it.
    fn answer(&mut self, parent: TurnId, wait: WaitId, child: TurnRef, end: Ending, cx: &mut Cx<'_>) {
        let Some(above) = self.turns.get_mut(parent) else {
            return;
        };
        let name = above.name.clone();
        if above.waits.contains(wait) {
            cx.act(Act::Came(name, wait, Came::Ended(child, end)));
            self.resolve(parent, wait, cx);
        } else if above.more().calls.remove(&wait).is_some() {
            cx.act(Act::Came(name, wait, Came::Ended(child, end)));
        }
    }

    /// A child of the run lives no more.
    fn leave_family(&mut self, run: super::Sequence) {
        if let Some(family) = self.families.get_mut(run) {
            family.live -= 1;
        }
        self.forget_family(run);
    }

    /// Forgets how many children a run has had, once it is over and none of them lives.
    pub(super) fn forget_family(&mut self, run: super::Sequence) {
        let is_open = self.open.as_ref().is_some_and(|open| open.run.sequence() == run);
        if !is_open && self.families.get(run).is_some_and(|family| family.live == 0) {
            self.families.remove(run);
        }
    }

    /// What a turn that is cut was not given, nobody is.
    pub(super) fn orphan_inbox(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        if let Some(turn) = self.turns.get_mut(id) {
            orphan(turn.take_inbox(), Orphan::ParentCancelled, cx);
        }
    }
}

fn orphan(results: Vec<ChildResult>, cause: Orphan, cx: &mut Cx<'_>) {
    for result in results {
        cx.fact(Fact::Orphaned(result.child, cause));
    }
}
