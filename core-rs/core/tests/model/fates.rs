//! What the core said became of each run: exactly one thing.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Finished,
    Cancelled,
    Folded,
    Expired,
    Abandoned,
}

/// Keyed by accept sequence.
#[derive(Default)]
pub(crate) struct Fates {
    started: BTreeMap<u64, (usize, usize)>,
    ended: BTreeMap<u64, Fate>,
    last_start: BTreeMap<(usize, usize), u64>,
    /// Turns that wait for their permit to go on.
    woken: BTreeSet<u64>,
}

impl Fates {
    /// Starts of a session never go back behind one accepted later, unless it came back from an earlier process.
    pub(crate) fn start(&mut self, at: (usize, usize), sequence: u64, restored: bool) {
        assert!(!self.ended.contains_key(&sequence), "{sequence} started after its end");
        if self.woken.remove(&sequence) {
            assert!(
                self.started.contains_key(&sequence),
                "{sequence} goes on and never began"
            );
            return;
        }
        assert!(self.started.insert(sequence, at).is_none(), "{sequence} started twice");
        let last = self.last_start.entry(at).or_default();
        assert!(restored || sequence > *last, "{sequence} started after {last}");
        *last = sequence.max(*last);
    }

    /// It will be told once that it goes on.
    pub(crate) fn wake(&mut self, sequence: u64) {
        assert!(self.woken.insert(sequence), "{sequence} was woken twice");
    }

    /// It will not, if it was to be.
    pub(crate) fn lie_down(&mut self, sequence: u64) {
        self.woken.remove(&sequence);
    }

    pub(crate) fn end(&mut self, sequence: u64, fate: Fate) {
        assert!(
            !self.woken.contains(&sequence),
            "{sequence} ended while it waits to go on"
        );
        let had_started = self.started.contains_key(&sequence);
        assert_eq!(had_started, fate == Fate::Finished, "{sequence} ended {fate:?}");
        let before = self.ended.insert(sequence, fate);
        assert_eq!(before, None, "{sequence} ended twice, now {fate:?}");
    }

    pub(crate) fn count(&self) -> usize {
        self.ended.len()
    }
}
