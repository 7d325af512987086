//! A map that is nearly always empty.

use std::collections::BTreeMap;

/// An ordered map whose emptiness takes no room, and no time to make or to drop.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "an empty map costs time to drop, and three words")]
pub(crate) struct Rare<K, V>(Option<Box<BTreeMap<K, V>>>);

impl<K, V> Default for Rare<K, V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Ord + Copy, V> Rare<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn get(&self, key: K) -> Option<&V> {
        self.0.as_ref()?.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.0.as_mut()?.get_mut(&key)
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.get_or_insert_default().insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let map = self.0.as_mut()?;
        let value = map.remove(&key);
        if map.is_empty() {
            self.0 = None;
        }
        value
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().flat_map(|map| map.iter())
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().flat_map(|map| map.values())
    }

    /// Everything, in order; the map is empty afterwards.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = V> + use<K, V> {
        self.0.take().into_iter().flat_map(|map| map.into_values())
    }
}
