//! What all sessions share, each part under a lock of its own that is a leaf: never two of them at once.

use crate::deadline::Deadlines;
use crate::error::Error;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::limits::{Limits, Settings};
use crate::waits_for::WaitsFor;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    pub(crate) ledger: Ledger,
    pub(crate) deadlines: Deadlines,
    pub(crate) waits_for: WaitsFor,
    pub(crate) settings: Settings,
}

impl Shared {
    pub(crate) fn new(limits: &Limits, epoch: u64, last_sequence: u64) -> Result<Self, Error> {
        Ok(Self {
            gate: Gate::new(limits),
            ledger: Ledger::new(epoch, last_sequence, limits)?,
            deadlines: Deadlines::default(),
            waits_for: WaitsFor::default(),
            settings: Settings::new(limits),
        })
    }
}
