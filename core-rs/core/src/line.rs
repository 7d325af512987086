//! One session's line: its reserved and queued runs in accept order.
//!
//! Covered reservations are kept aside: they neither block the line nor count as ahead of anybody, so everything that is
//! *in* `slots` is live. A run that leaves from the middle leaves a hole, which keeps its sequence so that slots are found
//! by binary search; holes are closed once they outnumber the live. A line of more than `SCANNED` runs gets an index,
//! shorter ones are scanned: no operation takes longer than the logarithm of the line, beside what it takes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::id::{RunId, Sequence};
use crate::ranks::Ranks;
use crate::run::{Cancel, Kind, Run};
use crate::steer::{Bound, Target};
use crate::sync::HashState;

/// Up to here a look along the line is cheaper than an index.
const SCANNED: usize = 32;

/// A reserved or queued run that no cancel covers.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) run: Run,
    /// Dispatched, not only reserved.
    pub(crate) queued: bool,
    /// What this STEER is bound to.
    pub(crate) steers: Option<Target>,
    /// The STEER runs bound to this one.
    pub(crate) bound: Bound,
}

impl Entry {
    /// Whether a STEER behind it may bind to it (U-20).
    pub(crate) fn is_target(&self) -> bool {
        self.run.kind() == Kind::Prompt && self.steers.is_none()
    }
}

/// A reservation that a cancel reached before its dispatch.
#[derive(Debug)]
pub(crate) struct CoveredReservation {
    pub(crate) run: Run,
    pub(crate) cancel: Arc<Cancel>,
}

#[derive(Debug)]
struct Slot {
    sequence: Sequence,
    entry: Option<Entry>,
}

#[derive(Debug, Default)]
struct Index {
    ids: HashMap<RunId, Sequence, HashState>,
    live: Ranks,
    targets: Ranks,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Line {
    slots: Vec<Slot>,
    /// Slots before this one are holes; this one, if there is one, is live.
    head: usize,
    live: usize,
    covered: BTreeMap<Sequence, CoveredReservation>,
    index: Option<Box<Index>>,
}

impl Line {
    /// Runs in line, covered reservations included.
    pub(crate) fn len(&self) -> usize {
        self.live + self.covered.len()
    }

    /// The run that everybody else in line waits for.
    pub(crate) fn front(&self) -> Option<&Entry> {
        self.slots.get(self.head)?.entry.as_ref()
    }

    pub(crate) fn get(&self, sequence: Sequence) -> Option<&Entry> {
        self.slots[self.slot(sequence)?].entry.as_ref()
    }

    pub(crate) fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Entry> {
        let slot = self.slot(sequence)?;
        self.slots[slot].entry.as_mut()
    }

    pub(crate) fn covered(&self, sequence: Sequence) -> Option<&CoveredReservation> {
        self.covered.get(&sequence)
    }

    pub(crate) fn covered_mut(&mut self, sequence: Sequence) -> Option<&mut CoveredReservation> {
        self.covered.get_mut(&sequence)
    }

    /// The sequence of a run that is in line, covered or not.
    pub(crate) fn find(&self, run_id: &str) -> Option<Sequence> {
        if let Some(index) = &self.index {
            return index.ids.get(run_id).copied();
        }
        let live = self
            .entries()
            .find(|entry| entry.run.id() == run_id)
            .map(|entry| entry.run.sequence());
        live.or_else(|| {
            self.covered
                .values()
                .find(|it| it.run.id() == run_id)
                .map(|it| it.run.sequence())
        })
    }

    /// Live runs ahead of the one with this sequence, which need not be here.
    pub(crate) fn ahead(&self, sequence: Sequence) -> usize {
        let slot = self.slots.partition_point(|slot| slot.sequence < sequence);
        match &self.index {
            Some(index) => index.live.before(slot),
            None => self.slots[..slot].iter().filter(|slot| slot.entry.is_some()).count(),
        }
    }

    /// The first run in line that a STEER behind it may bind to.
    pub(crate) fn first_target(&self) -> Option<&Entry> {
        match &self.index {
            Some(index) => self.slots[index.targets.first()?].entry.as_ref(),
            None => self.entries().find(|entry| entry.is_target()),
        }
    }

    /// Live runs in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots[self.head..].iter().filter_map(|slot| slot.entry.as_ref())
    }

    /// Covered reservations in order.
    pub(crate) fn covered_entries(&self) -> impl Iterator<Item = &CoveredReservation> {
        self.covered.values()
    }

    /// All runs, in no order, when the line is no more.
    pub(crate) fn into_runs(self) -> impl Iterator<Item = Run> {
        let live = self.slots.into_iter().filter_map(|slot| slot.entry);
        let covered = self.covered.into_values().map(|covered| covered.run);
        live.map(|entry| entry.run).chain(covered)
    }

