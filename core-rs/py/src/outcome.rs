//! Answers of accept, dispatch, partition and conclude.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core as core;

use crate::cancel::{Cancel, Covered, all_covered};
use crate::run::{RunRef, runs};

/// Receipt of ``accept``: the stamp, what stands ahead, the run it would steer, the runs it replaced.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Accepted(pub(crate) core::Accepted);

#[pymethods]
impl Accepted {
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence.get()
    }

    #[getter]
    fn position(&self) -> usize {
        self.0.position
    }

    #[getter]
    fn steers(&self) -> Option<&str> {
        self.0.steers.as_ref().map(core::RunId::as_str)
    }

    #[getter]
    fn replaced(&self) -> Vec<Covered> {
        all_covered(&self.0.replaced)
    }

    #[getter]
    fn starts(&self) -> Vec<RunRef> {
        runs(&self.0.starts)
    }

    fn __repr__(&self) -> String {
        let core::Accepted {
            sequence,
            position,
            steers,
            ..
        } = &self.0;
        format!("<Accepted sequence={sequence} position={position} steers={steers:?}>")
    }
}

/// What ``dispatch`` decided.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Dispatched(pub(crate) core::Dispatched);

#[pymethods]
impl Dispatched {
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        match self.0.status {
            core::Dispatch::Cancelled(_) => intern!(py, "cancelled"),
            core::Dispatch::Queued => intern!(py, "queued"),
            core::Dispatch::Waiting => intern!(py, "waiting"),
            core::Dispatch::Started => intern!(py, "started"),
        }
    }

    #[getter]
    fn cancel(&self) -> Option<Cancel> {
        match &self.0.status {
            core::Dispatch::Cancelled(cancel) => Some(cancel.into()),
            _ => None,
        }
    }

    #[getter]
    fn position(&self) -> usize {
        self.0.position
    }

    #[getter]
    fn steers(&self) -> Option<&str> {
        self.0.steers.as_ref().map(core::RunId::as_str)
    }

    #[getter]
    fn starts(&self) -> Vec<RunRef> {
        runs(&self.0.starts)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Dispatched {} position={}>", self.status(py), self.0.position)
    }
}

/// The line as a fold point of the open run sees it.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Partition(pub(crate) core::Partition);

#[pymethods]
impl Partition {
    #[getter]
    fn fold(&self) -> Vec<RunRef> {
        runs(&self.0.fold)
    }

    #[getter]
    fn cancel(&self) -> Option<Cancel> {
        self.0.cancel.as_ref().map(Cancel::from)
    }

    fn __repr__(&self) -> String {
        format!(
            "<Partition fold={:?} cancelled={}>",
            self.0.fold,
            self.0.cancel.is_some()
        )
    }
}

/// What ``conclude`` decided, in one step with the last partition.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Conclusion(pub(crate) core::Conclusion);

#[pymethods]
impl Conclusion {
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        match self.0 {
            core::Conclusion::Concluded(_) => intern!(py, "concluded"),
            core::Conclusion::Cancelled(_) => intern!(py, "cancelled"),
            core::Conclusion::Steered(_) => intern!(py, "steered"),
        }
    }

    #[getter]
    fn fold(&self) -> Vec<RunRef> {
        match &self.0 {
            core::Conclusion::Steered(fold) => runs(fold),
            _ => Vec::new(),
        }
    }

    #[getter]
    fn cancel(&self) -> Option<Cancel> {
        let cancel: Option<&Arc<_>> = match &self.0 {
            core::Conclusion::Concluded(stop) => stop.as_ref(),
            core::Conclusion::Cancelled(cancel) => Some(cancel),
            core::Conclusion::Steered(_) => None,
        };
        cancel.map(Cancel::from)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Conclusion {}>", self.status(py))
    }
}
