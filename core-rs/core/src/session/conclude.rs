//! The end of a turn, proposed: what decides instead, and what it has to wait for.

use super::{Cx, Error, Session, TurnAlarm, TurnId};
use crate::effect::Decision;
use crate::outcome::{Conclusion, Proposal};
use crate::turn::{End, Held, OnParentEnd, Turn, Wait, WaitFor};

impl Session {
    /// A turn proposes to end (U-10). A cut decides over every proposal.
    pub(crate) fn conclude(&mut self, id: TurnId, proposal: Proposal, cx: &mut Cx<'_>) -> Result<Conclusion, Error> {
        let turn = self.driven(id)?;
        if !turn.begun {
            return Err(Error::BadState { turn: id });
        }
        if let Some(cut) = turn.cut.clone() {
            self.give_back(id, cx);
            return Ok(self.conclude_cut(id, End::Cut(cut), cx));
        }
        let Proposal::Answer {
            may_step,
            most,
            if_last,
        } = proposal
        else {
            self.end(id, &End::Failed, cx);
            return Ok(Conclusion::Concluded(End::Failed));
        };
        if !turn.is_in_its_loop() {
            return Err(Error::BadState { turn: id });
        }
        let (stop, parent_ended) = (turn.stop.clone(), turn.parent_ended);
        let had_loan = turn.loan.is_some();
        self.give_back(id, cx);
        if stop.is_none() && !parent_ended {
            if let Some(conclusion) = self.instead(id, may_step, most, cx) {
                return Ok(conclusion);
            }
            if if_last && !had_loan && self.is_last(id) {
                return Ok(Conclusion::Last);
            }
        }
        let end = match stop {
            _ if parent_ended => End::ParentEnded,
            Some(stop) => End::Stopped(stop),
            None => End::Answered,
        };
        self.end(id, &end, cx);
        Ok(Conclusion::Concluded(end))
    }

    /// What an answer leads to that is not the end yet.
    fn instead(&mut self, id: TurnId, may_step: bool, most: usize, cx: &mut Cx<'_>) -> Option<Conclusion> {
        let waited_for = self.has_children(id, |child| {
            child.branch.is_some_and(|it| it.on_parent_end == OnParentEnd::Wait)
        });
        if !cx.ledger().is_serving() {
            return waited_for.then_some(Conclusion::Leaves);
        }
        if may_step && self.lend(id, most, cx) {
            return Some(Conclusion::GoesOn(self.loan_of(id)));
        }
        if !self.waits_for_children(id) {
            return None;
        }
        if let Some(turn) = self.turns.get_mut(id) {
            turn.held = Some(if may_step { Held::Step } else { Held::End });
        }
        self.add_wait(id, WaitFor::Children, "", None, cx);
        Some(Conclusion::Held)
    }

    fn conclude_cut(&mut self, id: TurnId, end: End, cx: &mut Cx<'_>) -> Conclusion {
        if !self.has_children(id, |child| !child.goes_on_alone()) {
            self.end(id, &end, cx);
            return Conclusion::Concluded(end);
        }
        self.decide_all(id, &Decision::Cancelled, cx);
        if let Some(turn) = self.turns.get_mut(id) {
            turn.closing = true;
            turn.park(&self.key, cx);
            turn.drop_waits(&self.key, cx);
            turn.disarm(TurnAlarm::CancelGrace, cx);
        }
        Conclusion::Held
    }

    /// Whether nobody of its run answers any more after it. Children count for nothing: they have no floor.
    fn is_last(&self, id: TurnId) -> bool {
        let is_floor = self.frame.top() == Some(id);
        is_floor
            && self
                .open
                .as_ref()
                .is_some_and(|open| open.acts <= 1 && open.guards.is_empty())
    }

    pub(super) fn has_children(&self, id: TurnId, is_meant: impl Fn(&Turn) -> bool) -> bool {
        let more = self.turns.get(id).and_then(|turn| turn.more.as_ref());
        let mut children = more.into_iter().flat_map(|more| &more.children);
        children.any(|child| self.turns.get(*child).is_some_and(&is_meant))
    }

    fn waits_for_children(&self, id: TurnId) -> bool {
        self.has_children(id, |child| {
            child
                .branch
                .is_some_and(|branch| branch.is_async && branch.on_parent_end == OnParentEnd::Wait)
        })
    }

    /// A turn that has answered hears that a result has come, that its last child has ended, or that it is to go on.
    pub(super) fn unhold(&mut self, id: TurnId, force: bool, cx: &mut Cx<'_>) {
        let left = self.waits_for_children(id);
        let Some(turn) = self.turns.get_mut(id) else { return };
        let has_step = turn.held == Some(Held::Step) && turn.inbox() > 0;
        if left && !has_step && !turn.is_stopping() && !force {
            return;
        }
        turn.held = None;
        let is_for_children = |wait: &Wait| matches!(wait.what, WaitFor::Children);
        let waits = turn.waits.iter().find(|(_, wait)| is_for_children(wait));
        let wait = waits.map(|(wait, _)| *wait);
        if let Some(wait) = wait {
            self.resolve(id, wait, cx);
        }
    }
}
