//! The scheduling core of Turnkeeper: a sans-IO state machine.
//!
//! It decides which run of a session has the floor, why a turn waits, what a cancel covers, who gets the next permit, what is
//! over. It has no threads, no clock, no runtime: each call is told what happened (and `now`), changes one session in one
//! step, and returns what its driver has to do. [`Scheduler`] is all there is to call.
//!
//! ```
//! use turnkeeper_core::{Act, Address, Conclusion, Effect, Limits, Proposal, RunRequest, Scheduler};
//!
//! let scheduler = Scheduler::new(&Limits::default(), 0, 0)?;
//! let session = Address::new("acme", "support-1");
//! let mut turns = Vec::new();
//! for run in ["first", "second"] {
//!     scheduler.accept(session, run, RunRequest::default(), 0.0)?;
//!     let step = scheduler.dispatch(session, run, 0.0)?;
//!     turns.extend(step.effects.into_iter().filter_map(|effect| match effect {
//!         Effect::Act(Act::Begin(turn)) => Some(turn.id()),
//!         _ => None,
//!     }));
//! }
//! assert_eq!(turns.len(), 1); // the first has the floor
//! let step = scheduler.conclude(session, turns[0], Proposal::Failed, 1.0)?;
//! assert!(matches!(step.answer, Conclusion::Concluded(_)));
//! let step = scheduler.finish(session, "first", 1.0)?;
//! assert!(matches!(step.effects.last(), Some(Effect::Act(Act::Begin(_)))));
//! # Ok::<(), turnkeeper_core::Error>(())
//! ```
//!
//! Locks: a session's lock is its shard's. The gate's, the deadlines' and the edges' are leaves: taken after it, one at a time;
//! two sessions' are never held for one step; nothing is called out to. `loom` checks the modules themselves, through the
//! shim `sync`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod active;
mod deadline;
mod effect;
mod error;
mod frame;
mod gate;
mod id;
mod image;
mod lane;
mod ledger;
mod limits;
mod line;
mod outcome;
mod ranks;
mod rare;
mod request;
mod run;
mod scheduler;
mod session;
mod shared;
mod steer;
mod sync;
mod turn;
mod view;
mod waits_for;

pub use effect::{Act, Came, Decision, Effect, ErrandNews, ErrandRef, Fact, Orphan, Status, Step, StopWhy, Why};
pub use error::{Answer, Error, NoChild, Scope, Unit};
pub use id::{Address, RunId, SEQUENCE_END, Sequence, TurnId, WaitId};
pub use image::{Image, ResultImage, RunImage, TurnImage, WaitImage, WaitImageKind};
pub use ledger::Phase;
pub use limits::{LaneLimits, Limits, Pace};
pub use outcome::{
    Accepted, Admission, Cancelled, Conclusion, Dispatched, FoldPoint, LaneEntry, Proposal, Steers, Waiting,
};
pub use request::{CancelScope, RunRequest, Spawn, WaitKind, WaitRequest};
pub use run::{Cancel, CancelMode, Covered, Cut, Delivery, Kind, Place, RunRef};
pub use scheduler::{OwnedAddress, Scheduler};
pub use turn::{ChildResult, End, Ending, OnParentEnd, Role, TurnRef};
pub use view::{Counts, Cursor, Hold, HoldKind, Page, RunView, Snapshot, Standing, Stats, TurnView};
