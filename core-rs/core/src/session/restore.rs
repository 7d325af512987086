//! A session as it was left, in one step: everything that had begun goes on, what waits, waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Bound, Cut, Cx, Entry, Family, Kind, Open, Run, RunAlarm, Sequence, Session, Start, Target, TurnAlarm, TurnId,
};
use crate::deadline::What;
use crate::effect::{Act, Fact, Why};
use crate::id::WaitId;
use crate::image::{Image, RunImage, TurnImage, WaitImageKind};
use crate::outcome::Steers;
use crate::rare::Rare;
use crate::run::RunRef;
use crate::turn::{Branch, ChildResult, End, OnParentEnd, Turn, TurnRef, Wait, WaitFor};

/// Numbers that a turn's driver is told.
#[derive(Default)]
struct Numbers {
    waits: Vec<WaitId>,
    children: Vec<(TurnId, WaitId)>,
}

impl Session {
    /// Puts everything in; the image has been checked, and the session is new.
    pub(crate) fn restore(&mut self, image: &Image, cx: &mut Cx<'_>) {
        let mut names: BTreeMap<Sequence, RunRef> = BTreeMap::new();
        for run in &image.runs {
            let name = RunRef::new(&self.key, &run.run_id, run.sequence, run.kind);
            names.insert(run.sequence, name);
            cx.ledger().readmit(run.sequence, run.size);
            self.bytes += run.size;
            if run.admitted > 0 {
                let family = Family {
                    admitted: run.admitted,
                    live: 0,
                };
                self.families.insert(run.sequence, family);
            }
        }
        for run in image.runs.iter().filter(|run| run.opened) {
            self.restore_open(run, &names, cx);
        }
        let mut numbers: BTreeMap<TurnId, Numbers> = BTreeMap::new();
        for turn in &image.turns {
            self.restore_turn(turn, &mut names, &mut numbers, cx);
        }
        self.closing = image.closing.is_some();
        self.cut_with_its_run();
        self.resume(&mut numbers, cx);
        for run in image.runs.iter().filter(|run| !run.opened) {
            self.restore_in_line(run, &names, cx);
        }
        self.go_on_or_end(cx);
        if let Some(cancel) = &image.closing {
            self.cancel_everything(cancel, cx);
        }
    }

    fn restored_run(image: &RunImage, names: &BTreeMap<Sequence, RunRef>, cx: &Cx<'_>) -> Option<Run> {
        Some(Run {
            name: names.get(&image.sequence)?.clone(),
            since: cx.now,
            size: image.size,
            start_at: image.start_deadline,
            timeout: image.run_timeout,
            alarms: Vec::new(),
            disconnect: None,
        })
    }

    fn restore_open(&mut self, image: &RunImage, names: &BTreeMap<Sequence, RunRef>, cx: &mut Cx<'_>) {
        let Some(run) = Self::restored_run(image, names, cx) else {
            return;
        };
        let sequence = run.sequence();
        self.open = Some(Open {
            run,
            start: Start::Dispatched,
            begun: true,
            concluded: false,
            cut: image.cut.clone(),
            bound: Bound::default(),
            acts: 0,
            kids: 0,
            guards: Rare::default(),
            last_guard: 0,
        });
        let is_hard = image.cut.as_ref().is_some_and(Cut::is_hard);
        if let Some(when) = image.run_deadline.filter(|_| !is_hard) {
            self.arm_run(sequence, RunAlarm::Run, when, cx);
        }
        if matches!(image.cut, Some(Cut::Stop(_))) {
            let grace = cx.settings().get().stop_grace;
            self.arm_run(sequence, RunAlarm::StopGrace, cx.now + grace, cx);
        }
    }

    /// A run that has not begun stands in line again, unless it is cancelled.
    fn restore_in_line(&mut self, image: &RunImage, names: &BTreeMap<Sequence, RunRef>, cx: &mut Cx<'_>) {
        let Some(mut run) = Self::restored_run(image, names, cx) else {
            return;
        };
        if let Some(cancel) = image.cut.as_ref().and_then(Cut::cancel) {
            self.gone(&mut run, cx);
            cx.fact(Fact::Closed(run.name, Why::Cancelled(Arc::clone(cancel))));
            return;
        }
        let sequence = run.sequence();
        let steers = image.steers.as_ref().filter(|_| image.kind == Kind::Prompt);
        let steers = steers.and_then(|steers| self.restored_target(steers, sequence));
        if let Some(bound) = steers.and_then(|target| self.bound_to(target)) {
            bound.give_back(sequence);
        }
        self.line.insert(Entry {
            run,
            queued: true,
            steers,
            bound: Bound::default(),
        });
        if let Some(when) = image.start_deadline {
            self.arm_run(sequence, RunAlarm::Start, when, cx);
        }
    }

