//! What the model-checked tests share: callers of one scheduler, and what their steps said.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::Arc;

use turnkeeper_core::{
    Act, Address, Cancel, CancelScope, Cancelled, Dispatched, Effect, Fact, Limits, Proposal, RunRequest, Scheduler,
    Status, Step, TurnId, WaitId, WaitKind, WaitRequest,
};

// Each in a shard of its own.
pub(crate) const A: Address<'static> = Address::new("tenant", "a");
pub(crate) const B: Address<'static> = Address::new("tenant", "b");
pub(crate) const C: Address<'static> = Address::new("other", "d");

pub(crate) const ANSWER: Proposal = Proposal::Answer {
    may_step: true,
    most: usize::MAX,
    if_last: false,
};

/// At most five preemptions, unless `LOOM_MAX_PREEMPTIONS` says otherwise: so that the tests end soon.
pub(crate) fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(5));
    builder.check(check);
}

/// The same of three callers at once, with one preemption less.
pub(crate) fn model_of_three(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(5) - 1);
    builder.check(check);
}

pub(crate) fn scheduler(running_turns: usize) -> Arc<Scheduler> {
    with(&Limits {
        running_turns,
        ..Limits::default()
    })
}

pub(crate) fn with(limits: &Limits) -> Arc<Scheduler> {
    Arc::new(Scheduler::new(limits, 0, 0).unwrap())
}

/// Effects of several steps, whoever was told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Vec<Effect>);

impl Told {
    pub(crate) fn of<T>(step: Step<T>) -> (T, Self) {
        (step.answer, Self(step.effects))
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// How often a run's floor turn begins or goes on.
    pub(crate) fn starts(&self, run: &str) -> usize {
        let is_start = |effect: &&Effect| match effect {
            Effect::Act(Act::Begin(turn) | Act::GoOn(turn)) => turn.is_floor() && turn.run().run_id().as_str() == run,
            _ => false,
        };
        self.0.iter().filter(is_start).count()
    }

    pub(crate) fn count(&self, is_meant: impl Fn(&Effect) -> bool) -> usize {
        self.0.iter().filter(|effect| is_meant(effect)).count()
    }

    /// How its run ended.
    pub(crate) fn status(&self) -> Option<&Status> {
        self.0.iter().find_map(|effect| match effect {
            Effect::Fact(Fact::RunOver(_, status)) => Some(status),
            _ => None,
        })
    }
}

pub(crate) fn submit(scheduler: &Scheduler, at: Address<'_>, run: &str) -> (Dispatched, Told) {
    scheduler.accept(at, run, RunRequest::default(), 0.0).unwrap();
    Told::of(scheduler.dispatch(at, run, 0.0).unwrap())
}

/// The turn of an open run.
pub(crate) fn turn(scheduler: &Scheduler, at: Address<'_>, run: &str) -> TurnId {
    scheduler.tree(at, run)[0].turn.id()
}

/// A run that has begun, and its turn.
pub(crate) fn begun(scheduler: &Scheduler, at: Address<'_>, run: &str) -> TurnId {
    submit(scheduler, at, run);
    turn(scheduler, at, run)
}

pub(crate) fn end(scheduler: &Scheduler, at: Address<'_>, run: &str) -> Told {
    let turn = turn(scheduler, at, run);
    let (_, told) = Told::of(scheduler.conclude(at, turn, Proposal::Failed, 0.0).unwrap());
    told.and(Told::of(scheduler.finish(at, run, 0.0).unwrap()).1)
}

pub(crate) fn cancel(scheduler: &Scheduler, at: Address<'_>) -> (Cancelled, Told) {
    let cancel = Arc::new(Cancel::new("USER"));
    Told::of(scheduler.cancel(at, CancelScope::Session, &cancel, 0.0).unwrap())
}

pub(crate) fn park(scheduler: &Scheduler, at: Address<'_>, turn: TurnId, deadline: Option<f64>) -> (WaitId, Told) {
    let request = WaitRequest {
        kind: WaitKind::Tool,
        label: "",
        deadline,
        by: None,
    };
    let (waiting, told) = Told::of(scheduler.wait(at, turn, request, 0.0).unwrap());
    (waiting.id, told)
}

pub(crate) fn wake(scheduler: &Scheduler, at: Address<'_>, turn: TurnId, wait: WaitId) -> (bool, Told) {
    Told::of(scheduler.waited(at, turn, wait, 0.0).unwrap())
}

pub(crate) fn due(scheduler: &Scheduler, now: f64) -> Told {
    let steps = scheduler.due(now, 100).unwrap().into_iter();
    Told(steps.flat_map(|(_, step)| step.effects).collect())
}

pub(crate) fn is_idle(scheduler: &Scheduler) -> bool {
    let stats = scheduler.stats();
    (
        stats.sessions,
        stats.open_runs,
        stats.running_turns,
        stats.waiting_turns,
        stats.parked_turns,
        stats.children,
        stats.lane_slots,
        stats.deadlines,
    ) == (0, 0, 0, 0, 0, 0, 0, 0)
}
