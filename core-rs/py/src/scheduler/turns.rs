//! What turns do.

use pyo3::prelude::*;
use turnkeeper_core as core;
use turnkeeper_core::{Address, Proposal, Spawn, TurnId, WaitId, WaitKind, WaitRequest};

use super::{Scheduler, none, same};
use crate::literal;
use crate::outcome::{Admission, Conclusion, FoldPoint, LaneEntry, Step, Waiting};

#[pymethods]
#[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
impl Scheduler {
    /// A batch of so many calls begins.
    fn strands(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: u64,
        count: usize,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.strands(at, TurnId::new(turn), count, now), none)
    }

    /// A call of the batch has its result.
    fn strand_ends(&self, py: Python<'_>, tenant: &str, session_id: &str, turn: u64, now: f64) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.strand_ends(at, TurnId::new(turn), now), same)
    }

    /// A strand waits for somebody outside.
    #[pyo3(signature = (tenant, session_id, turn, kind, now, *, label="", deadline=None, target=None, by=None))]
    fn wait(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: u64,
        kind: &str,
        now: f64,
        label: &str,
        deadline: Option<f64>,
        target: Option<&str>,
        by: Option<u64>,
    ) -> PyResult<Step> {
        let kind = match (kind, target) {
            ("run", Some(session)) => WaitKind::Run(session),
            ("approval", _) => WaitKind::Approval,
            ("tool", _) => WaitKind::Tool,
            ("backoff", _) => WaitKind::Backoff,
            ("servers", _) => WaitKind::Servers,
            ("drain", _) => WaitKind::Drain,
            _ => {
                let kinds = ["approval", "tool", "backoff", "servers", "run (with a target)", "drain"];
                return Err(literal::refused("kind", kind, &kinds));
            }
        };
        let request = WaitRequest {
            kind,
            label,
            deadline,
            by: by.map(WaitId::new),
        };
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.wait(at, TurnId::new(turn), request, now), Waiting::from)
    }

    /// What a strand or a call waited for has come.
    fn waited(&self, py: Python<'_>, tenant: &str, session_id: &str, turn: u64, wait: u64, now: f64) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        let step = self.0.waited(at, TurnId::new(turn), WaitId::new(wait), now);
        Step::of(py, step, same)
    }

    /// Ask for a slot in a provider's lane.
    #[pyo3(signature = (tenant, session_id, turn, lane, now, *, label="", deadline=None))]
    fn enter_lane(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: Option<u64>,
        lane: &str,
        now: f64,
        label: &str,
        deadline: Option<f64>,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        let step = match turn {
            Some(turn) => self.0.enter_lane(at, TurnId::new(turn), lane, label, deadline, now),
            None => self.0.enter_errand(at, lane, deadline, now),
        };
        Step::of(py, step, LaneEntry::from)
    }

    /// Give the slot back, or the place in the queue.
    #[pyo3(signature = (tenant, session_id, turn, entry, now))]
    fn leave_lane(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: Option<u64>,
        entry: u64,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        let step = match turn {
            Some(turn) => self.0.leave_lane(at, TurnId::new(turn), WaitId::new(entry), now),
            None => self.0.leave_errand(WaitId::new(entry), now),
        };
        Step::of(py, step, same)
    }

    /// A strand asks for a child.
    #[pyo3(signature = (
        tenant, session_id, turn, now, *, on_parent_end="wait", is_async=false, is_valid=true, caller_cancelled=false,
        timeout=None, slot_wait=None, by=None, depth=None, children_per_turn=None, children_per_run=None,
    ))]
    fn spawn(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: u64,
        now: f64,
        on_parent_end: &str,
        is_async: bool,
        is_valid: bool,
        caller_cancelled: bool,
        timeout: Option<f64>,
        slot_wait: Option<f64>,
        by: Option<u64>,
        depth: Option<u8>,
        children_per_turn: Option<usize>,
        children_per_run: Option<usize>,
    ) -> PyResult<Step> {
        let spawn = Spawn {
            on_parent_end: literal::on_parent_end(on_parent_end)?,
            is_async,
            is_valid,
            caller_cancelled,
            timeout,
            slot_wait,
            by: by.map(WaitId::new),
            depth,
            children_per_turn,
            children_per_run,
        };
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.spawn(at, TurnId::new(turn), &spawn, now), Admission)
    }

    /// The caller gave up waiting for a slot.
    fn abandon_spawn(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: u64,
        wait: u64,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        let step = self.0.abandon_spawn(at, TurnId::new(turn), WaitId::new(wait), now);
        Step::of(py, step, same)
    }

    /// Before a step of the turn.
    #[pyo3(signature = (tenant, session_id, turn, now, *, most=None))]
    fn fold_point(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: u64,
        now: f64,
        most: Option<usize>,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        let step = self
            .0
            .fold_point(at, TurnId::new(turn), most.unwrap_or(usize::MAX), now);
        Step::of(py, step, FoldPoint)
    }

    /// The draft that holds the loan is submitted in this block.
    fn taken(&self, py: Python<'_>, tenant: &str, session_id: &str, turn: u64, now: f64) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.taken(at, TurnId::new(turn), now), none)
    }

    /// Propose the end of a turn.
    #[pyo3(signature = (tenant, session_id, turn, proposal, now, *, may_step=true, most=None, if_last=false))]
    fn conclude(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: u64,
        proposal: &str,
        now: f64,
        may_step: bool,
        most: Option<usize>,
        if_last: bool,
    ) -> PyResult<Step> {
        let proposal = match proposal {
            "answer" => Proposal::Answer {
                may_step,
                most: most.unwrap_or(usize::MAX),
                if_last,
            },
            "failed" => Proposal::Failed,
            "cut" => Proposal::Cut,
            _ => return Err(literal::refused("proposal", proposal, &["answer", "failed", "cut"])),
        };
        let at = Address::new(tenant, session_id);
        let step: core::Answer<_> = self.0.conclude(at, TurnId::new(turn), proposal, now);
        Step::of(py, step, Conclusion)
    }
}
