//! A run as callers see it: what it is, where it stands, why it was cancelled.

use std::fmt;
use std::sync::Arc;

use crate::id::{Address, RunId, Sequence, SessionKey};

/// What a run does when its turn comes (U-5). All kinds stand in the same line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Answers a prompt; the only kind that STEER binds to, and that can be a STEER.
    #[default]
    Prompt,
    /// Summarises the session.
    Summary,
    /// Prepares the session's agent; REPLACE never covers it.
    Bootstrap,
}

/// How an accepted run is to reach the session (U-19 to U-24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Its own turn, in line.
    #[default]
    Queue,
    /// Into the turn of a run ahead of it; its own turn if there is none or that one ends first.
    Steer,
    /// Refused unless the session is idle.
    Reject,
    /// Cancels everything accepted before it.
    Replace,
}

/// How a cancelled run that is running comes to its end. A run that does not run yet is cancelled outright by either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CancelMode {
    /// At once.
    #[default]
    Abort,
    /// After its present tool and one last step.
    Stop,
}

/// Why and how a run is cancelled. Carried through unchanged, and shared by all the runs that it covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cancel {
    /// The caller's reason.
    pub reason: Box<str>,
    /// Who asked for it; empty where nobody is named.
    pub actor: Box<str>,
    /// How a running turn ends.
    pub mode: CancelMode,
    /// The run that took its place.
    pub superseded_by: Option<RunId>,
}

impl Cancel {
    /// An abort for `reason`, by nobody in particular.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        Self {
            reason: reason.into(),
            actor: "".into(),
            mode: CancelMode::Abort,
            superseded_by: None,
        }
    }

    /// The cancel of what a run with delivery REPLACE covers.
    pub(crate) fn replaced_by(run: &RunId) -> Self {
        Self {
            superseded_by: Some(run.clone()),
            ..Self::new("REPLACED")
        }
    }

    /// Lays `later` over `first`: the first cancel of a run stays, unless it was a stop and the later one is an abort.
    pub(crate) fn escalate(first: &mut Arc<Self>, later: &Arc<Self>) {
        if first.mode == CancelMode::Stop && later.mode == CancelMode::Abort {
            *first = Arc::clone(later);
        }
    }
}

/// Where an accepted run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Accepted, its commit not reported yet.
    Reserved,
    /// In line.
    Queued,
    /// At the head, without a permit.
    Waiting,
    /// Its floor turn has begun, and has its permit.
    Running,
    /// Its floor turn waits for somebody outside, without a permit.
    Parked,
    /// Its floor turn was parked and waits for its permit.
    Woken,
}

/// One run, named in full. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RunRef {
    session: SessionKey,
    run_id: RunId,
    sequence: Sequence,
    kind: Kind,
}

impl RunRef {
    pub(crate) fn new(session: &SessionKey, run: &Run) -> Self {
        Self {
            session: session.clone(),
            run_id: run.id.clone(),
            sequence: run.sequence,
            kind: run.kind,
        }
    }

    /// The tenant that the session belongs to.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.session.address().tenant
    }

    /// The session's id.
    #[must_use]
    pub fn session_id(&self) -> &str {
        self.session.address().session
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// Its accept sequence.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Debug for RunRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { tenant, session } = self.session.address();
        write!(out, "{tenant}/{session}/{}#{}", self.run_id, self.sequence)
    }
}

/// A run that a cancel reached, where it was then, and the cancel that applies to it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The run.
    pub run: RunRef,
    /// Reserved: its dispatch will answer cancelled. Queued, waiting: it has left. Running, parked, woken: it still holds
    /// the floor.
    pub was: Place,
    /// The first cancel that reached it, or the abort that a stop turned into.
    pub cancel: Arc<Cancel>,
}

/// What a session keeps of a run wherever it stands.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) sequence: Sequence,
    pub(crate) kind: Kind,
    /// How much its prompt counts for while it is in line.
    pub(crate) bytes: usize,
    /// When it came to its present place.
    pub(crate) since: f64,
}
