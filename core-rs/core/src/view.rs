//! What an observer sees: a session, or the whole scheduler, at one moment.

use std::sync::Arc;

use crate::id::{RunId, Sequence};
use crate::run::{Cancel, Place, RunRef};

/// A reason why the open run is not over.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hold {
    /// Its number within the run.
    pub number: u64,
    /// What it is.
    pub label: Box<str>,
    /// When it was taken.
    pub since: f64,
}

/// One run in a snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunView {
    /// The run.
    pub run: RunRef,
    /// Where it stands.
    pub place: Place,
    /// When it came there.
    pub since: f64,
    /// Its outcome is fixed.
    pub concluded: bool,
    /// The cancel that covers it.
    pub cancel: Option<Arc<Cancel>>,
    /// The run it would fold into.
    pub steers: Option<RunId>,
    /// Why it is not over.
    pub holds: Vec<Hold>,
}

/// One session as it is now.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The run that waits at the gate, runs or is parked.
    pub open: Option<RunView>,
    /// Reserved and queued runs, in accept order.
    pub line: Vec<RunView>,
    /// The cancel mark, while a reservation is open.
    pub mark: Option<Sequence>,
    /// Reservations in line, covered ones included.
    pub reserved: usize,
    /// Dispatched runs in line.
    pub queued: usize,
}

/// How much one session has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The run that waits at the gate, runs or is parked.
    pub open: Option<RunId>,
    /// The first uncancelled run in line.
    pub head: Option<RunId>,
    /// Reservations in line, covered ones included.
    pub reserved: usize,
    /// Dispatched runs in line.
    pub queued: usize,
    /// Bytes of the prompts in line.
    pub bytes: usize,
}

/// Counts over all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions with work.
    pub sessions: usize,
    /// Runs accepted and not over.
    pub open_runs: usize,
    /// Bytes of the prompts in line.
    pub line_bytes: usize,
    /// Permits in use.
    pub running_turns: usize,
    /// Heads, and turns that were woken, that wait for a permit.
    pub waiting_turns: usize,
    /// Turns that gave their permit back and have not been woken.
    pub parked_turns: usize,
    /// The highest sequence given out.
    pub last_sequence: u64,
}
