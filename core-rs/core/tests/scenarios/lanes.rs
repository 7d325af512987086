//! Lanes of providers: slots, paces, errands; and lines that would wait for each other.

use std::sync::Arc;

use turnkeeper_core::{
    Act, Address, Came, Cancel, CancelScope, Effect, ErrandNews, Error, LaneLimits, Limits, Pace, Phase, RunRequest,
    Scheduler, Step, TurnId, WaitId, WaitKind, WaitRequest,
};

use crate::world::{ANSWER, tool};

/// Sessions of one tenant, each with a run that runs.
struct Calls(Scheduler);

fn at(session: &str) -> Address<'_> {
    Address::new("tenant", session)
}

fn lane(limit: Option<usize>, pace: Option<Pace>) -> Limits {
    Limits {
        lane_waiters: 2,
        lanes: vec![LaneLimits {
            name: "p".into(),
            limit,
            pace,
            waiters: None,
        }],
        ..Limits::default()
    }
}

/// Who is told that its slot is there: sessions, and numbers of errands.
fn came<T>(step: &Step<T>) -> Vec<String> {
    let acts = step.effects.iter().filter_map(|effect| match effect {
        Effect::Act(Act::Came(turn, _, Came::In)) => Some(turn.address().session.to_owned()),
        Effect::Act(Act::Errand(errand, ErrandNews::In)) => Some(format!("errand {}", errand.id().get())),
        _ => None,
    });
    acts.collect()
}

impl Calls {
    fn new(limits: &Limits, sessions: &[&str]) -> Self {
        let core = Scheduler::new(limits, 0, 0).unwrap();
        for session in sessions {
            core.accept(at(session), session, RunRequest::default(), 0.0).unwrap();
            core.dispatch(at(session), session, 0.0).unwrap();
        }
        Self(core)
    }

    fn turn(&self, session: &str) -> TurnId {
        self.0.tree(at(session), session)[0].turn.id()
    }

    /// The entry, and whether it has its slot.
    fn enter(&self, session: &str, now: f64) -> Result<(WaitId, bool), Error> {
        let step = self.0.enter_lane(at(session), self.turn(session), "p", "", None, now)?;
        Ok((step.answer.id, step.answer.is_in))
    }

    fn leave(&self, session: &str, entry: WaitId, now: f64) -> Vec<String> {
        came(&self.0.leave_lane(at(session), self.turn(session), entry, now).unwrap())
    }

    fn errand(&self, now: f64) -> Result<(WaitId, bool), Error> {
        let step = self.0.enter_errand(at("a"), "p", None, now)?;
        Ok((step.answer.id, step.answer.is_in))
    }
}

#[test]
fn a_call_that_waits_for_its_slot_has_no_permit_and_comes_in_order() {
    let calls = Calls::new(&lane(Some(1), None), &["a", "b", "c", "d"]);
    let (first, is_in) = calls.enter("a", 0.0).unwrap();
    assert!(is_in);
    let (second, is_in) = calls.enter("b", 0.0).unwrap();
    assert!(!is_in);
    assert_eq!(calls.0.stats().running_turns, 3);
    calls.enter("c", 0.0).unwrap();
    assert_eq!(calls.enter("d", 0.0), Err(Error::LaneFull { lane: "p".into() }));
    assert_eq!(calls.leave("a", first, 0.0), ["b"]);
    assert_eq!(calls.0.stats().running_turns, 3);
    let cancel = Arc::new(Cancel::new("USER"));
    calls.0.cancel(at("b"), CancelScope::Session, &cancel, 0.0).unwrap();
    let step = calls.0.conclude(at("b"), calls.turn("b"), ANSWER, 0.0).unwrap();
    assert_eq!(came(&step), ["c"], "the end of a turn gives its slots back");
    assert!(!calls.0.leave_lane(at("b"), TurnId::new(2), second, 0.0).unwrap().answer);
}

