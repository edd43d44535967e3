//! The history of a writer that is killed again and again: operations, drawn one after the other
//! from a seed, and the contents that they leave.
//!
//! The contents have three invariants, so that a reader who does not know the moment can judge them:
//!
//! - `a` and `b` in the default keyspace have a constant sum.
//! - The accounts in `left` and `right` have a constant sum.
//! - The number of each counter in the default keyspace only rises.

use std::path::Path;

use mapcask::{Keyspace, Options, Store, WriteBatch};

use crate::child::tell;
use crate::contents::{Contents, held};
use crate::digest;

/// The sum of `a` and `b`, and that of all accounts.
pub(crate) const PAIR_SUM: u64 = 1000;
pub(crate) const ACCOUNTS_SUM: u64 = 2 * ACCOUNTS as u64 * 100;
const ACCOUNTS: u8 = 8;
pub(crate) const PAIR: [&str; 2] = ["a", "b"];
pub(crate) const COUNTERS: [&str; 6] = ["n0", "n1", "n2", "n3", "n4", "n5"];
/// The names that the third keyspace has in turn.
const NAMES: [&str; 2] = ["third", "another"];
const SEED: &str = "MAPCASK_FOLLOWED_SEED";
const NUMBER: &str = "MAPCASK_FOLLOWED_NUMBER";
const IN_STEPS: &str = "MAPCASK_FOLLOWED_IN_STEPS";

