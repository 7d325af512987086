//! The session as an observer sees it.

use super::{Cut, Place, RunAlarm, Sequence, Session, Stand, TurnAlarm, TurnId};
use crate::deadline::Armed;
use crate::line::Entry;
use crate::run::Run;
use crate::turn::{CallFor, Turn, Wait, WaitFor};
use crate::view::{Counts, Hold, HoldKind, RunView, Snapshot, Standing, TurnView};

impl Session {
    /// Where a run stands, and how many are ahead of it.
    pub(crate) fn place(&self, run_id: &str) -> Option<(Place, usize)> {
        if self.opened_as(run_id).is_some() {
            return self.open_place().map(|place| (place, 0));
        }
        if let Some(sequence) = self.line.find(run_id) {
            let queued = self.line.get(sequence).is_some_and(|entry| entry.queued);
            let place = if queued { Place::Queued } else { Place::Reserved };
            return Some((place, self.position(sequence)));
        }
        self.find_lent(run_id).map(|_| (Place::Lent, 0))
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            open_run_id: self.open_run_id(),
            head_run_id: self.line.front().map(|head| head.run.name.run_id().clone()),
            reserved: self.reserved,
            queued: self.line.len() - self.reserved + self.lent.len(),
            turns: self.turns.len(),
            bytes: self.bytes,
            closing: self.closing,
        }
    }

    /// Live turns of a run, parents first.
    pub(crate) fn tree(&self, run_id: &str) -> Vec<TurnView> {
        let mut ids = self.turns.ids(|turn| turn.name.run().run_id().as_str() == run_id);
        ids.sort_by_key(|id| (self.turns.get(*id).map(|turn| turn.name.depth()), *id));
        ids.into_iter().filter_map(|id| self.turn_view(id)).collect()
    }

    pub(crate) fn turn_view(&self, id: TurnId) -> Option<TurnView> {
        let turn = self.turns.get(id)?;
        Some(TurnView {
            turn: turn.name.clone(),
            stand: standing(turn),
            since: turn.since,
            begun: turn.begun,
            strands: turn.strands,
            waits: turn.waits.len(),
            children: turn.children(),
            tickets: turn.tickets(),
            inbox: turn.inbox(),
            held: turn.held.is_some(),
            closing: turn.closing,
            cut: turn.cut.clone(),
            parent_ended: turn.parent_ended,
        })
    }

    /// Why a run is not over: each reason.
    pub(crate) fn holds(&self, run_id: &str) -> Vec<Hold> {
        if let Some(sequence) = self.line.find(run_id) {
            return self.holds_in_line(sequence);
        }
        if let Some(lent) = self.find_lent(run_id).and_then(|run| self.lent.get(run)) {
            return vec![hold(HoldKind::Line, &lent.entry.run, None)];
        }
        let mut holds = Vec::new();
        let open = self.opened_as(run_id);
        let until = open.and_then(|open| alarm(&open.run, RunAlarm::Run));
        for turn in self.tree(run_id) {
            if let Some(turn) = self.turns.get(turn.turn.id()) {
                holds_of(turn, until, &mut holds);
            }
        }
        let Some(open) = open else { return holds };
        holds.extend(open.guards.values().map(|guard| Hold {
            kind: HoldKind::Guard,
            label: guard.label.clone(),
            since: guard.since,
            deadline: guard.deadline.map(Armed::when),
            turn: None,
            position: None,
        }));
        if open.concluded {
            holds.push(hold(HoldKind::Terminal, &open.run, None));
        } else if open.cut.is_some() {
            let grace = alarm(&open.run, RunAlarm::StopGrace);
            holds.push(hold(HoldKind::Cancel, &open.run, grace));
        }
        holds
    }

    fn holds_in_line(&self, sequence: Sequence) -> Vec<Hold> {
        let (run, kind) = match (self.line.get(sequence), self.line.covered(sequence)) {
            (Some(entry), _) if entry.queued => (&entry.run, HoldKind::Line),
            (Some(entry), _) => (&entry.run, HoldKind::Reserved),
            (None, Some(covered)) => (&covered.run, HoldKind::Reserved),
            (None, None) => return Vec::new(),
        };
        let deadline = alarm(run, RunAlarm::Start).or_else(|| alarm(run, RunAlarm::Reservation));
        vec![Hold {
            position: Some(self.position(sequence)),
            ..hold(kind, run, deadline)
        }]
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let uncovered = self.line.entries().map(|entry| {
            let place = if entry.queued { Place::Queued } else { Place::Reserved };
            self.view(entry, place)
        });
        let covered = self.line.covered_entries().map(|covered| RunView {
            run: covered.run.name.clone(),
            place: Place::Reserved,
            since: covered.run.since,
            cancel: Some(covered.cancel.clone()),
            steers: None,
        });
        let mut line: Vec<_> = uncovered.chain(covered).collect();
        line.sort_by_key(|view| view.run.sequence());
        let open = self.open.as_ref().zip(self.open_place());
        let held_by = self.open.as_ref().map_or([0; 3], |open| {
            [open.acts as usize, open.kids as usize, open.guards.len()]
        });
        Snapshot {
            open: open.map(|(open, place)| RunView {
                run: open.run.name.clone(),
                place,
                since: open.run.since,
                cancel: open.cut.as_ref().and_then(Cut::cancel).cloned(),
                steers: None,
            }),
            line,
            lent: self
                .lent
                .values()
                .map(|lent| RunView {
                    cancel: lent.cancel.clone(),
                    ..self.view(&lent.entry, Place::Lent)
                })
                .collect(),
            turns: self
                .turns
                .ids(|_| true)
                .into_iter()
                .filter_map(|id| self.turn_view(id))
                .collect(),
            held_by,
            mark: self.mark,
            closing: self.closing,
        }
    }

    fn view(&self, entry: &Entry, place: Place) -> RunView {
        RunView {
            run: entry.run.name.clone(),
            place,
            since: entry.run.since,
            cancel: None,
            steers: self.named(entry.steers),
        }
    }
}

