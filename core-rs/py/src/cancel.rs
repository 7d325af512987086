//! A cancel, what it covers, and the answer to it.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core as core;

use crate::literal;
use crate::name::{RunRef, TurnRef, runs, turns};

/// Why and how something is cancelled; carried through unchanged.
#[pyclass(frozen, eq, hash, module = "turnkeeper_core._core")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Cancel(pub(crate) Arc<core::Cancel>);

impl From<&Arc<core::Cancel>> for Cancel {
    fn from(cancel: &Arc<core::Cancel>) -> Self {
        Self(Arc::clone(cancel))
    }
}

/// The same as the core takes it.
pub(crate) fn of(cancel: Option<&Bound<'_, Cancel>>) -> Option<Arc<core::Cancel>> {
    cancel.map(|cancel| Arc::clone(&cancel.get().0))
}

/// What was requested, as an image says it.
pub(crate) fn cut(text: Option<&str>, cancel: Option<&Bound<'_, Cancel>>) -> PyResult<Option<core::Cut>> {
    let with = || of(cancel).ok_or_else(|| PyValueError::new_err("a stop and an abort have a cancel"));
    Ok(match text {
        None => None,
        Some("stop") => Some(core::Cut::Stop(with()?)),
        Some("abort") => Some(core::Cut::Abort(with()?)),
        Some("deadline") => Some(core::Cut::Deadline),
        Some("parent") => Some(core::Cut::Parent),
        Some(other) => return Err(literal::refused("cut", other, &["stop", "abort", "deadline", "parent"])),
    })
}

#[pymethods]
impl Cancel {
    #[new]
    #[pyo3(signature = (reason, *, actor="", mode="abort", superseded_by=None, rollback=false, unwind=false, hint=""))]
    fn new(
        reason: &str,
        actor: &str,
        mode: &str,
        superseded_by: Option<&str>,
        rollback: bool,
        unwind: bool,
        hint: &str,
    ) -> PyResult<Self> {
        Ok(Self(Arc::new(core::Cancel {
            reason: reason.into(),
            actor: actor.into(),
            mode: literal::mode(mode)?,
            superseded_by: superseded_by.map(core::RunId::from),
            rollback,
            unwind,
            hint: hint.into(),
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

    #[getter]
    fn rollback(&self) -> bool {
        self.0.rollback
    }

    #[getter]
    fn unwind(&self) -> bool {
        self.0.unwind
    }

    #[getter]
    fn hint(&self) -> &str {
        &self.0.hint
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
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Covered(pub(crate) core::Covered);

/// A list's worth of them.
pub(crate) fn all_covered(covered: &[core::Covered]) -> Vec<Covered> {
    covered.iter().cloned().map(Covered).collect()
}

#[pymethods]
impl Covered {
    #[getter]
    fn run(&self) -> RunRef {
        RunRef(self.0.run.clone())
    }

    #[getter]
    fn was<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::place_text(py, self.0.was)
    }

    #[getter]
    fn cancel(&self) -> Option<Cancel> {
        self.0.cancel.as_ref().map(Cancel::from)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Covered {:?}, {}>", self.0.run, self.was(py))
    }
}

/// What a cancel reached.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Cancelled(pub(crate) core::Cancelled);

#[pymethods]
impl Cancelled {
    #[getter]
    fn covered(&self) -> Vec<Covered> {
        all_covered(&self.0.covered)
    }

    #[getter]
    fn finished(&self) -> Vec<RunRef> {
        runs(&self.0.finished)
    }

    #[getter]
    fn lent(&self) -> Vec<RunRef> {
        runs(&self.0.lent)
    }

    #[getter]
    fn turns(&self) -> Vec<TurnRef> {
        turns(&self.0.turns)
    }

    fn __repr__(&self) -> String {
        let core::Cancelled {
            covered,
            finished,
            lent,
            turns,
            ..
        } = &self.0;
        let covered: Vec<_> = covered.iter().map(|covered| &covered.run).collect();
        format!("<Cancelled covered={covered:?} finished={finished:?} lent={lent:?} turns={turns:?}>")
    }
}
