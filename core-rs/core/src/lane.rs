//! Permits of one lane: so many at once, so many per tenant, and in a provider's lane so many starts per time.
//!
//! There are two classes of waiters; within each, those of a tenant are served first come, first served, and tenants take
//! turns. Between calls no waiter stands here who could have a permit, unless the lane has a pace: then nobody passes anybody
//! who waits in its class or before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::gate::{Ticket, Waiter};
use crate::limits::Pace;

/// Who asks for a permit; the first come before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A turn that was parked; in a provider's lane, any turn.
    GoesOn,
    /// A turn that has not begun; in a provider's lane, an errand.
    Begins,
}

const CLASSES: usize = 2;

/// Tenants that a lane remembers though they have nothing in it: who comes and goes costs no memory each time.
const KEPT: usize = 32;

/// A tenant, and the hash of its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) text: &'a str,
    pub(crate) hash: u64,
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

/// Whose turn is next in a class: turn, tenant's name and its hash.
type Ring = BTreeMap<u64, (Arc<str>, u64)>;

impl Tenant {
    fn new(name: Name<'_>) -> Self {
        Self {
            name: Arc::from(name.text),
            hash: name.hash,
            in_use: 0,
            queues: Default::default(),
        }
    }

    fn is_idle(&self) -> bool {
        self.in_use == 0 && self.queues.iter().all(|queue| queue.waiters.is_empty())
    }

    /// Its first place.
    fn first(&self) -> Option<Ticket> {
        let firsts = self.queues.iter().filter_map(|queue| queue.waiters.first_key_value());
        firsts.map(|(ticket, _)| *ticket).min()
    }

    fn waits(&self, class: Class) -> bool {
        self.queues[..=class as usize]
            .iter()
            .any(|queue| !queue.waiters.is_empty())
    }