fn alarm(run: &Run, alarm: RunAlarm) -> Option<f64> {
    let armed = run.alarms.iter().find(|(it, _)| *it == alarm);
    armed.map(|(_, armed)| armed.when())
}

fn hold(kind: HoldKind, run: &Run, deadline: Option<f64>) -> Hold {
    Hold {
        kind,
        label: "".into(),
        since: run.since,
        deadline,
        turn: None,
        position: None,
    }
}

fn standing(turn: &Turn) -> Standing {
    match turn.stand {
        Stand::Running => Standing::Running,
        Stand::Parked => Standing::Parked,
        Stand::Waiting(_) if turn.begun => Standing::Woken,
        Stand::Waiting(_) => Standing::Waiting,
    }
}

/// A turn that has begun holds its run, whatever it waits for; then what that is; and what is asked for in its name.
fn holds_of(turn: &Turn, until: Option<f64>, holds: &mut Vec<Hold>) {
    let own = |kind, since, deadline| Hold {
        kind,
        label: "".into(),
        since,
        deadline,
        turn: Some(turn.id()),
        position: None,
    };
    let armed = |alarm| {
        let found = turn.alarms.iter().find(|(it, _)| *it == alarm);
        found.map(|(_, armed)| armed.when())
    };
    let deadline = if turn.is_floor() {
        until
    } else {
        armed(TurnAlarm::Child)
    };
    if turn.begun {
        holds.push(own(HoldKind::Turn, turn.began, deadline));
    }
    match turn.stand {
        Stand::Waiting(_) => holds.push(own(HoldKind::Gate, turn.since, deadline)),
        Stand::Parked if turn.closing => holds.push(own(HoldKind::Children, turn.since, None)),
        Stand::Running | Stand::Parked => {}
    }
    if turn.cut.is_some() {
        holds.push(own(HoldKind::Cancel, turn.since, armed(TurnAlarm::CancelGrace)));
    }
    for (id, wait) in turn.waits.iter() {
        let ticket = turn.more.as_ref().and_then(|more| more.tickets.get(id));
        let deadline = wait.deadline.or_else(|| ticket.and_then(|ticket| ticket.deadline));
        holds.push(Hold {
            label: wait.label.clone(),
            ..own(kind_of(wait), wait.since, deadline.map(Armed::when))
        });
    }
    for (id, call) in turn.more.iter().flat_map(|more| &more.calls) {
        let kind = match call.what {
            CallFor::Slot => HoldKind::Slot,
            CallFor::Child => HoldKind::Child,
            CallFor::Run(_) => HoldKind::Run,
        };
        let ticket = turn.more.as_ref().and_then(|more| more.tickets.get(id));
        let since = ticket.map_or(turn.since, |ticket| ticket.since);
        let deadline = ticket.and_then(|ticket| ticket.deadline).map(Armed::when);
        holds.push(own(kind, since, deadline));
    }
}

fn kind_of(wait: &Wait) -> HoldKind {
    match wait.what {
        WaitFor::Approval => HoldKind::Approval,
        WaitFor::Tool => HoldKind::Tool,
        WaitFor::Backoff => HoldKind::Backoff,
        WaitFor::Servers => HoldKind::Servers,
        WaitFor::Drain => HoldKind::Drain,
        WaitFor::Run(_) => HoldKind::Run,
        WaitFor::Lane(..) => HoldKind::Lane,
        WaitFor::Slot => HoldKind::Slot,
        WaitFor::Child => HoldKind::Child,
        WaitFor::Children => HoldKind::Children,
    }
}
