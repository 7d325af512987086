//! A run, named.

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::literal;

/// One run, named.
#[pyclass(frozen, eq, hash, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct RunRef(turnkeeper_core::RunRef);

impl From<turnkeeper_core::RunRef> for RunRef {
    fn from(run: turnkeeper_core::RunRef) -> Self {
        Self(run)
    }
}

/// A list's worth of them.
pub(crate) fn runs(runs: &[turnkeeper_core::RunRef]) -> Vec<RunRef> {
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
