//! All permits: of floor turns, of children by depth, of calls to providers; and the errands, which have no turn.
//!
//! A release returns the grant that it leads to as a value (U-30): the waiter's session may have lost interest meanwhile, and
//! its lock must not be taken here. Whoever is handed a grant uses it or gives it back. The gate's lock is a leaf.

mod errands;

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::error::Error;
use crate::id::{SessionKey, TurnId, WaitId};
use crate::lane::{Lane, Name};
use crate::limits::Limits;
use crate::sync::{HashState, Mutex, MutexGuard};

use errands::Errand;

pub(crate) use crate::lane::Class;

/// A place at the gate; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// One of the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneKey {
    Floor,
    Depth(u8),
    Provider(usize),
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A turn, for its permit.
    Turn(TurnId),
    /// A turn's strand, for a provider's slot.
    Wait(TurnId, WaitId),
    /// An errand, for the same.
    Errand(WaitId),
}

/// The session that a place is kept for, and its hash, so that nobody computes it again.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) session: SessionKey,
    pub(crate) hash: u64,
    pub(crate) who: Who,
}

/// The same, of who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) session: &'a SessionKey,
    pub(crate) hash: u64,
    pub(crate) who: Who,
}

impl Asker<'_> {
    fn to_waiter(self) -> Waiter {
        Waiter {
            session: self.session.clone(),
            hash: self.hash,
            who: self.who,
        }
    }
}

/// A permit on its way to a waiter.
#[derive(Debug)]
#[must_use = "an unused grant is a permit lost"]
pub(crate) struct Granted {
    pub(crate) lane: LaneKey,
    pub(crate) waiter: Waiter,
    pub(crate) ticket: Ticket,
}

/// What asking for a permit led to.
#[derive(Debug)]
pub(crate) enum Asked {
    Granted,
    Waiting(Ticket),
}

#[derive(Debug)]
struct State {
    closed: bool,
    ticket: u64,
    errand: u64,
    hasher: HashState,
    floor: Lane,
    depths: Vec<Lane>,
    providers: Vec<Lane>,
    names: HashMap<Arc<str>, usize, HashState>,
    errands: BTreeMap<WaitId, Errand>,
    /// Live children, by tenant and in all.
    children_of: HashMap<Arc<str>, usize, HashState>,
    children: usize,
    child_limit: usize,
    child_tenant_limit: usize,
    /// Running children of one depth, and those of one tenant.
    running_children: (usize, usize),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<State>);

/// The gate, entered: several steps as one.
#[derive(Debug)]
pub(crate) struct Entered<'a>(MutexGuard<'a, State>);

impl Gate {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut state = State {
            closed: false,
            ticket: 0,
            errand: 0,
            hasher: HashState::default(),
            floor: Lane::new(0, 0, None),
            depths: Vec::new(),
            providers: Vec::new(),
            names: HashMap::default(),
            errands: BTreeMap::new(),
            children_of: HashMap::default(),
            children: 0,
            child_limit: 0,
            child_tenant_limit: 0,
            running_children: (0, 0),
        };
        state.set_limits(limits);
        Self(Mutex::new(state))
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered(self.0.lock())
    }
}

impl State {
    fn set_limits(&mut self, limits: &Limits) {
        self.floor
            .set_limits(limits.running_turns, limits.running_turns_per_tenant, None);
        self.running_children = (limits.running_children, limits.running_children_per_tenant);
        for lane in &mut self.depths {
            lane.set_limits(self.running_children.0, self.running_children.1, None);
        }
        self.ensure_depth(limits.depth);
        for lane in &limits.lanes {
            let at = self.names.get(&*lane.name).copied().unwrap_or_else(|| {
                self.names.insert(Arc::from(&*lane.name), self.providers.len());
                self.providers.push(Lane::new(0, 0, None));
                self.providers.len() - 1
            });
            let limit = lane.limit.unwrap_or(usize::MAX);
            self.providers[at].set_limits(limit, limit, lane.pace);
            self.providers[at].set_waiters(lane.waiters);
        }
        (self.child_limit, self.child_tenant_limit) = (limits.children, limits.children_per_tenant);
    }

