//! Facts and acts: one frozen class each, so that a driver can match on them.

use pyo3::prelude::*;
use pyo3::pyclass_init::PyClassInitializer;
use pyo3::types::{PyString, PyTuple};
use turnkeeper_core as core;
use turnkeeper_core::{Decision, ErrandNews, Orphan, Status, StopWhy, Why};

use crate::cancel::Cancel;
use crate::literal;
use crate::name::{RunRef, TurnRef};

/// What goes into the commit of this step, in this order.
#[pyclass(frozen, subclass, module = "turnkeeper_core._core")]
pub(crate) struct Fact;

/// What is done once the commit of this step is submitted, in this order.
#[pyclass(frozen, subclass, module = "turnkeeper_core._core")]
pub(crate) struct Act;

type Text = Py<PyString>;

/// One class of effects: its base, its fields, the one that names its session, and what is matched by position.
macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident($base:ident, $by:ident) { $($field:ident: $type:ty),* } [$($match:literal),*])*) => {
        $(
            $(#[$doc])*
            #[pyclass(frozen, extends = $base, module = "turnkeeper_core._core")]
            pub(crate) struct $name {
                $(#[pyo3(get)] $field: $type,)*
            }

            #[pymethods]
            impl $name {
                #[classattr]
                fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
                    PyTuple::new(py, [$($match),*] as [&str; _])
                }

                #[getter]
                fn key(&self) -> (&str, &str) {
                    self.$by.key()
                }

                fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
                    let mut text = format!("<{}", stringify!($name));
                    for field in [$(stringify!($field)),*] {
                        text += &format!(" {field}={}", slf.getattr(field)?.repr()?);
                    }
                    Ok(text + ">")
                }
            }

            impl $name {
                fn into_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
                    let base = PyClassInitializer::from($base);
                    Ok(Py::new(py, base.add_subclass(self))?.into_any())
                }
            }
        )*
    };
}

effects! {
    /// A run, or one turn and what is below it, is cancelled, by a caller or by a deadline.
    Requested(Fact, run) { run: RunRef, turn: Option<TurnRef>, cut: Text, cancel: Option<Cancel> }
        ["run", "turn", "cut", "cancel"]
    /// The run's first turn begins.
    Opened(Fact, run) { run: RunRef } ["run"]
    /// The turn begins.
    Begun(Fact, turn) { turn: TurnRef } ["turn"]
    /// A child is admitted.
    Spawned(Fact, turn) { turn: TurnRef, on_parent_end: Text, is_async: bool, outside: bool, deadline: f64 }
        ["turn", "on_parent_end", "is_async"]
    /// The turn is over.
    Ended(Fact, turn) { turn: TurnRef, end: Text, cancel: Option<Cancel> } ["turn", "end", "cancel"]
    /// A child's result is in the step that was taken.
    Delivered(Fact, turn) { turn: TurnRef, parent: TurnRef } ["turn", "parent"]
    /// A child's result reaches nobody.
    Orphaned(Fact, turn) { turn: TurnRef, cause: Text } ["turn", "cause"]
    /// The run is over without a turn that began.
    Closed(Fact, run) { run: RunRef, why: Text, cancel: Option<Cancel>, into: Option<TurnRef> }
        ["run", "why", "cancel", "into"]
    /// Nothing holds the open run any more.
    RunOver(Fact, run) { run: RunRef, status: Text, cancel: Option<Cancel> } ["run", "status", "cancel"]
    /// After a restart: the turn gets its driver again.
    Resume(Act, turn) { turn: TurnRef, waits: Py<PyTuple>, children: Py<PyTuple> } ["turn", "waits", "children"]
    /// The turn has its permit and begins.
    Begin(Act, turn) { turn: TurnRef } ["turn"]
    /// The turn has its permit again.
    GoOn(Act, turn) { turn: TurnRef } ["turn"]
    /// The turn looks at its next fold point.
    Stop(Act, turn) { turn: TurnRef, why: Text, cancel: Option<Cancel> } ["turn", "why", "cancel"]
    /// A wait of the turn is over.
    Came(Act, turn) { turn: TurnRef, wait: u64, what: Text, child: Option<TurnRef>, end: Option<Text> }
        ["turn", "wait", "what", "child", "end"]
    /// The wait for a slot is over.
    Decided(Act, turn) { turn: TurnRef, wait: u64, child: Option<TurnRef>, refused: Option<Text> }
        ["turn", "wait", "child", "refused"]
    /// The turn was cut and held for its children, which have ended.
    Conclude(Act, turn) { turn: TurnRef } ["turn"]
    /// The driver of the turn stops at once and concludes.
    Abort(Act, turn) { turn: TurnRef, cut: Text, cancel: Option<Cancel> } ["turn", "cut", "cancel"]
    /// The driver of the turn is let go of.
    Detach(Act, turn) { turn: TurnRef } ["turn"]
}

