//! How many of the slots before a slot are flagged, in logarithmic time.

/// A Fenwick tree over slots that are numbered from 0 and only added at the end.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    /// Node `i` (counted from 1) holds the flags of the `lowest_bit(i)` slots that end with slot `i - 1`.
    nodes: Vec<u32>,
}

const fn lowest_bit(node: usize) -> usize {
    node & node.wrapping_neg()
}

impl Ranks {
    /// Adds a slot.
    pub(crate) fn push(&mut self, flag: bool) {
        let node = self.nodes.len() + 1;
        let first = node - lowest_bit(node);
        let mut count = u32::from(flag);
        let mut child = node - 1;
        while child > first {
            count += self.nodes[child - 1];
            child -= lowest_bit(child);
        }
        self.nodes.push(count);
    }

    /// Flags a slot that was not.
    pub(crate) fn raise(&mut self, slot: usize) {
        let mut node = slot + 1;
        while node <= self.nodes.len() {
            self.nodes[node - 1] += 1;
            node += lowest_bit(node);
        }
    }

    /// Takes the flag of a slot that had it.
    pub(crate) fn lower(&mut self, slot: usize) {
        let mut node = slot + 1;
        while node <= self.nodes.len() {
            self.nodes[node - 1] -= 1;
            node += lowest_bit(node);
        }
    }

    /// Flagged slots before this one.
    pub(crate) fn before(&self, slot: usize) -> usize {
        let mut node = slot;
        let mut count = 0;
        while node > 0 {
            count += self.nodes[node - 1] as usize;
            node -= lowest_bit(node);
        }
        count
    }

    /// The first flagged slot.
    pub(crate) fn first(&self) -> Option<usize> {
        let mut slot = 0;
        let mut step = self.nodes.len().checked_ilog2().map_or(0, |bits| 1 << bits);
        while step > 0 {
            if slot + step <= self.nodes.len() && self.nodes[slot + step - 1] == 0 {
                slot += step;
            }
            step /= 2;
        }
        (slot < self.nodes.len()).then_some(slot)
    }

    /// Forgets all slots.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_finds_like_a_plain_list_of_flags() {
        let mut ranks = Ranks::default();
        let mut flags = Vec::new();
        for slot in 0_usize..200 {
            let flag = slot % 3 == 1;
            ranks.push(flag);
            flags.push(flag);
            let turned = (slot * 7) % (slot + 1);
            if flags[turned] {
                ranks.lower(turned);
            } else {
                ranks.raise(turned);
            }
            flags[turned] = !flags[turned];
            for end in 0..flags.len() {
                assert_eq!(ranks.before(end), flags[..end].iter().filter(|flag| **flag).count());
            }
            assert_eq!(ranks.first(), flags.iter().position(|flag| *flag));
        }
    }
}