    /// What a stored STEER was bound to, if it still may be.
    fn restored_target(&self, steers: &Steers, steer: Sequence) -> Option<Target> {
        match steers {
            Steers::Turn(turn) => {
                let child = self.turns.get(*turn)?;
                (!child.is_floor() && child.cut.is_none()).then_some(Target::Turn(*turn))
            }
            Steers::Run(run) => {
                let sequence = if let Some(open) = self.opened_as(run.as_str()) {
                    open.is_target().then(|| open.run.sequence())?
                } else {
                    let entry = self.line.get(self.line.find(run.as_str())?)?;
                    entry.is_target().then(|| entry.run.sequence())?
                };
                (sequence < steer).then_some(Target::Run(sequence))
            }
        }
    }

    fn restore_turn(
        &mut self,
        image: &TurnImage,
        names: &mut BTreeMap<Sequence, RunRef>,
        numbers: &mut BTreeMap<TurnId, Numbers>,
        cx: &mut Cx<'_>,
    ) {
        let run = names
            .entry(image.sequence)
            .or_insert_with(|| RunRef::new(&self.key, &image.run_id, image.sequence, Kind::Prompt))
            .clone();
        cx.ledger().note_turn(image.id);
        let mut turn = match image.parent {
            None => Turn::new(TurnRef::floor(image.id, run, image.role), None, true, cx.now),
            Some(parent) => self.restored_child(image, run, parent, numbers, cx),
        };
        turn.begun = image.begun;
        if turn.begun {
            cx.ledger().park();
        }
        turn.strands = image.strands.max(1).max(image.waits.len());
        if !image.inbox.is_empty() {
            let name = turn.name.clone();
            turn.more().inbox = image
                .inbox
                .iter()
                .map(|result| ChildResult {
                    child: TurnRef::child(result.child, name.run().clone(), image.id, name.depth() + 1),
                    end: result.end,
                })
                .collect();
        }
        self.turns.insert(turn);
        self.restore_waits(image, numbers, cx);
        if image.parent.is_none() {
            self.frame.push(image.id);
            if let Some(open) = &mut self.open {
                open.acts += 1;
                let stop = open.cut.as_ref().filter(|cut| !cut.is_hard());
                let stop = stop.and_then(Cut::cancel).cloned();
                if let Some(turn) = self.turns.get_mut(image.id) {
                    turn.stop = stop;
                }
            }
            return;
        }
        let when = image
            .deadline
            .unwrap_or_else(|| cx.now + cx.settings().get().child_timeout);
        self.arm_turn(image.id, TurnAlarm::Child, when, cx);
        let stopping = self
            .turns
            .get(image.id)
            .is_some_and(|turn| turn.is_stopping() && turn.cut.is_none());
        if stopping {
            self.arm_stop_grace(image.id, cx);
        }
    }

    fn restored_child(
        &mut self,
        image: &TurnImage,
        run: RunRef,
        parent: TurnId,
        numbers: &mut BTreeMap<TurnId, Numbers>,
        cx: &mut Cx<'_>,
    ) -> Turn {
        let mut gate = cx.gate().enter();
        gate.admit_child(self.key.tenant(), false);
        gate.ensure_depth(image.depth);
        drop(gate);
        cx.ledger().note_turn(image.id);
        let mut family = self.families.get(image.sequence).copied().unwrap_or_default();
        family.live += 1;
        self.families.insert(image.sequence, family);
        let mut holds = image.holds;
        let mut awaited_by = None;
        if let Some(above) = self.turns.get_mut(parent) {
            holds = above.holds && image.on_parent_end != OnParentEnd::Continue;
            above.more().children.insert(image.id);
            if !image.is_async && !image.outside {
                let wait = above.mint_wait();
                above.waits.insert(
                    wait,
                    Wait {
                        what: WaitFor::Child,
                        label: "".into(),
                        since: cx.now,
                        deadline: None,
                    },
                );
                above.strands = above.strands.max(above.waits.len());
                awaited_by = Some(wait);
                numbers.entry(parent).or_default().children.push((image.id, wait));
            }
        }
        if holds && let Some(open) = self.open.as_mut().filter(|open| open.run.sequence() == run.sequence()) {
            open.kids += 1;
        }
        let branch = Branch {
            on_parent_end: image.on_parent_end,
            is_async: image.is_async,
            awaited_by,
        };
        let name = TurnRef::child(image.id, run, parent, image.depth);
        let mut child = Turn::new(name, Some(branch), holds, cx.now);
        child.parent_ended = image.parent_ended;
        match &image.cut {
            Some(Cut::Stop(stop)) => child.stop = Some(Arc::clone(stop)),
            cut => child.cut.clone_from(cut),
        }
        child
    }

