//! The scheduler itself: each method is one call of the core.

mod cancels;
mod time;
mod turns;
mod views;

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use turnkeeper_core as core;
use turnkeeper_core::{Address, RunRequest, TurnId};

use crate::cancel::{Cancel, of};
use crate::image::Image;
use crate::limits::Limits;
use crate::literal;
use crate::outcome::{Accepted, Dispatched, Step};

/// All scheduling state of all sessions. Thread-safe; a session without work leaves no entry.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Scheduler(core::Scheduler);

fn refused(error: &core::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn same<T>(answer: T) -> T {
    answer
}

#[pymethods]
#[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
impl Scheduler {
    #[new]
    #[pyo3(signature = (limits=None, *, epoch=0, last_sequence=0))]
    fn new(limits: Option<&Bound<'_, Limits>>, epoch: u64, last_sequence: u64) -> PyResult<Self> {
        let default = core::Limits::default();
        let limits = limits.map_or(&default, |limits| &limits.get().0);
        let scheduler = core::Scheduler::new(limits, epoch, last_sequence);
        Ok(Self(scheduler.map_err(|error| refused(&error))?))
    }

    /// Check preconditions and bounds and stamp a reservation, in one step.
    #[pyo3(signature = (
        tenant, session_id, run_id, now, *, kind="prompt", delivery="queue", require_idle=false,
        expected_open_run_id=None, steer_turn=None, cancelled=None, size=0, start_timeout=None, run_timeout=None,
        may_start=false,
    ))]
    fn accept(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        now: f64,
        kind: &str,
        delivery: &str,
        require_idle: bool,
        expected_open_run_id: Option<&str>,
        steer_turn: Option<u64>,
        cancelled: Option<&Bound<'_, Cancel>>,
        size: usize,
        start_timeout: Option<f64>,
        run_timeout: Option<f64>,
        may_start: bool,
    ) -> PyResult<Step> {
        let request = RunRequest {
            kind: literal::kind(kind)?,
            delivery: literal::delivery(delivery)?,
            require_idle,
            expected_open_run_id,
            steer_turn: steer_turn.map(TurnId::new),
            cancelled: of(cancelled),
            size,
            start_timeout,
            run_timeout,
            may_start,
        };
        let step = self.0.accept(Address::new(tenant, session_id), run_id, request, now);
        Step::of(py, step, Accepted)
    }

    /// The accept is durable.
    fn dispatch(&self, py: Python<'_>, tenant: &str, session_id: &str, run_id: &str, now: f64) -> PyResult<Step> {
        let step = self.0.dispatch(Address::new(tenant, session_id), run_id, now);
        Step::of(py, step, Dispatched)
    }

    /// The accept was never committed.
    fn abandon(&self, py: Python<'_>, tenant: &str, session_id: &str, run_id: &str, now: f64) -> PyResult<Step> {
        let step = self.0.abandon(Address::new(tenant, session_id), run_id, now);
        Step::of(py, step, none)
    }

    /// The terminal of ``RunOver`` is durable: free the floor and open the next.
    fn finish(&self, py: Python<'_>, tenant: &str, session_id: &str, run_id: &str, now: f64) -> PyResult<Step> {
        let step = self.0.finish(Address::new(tenant, session_id), run_id, now);
        Step::of(py, step, none)
    }

    /// Hold the open run.
    #[pyo3(signature = (tenant, session_id, run_id, label, now, *, deadline=None))]
    fn hold(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        label: &str,
        now: f64,
        deadline: Option<f64>,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.hold(at, run_id, label, deadline, now), same)
    }

    /// Release a hold.
    fn release(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        guard: u64,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.release(at, run_id, guard, now), same)
    }

    /// If the run is not dispatched by then, it is closed as stranded.
    fn arm_reservation(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        when: f64,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.arm_reservation(at, run_id, when, now), none)
    }

    /// Give this cancel to the run then.
    fn arm_disconnect(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        cancel: &Bound<'_, Cancel>,
        when: f64,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        let step = self.0.arm_disconnect(at, run_id, &cancel.get().0, when, now);
        Step::of(py, step, none)
    }

    /// Somebody came back.
    fn disarm_disconnect(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.disarm_disconnect(at, run_id, now), none)
    }

    /// A session as it was left, in one step.
    fn restore(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        image: &Bound<'_, Image>,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.restore(at, &image.get().0, now), none)
    }

    /// The session goes elsewhere.
    fn evict(&self, py: Python<'_>, tenant: &str, session_id: &str, now: f64) -> PyResult<Step> {
        Step::of(py, self.0.evict(Address::new(tenant, session_id), now), none)
    }
}

/// The answer of a call that has none.
fn none((): ()) -> Option<bool> {
    None
}

fn shared(cancel: &Bound<'_, Cancel>) -> Arc<core::Cancel> {
    Arc::clone(&cancel.get().0)
}
