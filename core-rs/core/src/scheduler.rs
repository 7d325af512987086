//! The public face: all sessions, each found under the lock of its shard.
//!
//! A call locks one shard, and inside it, for a moment each, the leaves: gate, deadlines, edges. A grant that a step yields is
//! applied after the first lock is released, as a step of its own under the waiter's lock (U-30): no lock spans two
//! sessions' steps, and none is held while another shard's is taken.

mod cancels;
mod line;
mod time;
mod turns;
mod views;

pub use time::OwnedAddress;

use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::active::Active;
use crate::effect::{Act, Cx, ErrandNews, Step};
use crate::error::{Answer, Error};
use crate::gate::{Granted, Who};
use crate::id::Address;
use crate::ledger::Phase;
use crate::limits::Limits;
use crate::session::Session;
use crate::shared::Shared;
use crate::sync::{HashState, Mutex, MutexGuard, SHARDS};

/// The sessions of one shard, and their floor turns in order.
#[derive(Debug, Default)]
struct Shard {
    sessions: HashTable<Session>,
    active: Active,
}

impl Shard {
    fn get(&self, hash: u64, at: Address<'_>) -> Option<&Session> {
        self.sessions.find(hash, |session| session.names(at))
    }

    /// One step of a session that has an entry, and what becomes of that; none if it has none.
    fn step<T>(
        &mut self,
        hash: u64,
        at: Address<'_>,
        cx: &mut Cx<'_>,
        step: impl FnOnce(&mut Session, &mut Cx<'_>) -> Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        let Self { sessions, active } = self;
        let mut entry = sessions.find_entry(hash, |session| session.names(at)).ok()?;
        let answer = take_step(entry.get_mut(), active, cx, step);
        if entry.get().is_idle() {
            entry.remove();
        }
        Some(answer)
    }

    /// The same where a session without work gets an entry, and loses it again if it has none afterwards.
    fn step_new<T>(
        &mut self,
        hash: u64,
        at: Address<'_>,
        cx: &mut Cx<'_>,
        step: impl FnOnce(&mut Session, &mut Cx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Self { sessions, active } = self;
        let mut entry = match sessions.entry(hash, |session| session.names(at), Session::hash) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert(Session::new(at, hash)),
        };
        let answer = take_step(entry.get_mut(), active, cx, step);
        if entry.get().is_idle() {
            entry.remove();
        }
        answer
    }
}

fn take_step<T>(
    session: &mut Session,
    active: &mut Active,
    cx: &mut Cx<'_>,
    step: impl FnOnce(&mut Session, &mut Cx<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let before = session.floor();
    let answer = step(session, cx)?;
    session.settle(cx);
    let after = session.floor();
    if before != after {
        if let Some(turn) = before {
            active.remove(turn);
        }
        if let Some(turn) = after {
            active.insert(turn, session.hash());
        }
    }
    Ok(answer)
}

/// All scheduling state of all sessions. A session without work has no entry.
///
/// Every operation is refused with [`Error::Draining`] once the phase is cut.
#[derive(Debug)]
pub struct Scheduler {
    shards: Box<[Mutex<Shard>]>,
    hasher: HashState,
    shared: Shared,
}

impl Scheduler {
    /// A scheduler without sessions, whose sequences and turns have `epoch` in their high bits; sequences are above
    /// `last_sequence` (U-32).
    ///
    /// # Errors
    ///
    /// [`Error::SequencesExhausted`] if that leaves no sequence below [`crate::SEQUENCE_END`].
    pub fn new(limits: &Limits, epoch: u64, last_sequence: u64) -> Result<Self, Error> {
        Ok(Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect(),
            hasher: HashState::default(),
            shared: Shared::new(limits, epoch, last_sequence)?,
        })
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table inside uses the lowest and the seven highest bits.
        self.shards[(hash >> 48) as usize % SHARDS].lock()
    }

    fn hash(&self, at: Address<'_>) -> u64 {
        self.hasher.hash_one(at)
    }

    fn refuse_cut(&self) -> Result<(), Error> {
        match self.shared.ledger.phase() {
            Phase::Cut => Err(Error::Draining),
            Phase::Serving | Phase::Draining => Ok(()),
        }
    }

    /// One step of a session; `missing` is the answer if it has no entry.
    fn step<T>(
        &self,
        at: Address<'_>,
        now: f64,
        missing: impl FnOnce() -> Result<T, Error>,
        step: impl FnOnce(&mut Session, &mut Cx<'_>) -> Result<T, Error>,
    ) -> Answer<T> {
        self.refuse_cut()?;
        let hash = self.hash(at);
        let mut cx = Cx::new(&self.shared, now);
        let answer = self.shard(hash).step(hash, at, &mut cx, step);
        Ok(self.finished(answer.unwrap_or_else(missing)?, cx))
    }

    /// The same of a session that gets an entry.
    fn step_new<T>(
        &self,
        at: Address<'_>,
        now: f64,
        step: impl FnOnce(&mut Session, &mut Cx<'_>) -> Result<T, Error>,
    ) -> Answer<T> {
        self.refuse_cut()?;
        let hash = self.hash(at);
        let mut cx = Cx::new(&self.shared, now);
        let answer = self.shard(hash).step_new(hash, at, &mut cx, step)?;
        Ok(self.finished(answer, cx))
    }

    /// Ends a step, after its lock is released: the grants that it yields are steps of their own.
    fn finished<T>(&self, answer: T, mut cx: Cx<'_>) -> Step<T> {
        while !cx.grants.is_empty() {
            for grant in std::mem::take(&mut cx.grants) {
                self.carry(&grant, &mut cx);
            }
        }
        cx.into_step(answer)
    }

    /// Carries a permit to whom it is granted, or back.
    fn carry(&self, grant: &Granted, cx: &mut Cx<'_>) {
        let Granted { lane, waiter, ticket } = grant;
        let at = waiter.session.address();
        let is_wanted = match waiter.who {
            Who::Errand(id) => {
                let taken = self.shared.gate.enter().errand_granted(id, *ticket);
                let is_wanted = taken.is_some();
                if let Some((errand, armed)) = taken {
                    cx.disarm(armed);
                    cx.act(Act::Errand(errand, ErrandNews::In));
                }
                is_wanted
            }
            Who::Turn(_) | Who::Wait(..) => {
                let mut shard = self.shard(waiter.hash);
                let taken = shard.step(waiter.hash, at, cx, |session, cx| Ok(session.granted(grant, cx)));
                matches!(taken, Some(Ok(true)))
            }
        };
        if !is_wanted {
            let mut gate = self.shared.gate.enter();
            let next = gate.give_back(*lane, at.tenant, cx.now);
            let paced = gate.next_start();
            drop(gate);
            cx.granted(next);
            cx.wake(paced);
        }
    }
}
