//! The choice of the eight bytes of a key by which records are sorted.
//!
//! All keys of a group share their first bytes, so these tell nothing. Behind them, long keys share more: two
//! paths differ in some numbers, and the words between these are the same. Where a group has bytes of both kinds,
//! the plan is the first eight places at which any two of its keys differ. Elsewhere it is the eight bytes behind
//! what all keys share.
//!
//! A plan is a guess, made from some keys. Each reading of a group checks it for all keys, and tells the next plan.

use crate::index::tree::{common_len, key_word};

/// The bytes by which records are sorted at once.
pub(super) const WORD: usize = 8;
/// The words, and the bytes, behind the shared ones that are looked at for places at which keys differ.
const WINDOW_WORDS: usize = 8;
const WINDOW: usize = WINDOW_WORDS * WORD;

/// The bytes of the keys of a group that stand beside its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WordPlan {
    /// The length of what all keys share.
    skip: usize,
    /// The places behind it at which keys differ, in order, if they are not one behind the other. All keys are
    /// longer.
    places: Option<[usize; WORD]>,
}

/// The facts about the keys of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyFacts {
    /// The length of what they share, up to that of the plan.
    shared: usize,
    shortest: usize,
    /// The bits of the words behind the shared bytes of the plan in which any key differs from the first one.
    differing: [u64; WINDOW_WORDS],
}

impl KeyFacts {
    /// Returns the facts about no keys.
    pub(super) fn new(plan: WordPlan) -> Self {
        Self { shared: plan.skip, shortest: usize::MAX, differing: [0; WINDOW_WORDS] }
    }

    /// Returns the facts about two groups.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.shared = self.shared.min(other.shared);
        self.shortest = self.shortest.min(other.shortest);
        self.differing.iter_mut().zip(other.differing).for_each(|(one, other)| *one |= other);
        self
    }

    /// Notes a key, up to the words that the plan needs.
    fn note(&mut self, key: &[u8], first: &[u8], plan: WordPlan) {
        if !key.starts_with(&first[..self.shared]) {
            self.shared = common_len(key, &first[..self.shared]);
        }
        if let Some(places) = plan.places {
            self.shortest = self.shortest.min(key.len());
            let words = (places[WORD - 1] - plan.skip) / WORD + 1;
            self.note_words(key, first, plan.skip, words);
        }
    }

    fn note_words(&mut self, key: &[u8], first: &[u8], skip: usize, words: usize) {
        for (word, differing) in self.differing[..words].iter_mut().enumerate() {
            let at = skip + word * WORD;
            *differing |= key_word(key, at) ^ key_word(first, at);
        }
    }
}

impl WordPlan {
    /// Returns a guess for keys of which the samples are some.
    pub(super) fn guess(first: &[u8], samples: &[&[u8]]) -> Self {
        let skip = samples.iter().map(|key| common_len(first, key)).min().unwrap_or(first.len());
        let mut plan = Self { skip, places: None };
        let mut facts = KeyFacts::new(plan);
        facts.shortest = samples.iter().map(|key| key.len()).min().unwrap_or(0).min(first.len());
        samples.iter().for_each(|key| facts.note_words(key, first, skip, WINDOW_WORDS));
        plan.places = facts.places(skip);
        plan
    }

    /// Returns the length of what keys share that are equal in these bytes.
    pub(super) fn decided(self) -> usize {
        self.places.map_or(self.skip + WORD, |places| places[WORD - 1] + 1)
    }

    /// Returns the bytes of a key, from the highest to the lowest, and how many of them it has. Notes the key.
    pub(super) fn word_of(self, key: &[u8], first: &[u8], facts: &mut KeyFacts) -> (u64, u64) {
        facts.note(key, first, self);
        match self.places {
            Some(places) => {
                let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
                (places.into_iter().fold(0, |word, at| word << 8 | byte(at)), WORD as u64)
            }
            None => (key_word(key, self.skip), key.len().saturating_sub(self.skip).min(WORD) as u64),
        }
    }

    /// Returns the plan that fits what was seen of all keys. The words are in order if it is the same.
    pub(super) fn corrected(self, facts: &KeyFacts) -> Self {
        if facts.shared < self.skip {
            return Self { skip: facts.shared, places: None };
        }
        Self { skip: self.skip, places: self.places.and_then(|_| facts.places(self.skip)) }
    }
}

impl KeyFacts {
    /// Returns the first places at which keys differ. `None` if there are too few, or nothing lies between them.
    fn places(&self, skip: usize) -> Option<[usize; WORD]> {
        let differs = |at: &usize| self.differing[at / WORD] << (at % WORD * 8) >> 56 != 0;
        let mut found = (0..WINDOW).filter(differs).map(|at| skip + at).take_while(|at| *at < self.shortest);
        let mut places = [0; WORD];
        for place in &mut places {
            *place = found.next()?;
        }
        (places[WORD - 1] - skip >= WORD).then_some(places)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Returns keys of one shape that share `prefix`.
    fn keys(shape: u32, prefix: &[u8], random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
        let key = |random: &mut fastrand::Rng| match shape {
            0 => random.u128(..).to_le_bytes().to_vec(),
            1 => format!("tenant-{:02}/part-{:02}/{:08x}", random.u8(..9), random.u8(..9), random.u32(..))
                .into_bytes(),
            2 => vec![0; random.usize(..20)],
            // Some differ where nearly all are equal.
            3 => format!("{:04}-{:02}-{:020}", random.u32(..10_000), random.u8(..50) / 49, random.u32(..))
                .into_bytes(),
            // Some are shorter than nearly all.
            4 => {
                let mut key = format!("{:04}-{:020}", random.u32(..10_000), random.u32(..)).into_bytes();
                key.truncate(if random.u8(..50) == 0 { random.usize(..25) } else { 25 });
                key
            }
            _ => (0..random.usize(..12)).map(|_| random.u8(..3)).collect(),
        };
        (0..random.usize(1..300)).map(|_| [prefix, &key(random)].concat()).collect()
    }

    #[test]
    fn words_of_a_checked_plan_are_in_the_order_of_their_keys() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut apart, mut corrected) = (0, 0);
        for round in 0..600 {
            let prefix = vec![b'p'; random.usize(..40)];
            let keys = keys(round % 6, &prefix, &mut random);
            let samples: Vec<_> = keys.iter().step_by(keys.len().div_ceil(16)).map(|key| &key[..]).collect();
            let mut plan = WordPlan::guess(&keys[0], &samples);
            let words = loop {
                let mut facts = KeyFacts::new(plan);
                let words: Vec<_> = keys.iter().map(|key| plan.word_of(key, &keys[0], &mut facts)).collect();
                let next = plan.corrected(&facts);
                if next == plan {
                    break words;
                }
                (plan, corrected) = (next, corrected + 1);
            };
            apart += usize::from(plan.places.is_some());
            let mut sorted: Vec<_> = words.into_iter().zip(&keys).collect();
            sorted.sort();
            for pair in sorted.windows(2) {
                let [(word, key), (next, other)] = [pair[0], pair[1]];
                assert!(word < next || key == other || word.1 == 8, "{key:?} {other:?}");
                assert!(word == next || key < other, "{key:?} is before {other:?}");
                let same = plan.decided();
                assert!(word < next || word.1 < 8 || key[..same] == other[..same], "{key:?} {other:?}");
            }
        }
        assert!(apart > 150 && corrected > 50, "{apart} plans have places apart, {corrected} were corrected");
    }
}
