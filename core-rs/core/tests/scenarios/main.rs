//! The behaviour tables of the specification, as far as the core alone decides them: one small session each.
#![allow(missing_docs)]
#![cfg(not(loom))]

mod accept;
mod cancel;
mod lanes;
mod limits;
mod line;
mod park;
mod restore;
mod steer;
mod tree;
mod world;
