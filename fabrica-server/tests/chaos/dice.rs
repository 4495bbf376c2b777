//! What chance decides, from a seed: the same seed makes the same choices.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use uuid::Uuid;

/// A small generator (`SplitMix64`): the choices need to be repeatable, not unpredictable.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of one promise, so that it makes the same choices whether the others run or not.
    pub(crate) fn new(seed: u64, promise: &str) -> Self {
        let mut dice = Self(seed);
        for byte in promise.bytes() {
            dice.0 = dice.0.wrapping_mul(31).wrapping_add(u64::from(byte));
            dice.next();
        }
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound`, without it.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A time between two numbers of milliseconds.
    pub(crate) fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.next() % (most - least + 1))
    }
}

/// An id that nothing depends on, other every time.
pub(crate) fn some_id() -> Uuid {
    let number = || RandomState::new().build_hasher().finish();
    Uuid::from_u64_pair(number(), number())
}
