//! What is counted over all sessions: the accept sequences given out, the runs that are not over, the bytes in line.

use crate::error::{Error, Scope, Unit};
use crate::id::{EPOCH_SHIFT, SEQUENCE_END, Sequence};
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// What one session counts for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Runs that are not over.
    pub(crate) runs: usize,
    /// Bytes of prompts in line.
    pub(crate) bytes: usize,
}

/// All counters are only ever changed by one atomic step, and a stamp is taken under the lock of the session that it is
/// for: who holds that lock sees every run that has a sequence up to the one it reads here. So no ordering is needed.
#[derive(Debug)]
pub(crate) struct Ledger {
    last: AtomicU64,
    runs: AtomicUsize,
    bytes: AtomicUsize,
    limit: usize,
    byte_limit: usize,
}

impl Load {
    /// What is gone since `before`, from which nothing has come.
    pub(crate) fn gone_since(self, before: Self) -> Self {
        Self {
            runs: before.runs - self.runs,
            bytes: before.bytes - self.bytes,
        }
    }

    /// With one run more, of so many bytes.
    pub(crate) fn with_one(self, bytes: usize) -> Self {
        Self {
            runs: self.runs + 1,
            bytes: self.bytes + bytes,
        }
    }
}

impl Ledger {
    pub(crate) fn new(epoch: u64, last_sequence: u64, limit: usize, byte_limit: usize) -> Result<Self, Error> {
        if epoch >= SEQUENCE_END >> EPOCH_SHIFT || last_sequence >= SEQUENCE_END - 1 {
            return Err(Error::SequencesExhausted);
        }
        let last = last_sequence.max(epoch << EPOCH_SHIFT);
        Ok(Self {
            last: AtomicU64::new(last),
            runs: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limit,
            byte_limit,
        })
    }

    /// The highest sequence that is given out.
    pub(crate) fn last(&self) -> Sequence {
        Sequence::new(self.last.load(Ordering::Relaxed))
    }

    /// Counts one run more, with so many bytes, unless a bound is reached, and stamps it.
    pub(crate) fn admit(&self, bounded: bool, bytes: usize) -> Result<Sequence, Error> {
        let take = |counter: &AtomicUsize, count: usize, limit: usize, unit: Unit| {
            let room = |now: usize| now.checked_add(count).filter(|sum| !bounded || *sum <= limit);
            let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
            taken.map_err(|_| Error::QueueFull {
                scope: Scope::Process,
                unit,
                limit,
            })
        };
        take(&self.runs, 1, self.limit, Unit::Runs)?;
        if let Err(full) = take(&self.bytes, bytes, self.byte_limit, Unit::Bytes) {
            self.runs.fetch_sub(1, Ordering::Relaxed);
            return Err(full);
        }
        let stamp = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        if stamp >= SEQUENCE_END {
            self.last.fetch_sub(1, Ordering::Relaxed);
            self.leave(Load { runs: 1, bytes });
            return Err(Error::SequencesExhausted);
        }
        Ok(Sequence::new(stamp))
    }

    /// Counts a run that has its sequence from an earlier process; later stamps are above it.
    pub(crate) fn readmit(&self, sequence: Sequence, bytes: usize) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last.fetch_max(sequence.get(), Ordering::Relaxed);
    }

    /// Counts runs that are over, and bytes that have left the line.
    pub(crate) fn leave(&self, gone: Load) {
        for (counter, count) in [(&self.runs, gone.runs), (&self.bytes, gone.bytes)] {
            if count > 0 {
                counter.fetch_sub(count, Ordering::Relaxed);
            }
        }
    }

    /// Runs accepted and not over.
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// Bytes of prompts in line.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}
