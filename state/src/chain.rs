//! A queue in blocks that can be copied by counting references: what is appended at one end and trimmed at the other
//! (finished tasks, remembered replies, events).
//!
//! What always holds: every block but the first and the last is full, and no block is empty.

use std::collections::VecDeque;
use std::sync::Arc;

/// Items per block: a copy costs one reference count per block, a write after a copy at most one block.
const BLOCK: usize = 64;

/// First in, first out, with access by position.
#[derive(Debug, Clone)]
pub(crate) struct Chain<T> {
    blocks: VecDeque<Arc<Vec<T>>>,
    /// Items of the first block that are gone.
    gone: usize,
    len: usize,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), gone: 0, len: 0 }
    }
}

impl<T: Clone> Chain<T> {
    pub fn push(&mut self, item: T) {
        self.len += 1;
        match self.blocks.back_mut() {
            Some(block) if block.len() < BLOCK => Arc::make_mut(block).push(item),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(item);
                self.blocks.push_back(Arc::new(block));
            }
        }
    }

    /// Forgets the oldest. Its memory goes with its block.
    pub fn drop_front(&mut self) {
        let Some(front) = self.blocks.front() else { return };
        self.len -= 1;
        self.gone += 1;
        if self.gone == front.len() {
            self.blocks.pop_front();
            self.gone = 0;
        }
    }
}

impl<T> Chain<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn front(&self) -> Option<&T> {
        self.get(0)
    }

    pub fn back(&self) -> Option<&T> {
        self.blocks.back().and_then(|block| block.last())
    }

    /// The `position`th from the oldest.
    pub fn get(&self, position: usize) -> Option<&T> {
        let place = self.gone.checked_add(position)?;
        self.blocks.get(place / BLOCK)?.get(place % BLOCK)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flat_map(|block| block.iter()).skip(self.gone)
    }
}

#[cfg(test)]
mod tests {
    use super::Chain;

    #[test]
    fn behaves_like_a_queue_and_copies_stay() {
        let mut chain = Chain::default();
        (0..200).for_each(|n| chain.push(n));
        let copy = chain.clone();
        (0..70).for_each(|_| chain.drop_front());
        (200..210).for_each(|n| chain.push(n));
        assert_eq!(chain.iter().copied().collect::<Vec<_>>(), (70..210).collect::<Vec<_>>());
        assert_eq!(copy.iter().copied().collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
        assert_eq!((chain.len(), chain.front(), chain.back(), chain.get(60)), (140, Some(&70), Some(&209), Some(&130)));
        (0..150).for_each(|_| chain.drop_front());
        assert_eq!((chain.len(), chain.front(), chain.back()), (0, None, None));
        chain.push(1);
        assert_eq!(chain.iter().count(), 1);
    }
}
