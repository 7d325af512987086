//! A run as callers see it: what it is, where it stands, why it was cancelled.

use std::fmt;
use std::sync::Arc;

use crate::deadline::Armed;
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

/// Why and how something is cancelled. Carried through unchanged, and shared by all that it covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cancel {
    /// The caller's reason.
    pub reason: Box<str>,
    /// Who asked for it; empty where nobody is named.
    pub actor: Box<str>,
    /// How a running turn ends; all else of it is the driver's.
    pub mode: CancelMode,
    /// The run that took its place.
    pub superseded_by: Option<RunId>,
    /// What the run changed is to be taken back.
    pub rollback: bool,
    /// The session's tasks end with it.
    pub unwind: bool,
    /// What the last step of a stopping turn is told.
    pub hint: Box<str>,
}

impl Cancel {
    /// An abort for `reason`, by nobody in particular.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        Self {
            reason: reason.into(),
            ..Self::default()
        }
    }

    /// The cancel of what a run with delivery REPLACE covers.
    pub(crate) fn replaced_by(run: &RunId) -> Self {
        Self {
            superseded_by: Some(run.clone()),
            ..Self::new("REPLACED")
        }
    }

    /// The same, as an abort.
    pub(crate) fn as_abort(self: &Arc<Self>) -> Arc<Self> {
        match self.mode {
            CancelMode::Abort => Arc::clone(self),
            CancelMode::Stop => Arc::new(Self {
                mode: CancelMode::Abort,
                ..Self::clone(self)
            }),
        }
    }
}

/// What was requested of a run or a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One last step; the only one that leaves admission open.
    Stop(Arc<Cancel>),
    /// To end at once, with all that it started.
    Abort(Arc<Cancel>),
    /// Its deadline passed: as an abort, but CONTINUE children go on.
    Deadline,
    /// Its parent ended, and it did not follow in time: likewise.
    Parent,
}

impl Cut {
    /// What a cancel asks for.
    pub(crate) fn of(cancel: &Arc<Cancel>) -> Self {
        match cancel.mode {
            CancelMode::Stop => Self::Stop(Arc::clone(cancel)),
            CancelMode::Abort => Self::Abort(Arc::clone(cancel)),
        }
    }

    /// All but a stop.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        !matches!(self, Self::Stop(_))
    }

    /// Whether it spares CONTINUE children.
    pub(crate) fn spares_continue(&self) -> bool {
        matches!(self, Self::Deadline | Self::Parent)
    }

    /// The cancel that a caller gave.
    #[must_use]
    pub fn cancel(&self) -> Option<&Arc<Cancel>> {
        match self {
            Self::Stop(cancel) | Self::Abort(cancel) => Some(cancel),
            Self::Deadline | Self::Parent => None,
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
    /// Lent to a turn at its fold point, which has not taken it yet.
    Lent,
    /// At the head, without a permit.
    Waiting,
    /// Its floor turn has its permit.
    Running,
    /// Its floor turn waits for somebody outside, without a permit.
    Parked,
    /// Its floor turn was parked and waits for its permit.
    Woken,
    /// Its floor turn has ended, and something else holds it.
    Held,
    /// Nothing holds it any more: only its finish is missing.
    Concluded,
}

#[derive(PartialEq, Eq, Hash)]
struct Name {
    session: SessionKey,
    run_id: RunId,
    sequence: Sequence,
    kind: Kind,
}

/// One run, named in full. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RunRef(Arc<Name>);

impl RunRef {
    pub(crate) fn new(session: &SessionKey, run_id: &str, sequence: Sequence, kind: Kind) -> Self {
        Self(Arc::new(Name {
            session: session.clone(),
            run_id: run_id.into(),
            sequence,
            kind,
        }))
    }

    /// The session that it belongs to.
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        self.0.session.address()
    }

    /// The tenant that the session belongs to.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.address().tenant
    }

    /// The session's id.
    #[must_use]
    pub fn session_id(&self) -> &str {
        self.address().session
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> &RunId {
        &self.0.run_id
    }

    /// Its accept sequence.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.0.sequence
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
}

impl fmt::Debug for RunRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { tenant, session } = self.address();
        write!(out, "{tenant}/{session}/{}#{}", self.run_id(), self.sequence())
    }
}

/// A run that a cancel reached, where it was then, and the cancel that applies to it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The run.
    pub run: RunRef,
    /// Reserved: its dispatch will answer cancelled. Queued, waiting: it has left. Else it still holds the floor.
    pub was: Place,
    /// The first cancel that reached it, or the abort that came over a stop; none where its deadline came first.
    pub cancel: Option<Arc<Cancel>>,
}

/// The deadlines that a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunAlarm {
    /// Armed with the accept's commit, until the dispatch.
    Reservation,
    /// Until it begins.
    Start,
    /// From then on.
    Run,
    /// After a stop.
    StopGrace,
    /// While nobody listens.
    Disconnect,
}

/// What a session keeps of a run wherever it stands.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: RunRef,
    /// When it came to its present place.
    pub(crate) since: f64,
    /// Bytes of its prompt.
    pub(crate) size: usize,
    /// When it has to have begun.
    pub(crate) start_at: Option<f64>,
    /// How long it may take once it has begun.
    pub(crate) timeout: Option<f64>,
    /// Deadlines that are armed; most runs have none.
    pub(crate) alarms: Vec<(RunAlarm, Armed)>,
    /// The cancel that its Disconnect deadline gives.
    pub(crate) disconnect: Option<Arc<Cancel>>,
}

impl Run {
    pub(crate) fn id(&self) -> &str {
        self.name.run_id().as_str()
    }

    pub(crate) fn sequence(&self) -> Sequence {
        self.name.sequence()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.name.kind()
    }
}
