//! The scheduling core of Turnkeeper: a sans-IO state machine.
//!
//! It decides which run of a session has the floor, what a cancel covers, who gets the next permit. It has no threads, no
//! clock, no runtime: each call is told what happened (and `now`), changes one session in one step, and returns what its
//! driver has to do. [`Scheduler`] is all there is to call.
//!
//! ```
//! use turnkeeper_core::{Address, Conclusion, Limits, RunRequest, Scheduler};
//!
//! let scheduler = Scheduler::new(Limits::default(), 0, 0)?;
//! let session = Address::new("acme", "support-1");
//! for run in ["first", "second"] {
//!     scheduler.accept(session, run, RunRequest::default(), 0.0)?;
//!     scheduler.dispatch(session, run, 0.0)?;
//! }
//! assert!(matches!(scheduler.conclude(session, "first", usize::MAX)?, Conclusion::Concluded(None)));
//! let starts = scheduler.finish(session, "first", 1.0)?;
//! assert_eq!(starts[0].run_id().as_str(), "second");
//! # Ok::<(), turnkeeper_core::Error>(())
//! ```
//!
//! Locks: a session's lock is its shard's. The gate's is taken after it, never before; two sessions' are never held for one
//! step; nothing is called out to. `loom` checks the modules themselves, through the shim `sync`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod error;
mod gate;
mod id;
mod ledger;
mod line;
mod outcome;
mod ranks;
mod request;
mod run;
mod scheduler;
mod session;
mod steer;
mod sync;
mod view;

pub use error::{Error, Scope, Unit};
pub use id::{Address, RunId, SEQUENCE_END, Sequence};
pub use outcome::{Accepted, CancelResult, Conclusion, Dispatch, Dispatched, Partition, Wake};
pub use request::{CancelScope, Limits, Restore, RunRequest};
pub use run::{Cancel, CancelMode, Covered, Delivery, Kind, Place, RunRef};
pub use scheduler::Scheduler;
pub use view::{Counts, Hold, RunView, Snapshot, Stats};