    /// Takes its place in the rings, or leaves them, by whether it has waiters and is below its limit.
    fn settle(&mut self, limit: usize, next: &mut u64, rings: &mut [Ring; CLASSES]) {
        for (queue, ring) in self.queues.iter_mut().zip(rings) {
            let wants = !queue.waiters.is_empty() && self.in_use < limit;
            match queue.turn {
                None if wants => {
                    *next += 1;
                    queue.turn = Some(*next);
                    ring.insert(*next, (Arc::clone(&self.name), self.hash));
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

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    limit: usize,
    tenant_limit: usize,
    pace: Option<Pace>,
    /// Its own bound of places.
    waiters: Option<usize>,
    in_use: usize,
    /// Places kept, by class.
    waiting: [usize; CLASSES],
    next: u64,
    tenants: HashTable<Tenant>,
    rings: [Ring; CLASSES],
    /// The latest starts, as many as the pace allows at once.
    starts: VecDeque<f64>,
}

impl Lane {
    pub(crate) fn new(limit: usize, tenant_limit: usize, pace: Option<Pace>) -> Self {
        Self {
            limit,
            tenant_limit,
            pace,
            waiters: None,
            in_use: 0,
            waiting: [0; CLASSES],
            next: 0,
            tenants: HashTable::new(),
            rings: Default::default(),
            starts: VecDeque::new(),
        }
    }

    /// Takes a permit, if one is free and nobody stands before who asks.
    pub(crate) fn take(&mut self, tenant: Name<'_>, class: Class, now: f64) -> bool {
        if self.in_use >= self.limit || self.is_paced(now) {
            return false;
        }
        if self.pace.is_some() && self.waiting[..=class as usize].iter().any(|count| *count > 0) {
            return false;
        }
        let mut found = match self
            .tenants
            .entry(tenant.hash, |it| &*it.name == tenant.text, |it| it.hash)
        {
            Entry::Occupied(found) => found,
            Entry::Vacant(_) if self.tenant_limit == 0 => return false,
            Entry::Vacant(place) => place.insert(Tenant::new(tenant)),
        };
        let entry = found.get_mut();
        if entry.in_use >= self.tenant_limit || entry.waits(class) {
            return false;
        }
        self.in_use += 1;
        entry.in_use += 1;
        entry.settle(self.tenant_limit, &mut self.next, &mut self.rings);
        self.note_start(now);
        true
    }

    /// Keeps a place for who could not take a permit.
    pub(crate) fn queue(&mut self, tenant: Name<'_>, class: Class, ticket: Ticket, waiter: Waiter) {
        let entry = self
            .tenants
            .entry(tenant.hash, |it| &*it.name == tenant.text, |it| it.hash)
            .or_insert_with(|| Tenant::new(tenant))
            .into_mut();
        entry.queues[class as usize].waiters.insert(ticket, waiter);
        entry.settle(self.tenant_limit, &mut self.next, &mut self.rings);
        self.waiting[class as usize] += 1;
    }

    /// Gives a permit back. One that was not used is no start.
    pub(crate) fn give(&mut self, tenant: Name<'_>, unused: bool) {
        let is_crowded = self.tenants.len() > KEPT;
        let found = self.tenants.find_entry(tenant.hash, |it| &*it.name == tenant.text);
        let mut found = found.expect("a tenant stays while it has permits");
        let entry = found.get_mut();
        self.in_use -= 1;
        entry.in_use -= 1;
        entry.settle(self.tenant_limit, &mut self.next, &mut self.rings);
        if is_crowded && entry.is_idle() {
            found.remove();
        }
        if unused {
            self.starts.pop_back();
        }
    }

    /// Gives up a place. False: its grant is on the way, and whoever carries it will find nobody there.
    pub(crate) fn abandon(&mut self, tenant: Name<'_>, ticket: Ticket) -> bool {
        let is_crowded = self.tenants.len() > KEPT;
        let Ok(mut found) = self.tenants.find_entry(tenant.hash, |it| &*it.name == tenant.text) else {
            return false;
        };
        let entry = found.get_mut();
        let mut queues = entry.queues.iter_mut();
        let Some(class) = queues.position(|queue| queue.waiters.remove(&ticket).is_some()) else {
            return false;
        };
        self.waiting[class] -= 1;
        entry.settle(self.tenant_limit, &mut self.next, &mut self.rings);
        if is_crowded && entry.is_idle() {
            found.remove();
        }
        true
    }

    /// Takes the next waiter who may have a permit out of the queue, with it.
    pub(crate) fn grant(&mut self, now: f64) -> Option<(Ticket, Waiter)> {
        if self.in_use >= self.limit || self.is_paced(now) {
            return None;
        }
        let mut classes = self.rings.iter_mut().enumerate();
        let (class, (name, hash)) = classes.find_map(|(class, ring)| Some((class, ring.pop_first()?.1)))?;
        let found = self.tenants.find_mut(hash, |it| it.name == name);
        let entry = found.expect("a tenant stays while it has waiters");
        let queue = &mut entry.queues[class];
        queue.turn = None;
        let granted = queue.waiters.pop_first().expect("a turn in the ring means a waiter");
        self.waiting[class] -= 1;
        self.in_use += 1;
        entry.in_use += 1;
        entry.settle(self.tenant_limit, &mut self.next, &mut self.rings);
        self.note_start(now);
        Some(granted)
    }

    /// When somebody may be granted a permit whom only the pace keeps from it now.
    pub(crate) fn next_start(&self) -> Option<f64> {
        let pace = self.pace.filter(|pace| self.in_use < self.limit && pace.starts > 0)?;
        if self.waiting == [0; CLASSES] {
            return None;
        }
        Some(self.starts.front().map_or(f64::NEG_INFINITY, |first| {
            if self.starts.len() < pace.starts {
                f64::NEG_INFINITY
            } else {
                first + pace.per
            }
        }))
    }

    pub(crate) fn set_limits(&mut self, limit: usize, tenant_limit: usize, pace: Option<Pace>) {
        (self.limit, self.tenant_limit, self.pace) = (limit, tenant_limit, pace);
        let most = pace.map_or(0, |pace| pace.starts);
        while self.starts.len() > most {
            self.starts.pop_front();
        }
        let mut tenants: Vec<_> = self.tenants.iter_mut().collect();
        tenants.sort_by_key(|tenant| tenant.first());
        for tenant in tenants {
            tenant.settle(tenant_limit, &mut self.next, &mut self.rings);
        }
    }

    pub(crate) fn set_waiters(&mut self, waiters: Option<usize>) {
        self.waiters = waiters;
    }

    pub(crate) fn waiters(&self) -> Option<usize> {
        self.waiters
    }

    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Places kept for classes up to this one.
    pub(crate) fn waiting(&self, class: Class) -> usize {
        self.waiting[..=class as usize].iter().sum()
    }

    fn is_paced(&self, now: f64) -> bool {
        self.pace.is_some_and(|pace| {
            let is_full = self.starts.len() >= pace.starts;
            is_full && self.starts.front().is_none_or(|first| first + pace.per > now)
        })
    }

    fn note_start(&mut self, now: f64) {
        if let Some(pace) = self.pace {
            self.starts.push_back(now);
            if self.starts.len() > pace.starts {
                self.starts.pop_front();
            }
        }
    }
}
