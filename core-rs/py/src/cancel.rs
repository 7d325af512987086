//! A cancel, what it covers, and the answer to it.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core as core;

use crate::literal;
use crate::run::{RunRef, runs};

/// Why and how a run is cancelled; carried through unchanged.
#[pyclass(frozen, eq, hash, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Cancel(pub(crate) Arc<core::Cancel>);

impl From<&Arc<core::Cancel>> for Cancel {
    fn from(cancel: &Arc<core::Cancel>) -> Self {
        Self(Arc::clone(cancel))
    }
}

#[pymethods]
impl Cancel {
    #[new]
    #[pyo3(signature = (reason, *, actor="", mode="abort", superseded_by=None))]
    fn new(reason: &str, actor: &str, mode: &str, superseded_by: Option<&str>) -> PyResult<Self> {
        let mode = literal::mode(mode)?;
        let superseded_by = superseded_by.map(core::RunId::from);
        Ok(Self(Arc::new(core::Cancel {
            reason: reason.into(),
            actor: actor.into(),
            mode,
            superseded_by,
        })))
    }

    #[getter]
    fn reason(&self) -> &str {
        &self.0.reason
    }

    #[getter]
    fn actor(&self) -> &str {
        &self.0.actor
    }

    #[getter]
    fn mode<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::mode_text(py, self.0.mode)
    }

    #[getter]
    fn superseded_by(&self) -> Option<&str> {
        self.0.superseded_by.as_ref().map(core::RunId::as_str)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let core::Cancel {
            reason,
            actor,
            superseded_by,
            ..
        } = &*self.0;
        format!(
            "<Cancel {reason:?} by {actor:?}, {}, superseded by {superseded_by:?}>",
            self.mode(py)
        )
    }
}

/// A run that a cancel reached, where it was then, and the cancel that now applies to it.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq)]
pub(crate) struct Covered(core::Covered);

/// A list's worth of them.
pub(crate) fn all_covered(covered: &[core::Covered]) -> Vec<Covered> {
    covered.iter().cloned().map(Covered).collect()
}

#[pymethods]
impl Covered {
    #[getter]
    fn run(&self) -> RunRef {
        self.0.run.clone().into()
    }

    #[getter]
    fn was<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::place_text(py, self.0.was)
    }

    #[getter]
    fn cancel(&self) -> Cancel {
        (&self.0.cancel).into()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Covered {:?}, {}>", self.0.run, self.was(py))
    }
}

/// What a cancel reached: runs it covers, in accept order, and runs that had concluded before it.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct CancelResult(core::CancelResult);

impl From<core::CancelResult> for CancelResult {
    fn from(result: core::CancelResult) -> Self {
        Self(result)
    }
}

#[pymethods]
impl CancelResult {
    #[getter]
    fn covered(&self) -> Vec<Covered> {
        all_covered(&self.0.covered)
    }

    #[getter]
    fn concluded(&self) -> Vec<RunRef> {
        runs(&self.0.concluded)
    }

    #[getter]
    fn starts(&self) -> Vec<RunRef> {
        runs(&self.0.starts)
    }

    fn __repr__(&self) -> String {
        let core::CancelResult {
            covered,
            concluded,
            starts,
            ..
        } = &self.0;
        let covered: Vec<_> = covered.iter().map(|covered| &covered.run).collect();
        format!("<CancelResult covered={covered:?} concluded={concluded:?} starts={starts:?}>")
    }
}
