//! Bounds of a scheduler.

use pyo3::prelude::*;

/// Bounds of one scheduler; every number counts runs, turns or bytes of prompts in line, and 0 allows none.
#[pyclass(frozen, eq, hash, module = "turnkeeper_core._core")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Limits(pub(crate) turnkeeper_core::Limits);

#[pymethods]
impl Limits {
    #[new]
    #[pyo3(signature = (
        *, queue_per_session=10_000, open_runs=100_000, line_bytes_per_session=64 << 20, line_bytes=512 << 20,
        running_turns=256, running_turns_per_tenant=64,
    ))]
    fn new(
        queue_per_session: usize,
        open_runs: usize,
        line_bytes_per_session: usize,
        line_bytes: usize,
        running_turns: usize,
        running_turns_per_tenant: usize,
    ) -> Self {
        Self(turnkeeper_core::Limits {
            queue_per_session,
            open_runs,
            line_bytes_per_session,
            line_bytes,
            running_turns,
            running_turns_per_tenant,
        })
    }

    #[getter]
    fn queue_per_session(&self) -> usize {
        self.0.queue_per_session
    }

    #[getter]
    fn open_runs(&self) -> usize {
        self.0.open_runs
    }

    #[getter]
    fn line_bytes_per_session(&self) -> usize {
        self.0.line_bytes_per_session
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
    fn running_turns_per_tenant(&self) -> usize {
        self.0.running_turns_per_tenant
    }

    fn __repr__(&self) -> String {
        format!(
            "Limits(queue_per_session={}, open_runs={}, line_bytes_per_session={}, line_bytes={}, running_turns={}, \
             running_turns_per_tenant={})",
            self.0.queue_per_session,
            self.0.open_runs,
            self.0.line_bytes_per_session,
            self.0.line_bytes,
            self.0.running_turns,
            self.0.running_turns_per_tenant
        )
    }
}
