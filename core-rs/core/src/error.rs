//! Refusals. A refused call has changed nothing.

use crate::id::{RunId, TurnId};

/// Which bound a refused call ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// The session's line.
    Session,
    /// All runs of this scheduler that are not over.
    Process,
}

/// What a bound counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Runs.
    Runs,
    /// The bytes of their prompts.
    Bytes,
}

/// Why there is no child, in the order in which it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoChild {
    /// The parent is cut, or the call that asks is over.
    Cancelled,
    /// The parent has not begun, or has answered.
    ParentEnded,
    /// The parent is as deep as may be.
    DepthLimit,
    /// The request is.
    Invalid,
    /// None are allowed, or as many as may be have been admitted or live.
    ChildLimit,
    /// No slot is free, and it would not wait.
    SlotTimeout,
}

/// One variant for each thing that a caller can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Delivery REJECT, the precondition that the session be idle, or its deletion found something that is not over (U-23).
    #[error("the session is busy")]
    SessionBusy {
        /// The open run, if there is one.
        open_run_id: Option<RunId>,
    },
    /// Another run than the expected one is open, or none.
    #[error("the open run is not the expected one")]
    OpenRunMismatch {
        /// The open run, if there is one.
        open_run_id: Option<RunId>,
    },
    /// A bound is reached.
    #[error("no room for another run: the limit is {limit}")]
    QueueFull {
        /// Whose bound.
        scope: Scope,
        /// Of what.
        of: Unit,
        /// The bound.
        limit: usize,
    },
    /// The session has a run of this id.
    #[error("the session already has the run {run_id}")]
    RunExists {
        /// The run.
        run_id: RunId,
    },
    /// The session has no such run, or it is not in the state that the call needs.
    #[error("the session has no run {run_id} in the state that this call needs")]
    UnknownRun {
        /// The run.
        run_id: RunId,
    },
    /// A cancel or a STEER names a turn that does not live, or may not be named so.
    #[error("the session has no turn {turn} that may be named so")]
    TurnNotFound {
        /// The turn.
        turn: TurnId,
    },
    /// The session is closing.
    #[error("the session is being deleted")]
    SessionDeleting,
    /// Nothing begins any more; or the scheduler is cut, and takes no call.
    #[error("the scheduler drains")]
    Draining,
    /// The turn is cut.
    #[error("the turn {turn} is cut")]
    Aborted {
        /// The turn.
        turn: TurnId,
    },
    /// A mistake of the driver.
    #[error("the turn {turn} is not in the state that this call needs")]
    BadState {
        /// The turn.
        turn: TurnId,
    },
    /// There is no child.
    #[error("no child: {0:?}")]
    Spawn(NoChild),
    /// As many wait for a slot of a provider as may.
    #[error("too many wait in the lane {lane}")]
    LaneFull {
        /// The lane.
        lane: Box<str>,
    },
    /// There is no such lane.
    #[error("there is no lane {lane}")]
    UnknownLane {
        /// The lane.
        lane: Box<str>,
    },
    /// A turn that holds its line would wait for a run of that line.
    #[error("the run would wait for its own session")]
    WouldDeadlock,
    /// The session that it would wait for waits for this one.
    #[error("the session that it would wait for waits for this one")]
    WaitCycle,
    /// An image contradicts itself, or what is here.
    #[error("the image is refused: {why}")]
    ImageRefused {
        /// What is wrong.
        why: &'static str,
    },
    /// The generator has reached the end of what it may stamp, or would start beyond it.
    #[error("accept sequences are used up")]
    SequencesExhausted,
}

/// The answer of a call, or its refusal.
pub type Answer<T> = Result<crate::effect::Step<T>, Error>;