    fn restore_waits(&mut self, image: &TurnImage, numbers: &mut BTreeMap<TurnId, Numbers>, cx: &mut Cx<'_>) {
        for wait in &image.waits {
            let Some(id) = self.turns.get_mut(image.id).map(Turn::mint_wait) else {
                return;
            };
            let deadline = wait
                .deadline
                .map(|when| cx.arm(when, self.due(What::Wait(image.id, id))));
            let what = match wait.kind {
                WaitImageKind::Approval => WaitFor::Approval,
                WaitImageKind::Tool => WaitFor::Tool,
                WaitImageKind::Backoff => WaitFor::Backoff,
                WaitImageKind::Servers => WaitFor::Servers,
                WaitImageKind::Drain => WaitFor::Drain,
            };
            let wait = Wait {
                what,
                label: wait.label.clone(),
                since: cx.now,
                deadline,
            };
            if let Some(turn) = self.turns.get_mut(image.id) {
                turn.waits.insert(id, wait);
            }
            numbers.entry(image.id).or_default().waits.push(id);
        }
    }

    /// A cut of the open run reaches its turns, as it did when it was recorded.
    fn cut_with_its_run(&mut self) {
        let Some(open) = self.open.as_ref().filter(|open| open.is_hard()) else {
            return;
        };
        let (run, cut) = (open.run.sequence(), open.cut.clone());
        let spares = cut.as_ref().is_some_and(Cut::spares_continue);
        let reached = |turn: &Turn| turn.name.run().sequence() == run && turn.cut.is_none() && (turn.holds || !spares);
        for id in self.turns.ids(reached) {
            if let Some(turn) = self.turns.get_mut(id) {
                turn.cut.clone_from(&cut);
            }
        }
    }

    fn resume(&self, numbers: &mut BTreeMap<TurnId, Numbers>, cx: &mut Cx<'_>) {
        for id in self.turns.ids(|turn| turn.begun && turn.cut.is_none()) {
            let Numbers { waits, children } = numbers.remove(&id).unwrap_or_default();
            if let Some(turn) = self.turns.get(id) {
                cx.act(Act::Resume {
                    turn: turn.name.clone(),
                    waits,
                    children,
                });
            }
        }
    }

    fn go_on_or_end(&mut self, cx: &mut Cx<'_>) {
        let mut cut = self.turns.ids(|turn| turn.cut.is_some());
        cut.sort_by_key(|id| {
            let depth = self.turns.get(*id).map(|turn| turn.name.depth());
            (std::cmp::Reverse(depth), *id)
        });
        for id in cut {
            self.orphan_inbox(id, cx);
            let Some(turn) = self.turns.get_mut(id) else { continue };
            let Some(cut) = turn.cut.clone() else { continue };
            turn.disarm(TurnAlarm::Child, cx);
            if turn.begun {
                cx.act(Act::Abort(turn.name.clone(), cut));
            } else {
                self.end(id, &End::Cut(cut), cx);
            }
        }
        for id in self.turns.ids(|turn| turn.cut.is_none()) {
            let Some(turn) = self.turns.get(id).filter(|turn| turn.cut.is_none()) else {
                continue;
            };
            match (turn.begun, turn.parent_ended) {
                (false, true) => self.end(id, &End::ParentEnded, cx),
                (false, false) => self.begin(id, cx),
                (true, _) => self.wake_if(id, cx),
            }
        }
    }
}
