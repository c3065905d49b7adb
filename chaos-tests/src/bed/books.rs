//! Who can do their part: pure bookkeeping over voters, harm and open links.
//!
//! What always holds: it is careful with praise: a master counts as fit only if nothing bad is known of it and it can talk,
//! in both directions, with enough other fit-looking masters to form a majority.

use std::collections::BTreeSet;

/// Nodes that cannot do their part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Harm {
    /// Masters, by id.
    pub masters: BTreeSet<u64>,
    /// Workers, by name.
    pub workers: BTreeSet<String>,
}

impl Harm {
    /// To masters.
    pub fn masters(ids: impl IntoIterator<Item = u64>) -> Self {
        Self { masters: ids.into_iter().collect(), workers: BTreeSet::new() }
    }

    /// To workers.
    pub fn workers(names: impl IntoIterator<Item = String>) -> Self {
        Self { masters: BTreeSet::new(), workers: names.into_iter().collect() }
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.masters.extend(other.masters);
        self.workers.extend(other.workers);
        self
    }
}

/// What the bed knows of its members.
#[derive(Debug)]
pub struct Books {
    /// Masters that vote.
    pub voters: BTreeSet<u64>,
    /// Those whose fault is healed and that were not yet seen doing their part again.
    pub late: Harm,
}

impl Books {
    /// With these voters, all well.
    pub fn new(voters: BTreeSet<u64>) -> Self {
        Self { voters, late: Harm::default() }
    }

    /// How many of the voters may fail.
    pub fn spare_of_all(&self) -> usize {
        self.voters.len().saturating_sub(1) / 2
    }

    /// Those of `well` that are in a majority with others of `well` with whom they can talk.
    pub fn fit(&self, well: &BTreeSet<u64>, open: impl Fn(u64, u64) -> bool) -> BTreeSet<u64> {
        let majority = self.voters.len() / 2 + 1;
        let peers = |id: u64| well.iter().filter(|other| **other != id && open(id, **other)).count();
        well.iter().copied().filter(|id| peers(*id) + 1 >= majority).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn who_is_alone_is_not_fit() {
        let books = Books::new(set(&[1, 2, 3]));
        assert_eq!(books.fit(&set(&[1, 2, 3]), |_, _| true), set(&[1, 2, 3]));
        assert_eq!(books.fit(&set(&[1, 2, 3]), |a, b| a != 3 && b != 3), set(&[1, 2]));
        assert_eq!(books.fit(&set(&[3]), |_, _| true), set(&[]));
    }

    #[test]
    fn a_bridge_harms_nobody_until_its_middle_goes() {
        let books = Books::new(set(&[1, 2, 3]));
        let open = |a: u64, b: u64| a == 2 || b == 2;
        assert_eq!(books.fit(&set(&[1, 2, 3]), open), set(&[1, 2, 3]));
        assert_eq!(books.fit(&set(&[1, 3]), open), set(&[]));
    }

    #[test]
    fn two_of_five_may_fail() {
        assert_eq!([1, 2, 3, 4, 5].map(|n| Books::new((1..=n).collect()).spare_of_all()), [0, 0, 1, 1, 2]);
    }
}
