//! Runs on their way in: accepted, restored, dispatched, abandoned.

use super::*;

impl Replay {
    pub(super) fn accept(&mut self, at: At, id: &str, request: Request<'_>) {
        let before = self.core.stats();
        let core = self.core.accept(
            address(at),
            id,
            RunRequest {
                kind: request.kind,
                delivery: request.delivery,
                bytes: BYTES,
                require_idle: request.require_idle,
                expected_open_run_id: request.expected,
                cancelled: request.cancelled.clone(),
            },
            self.now,
        );
        let accepted = match (self.model.refusal(at, id, &request), core) {
            (None, Ok(accepted)) => accepted,
            (Some(refusal), Err(error)) => {
                let same = match error {
                    Error::RunExists { .. } => refusal == Refusal::Exists,
                    Error::OpenRunMismatch { .. } => refusal == Refusal::Mismatch,
                    Error::SessionBusy { .. } => refusal == Refusal::Busy,
                    Error::QueueFull {
                        scope: Scope::Session, ..
                    } => refusal == Refusal::LineFull,
                    Error::QueueFull { .. } => refusal == Refusal::ProcessFull,
                    _ => false,
                };
                assert!(same, "{refusal:?} expected");
                assert_eq!(self.core.stats(), before, "a refusal changes nothing");
                return self.check(at);
            }
            (expected, got) => panic!("expected {expected:?}, got {got:?}"),
        };
        let (run, reached) = self.model.accept(at, id, request);
        self.accepted += 1;
        let model = &self.model.runs[run];
        assert_eq!(accepted.sequence.get(), model.sequence);
        assert_eq!(accepted.position, self.model.position(at, model.sequence));
        assert_eq!(
            accepted.steers.map(|id| id.to_string()),
            model.steers.map(|target| self.id(target))
        );
        self.covered(&accepted.replaced, &reached.covered);
        self.started(&accepted.starts, reached.start);
        self.check(at);
    }

    pub(super) fn restore(&mut self, at: At, kind: Kind, back: u64, steers: Option<usize>, cancelled: bool) {
        let sequence = self.model.last.saturating_sub(back);
        let id = self.fresh();
        let cancelled = cancelled.then(|| Arc::new(Cancel::new("STORED")));
        let target = steers.map(|pick| self.pick(at, pick));
        let restore = Restore {
            sequence: Sequence::new(sequence),
            kind,
            bytes: BYTES,
            steers: target.as_deref(),
            cancelled: cancelled.clone(),
        };
        let core = self.core.restore(address(at), &id, restore, self.now);
        let here = self.model.here(at);
        let taken = sequence == 0 || here.iter().any(|run| self.model.runs[*run].sequence == sequence);
        assert_eq!(core.is_err(), taken);
        // Two runs of different sessions never have one sequence; the rest of this test relies on it.
        let reused = self.model.runs.iter().any(|run| run.sequence == sequence);
        if taken {
            return self.check(at);
        }
        if reused {
            self.core.abandon(address(at), &id, self.now).unwrap();
            return self.check_mark_gone(at);
        }
        let steers = target.and_then(|id| self.model.find(at, &id)).filter(|target| {
            let open = self.model.open(at) == Some(*target);
            kind == Kind::Prompt
                && cancelled.is_none()
                && self.model.can_be_steered(*target)
                && (open || self.model.runs[*target].sequence < sequence)
        });
        self.model.put(at, &id, sequence, kind, steers, cancelled);
        self.restored.insert(sequence);
        self.accepted += 1;
        self.check(at);
    }

    /// A reservation that came and went took the mark along, if it was the only one: there was none, then.
    pub(super) fn check_mark_gone(&mut self, at: At) {
        let start = self.model.advance(at);
        assert_eq!(start, None, "an abandoned reservation held nobody up");
        self.check(at);
    }

    pub(super) fn dispatch(&mut self, at: At, id: &str) {
        let core = self.core.dispatch(address(at), id, self.now);
        let Some(run) = self
            .model
            .find(at, id)
            .filter(|run| self.model.runs[*run].state == State::Reserved)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        let dispatched = core.unwrap();
        if let Some(cancel) = self.model.runs[run].cancel.clone() {
            assert!(matches!(&dispatched.status, Dispatch::Cancelled(told) if *told == cancel));
            assert!(dispatched.starts.is_empty());
            self.fates.end(self.model.runs[run].sequence, Fate::Cancelled);
            self.model.leave(run);
            return self.check(at);
        }
        let start = self.model.queue(run);
        let model = &self.model.runs[run];
        let position = self.model.position(at, model.sequence);
        match dispatched.status {
            Dispatch::Cancelled(_) => panic!("nothing covers it"),
            Dispatch::Queued => assert_eq!((model.state, dispatched.position), (State::Queued, position)),
            Dispatch::Waiting => assert_eq!(model.state, State::Waiting),
            Dispatch::Started => assert_eq!(model.state, State::Running),
        }
        assert_eq!(
            dispatched.steers.map(|id| id.to_string()),
            model.steers.map(|target| self.id(target))
        );
        self.started(&dispatched.starts, start);
        self.check(at);
    }

    pub(super) fn abandon(&mut self, at: At, pick: usize) {
        let id = self.pick_in(at, pick, State::Reserved);
        let core = self.core.abandon(address(at), &id, self.now);
        let Some(run) = self
            .model
            .find(at, &id)
            .filter(|run| self.model.runs[*run].state == State::Reserved)
        else {
            assert!(core.is_err());
            return self.check(at);
        };
        self.fates.end(self.model.runs[run].sequence, Fate::Abandoned);
        self.model.leave(run);
        let start = self.model.advance(at);
        self.started(&core.unwrap(), start);
        self.check(at);
    }
}
