//! A turn as callers see it: what it is for, how it ended.

use std::fmt;
use std::sync::Arc;

use crate::id::{Address, TurnId};
use crate::run::{Cancel, Cut, RunRef};

/// What a turn is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// It answers the user. (A run of kind bootstrap has one, too.)
    #[default]
    Prompt,
    /// It summarises the session.
    Summary,
    /// Another turn asked for it; all others are floor turns.
    Child,
}

/// What the end of its parent means to a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnParentEnd {
    /// The parent waits for it before it ends.
    #[default]
    Wait,
    /// It stops.
    Stop,
    /// Nothing.
    Continue,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With its answer.
    Answered,
    /// After a stop.
    Stopped(Arc<Cancel>),
    /// After its parent.
    ParentEnded,
    /// By a fault.
    Failed,
    /// Cut.
    Cut(Cut),
}

/// The same without its cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With its answer.
    Answered,
    /// After a stop.
    Stopped,
    /// After its parent.
    ParentEnded,
    /// By a fault.
    Failed,
    /// By an abort.
    Cancelled,
    /// By its deadline, or its run's.
    Deadline,
    /// Because it did not follow its parent in time.
    Parent,
}

impl End {
    /// The end without its cancel.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self {
            Self::Answered => Ending::Answered,
            Self::Stopped(_) => Ending::Stopped,
            Self::ParentEnded => Ending::ParentEnded,
            Self::Failed => Ending::Failed,
            Self::Cut(Cut::Deadline) => Ending::Deadline,
            Self::Cut(Cut::Parent) => Ending::Parent,
            Self::Cut(Cut::Abort(_) | Cut::Stop(_)) => Ending::Cancelled,
        }
    }

    /// The cancel that a caller gave.
    #[must_use]
    pub fn cancel(&self) -> Option<&Arc<Cancel>> {
        match self {
            Self::Stopped(cancel) => Some(cancel),
            Self::Cut(cut) => cut.cancel(),
            _ => None,
        }
    }
}

/// One turn, named in full. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TurnRef {
    run: RunRef,
    id: TurnId,
    parent: Option<TurnId>,
    role: Role,
    depth: u8,
}

impl TurnRef {
    pub(crate) fn floor(id: TurnId, run: RunRef, role: Role) -> Self {
        Self {
            run,
            id,
            parent: None,
            role,
            depth: 0,
        }
    }

    pub(crate) fn child(id: TurnId, run: RunRef, parent: TurnId, depth: u8) -> Self {
        Self {
            run,
            id,
            parent: Some(parent),
            role: Role::Child,
            depth,
        }
    }

    /// The session that it belongs to.
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        self.run.address()
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> TurnId {
        self.id
    }

    /// The run that it belongs to.
    #[must_use]
    pub fn run(&self) -> &RunRef {
        &self.run
    }

    /// What it is for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The parent of a child, which may live no more.
    #[must_use]
    pub fn parent(&self) -> Option<TurnId> {
        self.parent
    }

    /// How far it is from the floor.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// Whether it is no child.
    #[must_use]
    pub fn is_floor(&self) -> bool {
        self.parent.is_none()
    }
}

impl fmt::Debug for TurnRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}/{}", self.run, self.id)
    }
}

/// An asynchronous child that ended, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildResult {
    /// The child.
    pub child: TurnRef,
    /// How it ended.
    pub end: Ending,
}
