//! What a STEER run is bound to, and the STEER runs that are bound to one run or one child (U-20).

use std::collections::BTreeSet;

use crate::id::{Sequence, TurnId};

/// What a STEER run is to fold into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The prompt turn of a run.
    Run(Sequence),
    /// A child.
    Turn(TurnId),
}

#[derive(Debug, Default)]
struct Sets {
    reserved: BTreeSet<Sequence>,
    queued: BTreeSet<Sequence>,
}

/// Sequences of STEER runs in line, apart by whether they may fold already. Most runs have none and hold no memory for it.
#[derive(Debug, Default)]
pub(crate) struct Bound(Option<Box<Sets>>);

impl Bound {
    /// Binds a reservation.
    pub(crate) fn insert(&mut self, steer: Sequence) {
        self.0.get_or_insert_default().reserved.insert(steer);
    }

    /// Notes that a bound run was dispatched.
    pub(crate) fn dispatched(&mut self, steer: Sequence) {
        if let Some(sets) = &mut self.0
            && sets.reserved.remove(&steer)
        {
            sets.queued.insert(steer);
        }
    }

    /// Puts a run back that may fold.
    pub(crate) fn give_back(&mut self, steer: Sequence) {
        self.0.get_or_insert_default().queued.insert(steer);
    }

    /// Forgets a run that leaves the line.
    pub(crate) fn remove(&mut self, steer: Sequence) {
        if let Some(sets) = &mut self.0 {
            let _ = sets.reserved.remove(&steer) || sets.queued.remove(&steer);
        }
    }

    /// Takes the first run that may fold.
    pub(crate) fn pop(&mut self) -> Option<Sequence> {
        self.0.as_mut()?.queued.pop_first()
    }

    /// All of them, when their target leaves.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Sequence> + use<> {
        let sets = self.0.take().map(|sets| *sets).unwrap_or_default();
        sets.reserved.into_iter().chain(sets.queued)
    }
}
