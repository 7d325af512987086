//! A session goes elsewhere: nothing is said of it, and all that it had here goes on.

use super::{Cx, Run, Session};

impl Session {
    /// Gives back all that is shared. The session has to be dropped afterwards.
    pub(crate) fn evict(&mut self, cx: &mut Cx<'_>) {
        self.closing = false;
        for id in self.turns.ids(|_| true) {
            let Some(mut turn) = self.turns.remove(id) else {
                continue;
            };
            turn.leave(&self.key, cx);
            turn.drop_waits(&self.key, cx);
            if !turn.is_floor() {
                cx.gate().enter().leave_child(self.key.tenant());
            }
            for (_, armed) in turn.alarms {
                cx.disarm(Some(armed));
            }
            for request in turn.more.into_iter().flat_map(|more| more.tickets.into_values()) {
                cx.disarm(request.deadline);
            }
        }
        let mut runs: Vec<Run> = Vec::new();
        if let Some(mut open) = self.open.take() {
            for guard in open.guards.take() {
                cx.disarm(guard.deadline);
            }
            runs.push(open.run);
        }
        runs.extend(self.lent.take().map(|lent| lent.entry.run));
        runs.extend(std::mem::take(&mut self.line).into_runs());
        for mut run in runs {
            self.gone(&mut run, cx);
        }
        let errands = cx.gate().enter().leave_errands(&self.key, cx.now);
        for (armed, grant) in errands {
            cx.disarm(armed);
            cx.granted(grant);
        }
    }
}
