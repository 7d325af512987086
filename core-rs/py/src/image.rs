//! A session as it was left, piece by piece.

use pyo3::prelude::*;
use turnkeeper_core as core;
use turnkeeper_core::{Sequence, Steers, TurnId};

use crate::cancel::{Cancel, cut as cut_of, of};
use crate::literal;
use crate::outcome::ChildResult;

/// A run that is not over.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct RunImage(core::RunImage);

#[pymethods]
#[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
impl RunImage {
    #[new]
    #[pyo3(signature = (
        run_id, sequence, *, kind="prompt", opened=false, steers=None, steers_turn=None, cut=None, cancel=None, size=0,
        admitted=0, start_deadline=None, run_deadline=None, run_timeout=None,
    ))]
    fn new(
        run_id: &str,
        sequence: u64,
        kind: &str,
        opened: bool,
        steers: Option<&str>,
        steers_turn: Option<u64>,
        cut: Option<&str>,
        cancel: Option<&Bound<'_, Cancel>>,
        size: usize,
        admitted: usize,
        start_deadline: Option<f64>,
        run_deadline: Option<f64>,
        run_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let turn = steers_turn.map(|turn| Steers::Turn(TurnId::new(turn)));
        Ok(Self(core::RunImage {
            run_id: run_id.into(),
            sequence: Sequence::new(sequence),
            kind: literal::kind(kind)?,
            opened,
            steers: turn.or_else(|| steers.map(|run| Steers::Run(run.into()))),
            cut: cut_of(cut, cancel)?,
            size,
            admitted,
            start_deadline,
            run_deadline,
            run_timeout,
        }))
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// A call under way that waits for somebody outside.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct WaitImage(core::WaitImage);

#[pymethods]
impl WaitImage {
    #[new]
    #[pyo3(signature = (kind, *, label="", deadline=None))]
    fn new(kind: &str, label: &str, deadline: Option<f64>) -> PyResult<Self> {
        Ok(Self(core::WaitImage {
            kind: literal::wait_kind(kind)?,
            label: label.into(),
            deadline,
        }))
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// A turn that had begun, or was spawned, and has not ended.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct TurnImage(core::TurnImage);

#[pymethods]
#[expect(
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    clippy::fn_params_excessive_bools,
    reason = "keyword arguments in Python"
)]
impl TurnImage {
    #[new]
    #[pyo3(signature = (
        turn_id, run_id, sequence, *, role="prompt", begun=true, parent=None, depth=0, on_parent_end="wait",
        is_async=false, outside=false, holds=true, parent_ended=false, cut=None, cancel=None, deadline=None,
        inbox=Vec::new(), strands=1, waits=Vec::new(),
    ), text_signature = "(turn_id, run_id, sequence, *, role='prompt', begun=True, parent=None, depth=0, on_parent_end='wait', is_async=False, outside=False, holds=True, parent_ended=False, cut=None, cancel=None, deadline=None, inbox=(), strands=1, waits=())")]
    fn new(
        turn_id: u64,
        run_id: &str,
        sequence: u64,
        role: &str,
        begun: bool,
        parent: Option<u64>,
        depth: u8,
        on_parent_end: &str,
        is_async: bool,
        outside: bool,
        holds: bool,
        parent_ended: bool,
        cut: Option<&str>,
        cancel: Option<&Bound<'_, Cancel>>,
        deadline: Option<f64>,
        inbox: Vec<Bound<'_, ChildResult>>,
        strands: usize,
        waits: Vec<Bound<'_, WaitImage>>,
    ) -> PyResult<Self> {
        let inbox = inbox.iter().map(|result| core::ResultImage {
            child: TurnId::new(result.get().child),
            end: result.get().end,
        });
        Ok(Self(core::TurnImage {
            id: TurnId::new(turn_id),
            run_id: run_id.into(),
            sequence: Sequence::new(sequence),
            role: literal::role(role)?,
            begun,
            parent: parent.map(TurnId::new),
            depth,
            on_parent_end: literal::on_parent_end(on_parent_end)?,
            is_async,
            outside,
            holds,
            parent_ended,
            cut: cut_of(cut, cancel)?,
            deadline,
            inbox: inbox.collect(),
            strands,
            waits: waits.iter().map(|wait| wait.get().0.clone()).collect(),
        }))
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}

/// A session as it was left.
#[pyclass(frozen, module = "turnkeeper_core._core")]
pub(crate) struct Image(pub(crate) core::Image);

#[pymethods]
#[expect(clippy::needless_pass_by_value, reason = "keyword arguments in Python")]
impl Image {
    #[new]
    #[pyo3(signature = (runs=Vec::new(), turns=Vec::new(), *, closing=None), text_signature = "(runs=(), turns=(), *, closing=None)")]
    fn new(
        runs: Vec<Bound<'_, RunImage>>,
        turns: Vec<Bound<'_, TurnImage>>,
        closing: Option<&Bound<'_, Cancel>>,
    ) -> Self {
        Self(core::Image {
            runs: runs.iter().map(|run| run.get().0.clone()).collect(),
            turns: turns.iter().map(|turn| turn.get().0.clone()).collect(),
            closing: of(closing),
        })
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.0)
    }
}
