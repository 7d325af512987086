//! Names: of a session, of a run and its accept sequence, of a turn and its waits.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Stands in a stamp's high bits, so that the stamps of a later process are above those of an earlier one.
pub(crate) const EPOCH_SHIFT: u32 = 32;

/// Accept sequences stay below this, so that a double holds them exactly.
pub const SEQUENCE_END: u64 = 1 << 53;

/// The accept sequence: strictly increasing over all sessions of a scheduler; its order is the order of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// A sequence that was stamped earlier, by this process or one before it.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The caller's name of a run, unique within its session while the run is here. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(Arc<str>);

impl RunId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RunId {
    fn from(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

impl std::borrow::Borrow<str> for RunId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, out)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A turn's number: unique over all sessions, and over restarts, because an epoch stands in its high bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnId(u64);

impl TurnId {
    /// The number of a turn that was minted earlier, by this process or one before it.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A wait, or a call from outside, of one turn; or an errand. Never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId(u64);

impl WaitId {
    /// A number that a step answered with.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Where a call goes: a session of a tenant, borrowed for the length of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// Owner of the session; sessions of two tenants may have the same id.
    pub tenant: &'a str,
    /// The session's id.
    pub session: &'a str,
}

impl<'a> Address<'a> {
    /// The session `session` of `tenant`.
    #[must_use]
    pub const fn new(tenant: &'a str, session: &'a str) -> Self {
        Self { tenant, session }
    }
}

impl Hash for Address<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.session.hash(state);
        self.tenant.hash(state);
    }
}

/// Names up to here are put together without memory of their own.
const SHORT: usize = 64;

/// A session's full name, kept: one allocation for both parts, because every busy session has one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey {
    text: Arc<str>,
    tenant_len: usize,
}

impl SessionKey {
    pub(crate) fn new(address: Address<'_>) -> Self {
        let (tenant, session) = (address.tenant.as_bytes(), address.session.as_bytes());
        let (middle, end) = (tenant.len(), tenant.len() + session.len());
        let mut short = [0; SHORT];
        let text = if let Some(room) = short.get_mut(..end) {
            room[..middle].copy_from_slice(tenant);
            room[middle..].copy_from_slice(session);
            std::str::from_utf8(room).map(Arc::from).ok()
        } else {
            None
        };
        Self {
            text: text.unwrap_or_else(|| Arc::from([address.tenant, address.session].concat())),
            tenant_len: middle,
        }
    }

    pub(crate) fn address(&self) -> Address<'_> {
        let (tenant, session) = self.text.split_at(self.tenant_len);
        Address { tenant, session }
    }

    pub(crate) fn tenant(&self) -> &str {
        self.address().tenant
    }

    pub(crate) fn names(&self, address: Address<'_>) -> bool {
        self.address() == address
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(out)
    }
}
