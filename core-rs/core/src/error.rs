//! Refusals. A refused call has changed nothing.

use crate::id::RunId;

/// Which bound a refused accept ran into.
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
#[non_exhaustive]
pub enum Unit {
    /// Runs.
    Runs,
    /// Bytes of prompts in line.
    Bytes,
}

/// One variant for each thing that a caller can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Delivery REJECT, or the precondition that the session be idle, found work in it (U-23).
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
        /// What it counts.
        unit: Unit,
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
    /// A restored run bears a sequence that another run of the session has, or one that no scheduler stamps.
    #[error("a restored run cannot have the sequence {sequence}")]
    SequenceRefused {
        /// The sequence.
        sequence: u64,
    },
    /// The generator has reached the end of what it may stamp, or would start beyond it.
    #[error("accept sequences are used up")]
    SequencesExhausted,
}
