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

    /// What is asked about one run, and about the session as a whole, is what the model says.
    fn check_places(&self, at: At) {
        let counts = self.core.counts(address(at));
        let line = self.model.line(at);
        let named = |run: Option<usize>| run.map(|run| self.model.runs[run].id.as_str());
        let open = self.model.open(at);
        assert_eq!(counts.open.as_ref().map(RunId::as_str), named(open));
        let head = line.iter().copied().find(|run| self.model.runs[*run].cancel.is_none());
        assert_eq!(counts.head.as_ref().map(RunId::as_str), named(head));
        assert_eq!(counts.reserved, self.model.reserved(at));
        assert_eq!(
            (counts.queued, counts.bytes),
            (line.len() - counts.reserved, line.len() * BYTES)
        );
        for run in open.into_iter().chain(line) {
            let known = &self.model.runs[run];
            let ahead = if open == Some(run) {
                0
            } else {
                self.model.position(at, known.sequence)
            };
            assert_eq!(
                self.core.place(address(at), &known.id),
                Some((self.model.place(run), ahead))
            );
        }
        assert_eq!(self.core.place(address(at), "never seen"), None);
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
        let in_line = (0..SESSIONS).map(|session| self.model.line(place(session)).len());
        assert_eq!(stats.line_bytes, in_line.sum::<usize>() * BYTES);
        self.check_places(at);
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
                let place = self.model.place(run);
                let run = &self.model.runs[run];
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
