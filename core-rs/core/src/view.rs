//! What an observer sees: a run, a session, or the whole scheduler, at one moment.

use std::sync::Arc;

use crate::id::{RunId, Sequence, TurnId};
use crate::outcome::Steers;
use crate::run::{Cancel, Cut, Place, RunRef};
use crate::turn::TurnRef;

/// What kind of thing keeps a run from being over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HoldKind {
    /// Its commit is not reported yet.
    Reserved,
    /// It stands in line, or is lent.
    Line,
    /// A turn waits for its permit.
    Gate,
    /// A turn runs.
    Turn,
    /// A strand waits for somebody's word.
    Approval,
    /// A strand waits for a tool that runs elsewhere.
    Tool,
    /// A strand waits to ask a provider again.
    Backoff,
    /// A strand waits for tool servers that connect.
    Servers,
    /// A strand, or a call, waits for a run.
    Run,
    /// A turn waits for the end of a server that drains.
    Drain,
    /// A strand waits for a provider's slot.
    Lane,
    /// A strand, or a call, waits for a slot for a child.
    Slot,
    /// A strand, or a call, waits for a child.
    Child,
    /// A turn that has answered waits for its children.
    Children,
    /// The driver holds it.
    Guard,
    /// A cancel is under way.
    Cancel,
    /// Only its finish is missing.
    Terminal,
}

/// A reason why a run is not over.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hold {
    /// What kind it is.
    pub kind: HoldKind,
    /// In the driver's words.
    pub label: Box<str>,
    /// Since when.
    pub since: f64,
    /// Until when.
    pub deadline: Option<f64>,
    /// Whose, if it is a turn's.
    pub turn: Option<TurnId>,
    /// In the line: runs ahead.
    pub position: Option<usize>,
}

/// How a turn stands to its permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has not begun, and waits for it.
    Waiting,
    /// It has it.
    Running,
    /// It has none and asks for none.
    Parked,
    /// It was parked, and waits for it.
    Woken,
}

/// A turn as it is now.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[non_exhaustive]
pub struct TurnView {
    /// The turn.
    pub turn: TurnRef,
    /// How it stands to its permit.
    pub stand: Standing,
    /// When it came to stand so.
    pub since: f64,
    /// It had its permit once.
    pub begun: bool,
    /// Calls under way side by side.
    pub strands: usize,
    /// Strands that wait.
    pub waits: usize,
    /// Live children.
    pub children: usize,
    /// Who waits for a slot for a child.
    pub tickets: usize,
    /// Results that it has not been given.
    pub inbox: usize,
    /// It has answered, and waits for its children.
    pub held: bool,
    /// It was cut, and waits for its children.
    pub closing: bool,
    /// How it was cut.
    pub cut: Option<Cut>,
    /// Its parent has ended.
    pub parent_ended: bool,
}

/// Where to go on in the live floor turns: a shard, and the turn before.
pub type Cursor = (usize, TurnId);

/// Some of the live floor turns.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// The turns.
    pub turns: Vec<TurnView>,
    /// For what comes after them; none at the end.
    pub cursor: Option<Cursor>,
}

/// A session in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The open run.
    pub open_run_id: Option<RunId>,
    /// The first run in line that no cancel covers.
    pub head_run_id: Option<RunId>,
    /// Reservations in line, covered ones included.
    pub reserved: usize,
    /// Dispatched runs in line, and those that are lent.
    pub queued: usize,
    /// Live turns.
    pub turns: usize,
    /// Bytes of the prompts of all its runs.
    pub bytes: usize,
    /// It is being deleted.
    pub closing: bool,
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
    /// The cancel that covers it.
    pub cancel: Option<Arc<Cancel>>,
    /// What it would fold into.
    pub steers: Option<Steers>,
}

/// One session as it is now, whole.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The run that has, or is about to get, the floor.
    pub open: Option<RunView>,
    /// Reserved and queued runs, in accept order.
    pub line: Vec<RunView>,
    /// STEER runs that are lent.
    pub lent: Vec<RunView>,
    /// Live turns, in the order of their numbers.
    pub turns: Vec<TurnView>,
    /// What holds the open run: floor turns, children, guards.
    pub held_by: [usize; 3],
    /// How far cancels of the session reached, while reservations are open.
    pub mark: Option<Sequence>,
    /// It is being deleted.
    pub closing: bool,
}

/// Counts over all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions with an entry.
    pub sessions: usize,
    /// Runs accepted and not over.
    pub open_runs: usize,
    /// Bytes of their prompts.
    pub open_bytes: usize,
    /// Permits in use, of all depths, those on their way included.
    pub running_turns: usize,
    /// Turns that wait for a permit, of all depths.
    pub waiting_turns: usize,
    /// Begun turns that have none and ask for none.
    pub parked_turns: usize,
    /// Live children.
    pub children: usize,
    /// Slots in use in the lanes of all providers.
    pub lane_slots: usize,
    /// Places kept there.
    pub lane_waiters: usize,
    /// Errands.
    pub errands: usize,
    /// Deadlines that are armed.
    pub deadlines: usize,
    /// The highest sequence given out.
    pub last_sequence: u64,
}
