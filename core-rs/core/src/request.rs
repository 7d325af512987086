//! What callers ask with: the bounds of a scheduler, a run's wishes, a cancel's scope.

use std::sync::Arc;

use crate::id::Sequence;
use crate::run::{Cancel, Delivery, Kind};

/// Bounds of one scheduler; 0 allows none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Runs in the line of one session.
    pub queue_per_session: usize,
    /// Runs that are not over, in all sessions.
    pub open_runs: usize,
    /// Bytes of the prompts in the line of one session.
    pub line_bytes_per_session: usize,
    /// Bytes of the prompts in line, in all sessions.
    pub line_bytes: usize,
    /// Running turns.
    pub running_turns: usize,
    /// Running turns of one tenant.
    pub running_turns_per_tenant: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_per_session: 10_000,
            open_runs: 100_000,
            line_bytes_per_session: 64 << 20,
            line_bytes: 512 << 20,
            running_turns: 256,
            running_turns_per_tenant: 64,
        }
    }
}

/// How a run wants to be accepted.
#[derive(Clone, Debug, Default)]
pub struct RunRequest<'a> {
    /// What it does.
    pub kind: Kind,
    /// How it reaches the session.
    pub delivery: Delivery,
    /// How much its prompt counts for while it is in line.
    pub bytes: usize,
    /// Refused unless the session has no run that is not over, cancelled ones included.
    pub require_idle: bool,
    /// Refused unless this run is open.
    pub expected_open_run_id: Option<&'a str>,
    /// A cancel met it before it came: it is accepted past all checks, and never starts.
    pub cancelled: Option<Arc<Cancel>>,
}

/// A run that an earlier process accepted.
#[derive(Clone, Debug)]
pub struct Restore<'a> {
    /// Its stamp.
    pub sequence: Sequence,
    /// What it does.
    pub kind: Kind,
    /// How much its prompt counts for while it is in line.
    pub bytes: usize,
    /// The run that it was bound to.
    pub steers: Option<&'a str>,
    /// The cancel that covers it.
    pub cancelled: Option<Arc<Cancel>>,
}

/// What a cancel of a session covers.
#[derive(Clone, Copy, Debug, Default)]
pub struct CancelScope {
    /// Nothing accepted after this sequence; without it, all that is accepted by now.
    pub up_to: Option<Sequence>,
    /// Not the open run.
    pub spare_open: bool,
    /// No run of kind bootstrap.
    pub spare_bootstrap: bool,
}
