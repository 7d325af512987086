//! The floor of a session: who of it may run.

use crate::id::TurnId;

/// The base agent's frame. Only its turn may have the floor's permit.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    turn: Option<TurnId>,
}

impl Frame {
    /// The turn that has the floor.
    pub(crate) fn top(&self) -> Option<TurnId> {
        self.turn
    }

    pub(crate) fn push(&mut self, turn: TurnId) {
        debug_assert!(self.turn.is_none(), "a frame has one turn");
        self.turn = Some(turn);
    }

    pub(crate) fn remove(&mut self, turn: TurnId) {
        if self.turn == Some(turn) {
            self.turn = None;
        }
    }
}
