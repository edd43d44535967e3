//! Choosers decide the state after a power cut: all possibilities in turn, a random one, or a
//! recorded one.

use std::fmt;

/// Decides each choice that a power cut leaves open.
///
/// Answer 0 is always the worst for the program: lost, old, never written.
pub trait Chooser {
    /// Chooses one of `count` possibilities, at least one: a number below `count`.
    fn choose(&mut self, count: usize) -> usize;
}

/// Visits every combination of answers, like an odometer.
///
/// ```
/// use mapcask::sim::{Exhaustive, SimDisk, Tears};
///
/// let disk = SimDisk::new();
/// let options = mapcask::Options::new().background(false).segment_bytes(4096);
/// let store = options.clone().open_on(&disk)?;
/// store.insert("a", "1")?;
/// let point = disk.crash_point(disk.position(), Tears::None);
/// let mut all = Exhaustive::new();
/// loop {
///     let store = options.clone().open_on(&point.cut_power(&mut all))?;
///     assert!(store.len() <= 1);
///     if !all.advance() {
///         break;
///     }
/// }
/// assert!(all.finished() > 1);
/// # Ok::<(), mapcask::Error>(())
/// ```
///
/// The choices of a later step may depend on the answers to earlier ones, so one chooser can drive
/// a whole chain of crashes.
#[derive(Clone, Default)]
pub struct Exhaustive {
    /// The answer and the number of possibilities of each choice.
    digits: Vec<(usize, usize)>,
    asked: usize,
    finished: u64,
}

impl Exhaustive {
    /// Starts with the combination in which every answer is 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances to the next combination; returns false once all of them were visited.
    pub fn advance(&mut self) -> bool {
        self.finished += 1;
        self.digits.truncate(self.asked);
        self.asked = 0;
        while let Some((answer, count)) = self.digits.last_mut() {
            if *answer + 1 < *count {
                *answer += 1;
                return true;
            }
            self.digits.pop();
        }
        false
    }

    /// Returns the number of combinations finished by [`Exhaustive::advance`].
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// Returns the current combination, for a [`Script`] that repeats it.
    #[must_use]
    pub fn answers(&self) -> Vec<usize> {
        self.digits[..self.asked].iter().map(|&(answer, _)| answer).collect()
    }
}

impl fmt::Debug for Exhaustive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script::new({:?})", self.answers())
    }
}

impl Chooser for Exhaustive {
    fn choose(&mut self, count: usize) -> usize {
        // A single possibility is no choice; leaving it out keeps the odometer short.
        if count <= 1 {
            return 0;
        }
        if self.asked == self.digits.len() {
            self.digits.push((0, count));
        }
        let (answer, expected) = self.digits[self.asked];
        assert_eq!(expected, count, "the program under test did not behave the same way twice");
        self.asked += 1;
        answer
    }
}

/// Chooses at random, with equal answers for an equal seed.
#[derive(Debug, Clone)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// Makes a chooser whose answers depend on the seed alone.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 random bits (`SplitMix64`, Steele et al. 2014).
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Chooser for Seeded {
    fn choose(&mut self, count: usize) -> usize {
        let scaled = (u128::from(self.next()) * count as u128) >> 64;
        usize::try_from(scaled).expect("below count")
    }
}

/// Repeats recorded answers, and answers 0 after the last.
#[derive(Debug, Clone)]
pub struct Script {
    answers: Vec<usize>,
    asked: usize,
}

impl Script {
    /// Makes a chooser from the answers of another one: see [`Exhaustive::answers`].
    #[must_use]
    pub fn new(answers: impl Into<Vec<usize>>) -> Self {
        Self { answers: answers.into(), asked: 0 }
    }
}

impl Chooser for Script {
    fn choose(&mut self, count: usize) -> usize {
        if count <= 1 {
            return 0;
        }
        let answer = self.answers.get(self.asked).copied().unwrap_or(0);
        self.asked += 1;
        answer.min(count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhaustive_chooser_visits_every_combination_once() {
        let mut all = Exhaustive::new();
        let mut seen = Vec::new();
        loop {
            let first = all.choose(3);
            let second = if first == 1 { all.choose(4) } else { all.choose(1) };
            seen.push((first, second));
            assert_eq!(Script::new(all.answers()).choose(3), first);
            if !all.advance() {
                break;
            }
        }
        assert_eq!(seen, [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]);
        assert_eq!(all.finished(), 6);
    }

    #[test]
    fn a_seed_decides_every_answer_and_answers_stay_below_the_count() {
        let (mut one, mut two) = (Seeded::new(7), Seeded::new(7));
        let mut seen = [false; 5];
        for _ in 0..1000 {
            let answer = one.choose(5);
            assert_eq!(answer, two.choose(5));
            seen[answer] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
