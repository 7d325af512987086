//! Cancels, and the deletion of a session.

use pyo3::prelude::*;
use turnkeeper_core::{Address, CancelScope, Sequence, TurnId};

use super::{Scheduler, none, shared};
use crate::cancel::{Cancel, Cancelled};
use crate::outcome::Step;

#[pymethods]
impl Scheduler {
    /// Cancel all that the session accepted so far, or up to a sequence.
    #[pyo3(signature = (tenant, session_id, cancel, now, *, up_to=None))]
    fn cancel_session(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        cancel: &Bound<'_, Cancel>,
        now: f64,
        up_to: Option<u64>,
    ) -> PyResult<Step> {
        let up_to = up_to.map(|up_to| CancelScope::UpTo(Sequence::new(up_to)));
        let scope = up_to.unwrap_or(CancelScope::Session);
        self.cancel(py, tenant, session_id, scope, cancel, now)
    }

    /// The same, but for the open run and for runs of kind bootstrap.
    #[pyo3(signature = (tenant, session_id, cancel, now, *, up_to=None))]
    fn clear_queue(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        cancel: &Bound<'_, Cancel>,
        now: f64,
        up_to: Option<u64>,
    ) -> PyResult<Step> {
        let scope = CancelScope::Clear(up_to.map(Sequence::new));
        self.cancel(py, tenant, session_id, scope, cancel, now)
    }

    /// Cancel one run, and what is left of it after its end.
    fn cancel_run(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        run_id: &str,
        cancel: &Bound<'_, Cancel>,
        now: f64,
    ) -> PyResult<Step> {
        self.cancel(py, tenant, session_id, CancelScope::Run(run_id), cancel, now)
    }

    /// Cancel a turn and all below it.
    fn cancel_subtree(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        turn: u64,
        cancel: &Bound<'_, Cancel>,
        now: f64,
    ) -> PyResult<Step> {
        let scope = CancelScope::Subtree(TurnId::new(turn));
        self.cancel(py, tenant, session_id, scope, cancel, now)
    }

    /// Cancel all that the tenant's sessions accepted before this call and nothing accepted after it.
    fn cancel_tenant(&self, py: Python<'_>, tenant: &str, cancel: &Bound<'_, Cancel>, now: f64) -> PyResult<Step> {
        Step::of(py, self.0.cancel_tenant(tenant, &shared(cancel), now), Cancelled)
    }

    /// Take nothing in any more, cancel all that is there.
    #[pyo3(signature = (tenant, session_id, cancel, now, *, force))]
    fn close_session(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        cancel: &Bound<'_, Cancel>,
        now: f64,
        force: bool,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.close_session(at, force, &shared(cancel), now), Cancelled)
    }

    /// After the erase: the session is as if it had never been.
    fn forget_session(&self, py: Python<'_>, tenant: &str, session_id: &str, now: f64) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.forget_session(at, now), none)
    }
}

impl Scheduler {
    fn cancel(
        &self,
        py: Python<'_>,
        tenant: &str,
        session_id: &str,
        scope: CancelScope<'_>,
        cancel: &Bound<'_, Cancel>,
        now: f64,
    ) -> PyResult<Step> {
        let at = Address::new(tenant, session_id);
        Step::of(py, self.0.cancel(at, scope, &shared(cancel), now), Cancelled)
    }
}
