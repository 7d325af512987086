//! Which session's line waits for which: an edge for every turn that holds its line and waits for a run of another session.

use hashbrown::{HashMap, HashSet};

use crate::error::Error;
use crate::id::SessionKey;
use crate::sync::{HashState, Mutex};

type Targets = HashMap<SessionKey, usize, HashState>;

type Edges = HashMap<SessionKey, Targets, HashState>;

/// See the module. Its lock is a leaf.
#[derive(Debug, Default)]
pub(crate) struct WaitsFor(Mutex<Edges>);

impl WaitsFor {
    /// Notes that `from` waits for `to`, unless `to` waits for it, over others or at once.
    pub(crate) fn add(&self, from: &SessionKey, to: &SessionKey) -> Result<(), Error> {
        if from == to {
            return Err(Error::WouldDeadlock);
        }
        let mut edges = self.0.lock();
        if reaches(&edges, to, from) {
            return Err(Error::WaitCycle);
        }
        let targets = edges.entry(from.clone()).or_default();
        *targets.entry(to.clone()).or_default() += 1;
        Ok(())
    }

    /// That wait is over.
    pub(crate) fn remove(&self, from: &SessionKey, to: &SessionKey) {
        let mut edges = self.0.lock();
        let Some(targets) = edges.get_mut(from) else { return };
        if let Some(count) = targets.get_mut(to) {
            *count -= 1;
            if *count == 0 {
                targets.remove(to);
            }
        }
        if targets.is_empty() {
            edges.remove(from);
        }
    }
}

fn reaches(edges: &Edges, from: &SessionKey, to: &SessionKey) -> bool {
    let mut seen = HashSet::<_, HashState>::default();
    let mut todo = vec![from];
    while let Some(session) = todo.pop() {
        if session == to {
            return true;
        }
        if seen.insert(session) {
            todo.extend(edges.get(session).into_iter().flat_map(HashMap::keys));
        }
    }
    false
}
