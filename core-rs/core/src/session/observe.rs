//! The session as an observer sees it.

use super::{Place, Session};
use crate::view::{Counts, RunView, Snapshot};

impl Session {
    /// Where a run stands, and how many uncancelled runs are ahead of it.
    pub(crate) fn place(&self, run_id: &str) -> Option<(Place, usize)> {
        if let Some(open) = self.open.as_ref().filter(|open| open.run.id.as_str() == run_id) {
            return Some((open.place(), 0));
        }
        let sequence = self.line.find(run_id)?;
        let queued = self.line.get(sequence).is_some_and(|entry| entry.queued);
        let place = if queued { Place::Queued } else { Place::Reserved };
        Some((place, self.position(sequence)))
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            open: self.open_run_id(),
            head: self.line.front().map(|entry| entry.run.id.clone()),
            reserved: self.reserved,
            queued: self.line.len() - self.reserved,
            bytes: self.line.bytes(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let uncovered = self.line.entries().map(|entry| RunView {
            run: self.named(&entry.run),
            place: if entry.queued { Place::Queued } else { Place::Reserved },
            since: entry.run.since,
            concluded: false,
            cancel: None,
            steers: self.target_id(entry.steers),
            holds: Vec::new(),
        });
        let covered = self.line.covered_entries().map(|covered| RunView {
            run: self.named(&covered.run),
            place: Place::Reserved,
            since: covered.run.since,
            concluded: false,
            cancel: Some(covered.cancel.clone()),
            steers: None,
            holds: Vec::new(),
        });
        let mut line: Vec<_> = uncovered.chain(covered).collect();
        line.sort_by_key(|view| view.run.sequence());
        let open = self.open.as_ref().map(|open| RunView {
            run: self.named(&open.run),
            place: open.place(),
            since: open.run.since,
            concluded: open.concluded,
            cancel: open.cancel.clone(),
            steers: None,
            holds: open.holds.as_ref().map_or_else(Vec::new, |holds| holds.list.clone()),
        });
        let queued = line.len() - self.reserved;
        Snapshot {
            open,
            line,
            mark: self.mark,
            reserved: self.reserved,
            queued,
        }
    }
}
