//! What an observer sees.

use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core as core;

use crate::cancel::Cancel;
use crate::literal;
use crate::name::{RunRef, TurnRef};

/// A reason why a run is not over.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq)]
pub(crate) struct Hold(pub(crate) core::Hold);

#[pymethods]
impl Hold {
    #[getter]
    fn kind(&self) -> &str {
        literal::hold_text(self.0.kind)
    }

    #[getter]
    fn label(&self) -> &str {
        &self.0.label
    }

    #[getter]
    fn since(&self) -> f64 {
        self.0.since
    }

    #[getter]
    fn deadline(&self) -> Option<f64> {
        self.0.deadline
    }

    #[getter]
    fn turn(&self) -> Option<u64> {
        self.0.turn.map(core::TurnId::get)
    }

    #[getter]
    fn position(&self) -> Option<usize> {
        self.0.position
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// A turn as it is now.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct TurnView(pub(crate) core::TurnView);

#[pymethods]
impl TurnView {
    #[getter]
    fn turn(&self) -> TurnRef {
        TurnRef(self.0.turn.clone())
    }

    #[getter]
    fn stand<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::stand_text(py, self.0.stand)
    }

    #[getter]
    fn since(&self) -> f64 {
        self.0.since
    }

    #[getter]
    fn begun(&self) -> bool {
        self.0.begun
    }

    #[getter]
    fn strands(&self) -> usize {
        self.0.strands
    }

    #[getter]
    fn waits(&self) -> usize {
        self.0.waits
    }

    #[getter]
    fn children(&self) -> usize {
        self.0.children
    }

    #[getter]
    fn tickets(&self) -> usize {
        self.0.tickets
    }

    #[getter]
    fn inbox(&self) -> usize {
        self.0.inbox
    }

    #[getter]
    fn held(&self) -> bool {
        self.0.held
    }

    #[getter]
    fn closing(&self) -> bool {
        self.0.closing
    }

    #[getter]
    fn cut<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        self.0.cut.as_ref().map(|cut| literal::cut_text(py, cut))
    }

    #[getter]
    fn parent_ended(&self) -> bool {
        self.0.parent_ended
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// Some of the live floor turns.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Page(pub(crate) core::Page);

#[pymethods]
impl Page {
    #[getter]
    fn turns(&self) -> Vec<TurnView> {
        self.0.turns.iter().cloned().map(TurnView).collect()
    }

    #[getter]
    fn cursor(&self) -> Option<(usize, u64)> {
        self.0.cursor.map(|(shard, turn)| (shard, turn.get()))
    }
}

/// A session in numbers.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) core::Counts);

#[pymethods]
impl Counts {
    #[getter]
    fn open_run_id(&self) -> Option<&str> {
        self.0.open_run_id.as_ref().map(core::RunId::as_str)
    }

    #[getter]
    fn head_run_id(&self) -> Option<&str> {
        self.0.head_run_id.as_ref().map(core::RunId::as_str)
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
    fn turns(&self) -> usize {
        self.0.turns
    }

    #[getter]
    fn bytes(&self) -> usize {
        self.0.bytes
    }

    #[getter]
    fn closing(&self) -> bool {
        self.0.closing
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// One run in a snapshot.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct RunView(core::RunView);

#[pymethods]
impl RunView {
    #[getter]
    fn run(&self) -> RunRef {
        RunRef(self.0.run.clone())
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
    fn cancel(&self) -> Option<Cancel> {
        self.0.cancel.as_ref().map(Cancel::from)
    }

    #[getter]
    fn steers(&self) -> Option<&str> {
        match &self.0.steers {
            Some(core::Steers::Run(run)) => Some(run.as_str()),
            _ => None,
        }
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

fn views(views: &[core::RunView]) -> Vec<RunView> {
    views.iter().cloned().map(RunView).collect()
}

/// One session as it is now, whole.
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
        views(&self.0.line)
    }

    #[getter]
    fn lent(&self) -> Vec<RunView> {
        views(&self.0.lent)
    }

    #[getter]
    fn turns(&self) -> Vec<TurnView> {
        self.0.turns.iter().cloned().map(TurnView).collect()
    }

    #[getter]
    fn held_by(&self) -> (usize, usize, usize) {
        self.0.held_by.into()
    }

    #[getter]
    fn mark(&self) -> Option<u64> {
        self.0.mark.map(core::Sequence::get)
    }

    #[getter]
    fn closing(&self) -> bool {
        self.0.closing
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// Counts over all sessions.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq)]
pub(crate) struct Stats(pub(crate) core::Stats);

/// One getter per count.
macro_rules! counts {
    ($($name:ident: $type:ty),* $(,)?) => {
        #[pymethods]
        impl Stats {
            $(
                #[getter]
                fn $name(&self) -> $type {
                    self.0.$name
                }
            )*

            fn __repr__(&self) -> String {
                format!("<{:?}>", self.0)
            }
        }
    };
}

counts! {
    sessions: usize,
    open_runs: usize,
    open_bytes: usize,
    running_turns: usize,
    waiting_turns: usize,
    parked_turns: usize,
    children: usize,
    lane_slots: usize,
    lane_waiters: usize,
    errands: usize,
    deadlines: usize,
    last_sequence: u64,
}
