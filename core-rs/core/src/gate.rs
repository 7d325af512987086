//! Permits for running turns: so many per process, so many per tenant.
//!
//! Turns that were parked and go on come before all that have not begun (U-3). Within each of the two classes the waiters of
//! a tenant are served first come, first served, and tenants take turns. A release returns the grant it leads to as a value
//! (U-30): the waiter's session may have lost interest meanwhile, and its lock must not be taken here. Whoever is handed a
//! grant uses it or gives it back by releasing it.
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

/// Who asks for a permit; those that go on come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A turn that was parked.
    GoesOn,
    /// A turn that has not begun.
    Begins,
}

const CLASSES: usize = 2;

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

/// A tenant's waiters of one class.
#[derive(Debug, Default)]
struct Queue {
    waiters: BTreeMap<Ticket, Waiter>,
    /// The tenant's turn in the class's ring; it has one while it has waiters and is below its limit.
    turn: Option<u64>,
}

#[derive(Debug)]
struct Tenant {
    name: Arc<str>,
    hash: u64,
    in_use: usize,
    /// By class, in the order in which they are served.
    queues: [Queue; CLASSES],
}

type Ring = BTreeMap<u64, Arc<str>>;

impl Tenant {
    fn new(name: &str, hash: u64) -> Self {
        Self {
            name: Arc::from(name),
            hash,
            in_use: 0,
            queues: Default::default(),
        }
    }

    fn is_idle(&self) -> bool {
        self.in_use == 0 && self.queues.iter().all(|queue| queue.waiters.is_empty())
    }

    /// Takes its place in the rings, or leaves them, by whether it has waiters and is below its limit.
    fn settle(&mut self, limit: usize, next: &mut u64, rings: &mut [Ring; CLASSES]) {
        for (queue, ring) in self.queues.iter_mut().zip(rings) {
            let wants = !queue.waiters.is_empty() && self.in_use < limit;
            match queue.turn {
                None if wants => {
                    *next += 1;
                    queue.turn = Some(*next);
                    ring.insert(*next, Arc::clone(&self.name));
                }
                Some(turn) if !wants => {
                    queue.turn = None;
                    ring.remove(&turn);
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug)]
struct State {
    limit: usize,
    tenant_limit: usize,
    in_use: usize,
    waiting: usize,
    parked: usize,
    closed: bool,
    next: u64,
    hasher: HashState,
    tenants: HashTable<Tenant>,
    /// By class: whose turn is next.
    rings: [Ring; CLASSES],
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
            parked: 0,
            closed: false,
            next: 0,
            hasher: HashState::default(),
            tenants: HashTable::new(),
            rings: Default::default(),
        }))
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered(self.0.lock())
    }
}

impl Entered<'_> {
    /// Asks for a permit; `waiter` is kept, with a place, if there is none.
    pub(crate) fn ask(&mut self, tenant: &str, class: Class, waiter: impl FnOnce() -> Waiter) -> Asked {
        let State {
            limit,
            tenant_limit,
            in_use,
            waiting,
            closed,
            next,
            hasher,
            tenants,
            rings,
            ..
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
        entry.queues[class as usize].waiters.insert(ticket, waiter());
        *waiting += 1;
        entry.settle(*tenant_limit, next, rings);
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
            rings,
            ..
        } = &mut *self.0;
        let found = tenants.find_entry(hasher.hash_one(tenant), |entry| &*entry.name == tenant);
        let mut found = found.expect("a tenant stays while it has permits");
        let entry = found.get_mut();
        *in_use -= 1;
        entry.in_use -= 1;
        entry.settle(*tenant_limit, next, rings);
        if entry.is_idle() {
            found.remove();
        }
        self.grant()
    }

    /// Gives up a place. False: its grant is on the way, and whoever carries it will find nobody there.
    pub(crate) fn abandon(&mut self, tenant: &str, ticket: Ticket) -> bool {
        let State {
            tenant_limit,
            waiting,
            next,
            hasher,
            tenants,
            rings,
            ..
        } = &mut *self.0;
        let Ok(mut found) = tenants.find_entry(hasher.hash_one(tenant), |entry| &*entry.name == tenant) else {
            return false;
        };
        let entry = found.get_mut();
        let mut queues = entry.queues.iter_mut();
        if !queues.any(|queue| queue.waiters.remove(&ticket).is_some()) {
            return false;
        }
        *waiting -= 1;
        entry.settle(*tenant_limit, next, rings);
        if entry.is_idle() {
            found.remove();
        }
        true
    }

    /// Counts a turn that waits without a permit for something outside.
    pub(crate) fn park(&mut self) {
        self.0.parked += 1;
    }

    /// Counts it no more.
    pub(crate) fn unpark(&mut self) {
        self.0.parked -= 1;
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

    /// Parked turns.
    pub(crate) fn parked(&self) -> usize {
        self.0.parked
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
            rings,
            ..
        } = &mut *self.0;
        if *closed || *in_use >= *limit {
            return None;
        }
        let mut classes = rings.iter_mut().enumerate();
        let (class, name) = classes.find_map(|(class, ring)| Some((class, ring.pop_first()?.1)))?;
        let found = tenants.find_mut(hasher.hash_one(&*name), |entry| entry.name == name);
        let entry = found.expect("a tenant stays while it has waiters");
        let queue = &mut entry.queues[class];
        queue.turn = None;
        let (ticket, waiter) = queue.waiters.pop_first().expect("a turn in the ring means a waiter");
        *waiting -= 1;
        *in_use += 1;
        entry.in_use += 1;
        entry.settle(*tenant_limit, next, rings);
        Some(Grant { waiter, ticket })
    }
}
