//! The turns of one session.

use crate::id::TurnId;
use crate::rare::Rare;
use crate::turn::Turn;

/// A session's turns: the first in place, because most sessions have no other.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    first: Option<Turn>,
    others: Rare<TurnId, Turn>,
}

impl Turns {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    pub(crate) fn get(&self, id: TurnId) -> Option<&Turn> {
        match &self.first {
            Some(turn) if turn.id() == id => Some(turn),
            _ => self.others.get(id),
        }
    }

    pub(crate) fn get_mut(&mut self, id: TurnId) -> Option<&mut Turn> {
        match &mut self.first {
            Some(turn) if turn.id() == id => Some(turn),
            _ => self.others.get_mut(id),
        }
    }

    pub(crate) fn insert(&mut self, turn: Turn) {
        if self.first.is_none() {
            self.first = Some(turn);
        } else {
            self.others.insert(turn.id(), turn);
        }
    }

    pub(crate) fn remove(&mut self, id: TurnId) -> Option<Turn> {
        if self.first.as_ref().is_some_and(|turn| turn.id() == id) {
            return self.first.take();
        }
        self.others.remove(id)
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Turn> {
        self.first.iter().chain(self.others.values())
    }

    /// The numbers of those that are meant, in order.
    pub(crate) fn ids(&self, is_meant: impl Fn(&Turn) -> bool) -> Vec<TurnId> {
        let mut ids: Vec<_> = self.iter().filter(|turn| is_meant(turn)).map(Turn::id).collect();
        ids.sort_unstable();
        ids
    }
}
