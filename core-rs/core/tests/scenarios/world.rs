//! One scheduler and one session, with the words of the tables.

use std::sync::Arc;

use turnkeeper_core::{
    Accepted, Act, Address, Cancel, CancelMode, CancelScope, Cancelled, Conclusion, Covered, Delivery, Effect, Error,
    FoldPoint, Kind, Limits, Place, Proposal, RunId, RunRef, RunRequest, Scheduler, Sequence, Snapshot, Steers, Step,
    TurnId, WaitKind, WaitRequest,
};

pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    session: &'static str,
}

/// What a dispatch led to, and the runs whose turns begin because of it.
pub(crate) struct Dispatched {
    pub(crate) place: Option<Place>,
    pub(crate) position: usize,
    pub(crate) steers: Option<RunId>,
    pub(crate) starts: Vec<String>,
}

/// What a cancel reached, and the runs whose turns begin because of it.
pub(crate) struct Reached {
    pub(crate) covered: Vec<Covered>,
    pub(crate) finished: Vec<RunRef>,
    pub(crate) starts: Vec<String>,
}

pub(crate) const ANSWER: Proposal = Proposal::Answer {
    may_step: false,
    most: 0,
    if_last: false,
};

pub(crate) fn names<'a>(runs: impl IntoIterator<Item = &'a RunRef>) -> Vec<String> {
    runs.into_iter().map(|run| run.run_id().to_string()).collect()
}

/// Runs whose turns begin or go on.
pub(crate) fn starts<T>(step: &Step<T>) -> Vec<String> {
    let acts = step.effects.iter().filter_map(|effect| match effect {
        Effect::Act(Act::Begin(turn) | Act::GoOn(turn)) => Some(turn.run()),
        _ => None,
    });
    names(acts)
}

pub(crate) fn covered(runs: &[Covered]) -> Vec<(String, Place)> {
    runs.iter()
        .map(|covered| (covered.run.run_id().to_string(), covered.was))
        .collect()
}

pub(crate) fn reason(covered: &Covered) -> &str {
    &covered.cancel.as_ref().unwrap().reason
}

pub(crate) fn stop() -> Cancel {
    Cancel {
        mode: CancelMode::Stop,
        ..Cancel::new("USER")
    }
}

pub(crate) fn by_delivery(delivery: Delivery) -> RunRequest<'static> {
    RunRequest {
        delivery,
        ..RunRequest::default()
    }
}

pub(crate) fn by_kind(kind: Kind) -> RunRequest<'static> {
    RunRequest {
        kind,
        ..RunRequest::default()
    }
}

pub(crate) fn target(steers: Option<Steers>) -> Option<RunId> {
    match steers? {
        Steers::Run(run) => Some(run),
        Steers::Turn(turn) => panic!("it steers the child {turn}"),
    }
}

