//! A run and a turn, named.

use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core as core;

use crate::literal;

/// One run, named.
#[pyclass(frozen, eq, hash, module = "turnkeeper_core._core")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct RunRef(pub(crate) core::RunRef);

/// A list's worth of them.
pub(crate) fn runs(runs: &[core::RunRef]) -> Vec<RunRef> {
    runs.iter().cloned().map(RunRef).collect()
}

#[pymethods]
impl RunRef {
    #[getter]
    fn tenant(&self) -> &str {
        self.0.tenant()
    }

    #[getter]
    fn session_id(&self) -> &str {
        self.0.session_id()
    }

    #[getter]
    pub(crate) fn key(&self) -> (&str, &str) {
        let at = self.0.address();
        (at.tenant, at.session)
    }

    #[getter]
    fn run_id(&self) -> &str {
        self.0.run_id().as_str()
    }

    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence().get()
    }

    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::kind_text(py, self.0.kind())
    }

    fn __repr__(&self) -> String {
        format!("<RunRef {:?}>", self.0)
    }
}

/// One turn, named.
#[pyclass(frozen, eq, hash, module = "turnkeeper_core._core")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TurnRef(pub(crate) core::TurnRef);

/// A list's worth of them.
pub(crate) fn turns(turns: &[core::TurnRef]) -> Vec<TurnRef> {
    turns.iter().cloned().map(TurnRef).collect()
}

#[pymethods]
impl TurnRef {
    #[getter]
    fn tenant(&self) -> &str {
        self.0.address().tenant
    }

    #[getter]
    fn session_id(&self) -> &str {
        self.0.address().session
    }

    #[getter]
    pub(crate) fn key(&self) -> (&str, &str) {
        let at = self.0.address();
        (at.tenant, at.session)
    }

    #[getter]
    fn id(&self) -> u64 {
        self.0.id().get()
    }

    #[getter]
    fn run(&self) -> RunRef {
        RunRef(self.0.run().clone())
    }

    #[getter]
    fn role<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::role_text(py, self.0.role())
    }

    #[getter]
    fn parent(&self) -> Option<u64> {
        self.0.parent().map(core::TurnId::get)
    }

    #[getter]
    fn depth(&self) -> u8 {
        self.0.depth()
    }

    fn __repr__(&self) -> String {
        format!("<TurnRef {:?}>", self.0)
    }
}
