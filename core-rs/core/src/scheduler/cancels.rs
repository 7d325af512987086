//! Cancels, and the deletion of a session.

use std::sync::Arc;

use super::Scheduler;
use crate::effect::Cx;
use crate::error::{Answer, Error};
use crate::id::Address;
use crate::outcome::Cancelled;
use crate::request::CancelScope;
use crate::run::{Cancel, RunRef};
use crate::session::Reach;

impl Scheduler {
    /// Cancels what a session accepted so far, within `scope`. An idle session is left alone.
    ///
    /// # Errors
    ///
    /// There is no such turn.
    pub fn cancel(&self, at: Address<'_>, scope: CancelScope<'_>, cancel: &Arc<Cancel>, now: f64) -> Answer<Cancelled> {
        let missing = || match scope {
            CancelScope::Subtree(turn) => Err(Error::TurnNotFound { turn }),
            _ => Ok(Cancelled::default()),
        };
        self.step(at, now, missing, |session, cx| session.cancel(scope, cancel, cx))
    }

    /// Cancels all that a tenant's sessions accepted before this call, and nothing accepted after it.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn cancel_tenant(&self, tenant: &str, cancel: &Arc<Cancel>, now: f64) -> Answer<Cancelled> {
        self.refuse_cut()?;
        // What is accepted from here on has a higher sequence, whether its session is visited before or after.
        let reach = Reach {
            bound: self.shared.ledger.last(),
            line_only: false,
        };
        let mut total = Cancelled::default();
        let mut cx = Cx::new(&self.shared, now);
        for shard in &self.shards {
            let mut shard = shard.lock();
            let of_tenant = shard.sessions.iter().filter(|session| session.tenant() == tenant);
            let keys: Vec<_> = of_tenant
                .map(|session| (session.hash(), session.key().clone()))
                .collect();
            for (hash, key) in keys {
                let step = |session: &mut crate::session::Session, cx: &mut Cx<'_>| {
                    Ok(session.cancel_reach(reach, cancel, cx))
                };
                if let Some(Ok(found)) = shard.step(hash, key.address(), &mut cx, step) {
                    total.covered.extend(found.covered);
                    total.finished.extend(found.finished);
                    total.lent.extend(found.lent);
                    total.turns.extend(found.turns);
                }
            }
        }
        total.covered.sort_by_key(|covered| covered.run.sequence());
        total.finished.sort_by_key(RunRef::sequence);
        Ok(self.finished(total, cx))
    }

    /// Takes nothing in any more, and cancels (by an abort) all that is there.
    ///
    /// # Errors
    ///
    /// Something is there, and `force` is false.
    pub fn close_session(&self, at: Address<'_>, force: bool, cancel: &Arc<Cancel>, now: f64) -> Answer<Cancelled> {
        self.step_new(at, now, |session, cx| session.close(force, cancel, cx))
    }

    /// After the erase: the session is as if it had never been.
    ///
    /// # Errors
    ///
    /// Something of it lives.
    pub fn forget_session(&self, at: Address<'_>, now: f64) -> Answer<()> {
        self.step(at, now, || Ok(()), |session, cx| session.forget(cx))
    }
}
