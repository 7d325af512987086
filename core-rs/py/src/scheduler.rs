//! The scheduler itself: each method is one call of the core.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core as core;
use turnkeeper_core::{Address, CancelScope, Restore, RunRequest, Sequence};

use crate::cancel::{Cancel, CancelResult};
use crate::error::raised;
use crate::limits::Limits;
use crate::literal;
use crate::outcome::{Accepted, Conclusion, Dispatched, Partition};
use crate::run::{RunRef, runs};
use crate::view::{Counts, Snapshot, Stats};

/// All scheduling state of all sessions. Thread-safe; an idle session leaves no entry.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Scheduler(core::Scheduler);

fn of(cancel: Option<&Bound<'_, Cancel>>) -> Option<Arc<core::Cancel>> {
    cancel.map(|cancel| Arc::clone(&cancel.get().0))
}

#[pymethods]
#[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
impl Scheduler {
    #[new]
    #[pyo3(signature = (limits=None, *, epoch=0, last_sequence=0))]
    fn new(limits: Option<&Bound<'_, Limits>>, epoch: u64, last_sequence: u64) -> PyResult<Self> {
        let limits = limits.map_or_else(core::Limits::default, |limits| limits.get().0);
        let scheduler = core::Scheduler::new(limits, epoch, last_sequence);
        Ok(Self(
            scheduler.map_err(|error| PyValueError::new_err(error.to_string()))?,
        ))
    }

