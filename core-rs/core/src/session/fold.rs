//! Fold points: what is lent to a turn there, taken by its draft, or given back.

use super::{Cx, Error, Lent, RunAlarm, Session, TurnId};
use crate::effect::{Fact, Why};
use crate::outcome::FoldPoint;
use crate::run::Cut;
use crate::turn::{Loan, Role, Turn};

impl Session {
    /// What a turn finds before a step: all of it lent.
    pub(crate) fn fold_point(&mut self, id: TurnId, most: usize, cx: &mut Cx<'_>) -> Result<FoldPoint, Error> {
        let turn = self.driven(id)?;
        if turn.cut.is_some() {
            return Err(Error::Aborted { turn: id });
        }
        if !turn.is_in_its_loop() || turn.loan.is_some() || turn.held.is_some() {
            return Err(Error::BadState { turn: id });
        }
        let leave = !cx.ledger().is_serving();
        let stopping = turn.is_stopping();
        if !leave {
            self.lend(id, if stopping { 0 } else { most }, cx);
        }
        Ok(FoldPoint {
            leave,
            ..self.loan_of(id)
        })
    }

    /// Takes what may fold out of the line, at most `most` STEER runs, and all results. Says whether there is any.
    pub(super) fn lend(&mut self, id: TurnId, most: usize, cx: &mut Cx<'_>) -> bool {
        let Some(turn) = self.turns.get_mut(id) else {
            return false;
        };
        let results = turn.take_inbox();
        let mut steers = Vec::new();
        while steers.len() < most {
            let Some(entry) = self.next_steer(id).and_then(|steer| self.line.remove(steer)) else {
                break;
            };
            let steer = entry.run.sequence();
            self.lent.insert(steer, Lent { entry, cancel: None });
            self.disarm_run(steer, RunAlarm::Start, cx);
            steers.push(steer);
        }
        if steers.is_empty() && results.is_empty() {
            return false;
        }
        if let Some(turn) = self.turns.get_mut(id) {
            turn.loan = Some(Box::new(Loan { steers, results }));
        }
        true
    }

    fn next_steer(&mut self, id: TurnId) -> Option<super::Sequence> {
        let turn = self.turns.get_mut(id)?;
        match turn.name.role() {
            Role::Child => turn.more.as_mut()?.bound.pop(),
            Role::Prompt => self.open.as_mut()?.bound.pop(),
            Role::Summary => None,
        }
    }

    /// Whether something may fold into this turn.
    pub(super) fn loan_of(&self, id: TurnId) -> FoldPoint {
        let Some(turn) = self.turns.get(id) else {
            return FoldPoint::default();
        };
        let loan = turn.loan.as_ref();
        let steers = loan.into_iter().flat_map(|loan| &loan.steers);
        FoldPoint {
            steers: steers
                .filter_map(|steer| self.lent.get(*steer))
                .map(|lent| lent.entry.run.name.clone())
                .collect(),
            results: loan.map_or_else(Vec::new, |loan| loan.results.clone()),
            stop: turn.stop.clone(),
            parent_ended: turn.parent_ended,
            leave: false,
        }
    }

    /// The draft that holds the loan is submitted.
    pub(crate) fn taken(&mut self, id: TurnId, cx: &mut Cx<'_>) -> Result<(), Error> {
        let turn = self.driven(id)?;
        let name = turn.name.clone();
        let Some(loan) = turn.loan.take() else { return Ok(()) };
        for steer in loan.steers {
            if let Some(mut lent) = self.lent.remove(steer) {
                self.gone(&mut lent.entry.run, cx);
                cx.fact(Fact::Closed(lent.entry.run.name, Why::Folded(name.clone())));
            }
        }
        for result in loan.results {
            cx.fact(Fact::Delivered {
                turn: result.child,
                parent: name.clone(),
            });
        }
        Ok(())
    }

    /// What no draft holds goes back: STEER runs to the line at their own sequence, results to the front of the inbox.
    pub(super) fn give_back(&mut self, id: TurnId, cx: &mut Cx<'_>) {
        let Some(loan) = self.turns.get_mut(id).and_then(|turn| turn.loan.take()) else {
            return;
        };
        let mut met = Vec::new();
        for steer in loan.steers {
            let Some(Lent { entry, cancel }) = self.lent.remove(steer) else {
                continue;
            };
            let start_at = entry.run.start_at;
            if let Some(bound) = entry.steers.and_then(|target| self.bound_to(target)) {
                bound.give_back(steer);
            }
            self.line.insert(entry);
            met.push((steer, cancel, start_at));
        }
        for (steer, cancel, start_at) in met {
            if let Some(cancel) = cancel {
                if let Some(entry) = self.line.get(steer) {
                    cx.fact(Fact::Requested {
                        run: entry.run.name.clone(),
                        turn: None,
                        cut: Cut::of(&cancel),
                    });
                }
                self.take_out(steer, Why::Cancelled(cancel), cx);
            } else if let Some(when) = start_at {
                self.arm_run(steer, RunAlarm::Start, when, cx);
            }
        }
        if let Some(turn) = self.turns.get_mut(id).filter(|_| !loan.results.is_empty()) {
            put_back(turn, loan.results);
        }
    }
}

fn put_back(turn: &mut Turn, results: Vec<crate::turn::ChildResult>) {
    turn.more().inbox.splice(..0, results);
}
