//! What observers see. No view changes anything.

use super::Scheduler;
use crate::id::{Address, TurnId};
use crate::run::Place;
use crate::session::Session;
use crate::sync::SHARDS;
use crate::view::{Counts, Cursor, Hold, Page, Snapshot, Stats, TurnView};

impl Scheduler {
    fn look<T>(&self, at: Address<'_>, look: impl FnOnce(&Session) -> T) -> Option<T> {
        let hash = self.hash(at);
        self.shard(hash).get(hash, at).map(look)
    }

    /// Where a run stands, and how many are ahead of it.
    #[must_use]
    pub fn place(&self, at: Address<'_>, run_id: &str) -> Option<(Place, usize)> {
        self.look(at, |session| session.place(run_id)).flatten()
    }

    /// A session in numbers; none if it has no entry.
    #[must_use]
    pub fn counts(&self, at: Address<'_>) -> Option<Counts> {
        self.look(at, Session::counts)
    }

    /// Why a run is not over, each reason; none if it is.
    #[must_use]
    pub fn holds(&self, at: Address<'_>, run_id: &str) -> Vec<Hold> {
        self.look(at, |session| session.holds(run_id)).unwrap_or_default()
    }

    /// Live turns of a run, parents first.
    #[must_use]
    pub fn tree(&self, at: Address<'_>, run_id: &str) -> Vec<TurnView> {
        self.look(at, |session| session.tree(run_id)).unwrap_or_default()
    }

    /// The session as it is; none if it has no entry.
    #[must_use]
    pub fn snapshot(&self, at: Address<'_>) -> Option<Snapshot> {
        self.look(at, Session::snapshot)
    }

    /// Live floor turns, a page of at most `limit` at a time, in an order that stays.
    #[must_use]
    pub fn active(&self, after: Option<Cursor>, limit: usize, tenant: Option<&str>) -> Page {
        let (first, mut last) = after.map_or((0, None), |(shard, turn)| (shard, Some(turn)));
        let mut page = Page::default();
        for number in first..SHARDS {
            let shard = self.shards[number].lock();
            let mut seen = last.take();
            for (turn, hash) in shard.active.after(seen) {
                if page.turns.len() >= limit {
                    page.cursor = Some((number, seen.unwrap_or(TurnId::new(0))));
                    return page;
                }
                let session = shard.sessions.find(hash, |session| session.floor() == Some(turn));
                let session = session.filter(|session| tenant.is_none_or(|tenant| session.tenant() == tenant));
                page.turns.extend(session.and_then(|session| session.turn_view(turn)));
                seen = Some(turn);
            }
        }
        page
    }

    /// Counts over all sessions.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let sessions = self.shards.iter().map(|shard| shard.lock().sessions.len()).sum();
        let ledger = &self.shared.ledger;
        let [
            running_turns,
            waiting_turns,
            lane_slots,
            lane_waiters,
            errands,
            children,
        ] = self.shared.gate.enter().counts();
        Stats {
            sessions,
            open_runs: ledger.runs(),
            open_bytes: ledger.bytes(),
            running_turns,
            waiting_turns,
            parked_turns: ledger.parked(),
            children,
            lane_slots,
            lane_waiters,
            errands,
            deadlines: self.shared.deadlines.len(),
            last_sequence: ledger.last().get(),
        }
    }
}
