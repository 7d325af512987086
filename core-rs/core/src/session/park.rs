//! Parked turns (U-3): one that waits for somebody outside gives its permit back and keeps the floor.
//!
//! It leaves the line of neither its session nor its STEERs; only what needs a permit, folding, has to wait for it.

use super::{Asked, Class, Error, Gate, Grant, Session, Stand};
use crate::outcome::Wake;

impl Session {
    /// Gives the permit of the open run back, or its place among those who want theirs again.
    pub(crate) fn park(&mut self, run_id: &str, gate: &Gate, now: f64) -> Result<Option<Grant>, Error> {
        let open = self.begun(run_id, false)?;
        let before = std::mem::replace(&mut open.stand, Stand::Parked);
        if before == Stand::Parked {
            return Err(Self::unknown(run_id));
        }
        open.run.since = now;
        let mut gate = gate.enter();
        gate.park();
        if let Stand::Woken(ticket) = before {
            gate.abandon(self.key.tenant(), ticket);
            return Ok(None);
        }
        Ok(gate.release(self.key.tenant()))
    }

    /// Asks for the permit of a parked run again, ahead of all turns that have not begun.
    pub(crate) fn wake(&mut self, run_id: &str, gate: &Gate, now: f64) -> Result<Wake, Error> {
        let waiter = self.waiter();
        if self.begun(run_id, false)?.stand != Stand::Parked {
            return Err(Self::unknown(run_id));
        }
        let mut gate = gate.enter();
        let (stand, woken) = match gate.ask(self.key.tenant(), Class::GoesOn, || waiter) {
            Asked::Granted => (Stand::Running, Wake::Running),
            Asked::Waiting(ticket) => (Stand::Woken(ticket), Wake::Waiting),
            Asked::Closed => return Ok(Wake::Closed),
        };
        gate.unpark();
        if let Some(open) = &mut self.open {
            open.stand = stand;
            open.run.since = now;
        }
        Ok(woken)
    }
}
