//! Python's face of the scheduler, `turnkeeper_core._core`: thin frozen classes over the pure core, and no logic.
//!
//! A call holds a lock only inside the core, which never calls Python: so no call blocks on the interpreter. Free-threaded
//! builds are untested, so the module does not claim them.

mod cancel;
mod effect;
mod error;
mod image;
mod limits;
mod literal;
mod name;
mod outcome;
mod scheduler;
mod view;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _core {
    use super::{PyModule, PyModuleMethods, PyResult};
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::cancel::{Cancel, Cancelled, Covered};
    #[pymodule_export]
    use crate::effect::{
        Abort, Act, Begin, Begun, Came, Closed, Conclude, Decided, Delivered, Detach, Ended, Errand, Fact, GoOn,
        Opened, Orphaned, Requested, Resume, RunOver, Spawned, Stop,
    };
    #[pymodule_export]
    use crate::error::{
        AbortedError, BadStateError, DrainingError, LaneFullError, OpenRunMismatchError, QueueFullError,
        RunExistsError, SchedulerError, SessionBusyError, SessionDeletingError, SpawnRefusedError, TurnNotFoundError,
        UnknownRunError, WaitCycleError, WouldDeadlockError,
    };
    #[pymodule_export]
    use crate::image::{Image, RunImage, TurnImage, WaitImage};
    #[pymodule_export]
    use crate::limits::{Lane, Limits};
    #[pymodule_export]
    use crate::name::{RunRef, TurnRef};
    #[pymodule_export]
    use crate::outcome::{
        Accepted, Admission, ChildResult, Conclusion, Dispatched, FoldPoint, LaneEntry, Step, Waiting,
    };
    #[pymodule_export]
    use crate::scheduler::Scheduler;
    #[pymodule_export]
    use crate::view::{Counts, Hold, Page, RunView, Snapshot, Stats, TurnView};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
