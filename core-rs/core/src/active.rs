//! The floor turns of one shard, in order, for who pages through them.

use crate::id::TurnId;

/// Up to here gone turns are left where they stood.
const GONE: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Place {
    turn: TurnId,
    /// Of its session; none once the turn is gone.
    hash: Option<u64>,
}

/// Turns are minted in rising order, so nearly all come at the end. One that goes leaves a gap, which keeps its number so that
/// places are found by binary search; gaps are closed once they outnumber the live.
#[derive(Debug, Default)]
pub(crate) struct Active {
    places: Vec<Place>,
    live: usize,
}

impl Active {
    pub(crate) fn insert(&mut self, turn: TurnId, hash: u64) {
        let place = Place { turn, hash: Some(hash) };
        self.live += 1;
        if self.places.last().is_none_or(|last| last.turn < turn) {
            self.places.push(place);
        } else {
            let at = self.places.partition_point(|place| place.turn < turn);
            self.places.insert(at, place);
        }
    }

    pub(crate) fn remove(&mut self, turn: TurnId) {
        let Ok(at) = self.places.binary_search_by_key(&turn, |place| place.turn) else {
            return;
        };
        if self.places[at].hash.take().is_some() {
            self.live -= 1;
        }
        if self.live == 0 {
            self.places.clear();
        } else if self.places.len() > 2 * self.live + GONE {
            self.places.retain(|place| place.hash.is_some());
        }
    }

    /// Those after a turn, or all, with the hashes of their sessions.
    pub(crate) fn after(&self, turn: Option<TurnId>) -> impl Iterator<Item = (TurnId, u64)> {
        let from = turn.map_or(0, |turn| self.places.partition_point(|place| place.turn <= turn));
        let live = self.places[from..].iter();
        live.filter_map(|place| place.hash.map(|hash| (place.turn, hash)))
    }
}