    /// Makes the lanes of all depths up to this one.
    fn ensure_depth(&mut self, depth: u8) {
        let (limit, tenant_limit) = self.running_children;
        while self.depths.len() < usize::from(depth) {
            self.depths.push(Lane::new(limit, tenant_limit, None));
        }
    }

    fn lane(&mut self, key: LaneKey) -> &mut Lane {
        match key {
            LaneKey::Floor => &mut self.floor,
            LaneKey::Depth(depth) => &mut self.depths[usize::from(depth) - 1],
            LaneKey::Provider(number) => &mut self.providers[number],
        }
    }

    fn grant(&mut self, key: LaneKey, now: f64) -> Option<Granted> {
        if self.closed {
            return None;
        }
        let (ticket, waiter) = self.lane(key).grant(now)?;
        Some(Granted {
            lane: key,
            waiter,
            ticket,
        })
    }

    fn ask(&mut self, key: LaneKey, class: Class, now: f64, asker: Asker<'_>) -> Asked {
        let text = asker.session.tenant();
        let tenant = Name {
            text,
            hash: self.hasher.hash_one(text),
        };
        if !self.closed && self.lane(key).take(tenant, class, now) {
            return Asked::Granted;
        }
        self.ticket += 1;
        let ticket = Ticket(self.ticket);
        self.lane(key).queue(tenant, class, ticket, asker.to_waiter());
        Asked::Waiting(ticket)
    }

    fn give(&mut self, key: LaneKey, tenant: &str, unused: bool) {
        let hash = self.hasher.hash_one(tenant);
        self.lane(key).give(Name { text: tenant, hash }, unused);
    }

    fn abandon(&mut self, key: LaneKey, tenant: &str, ticket: Ticket) -> bool {
        let hash = self.hasher.hash_one(tenant);
        self.lane(key).abandon(Name { text: tenant, hash }, ticket)
    }
}

