//! The floor: which run opens next, and who has a permit.

use super::{Bound, Cx, Open, Run, RunAlarm, Session, Stand, Start, Turn, TurnId};
use crate::effect::Came;
use crate::effect::{Act, Fact, Why};
use crate::gate::{Asked, Asker, Class, Granted, Who};
use crate::rare::Rare;
use crate::run::{Kind, RunRef};
use crate::turn::{Role, TurnRef};

impl Session {
    /// Opens the head of the line, if the floor is free and the head is dispatched.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_>) {
        if self.open.is_some() || !self.line.front().is_some_and(|head| head.queued) || !cx.ledger().is_serving() {
            return;
        }
        let head = self.line.front().map(|head| head.run.sequence());
        if let Some(entry) = head.and_then(|head| self.line.remove(head)) {
            let turn = self.open(entry.run, entry.bound, cx);
            self.begin(turn, cx);
        }
    }

    /// Opens a run whose turn has its permit, in the step of its accept.
    pub(super) fn start(&mut self, run: Run, cx: &mut Cx<'_>) -> Option<TurnRef> {
        let turn = self.open(run, Bound::default(), cx);
        if let Some(open) = &mut self.open {
            open.start = Start::Fresh(turn);
        }
        self.has_permit(turn, cx);
        self.turns.get(turn).map(|turn| turn.name.clone())
    }

    fn open(&mut self, run: Run, bound: Bound, cx: &mut Cx<'_>) -> TurnId {
        let role = match run.kind() {
            Kind::Summary => Role::Summary,
            Kind::Prompt | Kind::Bootstrap => Role::Prompt,
        };
        let id = cx.ledger().mint_turn();
        let name = TurnRef::floor(id, run.name.clone(), role);
        self.turns.insert(Turn::new(name, None, true, cx.now));
        self.frame.push(id);
        self.open = Some(Open {
            run: Run { since: cx.now, ..run },
            start: Start::Dispatched,
            begun: false,
            concluded: false,
            cut: None,
            bound,
            acts: 1,
            kids: 0,
            guards: Rare::default(),
            last_guard: 0,
        });
        id
    }

    /// Asks for the permit of a turn that has not begun.
    pub(super) fn begin(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        self.ask(id, Class::Begins, cx);
    }

    fn ask(&mut self, id: TurnId, class: Class, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        let asker = Asker {
            session: &self.key,
            hash: self.hash,
            who: Who::Turn(id),
        };
        let outcome = cx.gate().enter().ask(turn.lane(), class, cx.now, asker);
        match outcome {
            Asked::Granted => self.has_permit(id, cx),
            Asked::Waiting(ticket) => {
                turn.stand = Stand::Waiting(ticket);
                turn.since = cx.now;
            }
        }
    }

    /// A turn has got its permit: it begins or goes on.
    fn has_permit(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get_mut(id) else { return };
        turn.stand = Stand::Running;
        turn.since = cx.now;
        let name = turn.name.clone();
        if std::mem::replace(&mut turn.begun, true) {
            cx.act(Act::GoOn(name));
            return;
        }
        turn.began = cx.now;
        if name.is_floor() {
            self.note_begun(name.run(), cx);
        }
        cx.fact(Fact::Begun(name.clone()));
        cx.act(Act::Begin(name));
    }

    /// The open run's first turn begins.
    fn note_begun(&mut self, run: &RunRef, cx: &mut Cx<'_>) {
        let Some(open) = &mut self.open else { return };
        if std::mem::replace(&mut open.begun, true) {
            return;
        }
        let timeout = open.run.timeout;
        let has_alarms = !open.run.alarms.is_empty();
        open.run.since = cx.now;
        cx.fact(Fact::Opened(run.clone()));
        if has_alarms {
            self.disarm_run(run.sequence(), RunAlarm::Start, cx);
        }
        if let Some(timeout) = timeout {
            self.arm_run(run.sequence(), RunAlarm::Run, cx.now + timeout, cx);
        }
    }

    /// Applies a grant. False: whoever had the ticket is gone, or may not begin any more.
    pub(crate) fn granted(&mut self, grant: &Granted, cx: &mut Cx<'_>) -> bool {
        match grant.waiter.who {
            Who::Turn(id) => {
                let Some(turn) = self.turns.get(id) else { return false };
                let wants = turn.stand == Stand::Waiting(grant.ticket) && (turn.begun || cx.ledger().is_serving());
                if wants {
                    self.has_permit(id, cx);
                }
                wants
            }
            Who::Wait(id, wait) => {
                let Some(turn) = self.turns.get_mut(id).filter(|turn| turn.waits.contains(wait)) else {
                    return false;
                };
                turn.slots.push((wait, grant.lane));
                cx.act(Act::Came(turn.name.clone(), wait, Came::In));
                self.resolve(id, wait, cx);
                true
            }
            Who::Errand(_) => false,
        }
    }

    /// Parks a turn whose strands all wait.
    pub(super) fn park_if(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        if let Some(turn) = self.turns.get_mut(id)
            && turn.begun
            && !turn.waits.is_empty()
            && !turn.has_free_strand()
        {
            turn.park(&self.key, cx);
        }
    }

    /// Asks for the permit of a parked turn that has something to do again, ahead of all that have not begun.
    pub(super) fn wake_if(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        let Some(turn) = self.turns.get(id) else { return };
        if turn.stand == Stand::Parked && turn.has_free_strand() && !turn.closing && turn.cut.is_none() {
            cx.ledger().unpark();
            self.ask(id, Class::GoesOn, cx);
        }
    }

    /// Takes the open run and its turn away, as if they had never been.
    pub(super) fn discard_open(&mut self, cx: &mut Cx<'_>) -> Option<RunRef> {
        let mut open = self.open.take()?;
        if let Some(mut turn) = self.frame.top().and_then(|id| self.turns.remove(id)) {
            self.frame.remove(turn.id());
            turn.leave(&self.key, cx);
            for (_, armed) in turn.alarms {
                cx.disarm(Some(armed));
            }
        }
        for guard in open.guards.take() {
            cx.disarm(guard.deadline);
        }
        self.unbind(open.bound.take());
        self.gone(&mut open.run, cx);
        Some(open.run.name)
    }

    /// Takes a run out that never began, from the line or from the gate.
    pub(super) fn take_out(&mut self, sequence: super::Sequence, why: Why, cx: &mut Cx<'_>) {
        let name = if self.open.as_ref().is_some_and(|open| open.run.sequence() == sequence) {
            self.discard_open(cx)
        } else {
            self.take(sequence).map(|mut entry| {
                self.gone(&mut entry.run, cx);
                entry.run.name
            })
        };
        if let Some(name) = name {
            cx.fact(Fact::Closed(name, why));
        }
    }
}
