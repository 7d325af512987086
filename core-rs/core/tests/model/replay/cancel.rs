//! Cancels and expiry.

use super::*;

impl Replay {
    pub(super) fn cancel_session(
        &mut self,
        at: At,
        mode: CancelMode,
        back: Option<u64>,
        spare_open: bool,
        spare_bootstrap: bool,
    ) {
        let cancel = Arc::new(Cancel {
            mode,
            ..Cancel::new(&format!("SESSION {}", self.now))
        });
        // A bound beyond what is accepted covers nothing that comes later.
        let up_to = back.map(|back| (self.model.last + 3).saturating_sub(back));
        let scope = CancelScope {
            up_to: up_to.map(Sequence::new),
            spare_open,
            spare_bootstrap,
        };
        let core = self.core.cancel_session(address(at), &cancel, scope, self.now);
        let bound = up_to.unwrap_or(self.model.last).min(self.model.last);
        let reached = self
            .model
            .cancel_session(at, &cancel, bound, spare_open, spare_bootstrap);
        self.reached(&core, &reached);
        self.check(at);
    }

    pub(super) fn cancel_run(&mut self, at: At, id: &str, mode: CancelMode) {
        let cancel = Arc::new(Cancel {
            mode,
            ..Cancel::new(&format!("RUN {}", self.now))
        });
        let core = self.core.cancel_run(address(at), id, &cancel, self.now);
        let mut reached = Reached::default();
        if let Some(run) = self.model.find(at, id) {
            self.model.cover(run, &cancel, &mut reached);
        }
        reached.start = self.model.advance(at);
        self.reached(&core, &reached);
        self.check(at);
    }

    pub(super) fn cancel_tenant(&mut self, tenant: usize, mode: CancelMode) {
        let cancel = Arc::new(Cancel {
            mode,
            ..Cancel::new("TENANT")
        });
        let core = self.core.cancel_tenant(TENANT[tenant], &cancel, self.now);
        let mut reached = Reached::default();
        for session in (0..SESSIONS).filter(|session| place(*session).0 == tenant) {
            let one = self
                .model
                .cancel_session(place(session), &cancel, self.model.last, false, false);
            assert_eq!(one.start, None, "it covers all there is");
            reached.covered.extend(one.covered);
            reached.concluded.extend(one.concluded);
        }
        reached.covered.sort_by_key(|(run, ..)| self.model.runs[*run].sequence);
        reached.concluded.sort_by_key(|run| self.model.runs[*run].sequence);
        self.reached(&core, &reached);
        self.check_all();
    }

    pub(super) fn expire(&mut self, at: At, pick: usize) {
        let id = self.pick(at, pick);
        let (taken, starts) = self.core.expire(address(at), &id, self.now);
        let run = self.model.find(at, &id);
        let run = run.filter(|run| matches!(self.model.runs[*run].state, State::Queued | State::Waiting));
        assert_eq!(taken, run.is_some());
        if let Some(run) = run {
            self.fates.end(self.model.runs[run].sequence, Fate::Expired);
            self.model.leave(run);
        }
        let start = self.model.advance(at);
        self.started(&starts, start);
        self.check(at);
    }

    pub(super) fn reached(&mut self, core: &CancelResult, model: &Reached) {
        self.covered(&core.covered, &model.covered);
        let concluded: Vec<_> = model
            .concluded
            .iter()
            .map(|run| self.model.runs[*run].sequence)
            .collect();
        assert_eq!(
            core.concluded
                .iter()
                .map(|run| run.sequence().get())
                .collect::<Vec<_>>(),
            concluded
        );
        self.started(&core.starts, model.start);
    }

    pub(super) fn covered(&mut self, told: &[Covered], expected: &[Hit]) {
        let hit = |(run, place, cancel): &Hit| (self.model.runs[*run].sequence, *place, Arc::clone(cancel));
        let expected: Vec<_> = expected.iter().map(hit).collect();
        let told: Vec<_> = told
            .iter()
            .map(|hit| (hit.run.sequence().get(), hit.was, Arc::clone(&hit.cancel)))
            .collect();
        assert_eq!(told, expected);
        for (sequence, place, _) in told {
            if matches!(place, Place::Queued | Place::Waiting) {
                self.fates.end(sequence, Fate::Cancelled);
            }
        }
    }
}
