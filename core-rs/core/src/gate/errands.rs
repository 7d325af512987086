//! Errands: calls to a provider without a turn (a title, a judge). They have neither permit nor run, and come after turns.

use super::{Asked, Asker, Class, Entered, Granted, LaneKey, State, Ticket, Who};
use crate::deadline::Armed;
use crate::effect::ErrandRef;
use crate::error::Error;
use crate::id::{SessionKey, WaitId};

#[derive(Debug)]
pub(super) struct Errand {
    session: SessionKey,
    lane: LaneKey,
    /// Its place while it waits, and how long it does.
    waits: Option<(Ticket, Option<Armed>)>,
}

impl State {
    /// Ends one that waits, and tells one that has its slot.
    fn cut_errand(&mut self, id: WaitId) -> Option<(ErrandRef, Option<Armed>)> {
        let errand = self.errands.get(&id)?;
        let name = ErrandRef {
            session: errand.session.clone(),
            id,
        };
        let (lane, Some((ticket, armed))) = (errand.lane, errand.waits) else {
            return Some((name, None));
        };
        self.errands.remove(&id);
        self.abandon(lane, name.session.tenant(), ticket);
        Some((name, armed))
    }
}

impl Entered<'_> {
    /// Enters an errand: with its slot, or waiting for it.
    pub(crate) fn enter_errand(
        &mut self,
        name: &str,
        session: &SessionKey,
        hash: u64,
        most: usize,
        now: f64,
    ) -> Result<(WaitId, bool), Error> {
        let id = WaitId::new(self.0.errand + 1);
        let who = Who::Errand(id);
        let asker = Asker { session, hash, who };
        let (lane, outcome) = self.ask_provider(name, Class::Begins, most, now, asker)?;
        self.0.errand += 1;
        let waits = match outcome {
            Asked::Granted => None,
            Asked::Waiting(ticket) => Some((ticket, None)),
        };
        let session = session.clone();
        self.0.errands.insert(id, Errand { session, lane, waits });
        Ok((id, waits.is_none()))
    }

    /// Notes the deadline of one that waits. False: it does not any more.
    pub(crate) fn arm_errand(&mut self, id: WaitId, armed: Armed) -> bool {
        let waits = self.0.errands.get_mut(&id).and_then(|errand| errand.waits.as_mut());
        waits.map(|waits| waits.1 = Some(armed)).is_some()
    }

    /// Its grant has come, unless it is gone: its name, and what disarms its deadline.
    pub(crate) fn errand_granted(&mut self, id: WaitId, ticket: Ticket) -> Option<(ErrandRef, Option<Armed>)> {
        let errand = self.0.errands.get_mut(&id)?;
        let (_, armed) = errand.waits.take_if(|(place, _)| *place == ticket)?;
        let session = errand.session.clone();
        Some((ErrandRef { session, id }, armed))
    }

    /// Its deadline has come: it is over, if it still waits.
    pub(crate) fn errand_due(&mut self, id: WaitId) -> Option<ErrandRef> {
        self.0.errands.get(&id)?.waits?;
        self.0.cut_errand(id).map(|(name, _)| name)
    }

    /// It leaves: what disarms its deadline, and who has its slot next.
    pub(crate) fn leave_errand(&mut self, id: WaitId, now: f64) -> Option<(Option<Armed>, Option<Granted>)> {
        let errand = self.0.errands.remove(&id)?;
        let tenant = errand.session.tenant();
        match errand.waits {
            Some((ticket, armed)) => {
                self.0.abandon(errand.lane, tenant, ticket);
                Some((armed, None))
            }
            None => Some((None, self.release(errand.lane, tenant, now))),
        }
    }

    /// All errands of a session leave.
    pub(crate) fn leave_errands(&mut self, session: &SessionKey, now: f64) -> Vec<(Option<Armed>, Option<Granted>)> {
        let all = self.0.errands.iter();
        let ids: Vec<_> = all
            .filter(|(_, errand)| errand.session == *session)
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().filter_map(|id| self.leave_errand(id, now)).collect()
    }

    /// Cuts errands, of one session or all of them.
    pub(crate) fn cut_errands(&mut self, session: Option<&SessionKey>) -> Vec<(ErrandRef, Option<Armed>)> {
        let all = self.0.errands.iter();
        let of_session = all.filter(|(_, errand)| session.is_none_or(|session| errand.session == *session));
        let ids: Vec<_> = of_session.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.0.cut_errand(id)).collect()
    }

    /// Whether a session has errands.
    pub(crate) fn has_errands(&self, session: &SessionKey) -> bool {
        self.0.errands.values().any(|errand| errand.session == *session)
    }
}
