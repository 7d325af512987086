//! Bounds of a scheduler.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use turnkeeper_core as core;

/// A provider's lane.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(Clone, PartialEq)]
pub(crate) struct Lane(core::LaneLimits);

#[pymethods]
impl Lane {
    #[new]
    #[pyo3(signature = (name, limit, *, starts=None, per=60.0, waiters=None))]
    fn new(name: &str, limit: Option<usize>, starts: Option<usize>, per: f64, waiters: Option<usize>) -> Self {
        Self(core::LaneLimits {
            name: name.into(),
            limit,
            pace: starts.map(|starts| core::Pace { starts, per }),
            waiters,
        })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    #[getter]
    fn limit(&self) -> Option<usize> {
        self.0.limit
    }

    #[getter]
    fn starts(&self) -> Option<usize> {
        self.0.pace.map(|pace| pace.starts)
    }

    #[getter]
    fn per(&self) -> Option<f64> {
        self.0.pace.map(|pace| pace.per)
    }

    #[getter]
    fn waiters(&self) -> Option<usize> {
        self.0.waiters
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// Bounds of one scheduler.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq)]
pub(crate) struct Limits(pub(crate) core::Limits);

#[pymethods]
#[expect(
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    reason = "keyword arguments in Python"
)]
impl Limits {
    #[new]
    #[pyo3(signature = (
        *,
        queue_per_session=10_000,
        session_bytes=67_108_864,
        open_runs=100_000,
        open_bytes=536_870_912,
        running_turns=256,
        running_turns_per_tenant=64,
        depth=3,
        children_per_turn=5,
        children_per_run=1_000,
        children_per_tenant=2_000,
        children=10_000,
        running_children=256,
        running_children_per_tenant=64,
        slot_wait=Some(30.0),
        child_timeout=300.0,
        stop_grace=30.0,
        cancel_grace=2.0,
        lane_waiters=1_000,
        lanes=Vec::new(),
    ), text_signature = "(*, queue_per_session=10_000, session_bytes=67_108_864, open_runs=100_000, open_bytes=536_870_912, running_turns=256, running_turns_per_tenant=64, depth=3, children_per_turn=5, children_per_run=1_000, children_per_tenant=2_000, children=10_000, running_children=256, running_children_per_tenant=64, slot_wait=30.0, child_timeout=300.0, stop_grace=30.0, cancel_grace=2.0, lane_waiters=1_000, lanes=())")]
    fn new(
        queue_per_session: usize,
        session_bytes: usize,
        open_runs: usize,
        open_bytes: usize,
        running_turns: usize,
        running_turns_per_tenant: usize,
        depth: u8,
        children_per_turn: usize,
        children_per_run: usize,
        children_per_tenant: usize,
        children: usize,
        running_children: usize,
        running_children_per_tenant: usize,
        slot_wait: Option<f64>,
        child_timeout: f64,
        stop_grace: f64,
        cancel_grace: f64,
        lane_waiters: usize,
        lanes: Vec<Bound<'_, Lane>>,
    ) -> Self {
        Self(core::Limits {
            queue_per_session,
            session_bytes,
            open_runs,
            open_bytes,
            running_turns,
            running_turns_per_tenant,
            depth,
            children_per_turn,
            children_per_run,
            children_per_tenant,
            children,
            running_children,
            running_children_per_tenant,
            slot_wait,
            child_timeout,
            stop_grace,
            cancel_grace,
            lane_waiters,
            lanes: lanes.iter().map(|lane| lane.get().0.clone()).collect(),
        })
    }

    #[getter]
    fn queue_per_session(&self) -> usize {
        self.0.queue_per_session
    }

    #[getter]
    fn session_bytes(&self) -> usize {
        self.0.session_bytes
    }

    #[getter]
    fn open_runs(&self) -> usize {
        self.0.open_runs
    }

    #[getter]
    fn open_bytes(&self) -> usize {
        self.0.open_bytes
    }

    #[getter]
    fn running_turns(&self) -> usize {
        self.0.running_turns
    }

    #[getter]
    fn running_turns_per_tenant(&self) -> usize {
        self.0.running_turns_per_tenant
    }

    #[getter]
    fn depth(&self) -> u8 {
        self.0.depth
    }

    #[getter]
    fn children_per_turn(&self) -> usize {
        self.0.children_per_turn
    }

    #[getter]
    fn children_per_run(&self) -> usize {
        self.0.children_per_run
    }

    #[getter]
    fn children_per_tenant(&self) -> usize {
        self.0.children_per_tenant
    }

    #[getter]
    fn children(&self) -> usize {
        self.0.children
    }

    #[getter]
    fn running_children(&self) -> usize {
        self.0.running_children
    }

    #[getter]
    fn running_children_per_tenant(&self) -> usize {
        self.0.running_children_per_tenant
    }

    #[getter]
    fn slot_wait(&self) -> Option<f64> {
        self.0.slot_wait
    }

    #[getter]
    fn child_timeout(&self) -> f64 {
        self.0.child_timeout
    }

    #[getter]
    fn stop_grace(&self) -> f64 {
        self.0.stop_grace
    }

    #[getter]
    fn cancel_grace(&self) -> f64 {
        self.0.cancel_grace
    }

    #[getter]
    fn lane_waiters(&self) -> usize {
        self.0.lane_waiters
    }

    #[getter]
    fn lanes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.lanes.iter().cloned().map(Lane))
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}
