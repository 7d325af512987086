//! The public face: all sessions, each found under the lock of its shard.
//!
//! A call locks one shard, and inside it, where permits are asked for or released, the gate. A grant that a step yields for
//! another session is applied after the first lock is released, as a step of its own under the waiter's lock (U-30): no
//! lock spans two sessions' steps, and none is held while another shard's is taken.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::error::Error;
use crate::gate::{Gate, Grant};
use crate::id::{Address, SEQUENCE_END};
use crate::ledger::Ledger;
use crate::outcome::{Accepted, CancelResult, Conclusion, Dispatched, Partition, Wake};
use crate::request::{CancelScope, Limits, Restore, RunRequest};
use crate::run::{Cancel, Place, RunRef};
use crate::session::{Reach, Session, Submit};
use crate::sync::{HashState, Mutex, SHARDS};
use crate::view::{Counts, Snapshot, Stats};

type Shard = Mutex<HashTable<Session>>;

/// All scheduling state of all sessions. A session without work has no entry.
#[derive(Debug)]
pub struct Scheduler {
    shards: Box<[Shard]>,
    hasher: HashState,
    gate: Gate,
    ledger: Ledger,
    queue_limit: usize,
    byte_limit: usize,
}

impl Scheduler {
    /// A scheduler without sessions, whose sequences have `epoch` in their high bits and are above `last_sequence` (U-32).
    ///
    /// # Errors
    ///
    /// [`Error::SequencesExhausted`] if that leaves no sequence below [`SEQUENCE_END`].
    pub fn new(limits: Limits, epoch: u64, last_sequence: u64) -> Result<Self, Error> {
        Ok(Self {
            shards: (0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect(),
            hasher: HashState::default(),
            gate: Gate::new(limits.running_turns, limits.running_turns_per_tenant),
            ledger: Ledger::new(epoch, last_sequence, limits.open_runs, limits.line_bytes)?,
            queue_limit: limits.queue_per_session,
            byte_limit: limits.line_bytes_per_session,
        })
    }

    /// Checks preconditions and bounds and stamps a reservation, in one step (U-9, U-19 to U-24).
    ///
    /// # Errors
    ///
    /// In this order: the run exists, another run than the expected one is open, the session is busy, a bound is reached.
    pub fn accept(&self, at: Address<'_>, run_id: &str, request: RunRequest<'_>, now: f64) -> Result<Accepted, Error> {
        let (ledger, gate, bytes) = (&self.ledger, &self.gate, request.bytes);
        let submit = Submit {
            request,
            now,
            queue_limit: self.queue_limit,
            byte_limit: self.byte_limit,
            ledger,
            gate,
        };
        self.with_new(at, bytes, |session| session.accept(run_id, submit))
    }

    /// Puts a stored run back as a reservation with its old sequence, past all bounds (U-16).
    ///
    /// # Errors
    ///
    /// The run exists, or its sequence is another's or was never stamped.
    pub fn restore(&self, at: Address<'_>, run_id: &str, restore: Restore<'_>, now: f64) -> Result<(), Error> {
        let (sequence, bytes) = (restore.sequence, restore.bytes);
        if sequence.get() == 0 || sequence.get() >= SEQUENCE_END {
            return Err(Error::SequenceRefused {
                sequence: sequence.get(),
            });
        }
        self.with_new(at, bytes, |session| {
            session.restore(run_id, restore, now)?;
            self.ledger.readmit(sequence, bytes);
            Ok(())
        })
    }

    /// Closes a reservation whose accept was never committed: it leaves no trace. Returns starts.
    ///
    /// # Errors
    ///
    /// The session has no such reservation.
    pub fn abandon(&self, at: Address<'_>, run_id: &str, now: f64) -> Result<Vec<RunRef>, Error> {
        let started = self.with_run(at, run_id, |session| session.abandon(run_id, &self.gate, now))?;
        Ok(started.into_iter().collect())
    }

    /// Closes a reservation by deciding what becomes of its run.
    ///
    /// # Errors
    ///
    /// The session has no such reservation.
    pub fn dispatch(&self, at: Address<'_>, run_id: &str, now: f64) -> Result<Dispatched, Error> {
        self.with_run(at, run_id, |session| session.dispatch(run_id, &self.gate, now))
    }

    /// Takes the STEER runs bound to a running turn, at most `limit`.
    ///
    /// # Errors
    ///
    /// The run is not running with a permit, or is concluded.
    pub fn partition(&self, at: Address<'_>, run_id: &str, limit: Option<usize>) -> Result<Partition, Error> {
        self.with_run(at, run_id, |session| session.partition(run_id, limit))
    }

    /// Gives the permit of a running turn back while it waits for somebody outside; it keeps the floor (U-3). One that was
    /// woken and has no permit yet gives up its place. Returns starts.
    ///
    /// # Errors
    ///
    /// The run is neither running nor woken, or is concluded.
    pub fn park(&self, at: Address<'_>, run_id: &str, now: f64) -> Result<Vec<RunRef>, Error> {
        let grant = self.with_run(at, run_id, |session| session.park(run_id, &self.gate, now))?;
        let mut starts = Vec::new();
        self.settle(grant, now, &mut starts);
        Ok(starts)
    }

    /// Asks for the permit of a parked turn again, ahead of all turns that have not begun.
    ///
    /// # Errors
    ///
    /// The run is not parked, or is concluded.
    pub fn wake(&self, at: Address<'_>, run_id: &str, now: f64) -> Result<Wake, Error> {
        self.with_run(at, run_id, |session| session.wake(run_id, &self.gate, now))
    }

    /// Fixes the outcome of a turn that has begun, parked or not. Where it is an answer that may be steered further,
    /// `steers` says by how many at once: if there are any, and it has a permit, they are returned instead. 0 for no answer.
    ///
    /// # Errors
    ///
    /// The run's turn has not begun, or is concluded.
    pub fn conclude(&self, at: Address<'_>, run_id: &str, steers: usize) -> Result<Conclusion, Error> {
        self.with_run(at, run_id, |session| session.conclude(run_id, steers, &self.gate))
    }

    /// Releases floor and permit of a concluded run and starts what is next. Returns starts.
    ///
    /// # Errors
    ///
    /// The run is not open, or is not concluded.
    pub fn finish(&self, at: Address<'_>, run_id: &str, now: f64) -> Result<Vec<RunRef>, Error> {
        let finished = self.with_run(at, run_id, |session| session.finish(run_id, &self.gate, now))?;
        let mut starts: Vec<_> = finished.started.into_iter().collect();
        self.settle(finished.grant, now, &mut starts);
        Ok(starts)
    }

    /// Covers what a session accepted so far, within `scope`. An idle session is left alone.
    #[must_use]
    pub fn cancel_session(&self, at: Address<'_>, cancel: &Arc<Cancel>, scope: CancelScope, now: f64) -> CancelResult {
        let CancelScope {
            up_to,
            spare_open,
            spare_bootstrap,
        } = scope;
        let covered = self.with(at, |session| {
            let last = self.ledger.last();
            let reach = Reach {
                bound: up_to.unwrap_or(last).min(last),
                spare_open,
                spare_bootstrap,
            };
            session.cover(&reach, cancel, &self.gate, now)
        });
        covered.unwrap_or_default()
    }

    /// Covers one run, if it is here and not concluded.
    #[must_use]
    pub fn cancel_run(&self, at: Address<'_>, run_id: &str, cancel: &Arc<Cancel>, now: f64) -> CancelResult {
        self.with(at, |session| session.cancel_run(run_id, cancel, &self.gate, now))
            .unwrap_or_default()
    }

    /// Covers all that a tenant's sessions accepted before this call, and nothing accepted after it.
    #[must_use]
    pub fn cancel_tenant(&self, tenant: &str, cancel: &Arc<Cancel>, now: f64) -> CancelResult {
        // What is accepted from here on has a higher sequence, whether its session is visited before or after.
        let reach = Reach {
            bound: self.ledger.last(),
            spare_open: false,
            spare_bootstrap: false,
        };
        let mut total = CancelResult::default();
        for shard in &self.shards {
            shard.lock().retain(|session| {
                if session.tenant() == tenant {
                    let before = session.load();
                    let result = session.cover(&reach, cancel, &self.gate, now);
                    self.ledger.leave(session.load().gone_since(before));
                    total.covered.extend(result.covered);
                    total.concluded.extend(result.concluded);
                    total.starts.extend(result.starts);
                }
                session.runs() > 0
            });
        }
        total.covered.sort_by_key(|covered| covered.run.sequence());
        total.concluded.sort_by_key(RunRef::sequence);
        total
    }

    /// Takes out a queued or waiting run whose start deadline passed. Returns whether there was one, and starts.
    #[must_use]
    pub fn expire(&self, at: Address<'_>, run_id: &str, now: f64) -> (bool, Vec<RunRef>) {
        let (taken, started) = self
            .with(at, |session| session.expire(run_id, &self.gate, now))
            .unwrap_or_default();
        (taken, started.into_iter().collect())
    }

    /// Adds a reason why the open run is not over; returns its number.
    ///
    /// # Errors
    ///
    /// The run is not open.
    pub fn hold(&self, at: Address<'_>, run_id: &str, label: &str, now: f64) -> Result<u64, Error> {
        self.with_run(at, run_id, |session| session.hold(run_id, label, now))
    }

    /// Releases a hold; returns how many are left. Nothing happens if it, or its run, is gone.
    pub fn release_hold(&self, at: Address<'_>, run_id: &str, hold: u64) -> usize {
        self.with(at, |session| session.release_hold(run_id, hold))
            .unwrap_or_default()
    }

    /// From now on nothing starts, and nothing that was parked goes on (U-17).
    pub fn drain(&self) {
        self.gate.enter().close();
    }

    /// The session as it is; none if it has no work.
    #[must_use]
    pub fn snapshot(&self, at: Address<'_>) -> Option<Snapshot> {
        self.with(at, |session| session.snapshot())
    }

    /// Where a run stands, and how many uncancelled runs are ahead of it; none if the session has no such run.
    #[must_use]
    pub fn place(&self, at: Address<'_>, run_id: &str) -> Option<(Place, usize)> {
        self.with(at, |session| session.place(run_id)).flatten()
    }

    /// How much a session has to do, whatever the length of its line.
    #[must_use]
    pub fn counts(&self, at: Address<'_>) -> Counts {
        self.with(at, |session| session.counts()).unwrap_or_default()
    }

    /// Counts over all sessions.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let sessions = self.shards.iter().map(|shard| shard.lock().len()).sum();
        let gate = self.gate.enter();
        Stats {
            sessions,
            open_runs: self.ledger.runs(),
            line_bytes: self.ledger.bytes(),
            running_turns: gate.in_use(),
            waiting_turns: gate.waiting(),
            parked_turns: gate.parked(),
            last_sequence: self.ledger.last().get(),
        }
    }

