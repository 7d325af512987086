//! The core's small enums as the strings that Python knows them by.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use turnkeeper_core::{CancelMode, Delivery, Kind, Place, Wake};

const KINDS: [&str; 3] = ["prompt", "summary", "bootstrap"];
const DELIVERIES: [&str; 4] = ["queue", "steer", "reject", "replace"];
const MODES: [&str; 2] = ["abort", "stop"];

pub(crate) fn kind(text: &str) -> PyResult<Kind> {
    Ok(match text {
        "prompt" => Kind::Prompt,
        "summary" => Kind::Summary,
        "bootstrap" => Kind::Bootstrap,
        _ => return Err(refused("kind", text, &KINDS)),
    })
}

pub(crate) fn kind_text(py: Python<'_>, kind: Kind) -> &Bound<'_, PyString> {
    match kind {
        Kind::Prompt => intern!(py, "prompt"),
        Kind::Summary => intern!(py, "summary"),
        Kind::Bootstrap => intern!(py, "bootstrap"),
    }
}

pub(crate) fn delivery(text: &str) -> PyResult<Delivery> {
    Ok(match text {
        "queue" => Delivery::Queue,
        "steer" => Delivery::Steer,
        "reject" => Delivery::Reject,
        "replace" => Delivery::Replace,
        _ => return Err(refused("delivery", text, &DELIVERIES)),
    })
}

pub(crate) fn mode(text: &str) -> PyResult<CancelMode> {
    Ok(match text {
        "abort" => CancelMode::Abort,
        "stop" => CancelMode::Stop,
        _ => return Err(refused("mode", text, &MODES)),
    })
}

pub(crate) fn mode_text(py: Python<'_>, mode: CancelMode) -> &Bound<'_, PyString> {
    match mode {
        CancelMode::Abort => intern!(py, "abort"),
        CancelMode::Stop => intern!(py, "stop"),
    }
}

pub(crate) fn place_text(py: Python<'_>, place: Place) -> &Bound<'_, PyString> {
    match place {
        Place::Reserved => intern!(py, "reserved"),
        Place::Queued => intern!(py, "queued"),
        Place::Waiting => intern!(py, "waiting"),
        Place::Running => intern!(py, "running"),
        Place::Parked => intern!(py, "parked"),
        Place::Woken => intern!(py, "woken"),
    }
}

pub(crate) fn wake_text(py: Python<'_>, wake: Wake) -> &Bound<'_, PyString> {
    match wake {
        Wake::Running => intern!(py, "running"),
        Wake::Waiting => intern!(py, "waiting"),
        Wake::Closed => intern!(py, "closed"),
    }
}

fn refused(name: &str, text: &str, values: &[&str]) -> PyErr {
    PyValueError::new_err(format!("{name} must be one of {}, not {text:?}", values.join(", ")))
}
