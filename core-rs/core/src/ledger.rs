//! What is counted over all sessions: sequences and turns given out, runs that are not over and their bytes, the phase.

use crate::error::{Error, Scope, Unit};
use crate::id::{EPOCH_SHIFT, SEQUENCE_END, Sequence, TurnId};
use crate::limits::Limits;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// What a scheduler still does; it only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Everything.
    #[default]
    Serving,
    /// Nothing begins, and nobody gets a permit.
    Draining,
    /// Nothing: every call is refused.
    Cut,
}

/// All counters are only ever changed by one atomic step, and a stamp is taken under the lock of the session that it is
/// for: who holds that lock sees every run that has a sequence up to the one it reads here. So no ordering is needed.
#[derive(Debug)]
pub(crate) struct Ledger {
    last: AtomicU64,
    last_turn: AtomicU64,
    runs: AtomicUsize,
    bytes: AtomicUsize,
    parked: AtomicUsize,
    phase: AtomicUsize,
    queue_limit: AtomicUsize,
    session_bytes: AtomicUsize,
    run_limit: AtomicUsize,
    byte_limit: AtomicUsize,
}

fn start_of(epoch: u64) -> Result<u64, Error> {
    if epoch >= SEQUENCE_END >> EPOCH_SHIFT {
        return Err(Error::SequencesExhausted);
    }
    Ok(epoch << EPOCH_SHIFT)
}

impl Ledger {
    pub(crate) fn new(epoch: u64, last_sequence: u64, limits: &Limits) -> Result<Self, Error> {
        let start = start_of(epoch)?;
        if last_sequence >= SEQUENCE_END - 1 {
            return Err(Error::SequencesExhausted);
        }
        Ok(Self {
            last: AtomicU64::new(last_sequence.max(start)),
            last_turn: AtomicU64::new(start),
            runs: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            phase: AtomicUsize::new(Phase::Serving as usize),
            queue_limit: AtomicUsize::new(limits.queue_per_session),
            session_bytes: AtomicUsize::new(limits.session_bytes),
            run_limit: AtomicUsize::new(limits.open_runs),
            byte_limit: AtomicUsize::new(limits.open_bytes),
        })
    }

    pub(crate) fn set_limits(&self, limits: &Limits) {
        self.queue_limit.store(limits.queue_per_session, Ordering::Relaxed);
        self.session_bytes.store(limits.session_bytes, Ordering::Relaxed);
        self.run_limit.store(limits.open_runs, Ordering::Relaxed);
        self.byte_limit.store(limits.open_bytes, Ordering::Relaxed);
    }

    /// From now on sequences and turns have at least this epoch.
    pub(crate) fn raise(&self, epoch: u64) -> Result<(), Error> {
        let start = start_of(epoch)?;
        self.last.fetch_max(start, Ordering::Relaxed);
        self.last_turn.fetch_max(start, Ordering::Relaxed);
        Ok(())
    }

    /// The highest sequence that is given out.
    pub(crate) fn last(&self) -> Sequence {
        Sequence::new(self.last.load(Ordering::Relaxed))
    }

    pub(crate) fn mint_turn(&self) -> TurnId {
        TurnId::new(self.last_turn.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Checks one session's bounds for a run more.
    pub(crate) fn check_session(&self, line: usize, bytes: usize, size: usize) -> Result<(), Error> {
        let full = |of, limit| {
            Err(Error::QueueFull {
                scope: Scope::Session,
                of,
                limit,
            })
        };
        let limit = self.queue_limit.load(Ordering::Relaxed);
        if line >= limit {
            return full(Unit::Runs, limit);
        }
        let limit = self.session_bytes.load(Ordering::Relaxed);
        if size > limit.saturating_sub(bytes) {
            return full(Unit::Bytes, limit);
        }
        Ok(())
    }

    /// Counts one run more, unless a bound is reached, and stamps it.
    pub(crate) fn admit(&self, size: usize, bounded: bool) -> Result<Sequence, Error> {
        let full = |of, limit| Error::QueueFull {
            scope: Scope::Process,
            of,
            limit,
        };
        let limit = if bounded {
            self.run_limit.load(Ordering::Relaxed)
        } else {
            usize::MAX
        };
        let room = |runs| (runs < limit).then_some(runs + 1);
        self.runs
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .map_err(|_| full(Unit::Runs, limit))?;
        if size > 0 {
            let limit = if bounded {
                self.byte_limit.load(Ordering::Relaxed)
            } else {
                usize::MAX
            };
            let room = |bytes: usize| (size <= limit.saturating_sub(bytes)).then(|| bytes + size);
            if self
                .bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
                .is_err()
            {
                self.leave(1, 0);
                return Err(full(Unit::Bytes, limit));
            }
        }
        let stamp = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        if stamp >= SEQUENCE_END {
            self.last.fetch_sub(1, Ordering::Relaxed);
            self.leave(1, size);
            return Err(Error::SequencesExhausted);
        }
        Ok(Sequence::new(stamp))
    }

    /// Counts a run that has its sequence from an earlier process; later stamps are above it.
    pub(crate) fn readmit(&self, sequence: Sequence, size: usize) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
        self.last.fetch_max(sequence.get(), Ordering::Relaxed);
    }

    /// The same of a turn.
    pub(crate) fn note_turn(&self, turn: TurnId) {
        self.last_turn.fetch_max(turn.get(), Ordering::Relaxed);
    }

    /// Counts runs that are over.
    pub(crate) fn leave(&self, runs: usize, bytes: usize) {
        if runs > 0 {
            self.runs.fetch_sub(runs, Ordering::Relaxed);
        }
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Runs accepted and not over.
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// Bytes of their prompts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts a begun turn that has no permit and asks for none.
    pub(crate) fn park(&self) {
        self.parked.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it no more.
    pub(crate) fn unpark(&self) {
        self.parked.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Cut,
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.phase() == Phase::Serving
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as usize, Ordering::Relaxed);
    }
}
