//! What turns do: strands, waits, lanes, children, fold points, ends.

use super::Scheduler;
use crate::deadline::{Due, What};
use crate::effect::Cx;
use crate::error::{Answer, Error};
use crate::id::{Address, SessionKey, TurnId, WaitId};
use crate::ledger::Phase;
use crate::outcome::{Admission, Conclusion, FoldPoint, LaneEntry, Proposal, Waiting};
use crate::request::{Spawn, WaitRequest};

fn no_turn<T>(turn: TurnId) -> impl FnOnce() -> Result<T, Error> {
    move || Err(Error::BadState { turn })
}

impl Scheduler {
    /// A batch of so many calls begins, in a turn that runs one strand.
    ///
    /// # Errors
    ///
    /// The turn is cut, or not in this state.
    pub fn strands(&self, at: Address<'_>, turn: TurnId, count: usize, now: f64) -> Answer<()> {
        self.step(at, now, no_turn(turn), |session, _| session.strands(turn, count))
    }

    /// A call of the batch is over; the last one leads back to the loop. Answers whether the turn still runs.
    ///
    /// # Errors
    ///
    /// No strand of the turn runs.
    pub fn strand_ends(&self, at: Address<'_>, turn: TurnId, now: f64) -> Answer<bool> {
        self.step(at, now, no_turn(turn), |session, cx| session.strand_ends(turn, cx))
    }

    /// A strand, or a call from outside, waits for somebody outside. A turn whose strands all wait has no permit.
    ///
    /// # Errors
    ///
    /// The turn is cut, or not in this state; lines would wait for each other.
    pub fn wait(&self, at: Address<'_>, turn: TurnId, request: WaitRequest<'_>, now: f64) -> Answer<Waiting> {
        self.step(at, now, no_turn(turn), |session, cx| session.wait(turn, request, cx))
    }

    /// What it waited for has come. False: it waits no more.
    ///
    /// # Errors
    ///
    /// The wait is one that the core ends itself.
    pub fn waited(&self, at: Address<'_>, turn: TurnId, wait: WaitId, now: f64) -> Answer<bool> {
        self.step(at, now, || Ok(false), |session, cx| session.waited(turn, wait, cx))
    }

    /// A strand asks for a slot of a provider; where it has to wait it has no permit.
    ///
    /// # Errors
    ///
    /// The turn is cut, or not in this state; too many wait; there is no such lane.
    pub fn enter_lane(
        &self,
        at: Address<'_>,
        turn: TurnId,
        lane: &str,
        label: &str,
        deadline: Option<f64>,
        now: f64,
    ) -> Answer<LaneEntry> {
        self.step(at, now, no_turn(turn), |session, cx| {
            session.enter_lane(turn, lane, label, deadline, cx)
        })
    }

    /// Gives a slot back, or a place in the queue for one. False: it has neither.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn leave_lane(&self, at: Address<'_>, turn: TurnId, entry: WaitId, now: f64) -> Answer<bool> {
        self.step(
            at,
            now,
            || Ok(false),
            |session, cx| Ok(session.leave_lane(turn, entry, cx)),
        )
    }

    /// An errand asks for a slot of a provider, after all turns.
    ///
    /// # Errors
    ///
    /// The session is closing, the scheduler drains, too many wait, there is no such lane.
    pub fn enter_errand(&self, at: Address<'_>, lane: &str, deadline: Option<f64>, now: f64) -> Answer<LaneEntry> {
        self.refuse_cut()?;
        let hash = self.hash(at);
        let most = self.shared.settings.get().lane_waiters;
        let key = SessionKey::new(at);
        let mut cx = Cx::new(&self.shared, now);
        // Its session's lock, so that a deletion finds it or refuses it.
        let shard = self.shard(hash);
        if shard.get(hash, at).is_some_and(crate::session::Session::is_closing) {
            return Err(Error::SessionDeleting);
        }
        if self.shared.ledger.phase() != Phase::Serving {
            return Err(Error::Draining);
        }
        let mut gate = self.shared.gate.enter();
        let (id, is_in) = gate.enter_errand(lane, &key, hash, most, now)?;
        let next = gate.next_start();
        drop(gate);
        if !is_in {
            cx.wake(next);
        }
        if let Some(when) = deadline.filter(|_| !is_in) {
            let due = Due {
                session: key,
                hash,
                what: What::Errand(id),
            };
            let armed = cx.arm(when, due);
            let waits = self.shared.gate.enter().arm_errand(id, armed);
            if !waits {
                cx.disarm(Some(armed));
            }
        }
        drop(shard);
        let entry = LaneEntry {
            id,
            is_in,
            parked: false,
        };
        Ok(self.finished(entry, cx))
    }

    /// An errand gives its slot back, or its place. False: it has neither.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn leave_errand(&self, errand: WaitId, now: f64) -> Answer<bool> {
        self.refuse_cut()?;
        let mut cx = Cx::new(&self.shared, now);
        let mut gate = self.shared.gate.enter();
        let left = gate.leave_errand(errand, now);
        let next = gate.next_start();
        drop(gate);
        let found = left.is_some();
        if let Some((armed, grant)) = left {
            cx.disarm(armed);
            cx.granted(grant);
            cx.wake(next);
        }
        Ok(self.finished(found, cx))
    }

    /// A strand, or a call from outside, asks for a child.
    ///
    /// # Errors
    ///
    /// There is none, and why; the scheduler drains; no strand runs.
    pub fn spawn(&self, at: Address<'_>, turn: TurnId, spawn: &Spawn, now: f64) -> Answer<Admission> {
        self.step(at, now, no_turn(turn), |session, cx| session.spawn(turn, spawn, cx))
    }

    /// The caller gave up waiting for a slot. False: it waits no more.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn abandon_spawn(&self, at: Address<'_>, turn: TurnId, wait: WaitId, now: f64) -> Answer<bool> {
        self.step(
            at,
            now,
            || Ok(false),
            |session, cx| Ok(session.abandon_spawn(turn, wait, cx)),
        )
    }

    /// Before a step: lends at most `most` STEER runs, and all results.
    ///
    /// # Errors
    ///
    /// The turn is cut, or not in this state.
    pub fn fold_point(&self, at: Address<'_>, turn: TurnId, most: usize, now: f64) -> Answer<FoldPoint> {
        self.step(at, now, no_turn(turn), |session, cx| session.fold_point(turn, most, cx))
    }

    /// The draft that holds the loan is submitted.
    ///
    /// # Errors
    ///
    /// There is no such turn.
    pub fn taken(&self, at: Address<'_>, turn: TurnId, now: f64) -> Answer<()> {
        self.step(at, now, no_turn(turn), |session, cx| session.taken(turn, cx))
    }

    /// A turn proposes to end (U-10). A cut decides over every proposal.
    ///
    /// # Errors
    ///
    /// The turn is not in this state.
    pub fn conclude(&self, at: Address<'_>, turn: TurnId, proposal: Proposal, now: f64) -> Answer<Conclusion> {
        self.step(at, now, no_turn(turn), |session, cx| {
            session.conclude(turn, proposal, cx)
        })
    }
}
