//! One scheduler and one session, with the words of the tables.

use std::sync::Arc;

use turnkeeper_core::{
    Accepted, Address, Cancel, CancelMode, CancelResult, CancelScope, Conclusion, Counts, Covered, Delivery, Dispatch,
    Dispatched, Error, Kind, Limits, Place, RunRef, RunRequest, Scheduler, Sequence, Snapshot,
};

pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) session: &'static str,
}

pub(crate) fn names<'a>(runs: impl IntoIterator<Item = &'a RunRef>) -> Vec<String> {
    runs.into_iter().map(|run| run.run_id().to_string()).collect()
}

pub(crate) fn covered(runs: &[Covered]) -> Vec<(String, Place)> {
    runs.iter()
        .map(|covered| (covered.run.run_id().to_string(), covered.was))
        .collect()
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

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits, 0, 0).unwrap(),
            session: "s",
        }
    }

    pub(crate) fn at(&self) -> Address<'_> {
        Address::new("tenant", self.session)
    }

    pub(crate) fn try_accept(&self, run: &str, request: RunRequest<'_>) -> Result<Accepted, Error> {
        self.scheduler.accept(self.at(), run, request, 0.0)
    }

    /// `submit*`: accepted, and held before its dispatch.
    pub(crate) fn hold_back(&self, run: &str) -> Accepted {
        self.try_accept(run, RunRequest::default()).unwrap()
    }

    /// `go`: lets a run that was held back through.
    pub(crate) fn go(&self, run: &str) -> Dispatched {
        self.scheduler.dispatch(self.at(), run, 0.0).unwrap()
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

    pub(crate) fn cancel(&self) -> CancelResult {
        self.cancel_as(Cancel::new("USER"), CancelScope::default())
    }

    pub(crate) fn cancel_as(&self, cancel: Cancel, scope: CancelScope) -> CancelResult {
        self.scheduler.cancel_session(self.at(), &Arc::new(cancel), scope, 0.0)
    }

    pub(crate) fn cancel_run(&self, run: &str) -> CancelResult {
        self.scheduler
            .cancel_run(self.at(), run, &Arc::new(Cancel::new("USER")), 0.0)
    }

    pub(crate) fn fold(&self, run: &str) -> Vec<String> {
        names(&self.scheduler.partition(self.at(), run, None).unwrap().fold)
    }

    pub(crate) fn conclude(&self, run: &str) -> Conclusion {
        self.scheduler.conclude(self.at(), run, 0).unwrap()
    }

    pub(crate) fn finish(&self, run: &str) -> Vec<String> {
        names(&self.scheduler.finish(self.at(), run, 0.0).unwrap())
    }

    /// The turn ends without an answer to steer; returns what starts.
    pub(crate) fn end(&self, run: &str) -> Vec<String> {
        self.conclude(run);
        self.finish(run)
    }

    pub(crate) fn inspect(&self) -> Snapshot {
        self.scheduler.snapshot(self.at()).unwrap_or_default()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.scheduler.counts(self.at())
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
            ) == (0, 0, 0, 0, 0)
    }
}

pub(crate) fn is_cancelled(dispatched: &Dispatched) -> bool {
    matches!(dispatched.status, Dispatch::Cancelled(_))
}

pub(crate) fn is_queued(dispatched: &Dispatched) -> bool {
    matches!(dispatched.status, Dispatch::Queued)
}

pub(crate) fn is_started(dispatched: &Dispatched) -> bool {
    matches!(dispatched.status, Dispatch::Started)
}

pub(crate) fn is_waiting(dispatched: &Dispatched) -> bool {
    matches!(dispatched.status, Dispatch::Waiting)
}
