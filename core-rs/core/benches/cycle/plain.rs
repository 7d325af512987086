//! The same cycle with plain mutex-guarded maps: what the core's promises are measured against.
//!
//! One map of sessions behind one lock, a queue and an active run in each, and one lock around the count of running turns.
//! No marks, no bounds, no tenants in turn, no index: what one writes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

#[derive(Default)]
struct Session {
    reserved: HashMap<String, u64>,
    queue: VecDeque<(String, u64)>,
    active: Option<(String, u64, bool)>,
}

#[derive(Default)]
pub(crate) struct Plain {
    sessions: Mutex<HashMap<(String, String), Session>>,
    running: Mutex<HashMap<String, usize>>,
    last: Mutex<u64>,
}

impl Plain {
    pub(crate) fn accept(&self, tenant: &str, session: &str, run: &str) -> u64 {
        let mut sessions = self.sessions.lock().unwrap();
        let session = sessions.entry((tenant.to_owned(), session.to_owned())).or_default();
        let mut last = self.last.lock().unwrap();
        *last += 1;
        session.reserved.insert(run.to_owned(), *last);
        *last
    }

    pub(crate) fn dispatch(&self, tenant: &str, session: &str, run: &str) -> bool {
        let mut sessions = self.sessions.lock().unwrap();
        let Some(session) = sessions.get_mut(&(tenant.to_owned(), session.to_owned())) else {
            return false;
        };
        let Some(sequence) = session.reserved.remove(run) else {
            return false;
        };
        if session.active.is_some() {
            session.queue.push_back((run.to_owned(), sequence));
            return false;
        }
        session.active = Some((run.to_owned(), sequence, false));
        *self.running.lock().unwrap().entry(tenant.to_owned()).or_default() += 1;
        true
    }

    pub(crate) fn conclude(&self, tenant: &str, session: &str, run: &str) -> bool {
        let mut sessions = self.sessions.lock().unwrap();
        let Some(session) = sessions.get_mut(&(tenant.to_owned(), session.to_owned())) else {
            return false;
        };
        let Some((active, _, concluded)) = &mut session.active else {
            return false;
        };
        *concluded = active == run;
        *concluded
    }

    pub(crate) fn finish(&self, tenant: &str, session: &str) -> Option<String> {
        let mut sessions = self.sessions.lock().unwrap();
        let key = (tenant.to_owned(), session.to_owned());
        let session = sessions.get_mut(&key)?;
        session.active = None;
        if let Some((run, sequence)) = session.queue.pop_front() {
            session.active = Some((run.clone(), sequence, false));
            return Some(run);
        }
        let idle = session.reserved.is_empty();
        if idle {
            sessions.remove(&key);
        }
        let mut running = self.running.lock().unwrap();
        let count = running.get_mut(tenant)?;
        *count -= 1;
        if *count == 0 {
            running.remove(tenant);
        }
        None
    }
}
