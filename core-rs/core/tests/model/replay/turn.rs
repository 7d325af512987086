//! Turns: what folds into them, how they park, how they end.

use super::*;

impl Replay {
    pub(super) fn folded(&mut self, told: &[RunRef], expected: &[usize]) {
        let expected: Vec<_> = expected.iter().map(|run| self.model.runs[*run].sequence).collect();
        assert_eq!(
            told.iter().map(|run| run.sequence().get()).collect::<Vec<_>>(),
            expected
        );
        for run in told {
            self.fates.end(run.sequence().get(), Fate::Folded);
            let run = self.model.find(at(run), run.run_id().as_str()).unwrap();
            self.model.leave(run);
        }
    }

    pub(super) fn partition(&mut self, at: At, pick: usize, limit: Option<usize>) {
        let id = self.pick(at, pick / 4);
        let core = self.core.partition(address(at), &id, limit);
        let Some(run) = self
            .model
            .find(at, &id)
            .filter(|run| self.model.runs[*run].state == State::Running)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        let partition = core.unwrap();
        assert_eq!(partition.cancel, self.model.runs[run].cancel);
        let mut fold = self.model.foldable(run);
        fold.truncate(if partition.cancel.is_some() {
            0
        } else {
            limit.unwrap_or(usize::MAX)
        });
        self.folded(&partition.fold, &fold);
        self.check(at);
    }

    pub(super) fn park(&mut self, at: At, id: &str) {
        let core = self.core.park(address(at), id, self.now);
        let run = self.model.begun(at, id);
        let Some(run) = run.filter(|run| self.model.runs[*run].state != State::Parked) else {
            assert!(core.is_err());
            return self.check(at);
        };
        let starts = core.unwrap();
        self.fates.lie_down(self.model.runs[run].sequence);
        let released = self.model.park(run);
        self.granted(&starts, released);
        self.told(&starts);
        self.check(at);
    }

    pub(super) fn wake(&mut self, at: At, id: &str) {
        let core = self.core.wake(address(at), id, self.now);
        let run = self.model.begun(at, id);
        let Some(run) = run.filter(|run| self.model.runs[*run].state == State::Parked) else {
            assert!(core.is_err());
            return self.check(at);
        };
        let goes_on = self.model.wake(run);
        match core.unwrap() {
            Wake::Running => assert!(goes_on),
            Wake::Waiting => {
                assert_eq!(self.model.runs[run].state, State::Woken);
                self.fates.wake(self.model.runs[run].sequence);
            }
            Wake::Closed => assert!(self.model.drained),
        }
        self.check(at);
    }

    pub(super) fn conclude(&mut self, at: At, id: &str, steers: usize) {
        let core = self.core.conclude(address(at), id, steers);
        let Some(run) = self.model.begun(at, id) else {
            assert!(core.is_err());
            return self.check(at);
        };
        let cancel = self.model.runs[run].cancel.clone();
        let mut fold = self.model.foldable(run);
        fold.truncate(if cancel.is_none() && self.model.runs[run].permit {
            steers
        } else {
            0
        });
        match core.unwrap() {
            Conclusion::Steered(told) => {
                assert!(!fold.is_empty());
                self.folded(&told, &fold);
                return self.check(at);
            }
            Conclusion::Cancelled(told) => {
                assert_eq!((Some(&told), told.mode), (cancel.as_ref(), CancelMode::Abort));
            }
            Conclusion::Concluded(stop) => {
                assert!(fold.is_empty());
                assert!(stop == cancel && stop.is_none_or(|stop| stop.mode == CancelMode::Stop));
            }
        }
        self.fates.lie_down(self.model.runs[run].sequence);
        self.model.conclude(run);
        self.check(at);
    }

    pub(super) fn finish(&mut self, at: At, id: &str) {
        let core = self.core.finish(address(at), id, self.now);
        let Some(run) = self
            .model
            .find(at, id)
            .filter(|run| self.model.runs[*run].state == State::Concluded)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        let (own, others): (Vec<_>, Vec<_>) = core.unwrap().into_iter().partition(|run| crate::replay::at(run) == at);
        self.fates.end(self.model.runs[run].sequence, Fate::Finished);
        let released = self.model.runs[run].permit;
        self.model.leave(run);
        self.granted(&others, released);
        let start = self.model.advance(at);
        self.told(&others);
        self.started(&own, start);
        self.check(at);
    }

    /// A permit that was released, if one was, goes to whom the model lets have it.
    fn granted(&mut self, to: &[RunRef], released: bool) {
        assert!(to.len() <= usize::from(released), "at most one permit was released");
        let choice = to
            .first()
            .map(|run| self.model.find(at(run), run.run_id().as_str()).unwrap());
        if released {
            self.model.granted(choice);
        }
    }

    fn told(&mut self, starts: &[RunRef]) {
        for run in starts {
            self.note_start(run);
            self.check(at(run));
        }
    }
}
