//! Refusals as exceptions with fields. Their arguments are the message and the fields, so that they can be pickled.

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::pyclass_init::PyClassInitializer;
use turnkeeper_core::{Error, NoChild, RunId, Scope, Unit};

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

/// One refusal without fields.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
            pub(crate) struct $name;

            #[pymethods]
            impl $name {
                #[new]
                #[pyo3(signature = (message=String::new()), text_signature = "(message='')")]
                fn new(message: String) -> PyClassInitializer<Self> {
                    PyClassInitializer::from(SchedulerError { message }).add_subclass(Self)
                }
            }
        )*
    };
}

/// One refusal with one field.
macro_rules! with_field {
    ($($(#[$doc:meta])* $name:ident($field:ident: $type:ty = $default:expr, $signature:literal);)*) => {
        $(
            $(#[$doc])*
            #[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
            pub(crate) struct $name {
                #[pyo3(get)]
                $field: $type,
            }

            #[pymethods]
            impl $name {
                #[new]
                #[pyo3(signature = (message=String::new(), $field=$default), text_signature = $signature)]
                fn new(message: String, $field: $type) -> PyClassInitializer<Self> {
                    PyClassInitializer::from(SchedulerError { message }).add_subclass(Self { $field })
                }
            }
        )*
    };
}

plain! {
    /// The session is closing: it takes nothing in any more.
    SessionDeletingError;
    /// The scheduler drains, or is cut.
    DrainingError;
    /// A mistake of the driver.
    BadStateError;
    /// A turn that holds its session's line would wait for a run of that line.
    WouldDeadlockError;
    /// The session that it would wait for waits for this one.
    WaitCycleError;
}

with_field! {
    /// Something is in the session that is not over.
    SessionBusyError(open_run_id: Option<String> = None, "(message='', open_run_id=None)");
    /// The precondition named an open run, and another one, or none, is open.
    OpenRunMismatchError(open_run_id: Option<String> = None, "(message='', open_run_id=None)");
    /// The session already has a run of this id.
    RunExistsError(run_id: String = String::new(), "(message='', run_id='')");
    /// The session has no such run in the state that the call needs.
    UnknownRunError(run_id: String = String::new(), "(message='', run_id='')");
    /// A cancel or a STEER named a turn that does not live, or may not be named so.
    TurnNotFoundError(turn_id: u64 = 0, "(message='', turn_id=0)");
    /// The turn is cut.
    AbortedError(turn_id: u64 = 0, "(message='', turn_id=0)");
    /// No child.
    SpawnRefusedError(why: String = String::new(), "(message='', why='')");
    /// As many wait in the provider's lane as may.
    LaneFullError(lane: String = String::new(), "(message='', lane='')");
}

/// A bound is reached.
#[pyclass(frozen, extends = SchedulerError, module = "turnkeeper_core._core")]
pub(crate) struct QueueFullError {
    #[pyo3(get)]
    scope: String,
    #[pyo3(get)]
    of: String,
    #[pyo3(get)]
    limit: usize,
}

#[pymethods]
impl QueueFullError {
    #[new]
    #[pyo3(
        signature = (message=String::new(), scope=String::from("session"), of=String::from("runs"), limit=0),
        text_signature = "(message='', scope='session', of='runs', limit=0)"
    )]
    fn new(message: String, scope: String, of: String, limit: usize) -> PyClassInitializer<Self> {
        PyClassInitializer::from(SchedulerError { message }).add_subclass(Self { scope, of, limit })
    }
}

/// The exception for a refusal of the core.
pub(crate) fn raised(error: Error) -> PyErr {
    let message = error.to_string();
    let owned = |id: Option<RunId>| id.map(|id| id.as_str().to_owned());
    match error {
        Error::SessionBusy { open_run_id } => PyErr::new::<SessionBusyError, _>((message, owned(open_run_id))),
        Error::OpenRunMismatch { open_run_id } => PyErr::new::<OpenRunMismatchError, _>((message, owned(open_run_id))),
        Error::QueueFull { scope, of, limit } => {
            let scope = if scope == Scope::Session { "session" } else { "process" };
            let of = if of == Unit::Runs { "runs" } else { "bytes" };
            PyErr::new::<QueueFullError, _>((message, scope, of, limit))
        }
        Error::RunExists { run_id } => PyErr::new::<RunExistsError, _>((message, run_id.as_str().to_owned())),
        Error::UnknownRun { run_id } => PyErr::new::<UnknownRunError, _>((message, run_id.as_str().to_owned())),
        Error::TurnNotFound { turn } => PyErr::new::<TurnNotFoundError, _>((message, turn.get())),
        Error::Aborted { turn } => PyErr::new::<AbortedError, _>((message, turn.get())),
        Error::SessionDeleting => PyErr::new::<SessionDeletingError, _>(message),
        Error::Draining => PyErr::new::<DrainingError, _>(message),
        Error::BadState { .. } => PyErr::new::<BadStateError, _>(message),
        Error::Spawn(why) => PyErr::new::<SpawnRefusedError, _>((message, no_child(why))),
        Error::LaneFull { lane } => PyErr::new::<LaneFullError, _>((message, String::from(lane))),
        Error::WouldDeadlock => PyErr::new::<WouldDeadlockError, _>(message),
        Error::WaitCycle => PyErr::new::<WaitCycleError, _>(message),
        Error::UnknownLane { .. } | Error::ImageRefused { .. } | Error::SequencesExhausted => {
            PyValueError::new_err(message)
        }
        _ => PyErr::new::<SchedulerError, _>(message),
    }
}

fn no_child(why: NoChild) -> &'static str {
    match why {
        NoChild::Cancelled => "cancelled",
        NoChild::ParentEnded => "parent_ended",
        NoChild::DepthLimit => "depth_limit",
        NoChild::Invalid => "invalid",
        NoChild::ChildLimit => "child_limit",
        NoChild::SlotTimeout => "slot_timeout",
    }
}
