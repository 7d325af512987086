//! What turns wait for: strands, and calls from tools that run outside.

use crate::deadline::Armed;
use crate::effect::Cx;
use crate::gate::{LaneKey, Ticket};
use crate::id::{SessionKey, WaitId};
use crate::turn::OnParentEnd;

/// What a strand waits for.
#[derive(Debug)]
pub(crate) enum WaitFor {
    Approval,
    Tool,
    Backoff,
    Servers,
    Drain,
    /// A run of another session; named if this turn holds its own line.
    Run(Option<SessionKey>),
    /// A provider's slot.
    Lane(LaneKey, Ticket),
    /// A slot for a child.
    Slot,
    /// A synchronous child.
    Child,
    /// The children of a turn that has answered.
    Children,
}

/// One strand that waits.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) what: WaitFor,
    pub(crate) label: Box<str>,
    pub(crate) since: f64,
    pub(crate) deadline: Option<Armed>,
}

/// What a tool that runs outside has asked for, and waits for.
#[derive(Debug)]
pub(crate) enum CallFor {
    Slot,
    Child,
    Run(Option<SessionKey>),
}

/// A call from outside, and the wait of the tool that made it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) what: CallFor,
    pub(crate) by: WaitId,
}

/// What a child is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) on_parent_end: OnParentEnd,
    pub(crate) is_async: bool,
    pub(crate) timeout: f64,
    /// How many may live below its parent.
    pub(crate) slots: usize,
}

/// Who waits for a slot.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) spec: Spec,
    pub(crate) since: f64,
    pub(crate) deadline: Option<Armed>,
}

impl Wait {
    /// Disarms it, and leaves where it stood.
    pub(crate) fn end(self, session: &SessionKey, cx: &mut Cx<'_>) {
        cx.disarm(self.deadline);
        match self.what {
            WaitFor::Run(Some(target)) => cx.waits_for().remove(session, &target),
            WaitFor::Lane(lane, ticket) => {
                cx.gate().enter().abandon(lane, session.tenant(), ticket);
            }
            _ => {}
        }
    }
}

impl Call {
    pub(crate) fn end(self, session: &SessionKey, cx: &mut Cx<'_>) {
        if let CallFor::Run(Some(target)) = self.what {
            cx.waits_for().remove(session, &target);
        }
    }
}
