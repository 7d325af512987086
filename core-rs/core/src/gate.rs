//! Permits for running turns: so many per process, so many per tenant.
//!
//! Waiters of a tenant are served first come, first served; tenants take turns. A release returns the grant it leads to as a
//! value (U-30): the waiter's session may have lost interest meanwhile, and its lock must not be taken here. Whoever is
//! handed a grant uses it or gives it back by releasing it.
//!
//! The gate's lock is taken after a session's, never before. Between calls no waiter stands here who could have a permit.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

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

#[derive(Debug)]
struct Tenant {
    name: Arc<str>,
    hash: u64,
    in_use: usize,
    waiters: BTreeMap<Ticket, Waiter>,
    /// Its turn in the ring; it has one while it has waiters and is below its limit.
    turn: Option<u64>,
}

impl Tenant {
    fn new(name: &str, hash: u64) -> Self {
        Self {
            name: Arc::from(name),
            hash,
            in_use: 0,
            waiters: BTreeMap::new(),
            turn: None,
        }
    }
}

#[derive(Debug)]
struct State {
    limit: usize,
    tenant_limit: usize,
    in_use: usize,
    waiting: usize,
    closed: bool,
    next: u64,
    hasher: HashState,
    tenants: HashTable<Tenant>,
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
            hasher: HashState::default(),
            tenants: HashTable::new(),
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
            hasher,
            tenants,
            ring,
        } = &mut *self.0;
        if *closed {
            return Asked::Closed;
        }
        let hash = hasher.hash_one(tenant);
        let mut found = match tenants.entry(hash, |entry| &*entry.name == tenant, |entry| entry.hash) {
            Entry::Occupied(found) => found,
            Entry::Vacant(place) => place.insert(Tenant::new(tenant, hash)),
        };
        let entry = found.get_mut();
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
            ring.insert(*next, Arc::clone(&entry.name));
        }
        Asked::Waiting(ticket)
    }

    /// Gives a permit back, used or not, and grants it on.
    pub(crate) fn release(&mut self, tenant: &str) -> Option<Grant> {
        let State {
            tenant_limit,
            in_use,
            next,
            hasher,
            tenants,
            ring,
            ..
        } = &mut *self.0;
        let found = tenants.find_entry(hasher.hash_one(tenant), |entry| &*entry.name == tenant);
        let mut found = found.expect("a tenant stays while it has permits");
        let entry = found.get_mut();
        *in_use -= 1;
        entry.in_use -= 1;
        if entry.waiters.is_empty() {
            if entry.in_use == 0 {
                found.remove();
            }
        } else if entry.turn.is_none() && entry.in_use < *tenant_limit {
            *next += 1;
            entry.turn = Some(*next);
            ring.insert(*next, Arc::clone(&entry.name));
        }
        self.grant()
    }

    /// Gives up a place. False: its grant is on the way, and whoever carries it will find nobody there.
    pub(crate) fn abandon(&mut self, tenant: &str, ticket: Ticket) -> bool {
        let State {
            waiting,
            hasher,
            tenants,
            ring,
            ..
        } = &mut *self.0;
        let Ok(mut found) = tenants.find_entry(hasher.hash_one(tenant), |entry| &*entry.name == tenant) else {
            return false;
        };
        let entry = found.get_mut();
        if entry.waiters.remove(&ticket).is_none() {
            return false;
        }
        *waiting -= 1;
        if entry.waiters.is_empty() {
            if let Some(turn) = entry.turn.take() {
                ring.remove(&turn);
            }
            if entry.in_use == 0 {
                found.remove();
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
            hasher,
            tenants,
            ring,
        } = &mut *self.0;
        if *closed || *in_use >= *limit {
            return None;
        }
        let (_, name) = ring.pop_first()?;
        let found = tenants.find_mut(hasher.hash_one(&*name), |entry| entry.name == name);
        let entry = found.expect("a tenant stays while it has waiters");
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