    /// Applies a grant, and the one that it yields if nobody takes it.
    fn settle(&self, mut next: Option<Grant>, now: f64, starts: &mut Vec<RunRef>) {
        while let Some(Grant { waiter, ticket }) = next.take() {
            let at = waiter.session.address();
            let started = self
                .with_hash(waiter.hash, at, |session| session.grant(ticket, now))
                .flatten();
            match started {
                Some(run) => starts.push(run),
                None => next = self.gate.enter().release(at.tenant),
            }
        }
    }

    fn shard(&self, hash: u64) -> &Shard {
        // The table inside uses the lowest and the seven highest bits.
        &self.shards[(hash >> 48) as usize % SHARDS]
    }

    /// One step of a session that needs work for it.
    fn with<R>(&self, at: Address<'_>, step: impl FnOnce(&mut Session) -> R) -> Option<R> {
        self.with_hash(self.hasher.hash_one(at), at, step)
    }

    fn with_hash<R>(&self, hash: u64, at: Address<'_>, step: impl FnOnce(&mut Session) -> R) -> Option<R> {
        let mut shard = self.shard(hash).lock();
        let mut entry = shard.find_entry(hash, |session| session.names(at)).ok()?;
        let session = entry.get_mut();
        let before = session.load();
        let result = step(session);
        let after = session.load();
        self.ledger.leave(after.gone_since(before));
        if after.runs == 0 {
            entry.remove();
        }
        Some(result)
    }

    /// The same where an idle session knows no run.
    fn with_run<R>(
        &self,
        at: Address<'_>,
        run_id: &str,
        step: impl FnOnce(&mut Session) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.with(at, step)
            .unwrap_or_else(|| Err(Error::UnknownRun { run_id: run_id.into() }))
    }

    /// A step that counts one run of so many bytes in; an idle session gets its entry, and loses it again if the step is refused.
    fn with_new<R>(
        &self,
        at: Address<'_>,
        bytes: usize,
        step: impl FnOnce(&mut Session) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let hash = self.hasher.hash_one(at);
        let mut shard = self.shard(hash).lock();
        let mut entry = match shard.entry(hash, |session| session.names(at), Session::hash) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert(Session::new(at, hash)),
        };
        let session = entry.get_mut();
        let before = session.load();
        let result = step(session);
        let after = session.load();
        let counted = if result.is_ok() { before.with_one(bytes) } else { before };
        self.ledger.leave(after.gone_since(counted));
        if after.runs == 0 {
            entry.remove();
        }
        result
    }
}
