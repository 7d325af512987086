//! Python's face of the scheduler, `turnkeeper_core._core`: thin frozen classes over the pure core, and no logic.
//!
//! A call holds a lock only inside the core, which never calls Python: so no call blocks on the interpreter. Free-threaded
//! builds are untested, so the module does not claim them.

mod cancel;
mod error;
mod limits;
mod literal;
mod outcome;
mod run;
mod scheduler;
mod view;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _core {
    use super::{PyModule, PyModuleMethods, PyResult};
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::cancel::{Cancel, CancelResult, Covered};
    #[pymodule_export]
    use crate::error::{
        OpenRunMismatchError, QueueFullError, RunExistsError, SchedulerError, SessionBusyError, UnknownRunError,
    };
    #[pymodule_export]
    use crate::limits::Limits;
    #[pymodule_export]
    use crate::outcome::{Accepted, Conclusion, Dispatched, Partition};
    #[pymodule_export]
    use crate::run::RunRef;
    #[pymodule_export]
    use crate::scheduler::Scheduler;
    #[pymodule_export]
    use crate::view::{Counts, Hold, RunView, Snapshot, Stats};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
