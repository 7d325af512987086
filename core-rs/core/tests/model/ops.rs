//! What can happen, and how often.

use proptest::prelude::*;
use turnkeeper_core::{CancelMode, Delivery, Kind, Limits};

pub(crate) const TENANTS: usize = 2;
pub(crate) const SESSIONS: usize = 5;

/// `pick` chooses among the runs that the session has (or, rarely, names none of them).
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Accept {
        session: usize,
        kind: Kind,
        delivery: Delivery,
        require_idle: bool,
        expect: Expect,
        tombstone: bool,
    },
    AcceptAgain {
        session: usize,
        pick: usize,
    },
    Restore {
        session: usize,
        kind: Kind,
        back: u64,
        steers: Option<usize>,
        cancelled: bool,
    },
    Burst {
        session: usize,
        deliveries: Vec<(Delivery, Kind, bool)>,
    },
    Dispatch {
        session: usize,
        pick: usize,
    },
    Abandon {
        session: usize,
        pick: usize,
    },
    Partition {
        session: usize,
        pick: usize,
        limit: Option<usize>,
    },
    Conclude {
        session: usize,
        pick: usize,
        steers: usize,
    },
    Park {
        session: usize,
        pick: usize,
    },
    Wake {
        session: usize,
        pick: usize,
    },
    Finish {
        session: usize,
        pick: usize,
    },
    /// Concludes and finishes whatever runs.
    End {
        session: usize,
    },
    CancelSession {
        session: usize,
        mode: CancelMode,
        back: Option<u64>,
        spare_open: bool,
        spare_bootstrap: bool,
    },
    CancelRun {
        session: usize,
        mode: CancelMode,
        pick: usize,
    },
    CancelTenant {
        tenant: usize,
        mode: CancelMode,
    },
    Expire {
        session: usize,
        pick: usize,
    },
    Drain,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Nothing,
    TheOpenRun,
    Another,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![6 => Just(Kind::Prompt), 1 => Just(Kind::Summary), 1 => Just(Kind::Bootstrap)]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        8 => Just(Delivery::Queue),
        8 => Just(Delivery::Steer),
        1 => Just(Delivery::Reject),
        1 => Just(Delivery::Replace),
    ]
}

fn mode() -> impl Strategy<Value = CancelMode> {
    prop_oneof![2 => Just(CancelMode::Abort), 1 => Just(CancelMode::Stop)]
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![10 => Just(Expect::Nothing), 1 => Just(Expect::TheOpenRun), 1 => Just(Expect::Another)]
}

fn rarely() -> impl Strategy<Value = bool> {
    proptest::bool::weighted(0.06)
}

fn op() -> impl Strategy<Value = Op> {
    let session = || 0..SESSIONS;
    let pick = || 0_usize..12;
    let burst = proptest::collection::vec((delivery(), kind(), proptest::bool::weighted(0.8)), 20..60);
    prop_oneof![
        30 => (session(), kind(), delivery(), rarely(), expect(), rarely()).prop_map(
            |(session, kind, delivery, require_idle, expect, tombstone)| Op::Accept {
                session, kind, delivery, require_idle, expect, tombstone
            }
        ),
        1 => (session(), pick()).prop_map(|(session, pick)| Op::AcceptAgain { session, pick }),
        2 => (session(), kind(), 0_u64..20, proptest::option::of(pick()), rarely()).prop_map(
            |(session, kind, back, steers, cancelled)| Op::Restore { session, kind, back, steers, cancelled }
        ),
        1 => (session(), burst).prop_map(|(session, deliveries)| Op::Burst { session, deliveries }),
        30 => (session(), pick()).prop_map(|(session, pick)| Op::Dispatch { session, pick }),
        3 => (session(), pick()).prop_map(|(session, pick)| Op::Abandon { session, pick }),
        8 => (session(), pick(), proptest::option::of(0_usize..3))
            .prop_map(|(session, pick, limit)| Op::Partition { session, pick, limit }),
        10 => (session(), pick(), prop_oneof![3 => Just(0_usize), 1 => Just(1_usize), 1 => Just(usize::MAX)])
            .prop_map(|(session, pick, steers)| Op::Conclude { session, pick, steers }),
        12 => (session(), pick()).prop_map(|(session, pick)| Op::Park { session, pick }),
        12 => (session(), pick()).prop_map(|(session, pick)| Op::Wake { session, pick }),
        10 => (session(), pick()).prop_map(|(session, pick)| Op::Finish { session, pick }),
        14 => session().prop_map(|session| Op::End { session }),
        4 => (session(), mode(), proptest::option::of(0_u64..12), any::<bool>(), any::<bool>()).prop_map(
            |(session, mode, back, spare_open, spare_bootstrap)| Op::CancelSession {
                session, mode, back, spare_open, spare_bootstrap
            }
        ),
        5 => (session(), mode(), pick()).prop_map(|(session, mode, pick)| Op::CancelRun { session, mode, pick }),
        1 => (0..TENANTS, mode()).prop_map(|(tenant, mode)| Op::CancelTenant { tenant, mode }),
        4 => (session(), pick()).prop_map(|(session, pick)| Op::Expire { session, pick }),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let few = prop_oneof![1 => 0_usize..2, 6 => 2_usize..6, 6 => Just(500)];
    (
        few.clone(),
        prop_oneof![1 => 3_usize..12, 3 => Just(2000)],
        0_usize..5,
        0_usize..4,
    )
        .prop_map(
            |(queue_per_session, open_runs, running_turns, running_turns_per_tenant)| Limits {
                queue_per_session,
                open_runs,
                running_turns,
                running_turns_per_tenant,
                ..Limits::default()
            },
        )
}

/// Limits that bite, at least 200 operations, and in some cases a drain on the way.
pub(crate) fn case() -> impl Strategy<Value = (Limits, Vec<Op>)> {
    let drained_at = prop_oneof![3 => Just(None), 1 => (100_usize..300).prop_map(Some)];
    (limits(), proptest::collection::vec(op(), 200..320), drained_at).prop_map(|(limits, mut ops, drained_at)| {
        if let Some(at) = drained_at {
            ops.insert(at.min(ops.len()), Op::Drain);
        }
        (limits, ops)
    })
}
