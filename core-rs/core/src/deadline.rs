//! All deadlines, ordered by time. Whatever has one keeps what disarms it; when it is due, its session looks again.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::id::{Sequence, SessionKey, TurnId, WaitId};
use crate::run::RunAlarm;
use crate::sync::Mutex;
use crate::turn::TurnAlarm;

#[derive(Clone, Copy, Debug)]
struct Time(f64);

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// An armed deadline; its number is never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Armed {
    when: Time,
    number: u64,
}

impl Armed {
    pub(crate) fn when(self) -> f64 {
        self.when.0
    }
}

/// Whose deadline it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Run(Sequence, RunAlarm),
    Turn(TurnId, TurnAlarm),
    Wait(TurnId, WaitId),
    Slot(TurnId, WaitId),
    Guard(Sequence, u64),
    Errand(WaitId),
}

/// A deadline's owner, and where to find it.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) session: SessionKey,
    pub(crate) hash: u64,
    pub(crate) what: What,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    queue: BTreeMap<(Time, u64), Due>,
}

/// See the module. Its lock is a leaf.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Mutex<State>);

impl Deadlines {
    /// Arms one; says whether it is the earliest now.
    pub(crate) fn arm(&self, when: f64, due: Due) -> (Armed, bool) {
        let mut state = self.0.lock();
        state.last += 1;
        let armed = Armed {
            when: Time(when),
            number: state.last,
        };
        let is_first = state
            .queue
            .first_key_value()
            .is_none_or(|((earliest, _), _)| armed.when < *earliest);
        state.queue.insert((armed.when, armed.number), due);
        (armed, is_first)
    }

    pub(crate) fn disarm(&self, armed: Armed) {
        self.0.lock().queue.remove(&(armed.when, armed.number));
    }

    pub(crate) fn next(&self) -> Option<f64> {
        self.0.lock().queue.first_key_value().map(|((when, _), _)| when.0)
    }

    /// Takes the earliest out, if its time has come.
    pub(crate) fn pop(&self, now: f64) -> Option<(Armed, Due)> {
        let mut state = self.0.lock();
        let first = state.queue.first_entry()?;
        if first.key().0 > Time(now) {
            return None;
        }
        let ((when, number), due) = first.remove_entry();
        Some((Armed { when, number }, due))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().queue.len()
    }
}
