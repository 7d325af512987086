//! Random operations against a model that is as plain as can be, and shares nothing with the core but its vocabulary.
//!
//! The model keeps one list of all runs ever accepted and answers every question by looking through it. After every step
//! the answer of the core, and the whole state of the session it was about, must be what the model says; whose turn a
//! released permit goes to is the core's choice, which the model only judges. `PROPTEST_CASES` sets the number of cases.
#![allow(missing_docs)]
#![cfg(not(loom))]

mod fates;
mod naive;
mod ops;
mod replay;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_core_does_what_the_plain_model_says((limits, ops) in ops::case()) {
        replay::Replay::new(limits).run(&ops);
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(200)
}
