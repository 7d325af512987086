//! Bounds of a scheduler, and those of them that steps look up.

use crate::sync::Mutex;

/// A provider's lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneLimits {
    /// Its name.
    pub name: Box<str>,
    /// Slots; none are as many as want one.
    pub limit: Option<usize>,
    /// How many may start in how much time.
    pub pace: Option<Pace>,
    /// Who may wait here, if that is not the bound of all lanes.
    pub waiters: Option<usize>,
}

/// So many starts in so much time; no starts at all mean none ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Starts.
    pub starts: usize,
    /// In seconds.
    pub per: f64,
}

/// Bounds of one scheduler; 0 allows none, times are in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Runs in the line of one session.
    pub queue_per_session: usize,
    /// Bytes of the prompts of one session's runs.
    pub session_bytes: usize,
    /// Runs that are not over, in all sessions.
    pub open_runs: usize,
    /// Bytes of their prompts.
    pub open_bytes: usize,
    /// Running floor turns.
    pub running_turns: usize,
    /// Running floor turns of one tenant.
    pub running_turns_per_tenant: usize,
    /// How deep children may be.
    pub depth: u8,
    /// Live children of one turn.
    pub children_per_turn: usize,
    /// Children admitted in one run.
    pub children_per_run: usize,
    /// Live children of one tenant.
    pub children_per_tenant: usize,
    /// Live children.
    pub children: usize,
    /// Running children of one depth.
    pub running_children: usize,
    /// The same of one tenant.
    pub running_children_per_tenant: usize,
    /// How long to wait for a slot; none is for ever.
    pub slot_wait: Option<f64>,
    /// How long a child may take.
    pub child_timeout: f64,
    /// How long a stop may take.
    pub stop_grace: f64,
    /// How long a driver may take to conclude what is cut.
    pub cancel_grace: f64,
    /// Who may wait in one provider's lane: turns, and turns and errands together.
    pub lane_waiters: usize,
    /// The providers' lanes.
    pub lanes: Vec<LaneLimits>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_per_session: 10_000,
            session_bytes: 64 << 20,
            open_runs: 100_000,
            open_bytes: 512 << 20,
            running_turns: 256,
            running_turns_per_tenant: 64,
            depth: 3,
            children_per_turn: 5,
            children_per_run: 1_000,
            children_per_tenant: 2_000,
            children: 10_000,
            running_children: 256,
            running_children_per_tenant: 64,
            slot_wait: Some(30.0),
            child_timeout: 300.0,
            stop_grace: 30.0,
            cancel_grace: 2.0,
            lane_waiters: 1_000,
            lanes: Vec::new(),
        }
    }
}

/// What steps look up outside the hot path; the rest of the limits is kept where it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(crate) depth: u8,
    pub(crate) children_per_turn: usize,
    pub(crate) children_per_run: usize,
    pub(crate) slot_wait: Option<f64>,
    pub(crate) child_timeout: f64,
    pub(crate) stop_grace: f64,
    pub(crate) cancel_grace: f64,
    pub(crate) lane_waiters: usize,
}

/// The limits that a step reads, as they are at its moment.
#[derive(Debug)]
pub(crate) struct Settings(Mutex<Tree>);

impl Settings {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Mutex::new(Tree::of(limits)))
    }

    pub(crate) fn get(&self) -> Tree {
        *self.0.lock()
    }

    pub(crate) fn set(&self, limits: &Limits) {
        *self.0.lock() = Tree::of(limits);
    }
}

impl Tree {
    fn of(limits: &Limits) -> Self {
        Self {
            depth: limits.depth,
            children_per_turn: limits.children_per_turn,
            children_per_run: limits.children_per_run,
            slot_wait: limits.slot_wait,
            child_timeout: limits.child_timeout,
            stop_grace: limits.stop_grace,
            cancel_grace: limits.cancel_grace,
            lane_waiters: limits.lane_waiters,
        }
    }
}
