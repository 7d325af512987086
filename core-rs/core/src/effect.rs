//! What a step leads to: facts for its commit, acts for afterwards.
//!
//! The order is binding within a session. A step may hold effects of other sessions than the one called, because a permit
//! that it frees goes to another's turn: every effect names its session.

use std::sync::Arc;

use crate::deadline::{Armed, Due};
use crate::gate::{Gate, Granted, LaneKey};
use crate::id::{Address, SessionKey, WaitId};
use crate::ledger::Ledger;
use crate::limits::Settings;
use crate::run::{Cancel, Cut, RunRef};
use crate::shared::Shared;
use crate::turn::{End, Ending, OnParentEnd, TurnRef};

/// What one call led to.
#[derive(Clone, Debug)]
pub struct Step<T> {
    /// The answer.
    pub answer: T,
    /// What the driver does because of it, in this order.
    pub effects: Vec<Effect>,
    /// The earliest deadline became earlier: `due` is to be called then.
    pub wake_at: Option<f64>,
}

/// A fact or an act.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Goes into the commit of this step.
    Fact(Fact),
    /// Is done once that commit is submitted.
    Act(Act),
}

/// Why a run is over without a turn that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// By this cancel.
    Cancelled(Arc<Cancel>),
    /// Into this turn.
    Folded(TurnRef),
    /// Its start deadline passed.
    Expired,
    /// It was never dispatched.
    Stranded,
}

/// How a run is over that had begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// By its last turn; the driver refines it. A stop that reached it is named.
    Completed(Option<Arc<Cancel>>),
    /// By an abort.
    Cancelled(Arc<Cancel>),
    /// Its deadline passed.
    Failed,
}

/// Why nobody is given a child's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Orphan {
    /// Its parent has ended.
    ParentEnded,
    /// Its parent is cut.
    ParentCancelled,
    /// Its parent has no step left.
    StepLimit,
}

/// What a turn is asked to stop for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopWhy {
    /// By this cancel: one step is left.
    Stop(Arc<Cancel>),
    /// Its parent has ended: none is.
    ParentEnded,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// Its deadline passed.
    Due,
    /// The provider's slot is there.
    In,
    /// The synchronous child has ended.
    Ended(TurnRef, Ending),
}

/// What became of the wait for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The child is there.
    Admitted(TurnRef),
    /// It took too long.
    SlotTimeout,
    /// The parent is cut, or the caller gave up.
    Cancelled,
    /// The parent has ended.
    ParentEnded,
}

/// What became of an errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrandNews {
    /// It has its slot.
    In,
    /// It waited too long, and is over.
    Busy,
    /// It is over if it waited, else it has to leave.
    Cut,
}

/// An errand, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ErrandRef {
    pub(crate) session: SessionKey,
    pub(crate) id: WaitId,
}

impl ErrandRef {
    /// The session that it serves.
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        self.session.address()
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> WaitId {
        self.id
    }
}

/// What goes into the commit of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A run, or one turn (and what is below it), is cancelled, by a caller or a deadline.
    Requested {
        /// The run, of the turn if one is named.
        run: RunRef,
        /// The turn.
        turn: Option<TurnRef>,
        /// What is requested.
        cut: Cut,
    },
    /// The run's first turn begins.
    Opened(RunRef),
    /// The turn begins.
    Begun(TurnRef),
    /// A child is admitted.
    Spawned {
        /// The child.
        turn: TurnRef,
        /// What its parent's end means to it.
        on_parent_end: OnParentEnd,
        /// Whether its parent goes on meanwhile.
        is_async: bool,
        /// Whether a call from outside asked for it.
        outside: bool,
        /// When it is cut.
        deadline: f64,
    },
    /// The turn is over.
    Ended(TurnRef, End),
    /// A child's result is in the step that was taken.
    Delivered {
        /// The child.
        turn: TurnRef,
        /// Who was given it.
        parent: TurnRef,
    },
    /// A child's result reaches nobody.
    Orphaned(TurnRef, Orphan),
    /// The run is over, and no finish follows.
    Closed(RunRef, Why),
    /// Nothing holds the run any more; its finish follows.
    RunOver(RunRef, Status),
}

