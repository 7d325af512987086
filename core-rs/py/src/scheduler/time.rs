//! Time, phases and bounds.

use pyo3::prelude::*;

use super::{Scheduler, none, refused};
use crate::error::raised;
use crate::limits::Limits;
use crate::literal;
use crate::outcome::Step;

/// A session's tenant and id, and a step of it.
type KeyedStep = ((String, String), Step);

#[pymethods]
impl Scheduler {
    /// Enter a phase.
    fn drain(&self, py: Python<'_>, phase: &str, now: f64) -> PyResult<Step> {
        Step::new(py, self.0.drain(literal::phase(phase)?, now), none)
    }

    /// The earliest deadline.
    fn next_due(&self) -> Option<f64> {
        self.0.next_due()
    }

    /// Fire deadlines that have passed.
    #[pyo3(signature = (now, *, most=100))]
    fn due(&self, py: Python<'_>, now: f64, most: usize) -> PyResult<Vec<KeyedStep>> {
        let steps = self.0.due(now, most).map_err(raised)?;
        let steps = steps.into_iter().map(|((tenant, session), step)| {
            let key = (String::from(tenant), String::from(session));
            Ok((key, Step::new(py, step, none)?))
        });
        steps.collect()
    }

    /// Sequences and turns from here on have at least this epoch in their high bits.
    fn raise_sequence(&self, epoch: u64) -> PyResult<()> {
        self.0.raise_sequence(epoch).map_err(|error| refused(&error))
    }

    /// Bounds from here on.
    fn set_limits(&self, py: Python<'_>, limits: &Bound<'_, Limits>, now: f64) -> PyResult<Step> {
        Step::of(py, self.0.set_limits(&limits.get().0, now), none)
    }
}
