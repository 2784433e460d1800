//! All chance of a run, from its seed.

/// A source of chance. The same seed gives the same throws on every machine.
#[derive(Clone, Debug)]
pub struct Dice {
    rng: fastrand::Rng,
}

impl Dice {
    /// The dice of a seed.
    pub fn of(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed) }
    }

    /// Other dice, for a part that throws as often as it likes without changing what others throw.
    pub fn fork(&mut self) -> Self {
        Self { rng: self.rng.fork() }
    }

    /// One of `0..sides`; 0 if there are no sides.
    pub fn below(&mut self, sides: usize) -> usize {
        if sides == 0 { 0 } else { self.rng.usize(..sides) }
    }

    /// One of `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.u64(low..=high)
    }

    /// True in `per_mille` of 1000 throws.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.rng.u32(..1000) < per_mille
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(self.below(choices.len()))
    }

    /// Puts `items` into an order by chance.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.rng.shuffle(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_throws_again() {
        let throws = |seed| {
            let mut dice = Dice::of(seed);
            let mut fork = dice.fork();
            let throw = |dice: &mut Dice| (dice.below(6), dice.between(3, 9), dice.chance(500));
            (0..20).map(|_| (throw(&mut dice), throw(&mut fork))).collect::<Vec<_>>()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
    }
}
