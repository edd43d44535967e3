//! The rows with keys and values of other sizes.

use crate::engine::{Engine, Survives};
use crate::rounds::{Measured, Race, Table};
use crate::workload::{KEY_LEN, key, pool, whole};
use crate::{Lab, Result};

/// The most bytes of a value.
const MOST: usize = 64 << 10;
/// The bytes of all values of a round, about.
const ROUND: usize = 256 << 20;

/// The sizes of keys and values.
struct Sizes {
    text: &'static str,
    key: usize,
    /// Returns the size of a value for a number between 0 and 1.
    value: fn(f64) -> usize,
    /// The mean size of a value, about.
    mean: usize,
}

const SIZES: [Sizes; 3] = [
    Sizes { text: "keys of 8 bytes, values of 8 bytes", key: 8, value: |_| 8, mean: 8 },
    Sizes { text: "keys of 32 bytes, values of 1024 bytes", key: 32, value: |_| 1024, mean: 1024 },
    // The logarithm is uniform: as many values of 16 to 32 bytes as of 32 to 64 KiB.
    Sizes {
        text: "keys of 16 bytes, values of 16 bytes to 64 KiB",
        key: 16,
        value: |uniform| (16.0 * 4096_f64.powf(uniform)) as usize,
        mean: 7900,
    },
];

/// Measures puts of new keys and gets in random order.
pub(crate) fn sizes(lab: &Lab) -> Result<Vec<Table>> {
    let values = pool(2 * MOST);
    let mut tables = Vec::new();
    for sizes in &SIZES {
        let count = lab.keys.min(ROUND / (sizes.mean + sizes.key));
        let lens: Vec<usize> = {
            let mut random = fastrand::Rng::with_seed(5);
            (0..count).map(|_| (sizes.value)(random.f64()).min(MOST)).collect()
        };
        let mut order: Vec<usize> = (0..count).collect();
        fastrand::Rng::with_seed(6).shuffle(&mut order);
        let mut put = Race::new(format!("put, {}", sizes.text));
        let mut get = Race::new(format!("get, {}", sizes.text));
        let directory = lab.directory()?;
        for (contender, other) in lab.contenders().zip(lab.contenders()) {
            let (name, lens, order, values) = (contender.name, &lens, &order, &values);
            let value = move |at: usize| &values[at % MOST..][..lens[at]];
            let load = move |engine: &dyn Engine| {
                for at in 0..count {
                    engine.put(&key_of(at, sizes.key), value(at))?;
                }
                Ok::<_, Box<dyn std::error::Error>>(0)
            };
            put.add(name, move |_| {
                let directory = lab.directory()?;
                let engine = contender.open(directory.path(), Survives::Kill)?;
                Measured::time(count, || load(engine.as_ref()))
            });
            let engine =
                other.open(&directory.path().join(tables.len().to_string() + name), Survives::Kill)?;
            load(engine.as_ref())?;
            get.add(name, move |_| {
                Measured::time(count, || {
                    let (mut sum, mut found) = (0_u64, 0_u64);
                    for at in order {
                        let touch = &mut |value: &[u8]| sum = sum.wrapping_add(whole(value));
                        found += u64::from(engine.get(&key_of(*at, sizes.key), touch)?);
                    }
                    Ok(sum.wrapping_add(found))
                })
            });
        }
        tables.push(put.run(lab.rounds)?);
        tables.push(get.run(lab.rounds)?);
    }
    Ok(tables)
}

/// The most bytes of a key.
const LONGEST: usize = 2 * KEY_LEN;

/// The key of a number, cut to a length.
struct SizedKey([u8; LONGEST], usize);

impl std::ops::Deref for SizedKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// Returns the key of a number with this many bytes.
fn key_of(number: usize, len: usize) -> SizedKey {
    let mut bytes = [0; LONGEST];
    bytes[..KEY_LEN].copy_from_slice(&key(number as u64));
    bytes[KEY_LEN..].copy_from_slice(&key(!(number as u64)));
    SizedKey(bytes, len)
}
