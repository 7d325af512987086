//! Into the line, out of it, and what holds a run beside its turns.

use std::sync::Arc;

use super::Scheduler;
use crate::error::{Answer, Error};
use crate::id::Address;
use crate::image::Image;
use crate::outcome::{Accepted, Dispatched};
use crate::request::RunRequest;
use crate::run::Cancel;

fn unknown<T>(run_id: &str) -> impl FnOnce() -> Result<T, Error> {
    || Err(Error::UnknownRun { run_id: run_id.into() })
}

impl Scheduler {
    /// Checks preconditions and bounds and stamps a reservation, in one step (U-9, U-19 to U-24).
    ///
    /// # Errors
    ///
    /// In this order: the run exists, the session is closing, the scheduler drains, another run than the expected one is
    /// open, the session is busy, there is no such child, a bound is reached.
    pub fn accept(&self, at: Address<'_>, run_id: &str, request: RunRequest<'_>, now: f64) -> Answer<Accepted> {
        self.step_new(at, now, |session, cx| session.accept(run_id, request, cx))
    }

    /// The accept is durable: the run stands in line, begins, or is closed if a cancel came first.
    ///
    /// # Errors
    ///
    /// The session has no such reservation.
    pub fn dispatch(&self, at: Address<'_>, run_id: &str, now: f64) -> Answer<Dispatched> {
        self.step(at, now, unknown(run_id), |session, cx| session.dispatch(run_id, cx))
    }

    /// The accept was never committed: the run leaves no trace, neither does the turn that it started.
    ///
    /// # Errors
    ///
    /// The session has no such reservation, or an operation has named the turn.
    pub fn abandon(&self, at: Address<'_>, run_id: &str, now: f64) -> Answer<()> {
        self.step(at, now, unknown(run_id), |session, cx| session.abandon(run_id, cx))
    }

    /// The terminal of a run that is over is durable: frees the floor and opens the next run.
    ///
    /// # Errors
    ///
    /// The run is not open, or not over.
    pub fn finish(&self, at: Address<'_>, run_id: &str, now: f64) -> Answer<()> {
        self.step(at, now, unknown(run_id), |session, cx| session.finish(run_id, cx))
    }

    /// Keeps the open run from being over; returns the number to release it by.
    ///
    /// # Errors
    ///
    /// The run is not open, is over, or cut.
    pub fn hold(&self, at: Address<'_>, run_id: &str, label: &str, deadline: Option<f64>, now: f64) -> Answer<u64> {
        self.step(at, now, unknown(run_id), |session, cx| {
            session.hold(run_id, label, deadline, cx)
        })
    }

    /// Keeps it no more. False: it is gone.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn release(&self, at: Address<'_>, run_id: &str, guard: u64, now: f64) -> Answer<bool> {
        self.step(
            at,
            now,
            || Ok(false),
            |session, cx| Ok(session.release(run_id, guard, cx)),
        )
    }

    /// If the run is not dispatched by then, it is closed as stranded.
    ///
    /// # Errors
    ///
    /// The session has no such reservation.
    pub fn arm_reservation(&self, at: Address<'_>, run_id: &str, when: f64, now: f64) -> Answer<()> {
        self.step(at, now, unknown(run_id), |session, cx| {
            session.arm_reservation(run_id, when, cx)
        })
    }

    /// Gives the run this cancel then.
    ///
    /// # Errors
    ///
    /// The session has no such run that is not over.
    pub fn arm_disconnect(
        &self,
        at: Address<'_>,
        run_id: &str,
        cancel: &Arc<Cancel>,
        when: f64,
        now: f64,
    ) -> Answer<()> {
        self.step(at, now, unknown(run_id), |session, cx| {
            session.arm_disconnect(run_id, cancel, when, cx)
        })
    }

    /// Somebody came back.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn disarm_disconnect(&self, at: Address<'_>, run_id: &str, now: f64) -> Answer<()> {
        self.step(
            at,
            now,
            || Ok(()),
            |session, cx| {
                session.disarm_disconnect(run_id, cx);
                Ok(())
            },
        )
    }

    /// Puts a session back as it was left, in one step.
    ///
    /// # Errors
    ///
    /// The session has an entry; the image contradicts itself.
    pub fn restore(&self, at: Address<'_>, image: &Image, now: f64) -> Answer<()> {
        image.check()?;
        self.step_new(at, now, |session, cx| {
            if !session.is_idle() {
                return Err(Error::SessionBusy { open_run_id: None });
            }
            session.restore(image, cx);
            Ok(())
        })
    }

    /// The session goes elsewhere: nothing is said of it, and its permits go on.
    ///
    /// # Errors
    ///
    /// None but that of every operation.
    pub fn evict(&self, at: Address<'_>, now: f64) -> Answer<()> {
        self.step(
            at,
            now,
            || Ok(()),
            |session, cx| {
                session.evict(cx);
                Ok(())
            },
        )
    }
}
