//! What calls ask for.

use std::sync::Arc;

use crate::id::{Sequence, TurnId, WaitId};
use crate::limits::Tree;
use crate::run::{Cancel, Delivery, Kind};
use crate::turn::OnParentEnd;

/// How a run wants to be accepted.
#[derive(Clone, Debug, Default)]
pub struct RunRequest<'a> {
    /// What it does.
    pub kind: Kind,
    /// How it reaches the session.
    pub delivery: Delivery,
    /// Refused unless the session has no run.
    pub require_idle: bool,
    /// Refused unless this run is open.
    pub expected_open_run_id: Option<&'a str>,
    /// The child that a STEER is for.
    pub steer_turn: Option<TurnId>,
    /// A cancel met it before it came: it is accepted past all checks, and never starts.
    pub cancelled: Option<Arc<Cancel>>,
    /// Bytes of its prompt.
    pub size: usize,
    /// How long it may wait for its first turn, in seconds from now.
    pub start_timeout: Option<f64>,
    /// How long it may take from then.
    pub run_timeout: Option<f64>,
    /// Begin in this step, if nothing else is in the session and a permit is free.
    pub may_start: bool,
}

/// What a strand waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind<'a> {
    /// Somebody's word.
    Approval,
    /// A tool that runs elsewhere.
    Tool,
    /// The time to ask a provider again.
    Backoff,
    /// Tool servers that connect.
    Servers,
    /// A run of this session of the same tenant.
    Run(&'a str),
    /// The end of a server that drains.
    Drain,
}

/// How a strand wants to wait.
#[derive(Clone, Copy, Debug)]
pub struct WaitRequest<'a> {
    /// What for.
    pub kind: WaitKind<'a>,
    /// In the driver's words.
    pub label: &'a str,
    /// Until when.
    pub deadline: Option<f64>,
    /// A tool's wait, if that tool calls from outside; only for runs. Then no strand waits.
    pub by: Option<WaitId>,
}

/// What a child is to be.
#[derive(Clone, Copy, Debug)]
pub struct Spawn {
    /// What its parent's end means to it; a synchronous child is waited for.
    pub on_parent_end: OnParentEnd,
    /// Whether its parent goes on meanwhile.
    pub is_async: bool,
    /// What the driver says of the request otherwise.
    pub is_valid: bool,
    /// The caller has given up before.
    pub caller_cancelled: bool,
    /// How long it may take, in seconds from its admission; the limit's otherwise.
    pub timeout: Option<f64>,
    /// How long to wait for a slot; the limit's otherwise.
    pub slot_wait: Option<f64>,
    /// A tool's wait, if that tool calls from outside. Then no strand waits.
    pub by: Option<WaitId>,
    /// Narrows the limit of this name.
    pub depth: Option<u8>,
    /// Narrows the limit of this name.
    pub children_per_turn: Option<usize>,
    /// Narrows the limit of this name.
    pub children_per_run: Option<usize>,
}

impl Default for Spawn {
    fn default() -> Self {
        Self {
            on_parent_end: OnParentEnd::Wait,
            is_async: false,
            is_valid: true,
            caller_cancelled: false,
            timeout: None,
            slot_wait: None,
            by: None,
            depth: None,
            children_per_turn: None,
            children_per_run: None,
        }
    }
}

impl Spawn {
    pub(crate) fn narrow(&self, limits: Tree) -> Tree {
        Tree {
            depth: limits.depth.min(self.depth.unwrap_or(u8::MAX)),
            children_per_turn: limits
                .children_per_turn
                .min(self.children_per_turn.unwrap_or(usize::MAX)),
            children_per_run: limits.children_per_run.min(self.children_per_run.unwrap_or(usize::MAX)),
            ..limits
        }
    }
}

/// What a cancel is for.
#[derive(Clone, Copy, Debug)]
pub enum CancelScope<'a> {
    /// All that the session accepted so far.
    Session,
    /// All that it accepted up to this sequence.
    UpTo(Sequence),
    /// The line: neither the open run nor runs of kind bootstrap, and nothing after the sequence if there is one.
    Clear(Option<Sequence>),
    /// One run, and what is left of it after its end.
    Run(&'a str),
    /// A turn, and with an abort all below it; of a floor turn, its run.
    Subtree(TurnId),
}
