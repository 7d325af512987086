//! A step, and what the operations answer.

use pyo3::BoundObject;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};
use turnkeeper_core as core;

use crate::cancel::{Cancel, Covered, all_covered};
use crate::effect;
use crate::error::raised;
use crate::literal;
use crate::name::{RunRef, TurnRef, runs};

/// What one call led to.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Step {
    #[pyo3(get)]
    answer: Py<PyAny>,
    #[pyo3(get)]
    effects: Py<PyTuple>,
    #[pyo3(get)]
    wake_at: Option<f64>,
}

impl Step {
    /// A step of the core, its answer as `answer` makes it.
    pub(crate) fn new<'py, T, A>(py: Python<'py>, step: core::Step<T>, answer: impl FnOnce(T) -> A) -> PyResult<Self>
    where
        A: IntoPyObject<'py>,
        PyErr: From<A::Error>,
    {
        let answer = answer(step.answer).into_pyobject(py)?.into_any();
        Ok(Self {
            answer: answer.into_bound().unbind(),
            effects: effect::tuple(py, step.effects)?.unbind(),
            wake_at: step.wake_at,
        })
    }

    /// The same of one that may have been refused.
    pub(crate) fn of<'py, T, A>(py: Python<'py>, step: core::Answer<T>, answer: impl FnOnce(T) -> A) -> PyResult<Self>
    where
        A: IntoPyObject<'py>,
        PyErr: From<A::Error>,
    {
        Self::new(py, step.map_err(raised)?, answer)
    }
}

#[pymethods]
impl Step {
    #[classmethod]
    fn __class_getitem__(cls: &Bound<'_, PyType>, _item: &Bound<'_, PyAny>) -> Py<PyType> {
        cls.clone().unbind()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (answer, effects) = (self.answer.bind(py).repr()?, self.effects.bind(py).repr()?);
        Ok(format!("<Step {answer} {effects} wake_at={:?}>", self.wake_at))
    }
}

fn steered_run(steers: Option<&core::Steers>) -> Option<&str> {
    match steers {
        Some(core::Steers::Run(run)) => Some(run.as_str()),
        _ => None,
    }
}

fn steered_turn(steers: Option<&core::Steers>) -> Option<u64> {
    match steers {
        Some(core::Steers::Turn(turn)) => Some(turn.get()),
        _ => None,
    }
}

/// Receipt of ``accept``.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Accepted(pub(crate) core::Accepted);

#[pymethods]
impl Accepted {
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence.get()
    }

    #[getter]
    fn position(&self) -> usize {
        self.0.position
    }

    #[getter]
    fn steers(&self) -> Option<&str> {
        steered_run(self.0.steers.as_ref())
    }

    #[getter]
    fn steers_turn(&self) -> Option<u64> {
        steered_turn(self.0.steers.as_ref())
    }

    #[getter]
    fn replaced(&self) -> Vec<Covered> {
        all_covered(&self.0.replaced)
    }

    #[getter]
    fn starts(&self) -> Option<TurnRef> {
        self.0.starts.clone().map(TurnRef)
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// What became of a reservation.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Dispatched(pub(crate) core::Dispatched);

#[pymethods]
impl Dispatched {
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        if self.0.place.is_none() {
            intern!(py, "cancelled")
        } else {
            intern!(py, "queued")
        }
    }

    #[getter]
    fn place<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        self.0.place.map(|place| literal::place_text(py, place))
    }

    #[getter]
    fn position(&self) -> usize {
        self.0.position
    }

    #[getter]
    fn steers(&self) -> Option<&str> {
        steered_run(self.0.steers.as_ref())
    }

    #[getter]
    fn steers_turn(&self) -> Option<u64> {
        steered_turn(self.0.steers.as_ref())
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// A wait of one strand.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Waiting {
    #[pyo3(get)]
    id: u64,
    #[pyo3(get)]
    parked: bool,
}

impl From<core::Waiting> for Waiting {
    fn from(waiting: core::Waiting) -> Self {
        Self {
            id: waiting.id.get(),
            parked: waiting.parked,
        }
    }
}