    /// Sequences of all runs in line up to `bound`, in order.
    pub(crate) fn up_to(&self, bound: Sequence) -> Vec<Sequence> {
        let end = self.slots.partition_point(|slot| slot.sequence <= bound);
        let live = self.slots[self.head.min(end)..end]
            .iter()
            .filter(|slot| slot.entry.is_some());
        let mut all: Vec<_> = live.map(|slot| slot.sequence).collect();
        if !self.covered.is_empty() {
            all.extend(self.covered.range(..=bound).map(|(sequence, _)| *sequence));
            all.sort_unstable();
        }
        all
    }

    /// Puts a run in at its place, which is the end unless it comes from an earlier process.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let sequence = entry.run.sequence();
        let slot = self.slots.partition_point(|slot| slot.sequence < sequence);
        let at_end = slot == self.slots.len();
        if let Some(index) = &mut self.index {
            index.ids.insert(entry.run.name.run_id().clone(), sequence);
            if at_end {
                index.live.push(true);
                index.targets.push(entry.is_target());
            }
        }
        self.live += 1;
        if at_end {
            self.slots.push(Slot {
                sequence,
                entry: Some(entry),
            });
        } else {
            self.slots.insert(
                slot,
                Slot {
                    sequence,
                    entry: Some(entry),
                },
            );
            self.head = self.head.min(slot);
            self.compact();
        }
        self.index_if_long();
    }

    /// Puts in a reservation that is covered from the outset.
    pub(crate) fn insert_covered(&mut self, reservation: CoveredReservation) {
        if let Some(index) = &mut self.index {
            let run_id = reservation.run.name.run_id().clone();
            index.ids.insert(run_id, reservation.run.sequence());
        }
        self.covered.insert(reservation.run.sequence(), reservation);
        self.index_if_long();
    }

    /// Takes a live run out; the caller has unbound it.
    pub(crate) fn remove(&mut self, sequence: Sequence) -> Option<Entry> {
        let entry = self.lift(sequence)?;
        if let Some(index) = &mut self.index {
            index.ids.remove(entry.run.id());
        }
        self.tidy();
        Some(entry)
    }

    /// Lays a reservation aside under a cancel; the caller has unbound it.
    pub(crate) fn cover(&mut self, sequence: Sequence, cancel: Arc<Cancel>) {
        if let Some(entry) = self.lift(sequence) {
            self.covered
                .insert(sequence, CoveredReservation { run: entry.run, cancel });
            self.tidy();
        }
    }

    pub(crate) fn remove_covered(&mut self, sequence: Sequence) -> Option<CoveredReservation> {
        let reservation = self.covered.remove(&sequence)?;
        if let Some(index) = &mut self.index {
            index.ids.remove(reservation.run.id());
        }
        self.tidy();
        Some(reservation)
    }

    /// Makes a STEER run an ordinary one, and so one that others may bind to.
    pub(crate) fn unbind(&mut self, sequence: Sequence) {
        let Some(slot) = self.slot(sequence) else { return };
        let Some(entry) = &mut self.slots[slot].entry else {
            return;
        };
        if entry.steers.take().is_some()
            && entry.is_target()
            && let Some(index) = &mut self.index
        {
            index.targets.raise(slot);
        }
    }

    fn slot(&self, sequence: Sequence) -> Option<usize> {
        // Most calls are about the head.
        if self.slots.get(self.head)?.sequence == sequence {
            return Some(self.head);
        }
        self.slots.binary_search_by_key(&sequence, |slot| slot.sequence).ok()
    }

    fn lift(&mut self, sequence: Sequence) -> Option<Entry> {
        let slot = self.slot(sequence)?;
        let entry = self.slots[slot].entry.take()?;
        self.live -= 1;
        if let Some(index) = &mut self.index {
            index.live.lower(slot);
            if entry.is_target() {
                index.targets.lower(slot);
            }
        }
        while self.slots.get(self.head).is_some_and(|slot| slot.entry.is_none()) {
            self.head += 1;
        }
        Some(entry)
    }

    fn tidy(&mut self) {
        if self.live == 0 {
            self.slots.clear();
            self.head = 0;
            if self.covered.is_empty() {
                self.index = None;
            } else if let Some(index) = &mut self.index {
                index.live.clear();
                index.targets.clear();
            }
        } else if self.slots.len() > 2 * self.live + SCANNED {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.slots.retain(|slot| slot.entry.is_some());
        self.head = 0;
        if let Some(mut index) = self.index.take() {
            self.rank(&mut index);
            self.index = Some(index);
        }
    }

    fn index_if_long(&mut self) {
        if self.index.is_some() || self.slots.len() + self.covered.len() <= SCANNED {
            return;
        }
        let mut index = Box::<Index>::default();
        let live = self.entries().map(|entry| &entry.run);
        let runs = live.chain(self.covered.values().map(|it| &it.run));
        index
            .ids
            .extend(runs.map(|run| (run.name.run_id().clone(), run.sequence())));
        self.rank(&mut index);
        self.index = Some(index);
    }

    fn rank(&self, index: &mut Index) {
        index.live.clear();
        index.targets.clear();
        for slot in &self.slots {
            index.live.push(slot.entry.is_some());
            index.targets.push(slot.entry.as_ref().is_some_and(Entry::is_target));
        }
    }
}