    /// Check preconditions and bounds and stamp a reservation, in one step.
    #[pyo3(signature = (
        tenant, session_id, run_id, now, *,
        kind="prompt", delivery="queue", bytes=0, require_idle=false, expected_open_run_id=None, cancelled=None,
    ))]
    fn accept(
        &self,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        now: f64,
        kind: &str,
        delivery: &str,
        bytes: usize,
        require_idle: bool,
        expected_open_run_id: Option<&str>,
        cancelled: Option<&Bound<'_, Cancel>>,
    ) -> PyResult<Accepted> {
        let request = RunRequest {
            kind: literal::kind(kind)?,
            delivery: literal::delivery(delivery)?,
            bytes,
            require_idle,
            expected_open_run_id,
            cancelled: of(cancelled),
        };
        self.0
            .accept(Address::new(tenant, session_id), run_id, request, now)
            .map(Accepted)
            .map_err(raised)
    }

    /// Put a stored run back as a reservation with its old sequence, past all bounds.
    #[pyo3(signature = (
        tenant, session_id, run_id, sequence, now, *, kind="prompt", delivery="queue", bytes=0, steers=None,
        cancelled=None,
    ))]
    fn restore(
        &self,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        sequence: u64,
        now: f64,
        kind: &str,
        delivery: &str,
        bytes: usize,
        steers: Option<&str>,
        cancelled: Option<&Bound<'_, Cancel>>,
    ) -> PyResult<()> {
        // A stored run's delivery has had its effect, but for the binding of a STEER.
        let steers = steers.filter(|_| delivery == "steer");
        literal::delivery(delivery)?;
        let restore = Restore {
            sequence: Sequence::new(sequence),
            kind: literal::kind(kind)?,
            bytes,
            steers,
            cancelled: of(cancelled),
        };
        self.0
            .restore(Address::new(tenant, session_id), run_id, restore, now)
            .map_err(raised)
    }

    /// Close a reservation whose accept was never committed; no terminal. Returns starts.
    fn abandon(&self, tenant: &str, session_id: &str, run_id: &str, now: f64) -> PyResult<Vec<RunRef>> {
        let starts = self
            .0
            .abandon(Address::new(tenant, session_id), run_id, now)
            .map_err(raised)?;
        Ok(runs(&starts))
    }

    /// Release a reservation: cancelled, queued, waiting or started.
    fn dispatch(&self, tenant: &str, session_id: &str, run_id: &str, now: f64) -> PyResult<Dispatched> {
        self.0
            .dispatch(Address::new(tenant, session_id), run_id, now)
            .map(Dispatched)
            .map_err(raised)
    }

    /// Take the STEER runs bound to this running turn; at most ``limit``, None for all.
    #[pyo3(signature = (tenant, session_id, run_id, *, limit=None))]
    fn partition(&self, tenant: &str, session_id: &str, run_id: &str, limit: Option<usize>) -> PyResult<Partition> {
        self.0
            .partition(Address::new(tenant, session_id), run_id, limit)
            .map(Partition)
            .map_err(raised)
    }

    /// Give the permit of a running turn back while it waits for somebody outside. Returns starts.
    fn park(&self, tenant: &str, session_id: &str, run_id: &str, now: f64) -> PyResult<Vec<RunRef>> {
        let starts = self
            .0
            .park(Address::new(tenant, session_id), run_id, now)
            .map_err(raised)?;
        Ok(starts.into_iter().map(RunRef::from).collect())
    }

    /// Ask for the permit of a parked turn again, ahead of all turns that have not begun.
    fn wake<'py>(
        &self,
        py: Python<'py>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        now: f64,
    ) -> PyResult<&Bound<'py, PyString>> {
        let woken = self.0.wake(Address::new(tenant, session_id), run_id, now);
        Ok(literal::wake_text(py, woken.map_err(raised)?))
    }

    /// Fix the outcome of a turn that has begun.
    #[pyo3(signature = (tenant, session_id, run_id, *, answer, steer=true, limit=None))]
    fn conclude(
        &self,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        answer: bool,
        steer: bool,
        limit: Option<usize>,
    ) -> PyResult<Conclusion> {
        let steers = if answer && steer {
            limit.unwrap_or(usize::MAX)
        } else {
            0
        };
        self.0
            .conclude(Address::new(tenant, session_id), run_id, steers)
            .map(Conclusion)
            .map_err(raised)
    }

    /// Release the floor and the permit of a concluded run and start what is next, in one step. Returns starts.
    fn finish(&self, tenant: &str, session_id: &str, run_id: &str, now: f64) -> PyResult<Vec<RunRef>> {
        let starts = self
            .0
            .finish(Address::new(tenant, session_id), run_id, now)
            .map_err(raised)?;
        Ok(starts.into_iter().map(RunRef::from).collect())
    }

    /// Cover all that the session accepted so far, or up to a sequence; raises the mark where reservations are open.
    #[pyo3(signature = (
        tenant, session_id, cancel, now, *, up_to=None, spare_open=false, spare_bootstrap=false,
    ))]
    fn cancel_session(
        &self,
        tenant: &str,
        session_id: &str,
        cancel: &Bound<'_, Cancel>,
        now: f64,
        up_to: Option<u64>,
        spare_open: bool,
        spare_bootstrap: bool,
    ) -> CancelResult {
        let scope = CancelScope {
            up_to: up_to.map(Sequence::new),
            spare_open,
            spare_bootstrap,
        };
        self.0
            .cancel_session(Address::new(tenant, session_id), &cancel.get().0, scope, now)
            .into()
    }

    /// Cover one run, if it is here; both lists empty means it is not known to the core.
    fn cancel_run(
        &self,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        cancel: &Bound<'_, Cancel>,
        now: f64,
    ) -> CancelResult {
        self.0
            .cancel_run(Address::new(tenant, session_id), run_id, &cancel.get().0, now)
            .into()
    }

    /// Cover all that the tenant's sessions accepted before this call and nothing accepted after it.
    fn cancel_tenant(&self, tenant: &str, cancel: &Bound<'_, Cancel>, now: f64) -> CancelResult {
        self.0.cancel_tenant(tenant, &cancel.get().0, now).into()
    }

    /// Take a queued or waiting run out because its start deadline passed: (taken, starts).
    fn expire(&self, tenant: &str, session_id: &str, run_id: &str, now: f64) -> (bool, Vec<RunRef>) {
        let (taken, starts) = self.0.expire(Address::new(tenant, session_id), run_id, now);
        (taken, runs(&starts))
    }

    /// Add a reason why the open run is not over; returns its number.
    fn hold(&self, tenant: &str, session_id: &str, run_id: &str, label: &str, now: f64) -> PyResult<u64> {
        self.0
            .hold(Address::new(tenant, session_id), run_id, label, now)
            .map_err(raised)
    }

    /// Release a hold; returns how many are left beside the turn itself. Releasing twice is harmless.
    fn release_hold(&self, tenant: &str, session_id: &str, run_id: &str, hold: u64) -> usize {
        self.0.release_hold(Address::new(tenant, session_id), run_id, hold)
    }

    /// From now on nothing starts: dispatch queues, finish pops nothing.
    fn drain(&self) {
        self.0.drain();
    }

    /// The session as it is, None if it has no work.
    fn snapshot(&self, tenant: &str, session_id: &str) -> Option<Snapshot> {
        self.0.snapshot(Address::new(tenant, session_id)).map(Snapshot)
    }

    /// Where a run stands, and how many uncancelled runs are ahead of it; None if the session has no such run.
    fn place<'py>(
        &self,
        py: Python<'py>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
    ) -> Option<(&Bound<'py, PyString>, usize)> {
        let (place, ahead) = self.0.place(Address::new(tenant, session_id), run_id)?;
        Some((literal::place_text(py, place), ahead))
    }

    /// How much a session has to do, whatever the length of its line.
    fn counts(&self, tenant: &str, session_id: &str) -> Counts {
        Counts(self.0.counts(Address::new(tenant, session_id)))
    }

    /// Counts over all sessions.
    fn stats(&self) -> Stats {
        Stats(self.0.stats())
    }
}
