//! What observers see.

use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core::{Address, TurnId};

use super::Scheduler;
use crate::literal;
use crate::view::{Counts, Hold, Page, Snapshot, Stats, TurnView};

#[pymethods]
impl Scheduler {
    /// Where a run stands, and how many are ahead of it.
    fn place<'py>(
        &self,
        py: Python<'py>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
    ) -> Option<(&Bound<'py, PyString>, usize)> {
        let found = self.0.place(Address::new(tenant, session_id), run_id);
        found.map(|(place, position)| (literal::place_text(py, place), position))
    }

    /// A session in numbers.
    fn counts(&self, tenant: &str, session_id: &str) -> Option<Counts> {
        self.0.counts(Address::new(tenant, session_id)).map(Counts)
    }

    /// Why a run is not over, each reason.
    fn holds(&self, tenant: &str, session_id: &str, run_id: &str) -> Vec<Hold> {
        let holds = self.0.holds(Address::new(tenant, session_id), run_id);
        holds.into_iter().map(Hold).collect()
    }

    /// Its live turns, parents first.
    fn tree(&self, tenant: &str, session_id: &str, run_id: &str) -> Vec<TurnView> {
        let turns = self.0.tree(Address::new(tenant, session_id), run_id);
        turns.into_iter().map(TurnView).collect()
    }

    /// Live floor turns, a page at a time.
    #[pyo3(signature = (after=None, *, limit=50, tenant=None))]
    fn active(&self, after: Option<(usize, u64)>, limit: usize, tenant: Option<&str>) -> Page {
        let after = after.map(|(shard, turn)| (shard, TurnId::new(turn)));
        Page(self.0.active(after, limit, tenant))
    }

    /// The session as it is, None if it has no entry.
    fn snapshot(&self, tenant: &str, session_id: &str) -> Option<Snapshot> {
        self.0.snapshot(Address::new(tenant, session_id)).map(Snapshot)
    }

    /// Counts over all sessions.
    fn stats(&self) -> Stats {
        Stats(self.0.stats())
    }
}
