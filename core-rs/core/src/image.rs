//! A session as it was left, for a process that takes it over.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Error;
use crate::id::{SEQUENCE_END, Sequence, TurnId};
use crate::outcome::Steers;
use crate::run::{Cancel, Cut, Kind};
use crate::turn::{Ending, OnParentEnd, Role};

/// A run that is not over.
#[derive(Clone, Debug)]
pub struct RunImage {
    /// Its id.
    pub run_id: Box<str>,
    /// Its stamp.
    pub sequence: Sequence,
    /// What it does.
    pub kind: Kind,
    /// Its first turn had begun.
    pub opened: bool,
    /// What it was bound to.
    pub steers: Option<Steers>,
    /// What was requested of it.
    pub cut: Option<Cut>,
    /// Bytes of its prompt.
    pub size: usize,
    /// Children admitted so far.
    pub admitted: usize,
    /// When it has to have begun.
    pub start_deadline: Option<f64>,
    /// When it has to be over, if it has begun.
    pub run_deadline: Option<f64>,
    /// How long it may take from its beginning, if it has not.
    pub run_timeout: Option<f64>,
}

/// A call under way that waits for somebody outside.
#[derive(Clone, Debug)]
pub struct WaitImage {
    /// What for.
    pub kind: WaitImageKind,
    /// In the driver's words.
    pub label: Box<str>,
    /// Until when.
    pub deadline: Option<f64>,
}

/// What such a call waits for; one that waited for a run asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitImageKind {
    /// Somebody's word.
    Approval,
    /// A tool that runs elsewhere.
    Tool,
    /// The time to ask a provider again.
    Backoff,
    /// Tool servers that connect.
    Servers,
    /// The end of a server that drains.
    Drain,
}

/// A child's result in its parent's inbox.
#[derive(Clone, Copy, Debug)]
pub struct ResultImage {
    /// The child.
    pub child: TurnId,
    /// How it ended.
    pub end: Ending,
}

/// A turn that had begun, or was spawned, and has not ended.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct TurnImage {
    /// Its number.
    pub id: TurnId,
    /// Its run, which may be over.
    pub run_id: Box<str>,
    /// That run's stamp.
    pub sequence: Sequence,
    /// What it is for.
    pub role: Role,
    /// It had its permit once.
    pub begun: bool,
    /// Of a child: its parent, which may live no more.
    pub parent: Option<TurnId>,
    /// Of a child: how far it is from the floor.
    pub depth: u8,
    /// Of a child: what its parent's end means to it.
    pub on_parent_end: OnParentEnd,
    /// Of a child: whether its parent goes on meanwhile.
    pub is_async: bool,
    /// Of a child: whether a call from outside asked for it.
    pub outside: bool,
    /// Of a child whose parent lives no more: whether it keeps its run from being over.
    pub holds: bool,
    /// Of a child: that its parent has ended.
    pub parent_ended: bool,
    /// Of a child: what was requested of it.
    pub cut: Option<Cut>,
    /// Of a child: when it is cut.
    pub deadline: Option<f64>,
    /// Results that it has not been given.
    pub inbox: Vec<ResultImage>,
    /// How many calls were under way side by side.
    pub strands: usize,
    /// What the first of them wait for.
    pub waits: Vec<WaitImage>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its runs, in accept order.
    pub runs: Vec<RunImage>,
    /// Its turns: the floor turn first, parents before their children.
    pub turns: Vec<TurnImage>,
    /// The cancel of a deletion that was under way.
    pub closing: Option<Arc<Cancel>>,
}

impl Image {
    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refused = |why| Err(Error::ImageRefused { why });
        let mut ids = HashSet::new();
        let mut last = Sequence::new(0);
        for run in &self.runs {
            if run.sequence <= last || run.sequence.get() >= SEQUENCE_END {
                return refused("sequences of runs do not rise");
            }
            if !ids.insert(&*run.run_id) {
                return refused("two runs have one id");
            }
            if !run.opened && run.cut.as_ref().is_some_and(|cut| cut.cancel().is_none()) {
                return refused("a run that has not begun is cut by a cancel alone");
            }
            last = run.sequence;
        }
        let mut opened = self.runs.iter().filter(|run| run.opened);
        let open = opened.next().map(|run| run.sequence);
        if opened.next().is_some() {
            return refused("two runs are open");
        }
        let mut turns = HashSet::new();
        for turn in &self.turns {
            if turn.parent.is_some() != (turn.role == Role::Child) || (turn.depth > 0) != turn.parent.is_some() {
                return refused("a child has a parent and a depth, a floor turn neither");
            }
            if !turns.insert(turn.id) {
                return refused("two turns have one number");
            }
            if turn.parent.is_none() && (Some(turn.sequence) != open || !turn.begun || turns.len() > 1) {
                return refused("a floor turn has begun, belongs to the open run, and is the first");
            }
        }
        Ok(())
    }
}
