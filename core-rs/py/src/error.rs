//! Refusals as exceptions with fields. Their arguments are the message and the fields, so that they can be pickled.

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::pyclass_init::PyClassInitializer;
use turnkeeper_core::{Error, RunId, Scope, Unit};

/// Base of every refusal of the scheduler. A refused call has changed nothing.
#[pyclass(frozen, subclass, extends = PyException, module = "turnkeeper_core._core")]
pub(crate) struct SchedulerError {
    message: String,
}

#[pymethods]
impl SchedulerError {
    #[new]
    #[pyo3(signature = (message=String::new()), text_signature = "(message='')")]
    fn new(message: String) -> Self {
        Self { message }
    }

    fn __str__(&self) -> &str {
        &self.message
    }
}

/// Delivery REJECT or an idle precondition found a run reserved, queued or open.
#[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
pub(crate) struct SessionBusyError {
    #[pyo3(get)]
    open_run_id: Option<String>,
}

#[pymethods]
impl SessionBusyError {
    #[new]
    #[pyo3(signature = (message=String::new(), open_run_id=None), text_signature = "(message='', open_run_id=None)")]
    fn new(message: String, open_run_id: Option<String>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(SchedulerError { message }).add_subclass(Self { open_run_id })
    }
}

/// The precondition named an open run, and another one, or none, is open.
#[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
pub(crate) struct OpenRunMismatchError {
    #[pyo3(get)]
    open_run_id: Option<String>,
}

#[pymethods]
impl OpenRunMismatchError {
    #[new]
    #[pyo3(signature = (message=String::new(), open_run_id=None), text_signature = "(message='', open_run_id=None)")]
    fn new(message: String, open_run_id: Option<String>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(SchedulerError { message }).add_subclass(Self { open_run_id })
    }
}

/// A bound is reached.
#[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
pub(crate) struct QueueFullError {
    #[pyo3(get)]
    scope: String,
    #[pyo3(get)]
    limit: usize,
    #[pyo3(get)]
    unit: String,
}

#[pymethods]
impl QueueFullError {
    #[new]
    #[pyo3(
        signature = (message=String::new(), scope=String::from("session"), limit=0, unit=String::from("runs")),
        text_signature = "(message='', scope='session', limit=0, unit='runs')"
    )]
    fn new(message: String, scope: String, limit: usize, unit: String) -> PyClassInitializer<Self> {
        PyClassInitializer::from(SchedulerError { message }).add_subclass(Self { scope, limit, unit })
    }
}

/// The session already has a run of this id.
#[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
pub(crate) struct RunExistsError {
    #[pyo3(get)]
    run_id: String,
}

#[pymethods]
impl RunExistsError {
    #[new]
    #[pyo3(signature = (message=String::new(), run_id=String::new()), text_signature = "(message='', run_id='')")]
    fn new(message: String, run_id: String) -> PyClassInitializer<Self> {
        PyClassInitializer::from(SchedulerError { message }).add_subclass(Self { run_id })
    }
}

/// The session has no such run in the state that the call needs.
#[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
pub(crate) struct UnknownRunError {
    #[pyo3(get)]
    run_id: String,
}

#[pymethods]
impl UnknownRunError {
    #[new]
    #[pyo3(signature = (message=String::new(), run_id=String::new()), text_signature = "(message='', run_id='')")]
    fn new(message: String, run_id: String) -> PyClassInitializer<Self> {
        PyClassInitializer::from(SchedulerError { message }).add_subclass(Self { run_id })
    }
}

/// The exception for a refusal of the core.
pub(crate) fn raised(error: Error) -> PyErr {
    let message = error.to_string();
    let owned = |id: Option<RunId>| id.map(|id| id.as_str().to_owned());
    match error {
        Error::SessionBusy { open_run_id } => PyErr::new::<SessionBusyError, _>((message, owned(open_run_id))),
        Error::OpenRunMismatch { open_run_id } => PyErr::new::<OpenRunMismatchError, _>((message, owned(open_run_id))),
        Error::QueueFull { scope, unit, limit } => {
            let scope = if scope == Scope::Session { "session" } else { "process" };
            let unit = if unit == Unit::Runs { "runs" } else { "bytes" };
            PyErr::new::<QueueFullError, _>((message, scope, limit, unit))
        }
        Error::RunExists { run_id } => PyErr::new::<RunExistsError, _>((message, run_id.as_str().to_owned())),
        Error::UnknownRun { run_id } => PyErr::new::<UnknownRunError, _>((message, run_id.as_str().to_owned())),
        Error::SequenceRefused { .. } => PyValueError::new_err(message),
        _ => PyErr::new::<SchedulerError, _>(message),
    }
}
