//! The session as an observer sees it.

use super::{Place, Session};
use crate::view::{RunView, Snapshot};

impl Session {
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
