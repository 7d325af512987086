//! The core's small enums as the strings that Python knows them by.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core::{
    CancelMode, Cut, Delivery, Ending, HoldKind, Kind, OnParentEnd, Phase, Place, Role, Standing, WaitImageKind,
};

/// The strings of an enum, both ways.
macro_rules! literals {
    ($($parse:ident, $text:ident: $type:ident { $($value:ident = $string:literal),* $(,)? })*) => {
        $(
            #[allow(dead_code, reason = "some go one way only")]
            pub(crate) fn $parse(text: &str) -> PyResult<$type> {
                match text {
                    $($string => Ok($type::$value),)*
                    _ => Err(refused(stringify!($parse), text, &[$($string),*])),
                }
            }

            #[allow(dead_code, reason = "some go one way only")]
            pub(crate) fn $text(py: Python<'_>, value: $type) -> &Bound<'_, PyString> {
                match value {
                    $($type::$value => intern!(py, $string),)*
                }
            }
        )*
    };
}

literals! {
    kind, kind_text: Kind { Prompt = "prompt", Summary = "summary", Bootstrap = "bootstrap" }
    delivery, delivery_text: Delivery { Queue = "queue", Steer = "steer", Reject = "reject", Replace = "replace" }
    mode, mode_text: CancelMode { Abort = "abort", Stop = "stop" }
    role, role_text: Role { Prompt = "prompt", Summary = "summary", Child = "child" }
    on_parent_end, on_parent_end_text: OnParentEnd { Wait = "wait", Stop = "stop", Continue = "continue" }
    phase, phase_text: Phase { Serving = "serving", Draining = "draining", Cut = "cut" }
    end, end_text: Ending {
        Answered = "answered", Stopped = "stopped", ParentEnded = "parent_ended", Failed = "failed",
        Cancelled = "cancelled", Deadline = "deadline", Parent = "parent",
    }
    wait_kind, wait_kind_text: WaitImageKind {
        Approval = "approval", Tool = "tool", Backoff = "backoff", Servers = "servers", Drain = "drain",
    }
    place, place_text: Place {
        Reserved = "reserved", Queued = "queued", Lent = "lent", Waiting = "waiting", Running = "running",
        Parked = "parked", Woken = "woken", Held = "held", Concluded = "concluded",
    }
    stand, stand_text: Standing { Waiting = "waiting", Running = "running", Parked = "parked", Woken = "woken" }
}

pub(crate) fn cut_text<'py>(py: Python<'py>, cut: &Cut) -> &'py Bound<'py, PyString> {
    match cut {
        Cut::Stop(_) => intern!(py, "stop"),
        Cut::Abort(_) => intern!(py, "abort"),
        Cut::Deadline => intern!(py, "deadline"),
        Cut::Parent => intern!(py, "parent"),
    }
}

pub(crate) fn hold_text(kind: HoldKind) -> &'static str {
    match kind {
        HoldKind::Reserved => "reserved",
        HoldKind::Line => "line",
        HoldKind::Gate => "gate",
        HoldKind::Turn => "turn",
        HoldKind::Approval => "approval",
        HoldKind::Tool => "tool",
        HoldKind::Backoff => "backoff",
        HoldKind::Servers => "servers",
        HoldKind::Run => "run",
        HoldKind::Drain => "drain",
        HoldKind::Lane => "lane",
        HoldKind::Slot => "slot",
        HoldKind::Child => "child",
        HoldKind::Children => "children",
        HoldKind::Guard => "guard",
        HoldKind::Cancel => "cancel",
        _ => "terminal",
    }
}

pub(crate) fn refused(name: &str, text: &str, values: &[&str]) -> PyErr {
    PyValueError::new_err(format!("{name} must be one of {}, not {text:?}", values.join(", ")))
}
