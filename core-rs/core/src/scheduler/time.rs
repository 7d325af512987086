//! Time, phases and bounds: what changes for all sessions at once.

use super::Scheduler;
use crate::deadline::What;
use crate::effect::{Act, Cx, ErrandNews, Step};
use crate::error::{Answer, Error};
use crate::id::SessionKey;
use crate::ledger::Phase;
use crate::limits::Limits;

/// A session's tenant and id.
pub type OwnedAddress = (Box<str>, Box<str>);

fn owned(key: &SessionKey) -> OwnedAddress {
    let at = key.address();
    (at.tenant.into(), at.session.into())
}

impl Scheduler {
    /// The earliest deadline.
    #[must_use]
    pub fn next_due(&self) -> Option<f64> {
        let deadline = self.shared.deadlines.next();
        let start = self.shared.gate.enter().next_start();
        match (deadline, start) {
            (Some(deadline), Some(start)) => Some(deadline.min(start)),
            (one, other) => one.or(other),
        }
    }

    /// Fires deadlines that have passed, earliest first, at most `most`: each its own step, of the session named.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn due(&self, now: f64, most: usize) -> Result<Vec<(OwnedAddress, Step<()>)>, Error> {
        self.refuse_cut()?;
        let mut steps = Vec::new();
        for _ in 0..most {
            let start = self.shared.gate.enter().next_start().filter(|start| *start <= now);
            let deadline = self.shared.deadlines.next();
            let is_paced = start.is_some_and(|start| deadline.is_none_or(|deadline| start < deadline));
            let step = if is_paced {
                self.start_paced(now)
            } else {
                self.fire_next(now)
            };
            let Some((key, step)) = step else { break };
            if !step.effects.is_empty() || step.wake_at.is_some() {
                steps.push((owned(&key), step));
            }
        }
        Ok(steps)
    }

    fn start_paced(&self, now: f64) -> Option<(SessionKey, Step<()>)> {
        let grant = self.shared.gate.enter().grant_paced(now)?;
        let session = grant.waiter.session.clone();
        let mut cx = Cx::new(&self.shared, now);
        cx.granted(Some(grant));
        Some((session, self.finished((), cx)))
    }

    fn fire_next(&self, now: f64) -> Option<(SessionKey, Step<()>)> {
        let (armed, due) = self.shared.deadlines.pop(now)?;
        let mut cx = Cx::new(&self.shared, now);
        if let What::Errand(id) = due.what {
            let over = self.shared.gate.enter().errand_due(id);
            if let Some(errand) = over {
                cx.act(Act::Errand(errand, ErrandNews::Busy));
            }
        } else {
            let mut shard = self.shard(due.hash);
            shard.step(due.hash, due.session.address(), &mut cx, |session, cx| {
                session.fire(due.what, armed, cx);
                Ok(())
            });
        }
        Some((due.session, self.finished((), cx)))
    }

    /// Enters a phase; it only goes forward. From the first on nothing begins, nobody gets a permit, errands are cut.
    pub fn drain(&self, phase: Phase, now: f64) -> Step<()> {
        let mut cx = Cx::new(&self.shared, now);
        if phase > Phase::Serving {
            self.shared.ledger.enter(phase);
            let mut gate = self.shared.gate.enter();
            gate.close();
            let errands = gate.cut_errands(None);
            drop(gate);
            cx.errands_cut(errands);
        }
        cx.into_step(())
    }

    /// Sequences and turns from here on have at least this epoch in their high bits.
    ///
    /// # Errors
    ///
    /// [`Error::SequencesExhausted`] if that leaves no sequence below [`crate::SEQUENCE_END`].
    pub fn raise_sequence(&self, epoch: u64) -> Result<(), Error> {
        self.shared.ledger.raise(epoch)
    }

    /// Bounds from here on. What stands above one stays, and lanes that are missing keep theirs.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn set_limits(&self, limits: &Limits, now: f64) -> Answer<()> {
        self.refuse_cut()?;
        let mut cx = Cx::new(&self.shared, now);
        self.shared.ledger.set_limits(limits);
        let mut gate = self.shared.gate.enter();
        let grants = gate.set_limits(limits, now);
        let next = gate.next_start();
        drop(gate);
        self.shared.settings.set(limits);
        cx.grants.extend(grants);
        cx.wake(next);
        Ok(self.finished((), cx))
    }
}