#[pymethods]
impl Waiting {
    fn __repr__(&self) -> String {
        format!("<Waiting {} parked={}>", self.id, self.parked)
    }
}

/// A place in a provider's lane.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct LaneEntry {
    #[pyo3(get)]
    id: u64,
    #[pyo3(get)]
    is_in: bool,
    #[pyo3(get)]
    parked: bool,
}

impl From<core::LaneEntry> for LaneEntry {
    fn from(entry: core::LaneEntry) -> Self {
        Self {
            id: entry.id.get(),
            is_in: entry.is_in,
            parked: entry.parked,
        }
    }
}

#[pymethods]
impl LaneEntry {
    fn __repr__(&self) -> String {
        format!("<LaneEntry {} is_in={} parked={}>", self.id, self.is_in, self.parked)
    }
}

/// What a spawn led to.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Admission(pub(crate) core::Admission);

#[pymethods]
impl Admission {
    #[getter]
    fn child(&self) -> Option<TurnRef> {
        self.0.child.clone().map(TurnRef)
    }

    #[getter]
    fn wait(&self) -> Option<u64> {
        self.0.wait.map(core::WaitId::get)
    }

    #[getter]
    fn parked(&self) -> bool {
        self.0.parked
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// That an asynchronous child ended, and how.
#[pyclass(frozen, eq, module = "turnkeeper_core._core")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildResult {
    pub(crate) child: u64,
    pub(crate) end: core::Ending,
}

#[pymethods]
impl ChildResult {
    #[new]
    fn new(child: u64, end: &str) -> PyResult<Self> {
        let end = literal::end(end)?;
        Ok(Self { child, end })
    }

    #[getter]
    fn child(&self) -> u64 {
        self.child
    }

    #[getter]
    fn end<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        literal::end_text(py, self.end)
    }

    fn __repr__(&self) -> String {
        format!("<ChildResult {} {:?}>", self.child, self.end)
    }
}

/// What a turn finds at a fold point.
#[pyclass(frozen, module = "turnkeeper_core._core")]
#[derive(Clone)]
pub(crate) struct FoldPoint(pub(crate) core::FoldPoint);

#[pymethods]
impl FoldPoint {
    #[getter]
    fn steers(&self) -> Vec<RunRef> {
        runs(&self.0.steers)
    }

    #[getter]
    fn results(&self) -> Vec<ChildResult> {
        let results = self.0.results.iter().map(|result| ChildResult {
            child: result.child.id().get(),
            end: result.end,
        });
        results.collect()
    }

    #[getter]
    fn stop(&self) -> bool {
        self.0.stop.is_some()
    }

    #[getter]
    fn parent_ended(&self) -> bool {
        self.0.parent_ended
    }

    #[getter]
    fn leave(&self) -> bool {
        self.0.leave
    }

    #[getter]
    fn cancel(&self) -> Option<Cancel> {
        self.0.stop.as_ref().map(Cancel::from)
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// What a proposal led to.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Conclusion(pub(crate) core::Conclusion);

#[pymethods]
impl Conclusion {
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        match self.0 {
            core::Conclusion::Concluded(_) => intern!(py, "concluded"),
            core::Conclusion::GoesOn(_) => intern!(py, "goes_on"),
            core::Conclusion::Held => intern!(py, "held"),
            core::Conclusion::Leaves => intern!(py, "leaves"),
            core::Conclusion::Last => intern!(py, "last"),
        }
    }

    #[getter]
    fn end<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        match &self.0 {
            core::Conclusion::Concluded(end) => Some(literal::end_text(py, end.ending())),
            _ => None,
        }
    }

    #[getter]
    fn cancel(&self) -> Option<Cancel> {
        match &self.0 {
            core::Conclusion::Concluded(end) => end.cancel().map(Cancel::from),
            _ => None,
        }
    }

    #[getter]
    fn fold(&self) -> Option<FoldPoint> {
        match &self.0 {
            core::Conclusion::GoesOn(fold) => Some(FoldPoint(fold.clone())),
            _ => None,
        }
    }

    fn __repr__(&self) -> String {
        format!("<Conclusion {:?}>", self.0)
    }
}
