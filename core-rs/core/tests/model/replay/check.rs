//! What is looked at after every operation.

use super::*;

impl Replay {
    pub(super) fn started(&mut self, told: &[RunRef], expected: Option<usize>) {
        let expected: Vec<_> = expected.into_iter().map(|run| self.model.runs[run].sequence).collect();
        assert_eq!(
            told.iter().map(|run| run.sequence().get()).collect::<Vec<_>>(),
            expected
        );
        for run in told {
            self.note_start(run);
        }
    }

    pub(super) fn note_start(&mut self, run: &RunRef) {
        // A restored run may stand before what has already started.
        let sequence = run.sequence().get();
        self.fates.start(at(run), sequence, self.restored.contains(&sequence));
    }

    pub(super) fn check_all(&mut self) {
        for session in 0..SESSIONS {
            self.check(place(session));
        }
    }

    /// The session, and all counts, are what the model says.
    pub(super) fn check(&mut self, at: At) {
        self.model.settle_fairness();
        let stats = self.core.stats();
        let sessions = (0..SESSIONS)
            .filter(|session| !self.model.here(place(*session)).is_empty())
            .count();
        assert_eq!(stats.sessions, sessions, "only sessions with work have an entry");
        assert_eq!(stats.open_runs, self.model.all_here());
        assert_eq!(stats.running_turns, self.model.running(None));
        assert_eq!(stats.waiting_turns, self.model.gate.len());
        assert_eq!(stats.parked_turns, self.model.parked());
        assert_eq!(stats.last_sequence, self.model.last);
        let Some(seen) = self.core.snapshot(address(at)) else {
            return assert!(self.model.here(at).is_empty());
        };
        assert_eq!(seen.mark.map(Sequence::get), self.model.mark(at));
        assert_eq!(seen.reserved, self.model.reserved(at));
        assert_eq!(seen.queued, seen.line.len() - seen.reserved);
        let views = seen.open.iter().chain(&seen.line);
        let expected = self.model.open(at).into_iter().chain(self.model.line(at));
        let seen: Vec<_> = views
            .map(|view| {
                let steers = view.steers.as_ref().map(ToString::to_string);
                (
                    view.run.sequence().get(),
                    view.place,
                    view.concluded,
                    view.cancel.clone(),
                    steers,
                )
            })
            .collect();
        let expected: Vec<_> = expected
            .map(|run| {
                let run = &self.model.runs[run];
                let place = match run.state {
                    State::Reserved => Place::Reserved,
                    State::Queued => Place::Queued,
                    State::Waiting => Place::Waiting,
                    State::Woken => Place::Woken,
                    _ if !run.permit => Place::Parked,
                    _ => Place::Running,
                };
                let steers = run.steers.map(|target| self.id(target));
                (
                    run.sequence,
                    place,
                    run.state == State::Concluded,
                    run.cancel.clone(),
                    steers,
                )
            })
            .collect();
        assert_eq!(seen, expected);
    }
}
