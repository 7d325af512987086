//! A turn: one execution of a run's agent, and everything that it waits for.

mod name;
mod table;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::deadline::Armed;
use crate::effect::Cx;
use crate::gate::{LaneKey, Ticket};
use crate::id::{Sequence, SessionKey, TurnId, WaitId};
use crate::rare::Rare;
use crate::run::{Cancel, Cut};
use crate::steer::Bound;

pub use name::{ChildResult, End, Ending, OnParentEnd, Role, TurnRef};
pub(crate) use table::Turns;
pub(crate) use wait::{Call, CallFor, Request, Spec, Wait, WaitFor};

/// The deadlines that a turn may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnAlarm {
    /// Of a child, from its admission.
    Child,
    /// After a stop of it, or its parent's end.
    StopGrace,
    /// After its abort.
    CancelGrace,
}

/// How a turn stands to its permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It has none and asks for none.
    Parked,
    /// It asks for one: this is its place.
    Waiting(Ticket),
    /// It has one.
    Running,
}

/// Why a turn that has answered is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It waits for its children, and has a step left.
    Step,
    /// It waits for its children.
    End,
}

/// What a fold point handed out and no draft holds yet.
#[derive(Debug)]
pub(crate) struct Loan {
    pub(crate) steers: Vec<Sequence>,
    pub(crate) results: Vec<ChildResult>,
}

/// What most turns never have.
#[derive(Debug, Default)]
pub(crate) struct More {
    pub(crate) children: BTreeSet<TurnId>,
    /// By wait or call, which is the order in which they came.
    pub(crate) tickets: BTreeMap<WaitId, Request>,
    pub(crate) calls: BTreeMap<WaitId, Call>,
    pub(crate) inbox: Vec<ChildResult>,
    pub(crate) bound: Bound,
}

/// How a child hangs below its parent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Branch {
    pub(crate) on_parent_end: OnParentEnd,
    pub(crate) is_async: bool,
    /// The wait, or call, of a synchronous one.
    pub(crate) awaited_by: Option<WaitId>,
}

/// See the module.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Turn {
    pub(crate) name: TurnRef,
    /// Of a child.
    pub(crate) branch: Option<Branch>,
    /// Whether it keeps its run from being over.
    pub(crate) holds: bool,
    pub(crate) begun: bool,
    /// When it began; while it has not, when it came.
    pub(crate) began: f64,
    pub(crate) stand: Stand,
    /// When it came to stand so.
    pub(crate) since: f64,
    pub(crate) strands: usize,
    pub(crate) waits: Rare<WaitId, Wait>,
    pub(crate) last_wait: u64,
    /// Providers' slots that it has.
    pub(crate) slots: Vec<(WaitId, LaneKey)>,
    pub(crate) cut: Option<Cut>,
    pub(crate) stop: Option<Arc<Cancel>>,
    pub(crate) parent_ended: bool,
    pub(crate) held: Option<Held>,
    pub(crate) closing: bool,
    pub(crate) loan: Option<Box<Loan>>,
    pub(crate) alarms: Vec<(TurnAlarm, Armed)>,
    pub(crate) more: Option<Box<More>>,
}

impl Turn {
    pub(crate) fn new(name: TurnRef, branch: Option<Branch>, holds: bool, now: f64) -> Self {
        Self {
            name,
            branch,
            holds,
            begun: false,
            began: now,
            stand: Stand::Parked,
            since: now,
            strands: 1,
            waits: Rare::default(),
            last_wait: 0,
            slots: Vec::new(),
            cut: None,
            stop: None,
            parent_ended: false,
            held: None,
            closing: false,
            loan: None,
            alarms: Vec::new(),
            more: None,
        }
    }

    pub(crate) fn id(&self) -> TurnId {
        self.name.id()
    }

    pub(crate) fn is_floor(&self) -> bool {
        self.name.is_floor()
    }

    /// The lane of its permit.
    pub(crate) fn lane(&self) -> LaneKey {
        match self.name.depth() {
            0 => LaneKey::Floor,
            depth => LaneKey::Depth(depth),
        }
    }

    pub(crate) fn goes_on_alone(&self) -> bool {
        self.branch
            .is_some_and(|branch| branch.on_parent_end == OnParentEnd::Continue)
    }

    /// Whether its next step is its last, or there is none.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_some() || self.parent_ended
    }

    /// Whether it runs one strand and nothing else.
    pub(crate) fn is_in_its_loop(&self) -> bool {
        self.stand == Stand::Running && self.strands == 1 && self.waits.is_empty()
    }

    pub(crate) fn has_free_strand(&self) -> bool {
        self.waits.len() < self.strands
    }

    pub(crate) fn mint_wait(&mut self) -> WaitId {
        self.last_wait += 1;
        WaitId::new(self.last_wait)
    }

    pub(crate) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    pub(crate) fn children(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.children.len())
    }

    pub(crate) fn tickets(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.tickets.len())
    }

    pub(crate) fn inbox(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.inbox.len())
    }

    pub(crate) fn take_inbox(&mut self) -> Vec<ChildResult> {
        self.more
            .as_mut()
            .map(|more| std::mem::take(&mut more.inbox))
            .unwrap_or_default()
    }

    /// Whether a call may be made from outside, in the name of this wait.
    pub(crate) fn is_tool(&self, wait: WaitId) -> bool {
        self.waits
            .get(wait)
            .is_some_and(|wait| matches!(wait.what, WaitFor::Tool))
    }

    pub(crate) fn is_armed(&self, alarm: TurnAlarm) -> bool {
        self.alarms.iter().any(|(it, _)| *it == alarm)
    }

    pub(crate) fn disarm(&mut self, alarm: TurnAlarm, cx: &Cx<'_>) {
        if let Some(at) = self.alarms.iter().position(|(it, _)| *it == alarm) {
            cx.disarm(Some(self.alarms.swap_remove(at).1));
        }
    }

    /// Gives the permit back, or the place of one that asks for it.
    fn drop_permit(&mut self, session: &SessionKey, cx: &mut Cx<'_>) {
        let before = std::mem::replace(&mut self.stand, Stand::Parked);
        match before {
            Stand::Parked => return,
            Stand::Running => {
                let grant = cx.gate().enter().release(self.lane(), session.tenant(), cx.now);
                cx.granted(grant);
            }
            Stand::Waiting(ticket) => {
                cx.gate().enter().abandon(self.lane(), session.tenant(), ticket);
            }
        }
        self.since = cx.now;
    }

    /// The same of one that goes on later, or ends later.
    pub(crate) fn park(&mut self, session: &SessionKey, cx: &mut Cx<'_>) {
        if self.stand != Stand::Parked {
            self.drop_permit(session, cx);
            cx.ledger().park();
        }
    }

    /// The same of one that is over; it is counted no more.
    pub(crate) fn leave(&mut self, session: &SessionKey, cx: &mut Cx<'_>) {
        if self.stand != Stand::Parked {
            self.drop_permit(session, cx);
        } else if self.begun {
            cx.ledger().unpark();
        }
    }

    /// Ends all that it waits for, and gives back the providers' slots that it has.
    pub(crate) fn drop_waits(&mut self, session: &SessionKey, cx: &mut Cx<'_>) {
        for wait in self.waits.take() {
            wait.end(session, cx);
        }
        let calls = self.more.as_mut().map(|more| std::mem::take(&mut more.calls));
        for (_, call) in calls.into_iter().flatten() {
            call.end(session, cx);
        }
        for (_, lane) in std::mem::take(&mut self.slots) {
            cx.leave_slot(lane, session);
        }
    }
}
