//! The one place that names locks and atomics, so that the model checker can put its own in their stead.
//!
//! Under `cfg(loom)` the registry also shrinks to four shards and hashes without a random seed: a model must take the same
//! path whenever it is replayed.

#[cfg(not(loom))]
mod real {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    /// Seeded at random per process: ids come from outside.
    pub(crate) type HashState = hashbrown::DefaultHashBuilder;

    /// Locks of the registry; a power of two.
    pub(crate) const SHARDS: usize = 64;
}

#[cfg(loom)]
mod real {
    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    pub(crate) type HashState = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

    pub(crate) const SHARDS: usize = 4;

    /// `parking_lot`'s face on loom's lock: no poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a model that panics has failed already")
        }
    }
}

pub(crate) use real::{AtomicU64, AtomicUsize, HashState, Mutex, MutexGuard, Ordering, SHARDS};
