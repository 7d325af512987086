//! What an observer sees.

use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core as core;

use crate::cancel::Cancel;
use crate::literal;
use crate::run::RunRef;

/// A reason why the open run is not over: what, and when it was taken.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq)]
pub(crate) struct Hold(core::Hold);

#[pymethods]
impl Hold {
    #[getter]
    fn number(&self) -> u64 {
        self.0.number
    }

    #[getter]
    fn label(&self) -> &str {
        &self.0.label
    }

    #[getter]
    fn since(&self) -> f64 {
        self.0.since
    }

    fn __repr__(&self) -> String {
        format!("<Hold {} {:?} since {}>", self.0.number, self.0.label, self.0.since)
    }
}

/// One run in a snapshot.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct RunView(core::RunView);

#[pymethods]
impl RunView {
    #[getter]
    fn run(&self) -> RunRef {
        self.0.run.clone().into()
    }

    #[getter]
    fn place<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::place_text(py, self.0.place)
    }

    #[getter]
    fn since(&self) -> f64 {
        self.0.since
    }

    #[getter]
    fn concluded(&self) -> bool {
        self.0.concluded
    }

    #[getter]
    fn cancel(&self) -> Option<Cancel> {
        self.0.cancel.as_ref().map(Cancel::from)
    }

    #[getter]
    fn steers(&self) -> Option<&str> {
        self.0.steers.as_ref().map(core::RunId::as_str)
    }

    #[getter]
    fn holds(&self) -> Vec<Hold> {
        self.0.holds.iter().cloned().map(Hold).collect()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<RunView {:?}, {} since {}>", self.0.run, self.place(py), self.0.since)
    }
}

/// One session as it is now. ``open`` waits, runs or is parked; ``line`` holds reserved and queued runs in order.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Snapshot(pub(crate) core::Snapshot);

#[pymethods]
impl Snapshot {
    #[getter]
    fn open(&self) -> Option<RunView> {
        self.0.open.clone().map(RunView)
    }

    #[getter]
    fn line(&self) -> Vec<RunView> {
        self.0.line.iter().cloned().map(RunView).collect()
    }

    #[getter]
    fn mark(&self) -> Option<u64> {
        self.0.mark.map(core::Sequence::get)
    }

    #[getter]
    fn reserved(&self) -> usize {
        self.0.reserved
    }

    #[getter]
    fn queued(&self) -> usize {
        self.0.queued
    }

    fn __repr__(&self) -> String {
        let open = self.0.open.as_ref().map(|view| &view.run);
        let line: Vec<_> = self.0.line.iter().map(|view| &view.run).collect();
        format!(
            "<Snapshot open={open:?} line={line:?} mark={:?}>",
            self.0.mark.map(core::Sequence::get)
        )
    }
}

/// How much one session has to do.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) core::Counts);

#[pymethods]
impl Counts {
    #[getter]
    fn open(&self) -> Option<&str> {
        self.0.open.as_ref().map(core::RunId::as_str)
    }

    #[getter]
    fn head(&self) -> Option<&str> {
        self.0.head.as_ref().map(core::RunId::as_str)
    }

    #[getter]
    fn reserved(&self) -> usize {
        self.0.reserved
    }

    #[getter]
    fn queued(&self) -> usize {
        self.0.queued
    }

    #[getter]
    fn bytes(&self) -> usize {
        self.0.bytes
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Counts over all sessions.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq)]
pub(crate) struct Stats(pub(crate) core::Stats);

#[pymethods]
impl Stats {
    #[getter]
    fn sessions(&self) -> usize {
        self.0.sessions
    }

    #[getter]
    fn open_runs(&self) -> usize {
        self.0.open_runs
    }

    #[getter]
    fn line_bytes(&self) -> usize {
        self.0.line_bytes
    }

    #[getter]
    fn running_turns(&self) -> usize {
        self.0.running_turns
    }

    #[getter]
    fn waiting_turns(&self) -> usize {
        self.0.waiting_turns
    }

    #[getter]
    fn parked_turns(&self) -> usize {
        self.0.parked_turns
    }

    #[getter]
    fn last_sequence(&self) -> u64 {
        self.0.last_sequence
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
