//! What is counted over all sessions: the accept sequences given out, and the runs that are not over.

use crate::error::{Error, Scope};
use crate::id::{EPOCH_SHIFT, SEQUENCE_END, Sequence};
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// Both counters are only ever changed by one atomic step, and a stamp is taken under the lock of the session that it is
/// for: who holds that lock sees every run that has a sequence up to the one it reads here. So no ordering is needed.
#[derive(Debug)]
pub(crate) struct Ledger {
    last: AtomicU64,
    runs: AtomicUsize,
    limit: usize,
}

impl Ledger {
    pub(crate) fn new(epoch: u64, last_sequence: u64, limit: usize) -> Result<Self, Error> {
        if epoch >= SEQUENCE_END >> EPOCH_SHIFT || last_sequence >= SEQUENCE_END - 1 {
            return Err(Error::SequencesExhausted);
        }
        let last = last_sequence.max(epoch << EPOCH_SHIFT);
        Ok(Self {
            last: AtomicU64::new(last),
            runs: AtomicUsize::new(0),
            limit,
        })
    }

    /// The highest sequence that is given out.
    pub(crate) fn last(&self) -> Sequence {
        Sequence::new(self.last.load(Ordering::Relaxed))
    }

    /// Counts one run more, unless the bound is reached, and stamps it.
    pub(crate) fn admit(&self, bounded: bool) -> Result<Sequence, Error> {
        let room = |runs| (!bounded || runs < self.limit).then_some(runs + 1);
        if self
            .runs
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_err()
        {
            return Err(Error::QueueFull {
                scope: Scope::Process,
                limit: self.limit,
            });
        }
        let stamp = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        if stamp >= SEQUENCE_END {
            self.last.fetch_sub(1, Ordering::Relaxed);
            self.leave(1);
            return Err(Error::SequencesExhausted);
        }
        Ok(Sequence::new(stamp))
    }

    /// Counts a run that has its sequence from an earlier process; later stamps are above it.
    pub(crate) fn readmit(&self, sequence: Sequence) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.last.fetch_max(sequence.get(), Ordering::Relaxed);
    }

    /// Counts runs that are over.
    pub(crate) fn leave(&self, count: usize) {
        if count > 0 {
            self.runs.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Runs accepted and not over.
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }
}