/// News of an errand.
#[pyclass(frozen, extends = Act, module = "turnkeeper_core._core")]
pub(crate) struct Errand {
    errand: core::ErrandRef,
    what: &'static str,
}

#[pymethods]
impl Errand {
    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        PyTuple::new(py, ["errand", "what"])
    }

    #[getter]
    fn key(&self) -> (&str, &str) {
        let at = self.errand.address();
        (at.tenant, at.session)
    }

    #[getter]
    fn errand(&self) -> u64 {
        self.errand.id().get()
    }

    #[getter]
    fn what(&self) -> &str {
        self.what
    }

    fn __repr__(&self) -> String {
        format!("<Errand errand={} what={:?}>", self.errand.id().get(), self.what)
    }
}

fn cancel(cancel: Option<&std::sync::Arc<core::Cancel>>) -> Option<Cancel> {
    cancel.map(Cancel::from)
}

/// All effects of a step, in their order.
pub(crate) fn tuple(py: Python<'_>, effects: Vec<core::Effect>) -> PyResult<Bound<'_, PyTuple>> {
    if effects.is_empty() {
        return Ok(PyTuple::empty(py));
    }
    let all: PyResult<Vec<_>> = effects
        .into_iter()
        .map(|effect| match effect {
            core::Effect::Fact(it) => fact(py, it),
            core::Effect::Act(it) => act(py, it),
        })
        .collect();
    PyTuple::new(py, all?)
}

fn fact(py: Python<'_>, fact: core::Fact) -> PyResult<Py<PyAny>> {
    let text = |text: &str| PyString::intern(py, text).unbind();
    match fact {
        core::Fact::Requested { run, turn, cut } => Requested {
            run: RunRef(run),
            turn: turn.map(TurnRef),
            cancel: cancel(cut.cancel()),
            cut: literal::cut_text(py, &cut).clone().unbind(),
        }
        .into_py(py),
        core::Fact::Opened(run) => Opened { run: RunRef(run) }.into_py(py),
        core::Fact::Begun(turn) => Begun { turn: TurnRef(turn) }.into_py(py),
        core::Fact::Spawned {
            turn,
            on_parent_end,
            is_async,
            outside,
            deadline,
        } => Spawned {
            turn: TurnRef(turn),
            on_parent_end: literal::on_parent_end_text(py, on_parent_end).clone().unbind(),
            is_async,
            outside,
            deadline,
        }
        .into_py(py),
        core::Fact::Ended(turn, end) => Ended {
            turn: TurnRef(turn),
            end: literal::end_text(py, end.ending()).clone().unbind(),
            cancel: cancel(end.cancel()),
        }
        .into_py(py),
        core::Fact::Delivered { turn, parent } => Delivered {
            turn: TurnRef(turn),
            parent: TurnRef(parent),
        }
        .into_py(py),
        core::Fact::Orphaned(turn, cause) => Orphaned {
            turn: TurnRef(turn),
            cause: text(match cause {
                Orphan::ParentEnded => "parent_ended",
                Orphan::ParentCancelled => "parent_cancelled",
                Orphan::StepLimit => "step_limit",
            }),
        }
        .into_py(py),
        core::Fact::Closed(run, why) => closed(py, run, why),
        core::Fact::RunOver(run, status) => {
            let (status, by) = match &status {
                Status::Completed(stop) => ("completed", stop.as_ref()),
                Status::Cancelled(by) => ("cancelled", Some(by)),
                Status::Failed => ("failed", None),
            };
            RunOver {
                run: RunRef(run),
                status: text(status),
                cancel: cancel(by),
            }
            .into_py(py)
        }
    }
}

fn closed(py: Python<'_>, run: core::RunRef, why: Why) -> PyResult<Py<PyAny>> {
    let (text, by, into) = match why {
        Why::Cancelled(by) => ("cancelled", cancel(Some(&by)), None),
        Why::Folded(into) => ("folded", None, Some(TurnRef(into))),
        Why::Expired => ("expired", None, None),
        Why::Stranded => ("stranded", None, None),
    };
    Closed {
        run: RunRef(run),
        why: PyString::intern(py, text).unbind(),
        cancel: by,
        into,
    }
    .into_py(py)
}

fn act(py: Python<'_>, act: core::Act) -> PyResult<Py<PyAny>> {
    let text = |text: &str| PyString::intern(py, text).unbind();
    match act {
        core::Act::Begin(turn) => Begin { turn: TurnRef(turn) }.into_py(py),
        core::Act::GoOn(turn) => GoOn { turn: TurnRef(turn) }.into_py(py),
        core::Act::Conclude(turn) => Conclude { turn: TurnRef(turn) }.into_py(py),
        core::Act::Detach(turn) => Detach { turn: TurnRef(turn) }.into_py(py),
        core::Act::Resume { turn, waits, children } => Resume {
            turn: TurnRef(turn),
            waits: PyTuple::new(py, waits.into_iter().map(core::WaitId::get))?.unbind(),
            children: PyTuple::new(py, children.into_iter().map(|(child, wait)| (child.get(), wait.get())))?.unbind(),
        }
        .into_py(py),
        core::Act::Stop(turn, why) => {
            let (why, by) = match &why {
                StopWhy::Stop(by) => ("stop", Some(by)),
                StopWhy::ParentEnded => ("parent_ended", None),
            };
            Stop {
                turn: TurnRef(turn),
                why: text(why),
                cancel: cancel(by),
            }
            .into_py(py)
        }
        core::Act::Came(turn, wait, came) => {
            let (what, child, end) = match came {
                core::Came::Due => ("due", None, None),
                core::Came::In => ("in", None, None),
                core::Came::Ended(child, end) => ("ended", Some(TurnRef(child)), Some(end)),
            };
            Came {
                turn: TurnRef(turn),
                wait: wait.get(),
                what: text(what),
                child,
                end: end.map(|end| literal::end_text(py, end).clone().unbind()),
            }
            .into_py(py)
        }
        core::Act::Decided(turn, wait, decision) => {
            let (child, refused) = match decision {
                Decision::Admitted(child) => (Some(TurnRef(child)), None),
                Decision::SlotTimeout => (None, Some("slot_timeout")),
                Decision::Cancelled => (None, Some("cancelled")),
                Decision::ParentEnded => (None, Some("parent_ended")),
            };
            Decided {
                turn: TurnRef(turn),
                wait: wait.get(),
                child,
                refused: refused.map(text),
            }
            .into_py(py)
        }
        core::Act::Abort(turn, cut) => Abort {
            turn: TurnRef(turn),
            cancel: cancel(cut.cancel()),
            cut: literal::cut_text(py, &cut).clone().unbind(),
        }
        .into_py(py),
        core::Act::Errand(errand, news) => {
            let what = match news {
                ErrandNews::In => "in",
                ErrandNews::Busy => "busy",
                ErrandNews::Cut => "cut",
            };
            let base = PyClassInitializer::from(Act);
            Ok(Py::new(py, base.add_subclass(Errand { errand, what }))?.into_any())
        }
    }
}
