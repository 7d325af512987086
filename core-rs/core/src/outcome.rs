//! What each call answers: what was decided, and what the caller has to do.

use std::sync::Arc;

use crate::id::{RunId, Sequence};
use crate::run::{Cancel, Covered, RunRef};

/// Receipt of an accept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The stamp.
    pub sequence: Sequence,
    /// Runs of the session ahead of it: the open one and those in line, cancelled ones not counted.
    pub position: usize,
    /// The run it would fold into.
    pub steers: Option<RunId>,
    /// What a REPLACE covered, in accept order.
    pub replaced: Vec<Covered>,
    /// Floor turns that begin because a REPLACE took a waiting head out ahead of a run that it spares.
    pub starts: Vec<RunRef>,
}

/// What became of a dispatched reservation.
#[derive(Clone, Debug)]
pub enum Dispatch {
    /// Covered: it never starts, and the caller closes it.
    Cancelled(Arc<Cancel>),
    /// It stands in line.
    Queued,
    /// It is the head and waits for a permit.
    Waiting,
    /// Its floor turn begins now.
    Started,
}

/// Answer of a dispatch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dispatched {
    /// What became of the run.
    pub status: Dispatch,
    /// Runs of the session ahead of it, as in [`Accepted::position`].
    pub position: usize,
    /// The run it would fold into.
    pub steers: Option<RunId>,
    /// Floor turns that begin, or go on if they were woken, because of this step.
    pub starts: Vec<RunRef>,
}

/// The line as a fold point of the open run sees it (U-20).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Partition {
    /// STEER runs bound to it, in accept order. They have left the line and are the caller's to fold.
    pub fold: Vec<RunRef>,
    /// The cancel that covers the open run; then nothing folds.
    pub cancel: Option<Arc<Cancel>>,
}

/// What became of a parked turn that was woken (U-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// It has its permit and goes on now.
    Running,
    /// It waits for its permit: it goes on when it is among a step's starts.
    Waiting,
    /// Drained: it stays parked.
    Closed,
}

/// What a conclude decided (U-10).
#[derive(Clone, Debug)]
pub enum Conclusion {
    /// The proposed outcome stands. A stop that came first is named.
    Concluded(Option<Arc<Cancel>>),
    /// An abort came first, and wins.
    Cancelled(Arc<Cancel>),
    /// Nothing is concluded: these have to be folded, and the turn goes on.
    Steered(Vec<RunRef>),
}

/// What a cancel reached (U-11).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CancelResult {
    /// Runs that it covers, in accept order; those that were cancelled before are named again.
    pub covered: Vec<Covered>,
    /// Runs that had concluded before it.
    pub concluded: Vec<RunRef>,
    /// Floor turns that begin because a waiting head left its place.
    pub starts: Vec<RunRef>,
}