impl Entered<'_> {
    /// Asks for a permit; who asks is kept, with a place, if there is none.
    pub(crate) fn ask(&mut self, lane: LaneKey, class: Class, now: f64, asker: Asker<'_>) -> Asked {
        self.0.ask(lane, class, now, asker)
    }

    /// Takes a permit of the floor, if there is one for somebody who begins.
    pub(crate) fn take(&mut self, tenant: &str, now: f64) -> bool {
        let hash = self.0.hasher.hash_one(tenant);
        !self.0.closed && self.0.floor.take(Name { text: tenant, hash }, Class::Begins, now)
    }

    /// Gives a permit back, and grants it on.
    pub(crate) fn release(&mut self, lane: LaneKey, tenant: &str, now: f64) -> Option<Granted> {
        self.0.give(lane, tenant, false);
        self.0.grant(lane, now)
    }

    /// The same of a grant that nobody wanted, which was no start.
    pub(crate) fn give_back(&mut self, lane: LaneKey, tenant: &str, now: f64) -> Option<Granted> {
        self.0.give(lane, tenant, true);
        self.0.grant(lane, now)
    }

    /// Gives up a place. False: its grant is on the way, and whoever carries it will find nobody there.
    pub(crate) fn abandon(&mut self, lane: LaneKey, tenant: &str, ticket: Ticket) -> bool {
        self.0.abandon(lane, tenant, ticket)
    }

    /// A provider's lane by its name.
    pub(crate) fn provider(&self, name: &str) -> Result<LaneKey, Error> {
        let number = self.0.names.get(name).copied();
        number
            .map(LaneKey::Provider)
            .ok_or_else(|| Error::UnknownLane { lane: name.into() })
    }

    /// Asks for a slot of a provider, unless as many wait as may, and it would have to.
    pub(crate) fn ask_provider(
        &mut self,
        name: &str,
        class: Class,
        most: usize,
        now: f64,
        asker: Asker<'_>,
    ) -> Result<(LaneKey, Asked), Error> {
        let key = self.provider(name)?;
        let lane = self.0.lane(key);
        let is_full = lane.waiting(class) >= lane.waiters().unwrap_or(most);
        let outcome = self.0.ask(key, class, now, asker);
        if let Asked::Waiting(ticket) = outcome
            && is_full
        {
            self.0.abandon(key, asker.session.tenant(), ticket);
            return Err(Error::LaneFull { lane: name.into() });
        }
        Ok((key, outcome))
    }

    /// When a provider's pace lets somebody start who waits for it.
    pub(crate) fn next_start(&self) -> Option<f64> {
        if self.0.closed {
            return None;
        }
        let starts = self.0.providers.iter().filter_map(Lane::next_start);
        starts.min_by(f64::total_cmp)
    }

    /// Grants what a pace has let go.
    pub(crate) fn grant_paced(&mut self, now: f64) -> Option<Granted> {
        (0..self.0.providers.len()).find_map(|number| {
            let waits = self.0.providers[number].next_start();
            waits.and_then(|_| self.0.grant(LaneKey::Provider(number), now))
        })
    }

    /// Counts a live child more, if `limit` says so only where one may be.
    pub(crate) fn admit_child(&mut self, tenant: &str, bounded: bool) -> bool {
        let state = &mut *self.0;
        let of_tenant = state.children_of.get(tenant).copied().unwrap_or_default();
        if bounded && (state.children >= state.child_limit || of_tenant >= state.child_tenant_limit) {
            return false;
        }
        state.children += 1;
        match state.children_of.get_mut(tenant) {
            Some(count) => *count += 1,
            None => {
                state.children_of.insert(Arc::from(tenant), 1);
            }
        }
        true
    }

    /// A child of this depth comes from an earlier process, whose limits were others.
    pub(crate) fn ensure_depth(&mut self, depth: u8) {
        self.0.ensure_depth(depth);
    }

    /// Whether a live child more may be.
    pub(crate) fn may_admit_child(&self, tenant: &str) -> bool {
        let of_tenant = self.0.children_of.get(tenant).copied().unwrap_or_default();
        self.0.children < self.0.child_limit && of_tenant < self.0.child_tenant_limit
    }

    /// Counts it no more.
    pub(crate) fn leave_child(&mut self, tenant: &str) {
        self.0.children -= 1;
        if let Some(count) = self.0.children_of.get_mut(tenant) {
            *count -= 1;
            if *count == 0 {
                self.0.children_of.remove(tenant);
            }
        }
    }

    /// From now on nothing is granted.
    pub(crate) fn close(&mut self) {
        self.0.closed = true;
    }

    /// Bounds from here on, and what they let go at once.
    pub(crate) fn set_limits(&mut self, limits: &Limits, now: f64) -> Vec<Granted> {
        let state = &mut *self.0;
        state.set_limits(limits);
        let depths = (1..=state.depths.len()).filter_map(|depth| u8::try_from(depth).ok());
        let mut lanes = vec![LaneKey::Floor];
        lanes.extend(depths.map(LaneKey::Depth));
        lanes.extend((0..state.providers.len()).map(LaneKey::Provider));
        let mut granted = Vec::new();
        for lane in lanes {
            granted.extend(std::iter::from_fn(|| state.grant(lane, now)));
        }
        granted
    }

    /// Permits in use, those on their way included, and places kept: of turns, then of providers' slots; errands; children.
    pub(crate) fn counts(&self) -> [usize; 6] {
        let turns = || std::iter::once(&self.0.floor).chain(&self.0.depths);
        [
            turns().map(Lane::in_use).sum(),
            turns().map(|lane| lane.waiting(Class::Begins)).sum(),
            self.0.providers.iter().map(Lane::in_use).sum(),
            self.0.providers.iter().map(|lane| lane.waiting(Class::Begins)).sum(),
            self.0.errands.len(),
            self.0.children,
        ]
    }
}