/// One operation of the writer.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Puts that are one batch: keyspace, key, value.
    Batch(Vec<(&'static str, String, Vec<u8>)>),
    Put(&'static str, String, Vec<u8>),
    Remove(&'static str, String),
    Clear(&'static str),
    Rename(&'static str, &'static str),
    Flush,
    Compact,
}

/// Returns a value that holds a number, and is longer by `more` bytes.
fn value_of(number: u64, more: usize) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + more, b'x');
    value
}

/// Returns the number that a value holds.
pub(crate) fn number_in(value: &[u8]) -> u64 {
    u64::from_le_bytes(*value.first_chunk().unwrap())
}

/// Returns the contents before the first operation.
pub(crate) fn initial() -> Contents {
    let accounts = || (0..ACCOUNTS).map(|n| (format!("{n}").into_bytes(), value_of(100, 0))).collect();
    let pair = PAIR.map(|key| (key.as_bytes().to_vec(), value_of(PAIR_SUM / 2, 0)));
    let counters = COUNTERS.map(|key| (key.as_bytes().to_vec(), value_of(0, 0)));
    Contents::from([
        (String::new(), pair.into_iter().chain(counters).collect()),
        ("left".to_owned(), accounts()),
        ("right".to_owned(), accounts()),
        (NAMES[0].to_owned(), Default::default()),
    ])
}

/// Makes the store with the initial contents.
pub(crate) fn create(path: &Path) {
    let store = options().open(path).unwrap();
    for (name, map) in initial() {
        let keyspace = if name.is_empty() { Keyspace::clone(&store) } else { store.keyspace(&name).unwrap() };
        map.iter().for_each(|(key, value)| _ = keyspace.insert(key, value).unwrap());
    }
    store.close().unwrap();
}

/// Returns the options of the writer. Small segments make the log roll all the time, and the
/// background compacts it.
pub(crate) fn options() -> Options {
    Options::new().segment_bytes(64 << 10).checkpoint_bytes(256 << 10)
}

impl Operation {
    /// Draws the operation with a number.
    pub(crate) fn draw(seed: u64, number: u64, contents: &Contents) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let more = if rng.u8(0..32) == 0 { rng.usize(0..8000) } else { rng.usize(0..400) };
        let has = |name: &&&str| contents.contains_key(**name);
        let third = NAMES.iter().find(has).expect("it is only renamed");
        let of = |place: &str, key: &str| number_in(&contents[place][key.as_bytes()]);
        match rng.u32(0..1000) {
            0..300 => {
                let accounts = [("left", rng.u8(0..ACCOUNTS)), ("right", rng.u8(0..ACCOUNTS))];
                let [from, to] = if rng.bool() { accounts } else { [accounts[1], accounts[0]] };
                let [from, to] = [from, to].map(|(place, key)| (place, key.to_string()));
                let amount = rng.u64(0..=of(from.0, &from.1));
                let less = value_of(of(from.0, &from.1) - amount, more);
                let greater = value_of(of(to.0, &to.1) + amount, rng.usize(0..400));
                Self::Batch(vec![(from.0, from.1, less), (to.0, to.1, greater)])
            }
            300..500 => {
                let first = rng.u64(0..=PAIR_SUM);
                let values = [value_of(first, more), value_of(PAIR_SUM - first, rng.usize(0..400))];
                let pair = PAIR.into_iter().zip(values);
                Self::Batch(pair.map(|(key, value)| ("", key.to_owned(), value)).collect())
            }
            500..800 => {
                let key = COUNTERS[rng.usize(0..COUNTERS.len())].to_owned();
                Self::Put("", key, value_of(number, more))
            }
            800..940 => Self::Put(third, rng.u8(0..40).to_string(), value_of(number, more)),
            940..970 => Self::Remove(third, rng.u8(0..40).to_string()),
            970..980 => Self::Clear(third),
            980..990 => Self::Rename(third, NAMES.into_iter().find(|name| name != third).unwrap()),
            990..995 => Self::Flush,
            _ => Self::Compact,
        }
    }

    /// Applies the operation to contents.
    pub(crate) fn apply(self, contents: &mut Contents) {
        let map = "a keyspace of a drawn operation is there";
        match self {
            Self::Batch(puts) => {
                for (place, key, value) in puts {
                    contents.get_mut(place).expect(map).insert(key.into_bytes(), value);
                }
            }
            Self::Put(place, key, value) => {
                contents.get_mut(place).expect(map).insert(key.into_bytes(), value);
            }
            Self::Remove(place, key) => drop(contents.get_mut(place).expect(map).remove(key.as_bytes())),
            Self::Clear(place) => contents.get_mut(place).expect(map).clear(),
            Self::Rename(from, to) => {
                let moved = contents.remove(from).expect(map);
                contents.insert(to.to_owned(), moved);
            }
            Self::Flush | Self::Compact => {}
        }
    }

    /// Carries the operation out.
    pub(crate) fn carry_out(&self, store: &Store) -> mapcask::Result<()> {
        let of = |place: &str| match place {
            "" => Ok(Keyspace::clone(store)),
            _ => store.open_keyspace(place),
        };
        match self {
            Self::Batch(puts) => {
                let mut batch = WriteBatch::new();
                for (place, key, value) in puts {
                    batch.on(&of(place)?).insert(key, value);
                }
                store.write(&batch).map(drop)
            }
            Self::Put(place, key, value) => of(place)?.insert(key, value).map(drop),
            Self::Remove(place, key) => of(place)?.remove(key).map(drop),
            Self::Clear(place) => of(place)?.clear().map(drop),
            Self::Rename(from, to) => store.rename_keyspace(from, to),
            Self::Flush => store.flush(),
            Self::Compact => store.compact().map(drop),
        }
    }
}

/// Returns the variables of a writer whose next operation is the one after `number`. If it opens in
/// steps, it waits for an order at each report until the store is open.
pub(crate) fn variables(seed: u64, number: u64, in_steps: bool) -> [(&'static str, String); 3] {
    [(SEED, seed.to_string()), (NUMBER, number.to_string()), (IN_STEPS, u64::from(in_steps).to_string())]
}

/// Opens the store and writes until death. Each report comes after its step.
pub(crate) fn write(path: &Path) {
    let variable = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (seed, mut number, in_steps) = (variable(SEED), variable(NUMBER), variable(IN_STEPS) == 1);
    let step = move |report: &str| {
        tell(report);
        if in_steps {
            std::io::stdin().lines().next().expect("an order or death").unwrap();
        }
    };
    step("opening");
    let store = options().recovery_progress(move |_| step("recovering")).open(path).unwrap();
    let mut contents = held(&store);
    step(&format!("opened {}", digest(&contents)));
    loop {
        number += 1;
        let operation = Operation::draw(seed, number, &contents);
        operation.carry_out(&store).unwrap_or_else(|error| panic!("{number}: {operation:?}: {error:?}"));
        tell(&format!("done {number} {}", store.last_seq().0));
        operation.apply(&mut contents);
    }
}