pub(crate) fn tool() -> WaitRequest<'static> {
    WaitRequest {
        kind: WaitKind::Tool,
        label: "",
        deadline: None,
        by: None,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&Limits::default())
    }

    pub(crate) fn with(limits: &Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits, 0, 0).unwrap(),
            session: "s",
        }
    }

    pub(crate) fn at(&self) -> Address<'_> {
        Address::new("tenant", self.session)
    }

    pub(crate) fn try_accept(&self, run: &str, request: RunRequest<'_>) -> Result<Accepted, Error> {
        Ok(self.scheduler.accept(self.at(), run, request, 0.0)?.answer)
    }

    /// `submit*`: accepted, and held before its dispatch.
    pub(crate) fn hold_back(&self, run: &str) -> Accepted {
        self.try_accept(run, RunRequest::default()).unwrap()
    }

    /// `go`: lets a run that was held back through.
    pub(crate) fn go(&self, run: &str) -> Dispatched {
        let step = self.scheduler.dispatch(self.at(), run, 0.0).unwrap();
        let starts = starts(&step);
        Dispatched {
            place: step.answer.place,
            position: step.answer.position,
            steers: target(step.answer.steers),
            starts,
        }
    }

    pub(crate) fn submit_as(&self, run: &str, request: RunRequest<'_>) -> Dispatched {
        self.try_accept(run, request).unwrap();
        self.go(run)
    }

    pub(crate) fn submit(&self, run: &str) -> Dispatched {
        self.submit_as(run, RunRequest::default())
    }

    pub(crate) fn steer(&self, run: &str) -> Dispatched {
        self.submit_as(run, by_delivery(Delivery::Steer))
    }

    pub(crate) fn cancel(&self) -> Reached {
        self.cancel_as(Cancel::new("USER"), CancelScope::Session)
    }

    pub(crate) fn cancel_as(&self, cancel: Cancel, scope: CancelScope<'_>) -> Reached {
        let step = self.scheduler.cancel(self.at(), scope, &Arc::new(cancel), 0.0).unwrap();
        let starts = starts(&step);
        let Cancelled { covered, finished, .. } = step.answer;
        Reached {
            covered,
            finished,
            starts,
        }
    }

    pub(crate) fn cancel_run(&self, run: &str) -> Reached {
        self.cancel_as(Cancel::new("USER"), CancelScope::Run(run))
    }

    /// The turn of the open run.
    pub(crate) fn turn(&self, run: &str) -> TurnId {
        self.scheduler.tree(self.at(), run)[0].turn.id()
    }

    pub(crate) fn fold_point(&self, run: &str, most: usize) -> Result<FoldPoint, Error> {
        let step = self.scheduler.fold_point(self.at(), self.turn(run), most, 0.0)?;
        Ok(step.answer)
    }

    pub(crate) fn take(&self, run: &str) {
        self.scheduler.taken(self.at(), self.turn(run), 0.0).unwrap();
    }

    pub(crate) fn fold(&self, run: &str) -> Vec<String> {
        let point = self.fold_point(run, usize::MAX).unwrap();
        self.take(run);
        names(&point.steers)
    }

    pub(crate) fn conclude(&self, run: &str) -> Conclusion {
        self.propose(run, ANSWER).unwrap()
    }

    pub(crate) fn propose(&self, run: &str, proposal: Proposal) -> Result<Conclusion, Error> {
        let step = self.scheduler.conclude(self.at(), self.turn(run), proposal, 0.0)?;
        Ok(step.answer)
    }

    pub(crate) fn finish(&self, run: &str) -> Vec<String> {
        starts(&self.scheduler.finish(self.at(), run, 0.0).unwrap())
    }

    /// The turn ends without an answer to steer; returns what starts.
    pub(crate) fn end(&self, run: &str) -> Vec<String> {
        self.conclude(run);
        self.finish(run)
    }

    pub(crate) fn abandon(&self, run: &str) -> Result<Vec<String>, Error> {
        Ok(starts(&self.scheduler.abandon(self.at(), run, 0.0)?))
    }

    pub(crate) fn inspect(&self) -> Snapshot {
        self.scheduler.snapshot(self.at()).unwrap_or_default()
    }

    pub(crate) fn reserved(&self) -> usize {
        self.scheduler.counts(self.at()).map_or(0, |counts| counts.reserved)
    }

    pub(crate) fn mark(&self) -> Option<Sequence> {
        self.inspect().mark
    }

    pub(crate) fn line(&self) -> Vec<String> {
        names(self.inspect().line.iter().map(|view| &view.run))
    }

    pub(crate) fn running(&self) -> Option<String> {
        let open = self.inspect().open?;
        (open.place == Place::Running).then(|| open.run.run_id().to_string())
    }

    pub(crate) fn is_idle(&self) -> bool {
        let stats = self.scheduler.stats();
        self.scheduler.snapshot(self.at()).is_none()
            && (
                stats.sessions,
                stats.open_runs,
                stats.running_turns,
                stats.waiting_turns,
                stats.parked_turns,
                stats.deadlines,
            ) == (0, 0, 0, 0, 0, 0)
    }
}

pub(crate) fn is_cancelled(dispatched: &Dispatched) -> bool {
    dispatched.place.is_none()
}

pub(crate) fn is_queued(dispatched: &Dispatched) -> bool {
    dispatched.place == Some(Place::Queued)
}

pub(crate) fn is_started(dispatched: &Dispatched) -> bool {
    dispatched.place == Some(Place::Running)
}

pub(crate) fn is_waiting(dispatched: &Dispatched) -> bool {
    dispatched.place == Some(Place::Waiting)
}