/// What is done once the commit of a step is submitted; `Abort` and `Detach` once it is durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// After a restart: the turn had begun, and gets its driver again.
    Resume {
        /// The turn.
        turn: TurnRef,
        /// The numbers of the waits that its image had, in their order.
        waits: Vec<WaitId>,
        /// Its synchronous children that live, and the waits for them.
        children: Vec<(crate::id::TurnId, WaitId)>,
    },
    /// The turn begins.
    Begin(TurnRef),
    /// It has its permit again.
    GoOn(TurnRef),
    /// It looks at its next fold point.
    Stop(TurnRef, StopWhy),
    /// A wait of it has ended.
    Came(TurnRef, WaitId, Came),
    /// Its wait for a slot has.
    Decided(TurnRef, WaitId, Decision),
    /// It was held for its children, which have ended.
    Conclude(TurnRef),
    /// Its driver stops at once.
    Abort(TurnRef, Cut),
    /// Its driver is let go of.
    Detach(TurnRef),
    /// News of an errand.
    Errand(ErrandRef, ErrandNews),
}

impl Effect {
    /// The session that it is about.
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        match self {
            Self::Fact(fact) => match fact {
                Fact::Requested { run, .. } | Fact::Opened(run) | Fact::Closed(run, _) | Fact::RunOver(run, _) => {
                    run.address()
                }
                Fact::Begun(turn)
                | Fact::Spawned { turn, .. }
                | Fact::Ended(turn, _)
                | Fact::Delivered { turn, .. }
                | Fact::Orphaned(turn, _) => turn.address(),
            },
            Self::Act(act) => match act {
                Act::Resume { turn, .. }
                | Act::Begin(turn)
                | Act::GoOn(turn)
                | Act::Stop(turn, _)
                | Act::Came(turn, ..)
                | Act::Decided(turn, ..)
                | Act::Conclude(turn)
                | Act::Abort(turn, _)
                | Act::Detach(turn) => turn.address(),
                Act::Errand(errand, _) => errand.address(),
            },
        }
    }
}

/// Most steps that lead to anything lead to no more.
const USUAL: usize = 3;

/// A step under way: what it knows, and what it has led to so far.
#[derive(Debug)]
pub(crate) struct Cx<'a> {
    shared: &'a Shared,
    pub(crate) now: f64,
    effects: Vec<Effect>,
    wake_at: Option<f64>,
    /// Permits on their way to other sessions, in order.
    pub(crate) grants: Vec<Granted>,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(shared: &'a Shared, now: f64) -> Self {
        Self {
            shared,
            now,
            effects: Vec::new(),
            wake_at: None,
            grants: Vec::new(),
        }
    }

    pub(crate) fn gate(&self) -> &'a Gate {
        &self.shared.gate
    }

    pub(crate) fn ledger(&self) -> &'a Ledger {
        &self.shared.ledger
    }

    pub(crate) fn settings(&self) -> &'a Settings {
        &self.shared.settings
    }

    pub(crate) fn waits_for(&self) -> &'a crate::waits_for::WaitsFor {
        &self.shared.waits_for
    }

    pub(crate) fn fact(&mut self, fact: Fact) {
        self.push(Effect::Fact(fact));
    }

    pub(crate) fn act(&mut self, act: Act) {
        self.push(Effect::Act(act));
    }

    fn push(&mut self, effect: Effect) {
        if self.effects.capacity() == 0 {
            self.effects = Vec::with_capacity(USUAL);
        }
        self.effects.push(effect);
    }

    /// Arms a deadline; the result is what disarms it.
    pub(crate) fn arm(&mut self, when: f64, due: Due) -> Armed {
        let (armed, is_first) = self.shared.deadlines.arm(when, due);
        self.wake(is_first.then_some(when));
        armed
    }

    pub(crate) fn disarm(&self, armed: Option<Armed>) {
        if let Some(armed) = armed {
            self.shared.deadlines.disarm(armed);
        }
    }

    /// Notes that `due` may have something to do at `when`.
    pub(crate) fn wake(&mut self, when: Option<f64>) {
        if let Some(when) = when {
            self.wake_at = Some(self.wake_at.map_or(when, |earlier| earlier.min(when)));
        }
    }

    /// Gives a provider's slot back.
    pub(crate) fn leave_slot(&mut self, lane: LaneKey, session: &SessionKey) {
        let mut gate = self.gate().enter();
        let grant = gate.release(lane, session.tenant(), self.now);
        let next = gate.next_start();
        drop(gate);
        self.granted(grant);
        self.wake(next);
    }

    /// Tells errands that they are cut.
    pub(crate) fn errands_cut(&mut self, errands: Vec<(ErrandRef, Option<Armed>)>) {
        for (errand, armed) in errands {
            self.disarm(armed);
            self.act(Act::Errand(errand, ErrandNews::Cut));
        }
    }

    pub(crate) fn granted(&mut self, grant: Option<Granted>) {
        self.grants.extend(grant);
    }

    pub(crate) fn into_step<T>(self, answer: T) -> Step<T> {
        Step {
            answer,
            effects: self.effects,
            wake_at: self.wake_at,
        }
    }
}
