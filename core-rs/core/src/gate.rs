//! Permits for running turns: so many per process, so many per tenant.
//!
//! Waiters of a tenant are served first come, first served; tenants take turns. A release returns the grant it leads to as a
//! value (U-30): the waiter's session may have lost interest meanwhile, and its lock must not be taken here. Whoever is
//! handed a grant uses it or gives it back by releasing it.
//!
//! The gate's lock is taken after a session's, never before. Between calls no waiter stands here who could have a permit.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::id::SessionKey;
use crate::sync::{HashState, Mutex, MutexGuard};

/// A place at the gate; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The session that a place is kept for, and its hash, so that nobody computes it again.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) session: SessionKey,
    pub(crate) hash: u64,
}

/// A permit on its way to a waiter.
#[derive(Debug)]
#[must_use = "an unused grant is a permit lost"]
pub(crate) struct Grant {
    pub(crate) waiter: Waiter,
    pub(crate) ticket: Ticket,
}

/// What asking for a permit led to.
#[derive(Debug)]
pub(crate) enum Asked {
    Granted,
    Waiting(Ticket),
    /// Drained: nothing starts any more.
    Closed,
}

#[derive(Debug, Default)]
struct Tenant {
    in_use: usize,
    waiters: BTreeMap<Ticket, Waiter>,
    /// Its turn in the ring; it has one while it has waiters and is below its limit.
    turn: Option<u64>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    tenant_limit: usize,
    in_use: usize,
    waiting: usize,
    closed: bool,
    next: u64,
    tenants: HashMap<Arc<str>, Tenant, HashState>,
    ring: BTreeMap<u64, Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<State>);

/// The gate, entered: several steps as one.
#[derive(Debug)]
pub(crate) struct Entered<'a>(MutexGuard<'a, State>);

impl Gate {
    pub(crate) fn new(limit: usize, tenant_limit: usize) -> Self {
        Self(Mutex::new(State {
            limit,
            tenant_limit,
            in_use: 0,
            waiting: 0,
            closed: false,
            next: 0,
            tenants: HashMap::default(),
            ring: BTreeMap::new(),
        }))
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered(self.0.lock())
    }
}

impl Entered<'_> {
    /// Asks for a permit; `waiter` is kept, with a place, if there is none.
    pub(crate) fn ask(&mut self, tenant: &str, waiter: impl FnOnce() -> Waiter) -> Asked {
        let State {
            limit,
            tenant_limit,
            in_use,
            waiting,
            closed,
            next,
            tenants,
            ring,
        } = &mut *self.0;
        if *closed {
            return Asked::Closed;
        }
        if !tenants.contains_key(tenant) {
            tenants.insert(Arc::from(tenant), Tenant::default());
        }
        let (name, entry) = tenants
            .get_key_value_mut(tenant)
            .expect("it is there, or was just put in");
        // Nobody is overtaken: a waiter of this tenant means that there is no permit for it.
        if *in_use < *limit && entry.in_use < *tenant_limit {
            *in_use += 1;
            entry.in_use += 1;
            return Asked::Granted;
        }
        *next += 1;
        let ticket = Ticket(*next);
        entry.waiters.insert(ticket, waiter());
        *waiting += 1;
        if entry.in_use < *tenant_limit && entry.turn.is_none() {
            entry.turn = Some(*next);
            ring.insert(*next, Arc::clone(name));
        }
        Asked::Waiting(ticket)
    }

    /// Gives a permit back, used or not, and grants it on.
    pub(crate) fn release(&mut self, tenant: &str) -> Option<Grant> {
        let State {
            tenant_limit,
            in_use,
            next,
            tenants,
            ring,
            ..
        } = &mut *self.0;
        let (name, entry) = tenants
            .get_key_value_mut(tenant)
            .expect("a tenant stays while it has permits");
        *in_use -= 1;
        entry.in_use -= 1;
        if entry.turn.is_none() && !entry.waiters.is_empty() && entry.in_use < *tenant_limit {
            *next += 1;
            entry.turn = Some(*next);
            ring.insert(*next, Arc::clone(name));
        }
        if entry.in_use == 0 && entry.waiters.is_empty() {
            tenants.remove(tenant);
        }
        self.grant()
    }

    /// Gives up a place. False: its grant is on the way, and whoever carries it will find nobody there.
    pub(crate) fn abandon(&mut self, tenant: &str, ticket: Ticket) -> bool {
        let State {
            waiting, tenants, ring, ..
        } = &mut *self.0;
        let Some(entry) = tenants.get_mut(tenant) else {
            return false;
        };
        if entry.waiters.remove(&ticket).is_none() {
            return false;
        }
        *waiting -= 1;
        if entry.waiters.is_empty() {
            if let Some(turn) = entry.turn.take() {
                ring.remove(&turn);
            }
            if entry.in_use == 0 {
                tenants.remove(tenant);
            }
        }
        true
    }

    /// From now on nothing is granted.
    pub(crate) fn close(&mut self) {
        self.0.closed = true;
    }

    /// Permits in use, those on their way included.
    pub(crate) fn in_use(&self) -> usize {
        self.0.in_use
    }

    /// Places kept.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting
    }

    fn grant(&mut self) -> Option<Grant> {
        let State {
            limit,
            tenant_limit,
            in_use,
            waiting,
            closed,
            next,
            tenants,
            ring,
        } = &mut *self.0;
        if *closed || *in_use >= *limit {
            return None;
        }
        let (_, name) = ring.pop_first()?;
        let entry = tenants.get_mut(&name).expect("a tenant stays while it has waiters");
        let (ticket, waiter) = entry.waiters.pop_first().expect("a turn in the ring means a waiter");
        *waiting -= 1;
        *in_use += 1;
        entry.in_use += 1;
        entry.turn = None;
        if !entry.waiters.is_empty() && entry.in_use < *tenant_limit {
            *next += 1;
            entry.turn = Some(*next);
            ring.insert(*next, name);
        }
        Some(Grant { waiter, ticket })
    }
}