#[test]
fn a_place_may_be_given_up_and_has_a_deadline() {
    let calls = Calls::new(&lane(Some(1), None), &["a", "b", "c"]);
    let (first, _) = calls.enter("a", 0.0).unwrap();
    let (second, _) = calls.enter("b", 0.0).unwrap();
    let step = calls
        .0
        .enter_lane(at("c"), calls.turn("c"), "p", "", Some(5.0), 0.0)
        .unwrap();
    assert_eq!(step.wake_at, Some(5.0));
    let step = calls.0.leave_lane(at("b"), calls.turn("b"), second, 0.0).unwrap();
    assert!(step.answer && matches!(step.effects[..], [Effect::Act(Act::GoOn(_))]));
    let steps = calls.0.due(5.0, 10).unwrap();
    assert!(matches!(
        steps[0].1.effects[..],
        [Effect::Act(Act::Came(_, _, Came::Due)), Effect::Act(Act::GoOn(_))]
    ));
    assert_eq!(calls.leave("a", first, 6.0), [""; 0]);
}

#[test]
fn a_pace_lets_so_many_start_in_so_much_time_and_nobody_passes() {
    let pace = Pace { starts: 2, per: 10.0 };
    let calls = Calls::new(&lane(None, Some(pace)), &["a", "b", "c", "d"]);
    assert!(calls.enter("a", 0.0).unwrap().1 && calls.enter("b", 4.0).unwrap().1);
    let step = calls
        .0
        .enter_lane(at("c"), calls.turn("c"), "p", "", None, 5.0)
        .unwrap();
    assert!(!step.answer.is_in);
    assert_eq!((step.wake_at, calls.0.next_due()), (Some(10.0), Some(10.0)));
    assert!(!calls.enter("d", 10.5).unwrap().1, "c stands before it");
    let errand = calls.0.enter_errand(Address::new("another", "s"), "p", None, 10.5);
    assert!(
        matches!(errand, Err(Error::LaneFull { .. })),
        "whatever tenant it is of"
    );
    let steps = calls.0.due(11.0, 10).unwrap();
    assert_eq!(came(&steps[0].1), ["c"]);
    assert_eq!((steps.len(), calls.0.next_due()), (1, Some(14.0)));
}

#[test]
fn errands_come_after_turns_and_are_cut_with_what_they_serve() {
    let calls = Calls::new(&lane(Some(1), None), &["a", "b"]);
    let (first, is_in) = calls.errand(0.0).unwrap();
    assert!(is_in);
    let (second, is_in) = calls.errand(0.0).unwrap();
    assert!(!is_in);
    let (entry, _) = calls.enter("b", 0.0).unwrap();
    assert_eq!(came(&calls.0.leave_errand(first, 0.0).unwrap()), ["b"]);
    assert_eq!(calls.leave("b", entry, 0.0), [format!("errand {}", second.get())]);
    let cancel = Arc::new(Cancel::new("DELETED"));
    let step = calls.0.close_session(at("a"), true, &cancel, 0.0).unwrap();
    let is_cut = |effect: &Effect| matches!(effect, Effect::Act(Act::Errand(_, ErrandNews::Cut)));
    assert!(step.effects.iter().any(is_cut));
    assert_eq!(calls.errand(0.0), Err(Error::SessionDeleting));
    calls.0.conclude(at("a"), calls.turn("a"), ANSWER, 0.0).unwrap();
    calls.0.finish(at("a"), "a", 0.0).unwrap();
    assert!(calls.0.forget_session(at("a"), 0.0).is_err(), "the errand has not left");
    assert!(calls.0.leave_errand(second, 0.0).unwrap().answer);
    calls.0.forget_session(at("a"), 0.0).unwrap();
    calls.0.drain(Phase::Draining, 0.0);
    assert_eq!(calls.errand(0.0), Err(Error::Draining));
}

#[test]
fn lines_never_wait_for_each_other() {
    let calls = Calls::new(&Limits::default(), &["a", "b", "c"]);
    let wait = |session, target| {
        let request = WaitRequest {
            kind: WaitKind::Run(target),
            ..tool()
        };
        calls.0.wait(at(session), calls.turn(session), request, 0.0)
    };
    assert_eq!(wait("a", "a").unwrap_err(), Error::WouldDeadlock);
    let a = wait("a", "b").unwrap().answer.id;
    wait("b", "c").unwrap();
    assert_eq!(wait("c", "a").unwrap_err(), Error::WaitCycle);
    calls.0.waited(at("a"), calls.turn("a"), a, 0.0).unwrap();
    assert!(wait("c", "a").is_ok());
}
