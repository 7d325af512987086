//! What each call answers.

use std::sync::Arc;

use crate::id::{RunId, Sequence, TurnId, WaitId};
use crate::run::{Cancel, Covered, Place, RunRef};
use crate::turn::{ChildResult, End, TurnRef};

/// What a STEER would fold into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steers {
    /// The prompt turn of a run.
    Run(RunId),
    /// A child.
    Turn(TurnId),
}

/// Receipt of an accept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The stamp.
    pub sequence: Sequence,
    /// Runs of the session ahead of it: the open one and those in line, cancelled ones not counted.
    pub position: usize,
    /// What it would fold into.
    pub steers: Option<Steers>,
    /// What a REPLACE covered, in accept order.
    pub replaced: Vec<Covered>,
    /// The turn that has begun in this step: no dispatch follows.
    pub starts: Option<TurnRef>,
}

/// What became of a dispatched reservation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dispatched {
    /// Where it stands; none if a cancel covers it, and it is closed.
    pub place: Option<Place>,
    /// Runs of the session ahead of it, as in [`Accepted::position`].
    pub position: usize,
    /// What it would fold into.
    pub steers: Option<Steers>,
}

/// A wait of one strand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Its number.
    pub id: WaitId,
    /// All strands of the turn wait: its permit is given back.
    pub parked: bool,
}

/// A place in a provider's lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneEntry {
    /// Its number.
    pub id: WaitId,
    /// It has the slot; else it waits for it.
    pub is_in: bool,
    /// All strands of the turn wait: its permit is given back.
    pub parked: bool,
}

/// What a spawn led to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Admission {
    /// The child, if it is admitted.
    pub child: Option<TurnRef>,
    /// The wait for the child's end if it is synchronous, for a slot if there is no child.
    pub wait: Option<WaitId>,
    /// All strands of the turn wait: its permit is given back.
    pub parked: bool,
}

/// What a turn finds at a fold point.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FoldPoint {
    /// STEER runs, in accept order: lent.
    pub steers: Vec<RunRef>,
    /// Results of asynchronous children, in the order of their ends: lent.
    pub results: Vec<ChildResult>,
    /// The next step is the last, by this cancel.
    pub stop: Option<Arc<Cancel>>,
    /// There is no next step.
    pub parent_ended: bool,
    /// The scheduler drains: the turn waits until it is cut.
    pub leave: bool,
}

/// How a turn proposes to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proposal {
    /// With an answer.
    Answer {
        /// Whether a further step may follow.
        may_step: bool,
        /// How many STEER runs it would take at most.
        most: usize,
        /// Whether to be told that nobody of its run would answer after it.
        if_last: bool,
    },
    /// By a fault.
    Failed,
    /// Because it was cut.
    Cut,
}

/// What a proposal led to.
#[derive(Clone, Debug, PartialEq)]
pub enum Conclusion {
    /// The turn is over.
    Concluded(End),
    /// This is lent, and another step follows.
    GoesOn(FoldPoint),
    /// It waits for its children.
    Held,
    /// The scheduler drains: it waits until it is cut.
    Leaves,
    /// Nobody of its run would answer after it; nothing has changed.
    Last,
}

/// What a cancel reached (U-11).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Cancelled {
    /// Runs that it covers, in accept order; those that were cancelled before are named again.
    pub covered: Vec<Covered>,
    /// Runs that were over before it, but for their finish.
    pub finished: Vec<RunRef>,
    /// STEER runs that are lent: folded if they are taken, closed if they are given back.
    pub lent: Vec<RunRef>,
    /// Turns of ended runs, or of a subtree, that it cut or stopped.
    pub turns: Vec<TurnRef>,
}
