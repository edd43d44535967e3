//! The rows about keys in order: puts, gets, overwrites, scans and ranges.

use std::path::Path;

use tempfile::TempDir;

use crate::engine::{Engine, OrderedEngine, OrderedReads, Survives, contenders, ordered_contenders};
use crate::rounds::{Measured, Race, Table};
use crate::rows::sum_of;
use crate::workload::{Key, whole};
use crate::{Contender, Lab, Result};

/// The name of mapcask among the contenders.
const OURS: &str = "mapcask";
/// The part of the keys that a round reads is one in this many.
const READ_SHARE: usize = 4;
/// The part of the keys that a round overwrites is one in this many.
const WRITE_SHARE: usize = 8;
/// The part of the keys that is put in ascending order is one in this many.
const ASCENDING_SHARE: usize = 4;
/// The keys with the same prefix, about.
const GROUP: usize = 1000;

/// A contender of the rows that need no order.
enum Entrant {
    Ordered(Contender<dyn OrderedEngine>),
    /// The keyspace of mapcask without order.
    Unordered(Contender),
}

impl Entrant {
    fn name(&self) -> &'static str {
        match self {
            Self::Ordered(contender) => contender.name,
            Self::Unordered(_) => "mapcask, without order",
        }
    }

    fn open(&self, directory: &Path) -> Result<Box<dyn Engine>> {
        match self {
            Self::Ordered(contender) => Ok(contender.open(directory, Survives::Kill)?),
            Self::Unordered(contender) => contender.open(directory, Survives::Kill),
        }
    }
}

/// A contender that holds every key, seen as an `E`.
pub(crate) struct Filled<E: ?Sized> {
    pub(crate) name: &'static str,
    pub(crate) engine: Box<E>,
    _directory: TempDir,
}

impl Lab {
    /// Returns the ordered contenders that the caller chose.
    pub(crate) fn ordered_contenders(&self) -> impl Iterator<Item = Contender<dyn OrderedEngine>> {
        ordered_contenders().into_iter().filter(|contender| self.has(contender.name))
    }

    /// Returns the same, and behind mapcask its keyspace without order.
    fn entrants(&self) -> impl Iterator<Item = Entrant> {
        self.ordered_contenders().flat_map(|contender| {
            let unordered =
                contenders().into_iter().find(|other| other.name == OURS && contender.name == OURS);
            [Some(Entrant::Ordered(contender)), unordered.map(Entrant::Unordered)].into_iter().flatten()
        })
    }

    /// Opens all entrants and puts every key into each.
    fn filled_entrants(&self) -> Result<Vec<Filled<dyn Engine>>> {
        let fill = |entrant: Entrant| {
            let directory = self.directory()?;
            let engine = entrant.open(directory.path())?;
            self.load(engine.as_ref())?;
            Ok(Filled { name: entrant.name(), engine, _directory: directory })
        };
        self.entrants().map(fill).collect()
    }

    /// Opens all ordered contenders and puts the keys into each.
    pub(crate) fn filled_trees(&self, keys: &[Key]) -> Result<Vec<Filled<dyn OrderedEngine>>> {
        let fill = |contender: Contender<dyn OrderedEngine>| {
            let directory = self.directory()?;
            let engine = contender.open(directory.path(), Survives::Kill)?;
            self.load_keys(engine.as_ref(), keys)?;
            Ok(Filled { name: contender.name, engine, _directory: directory })
        };
        self.ordered_contenders().map(fill).collect()
    }
}

/// Measures puts of new keys: in random order one at a time and in batches, and in ascending order.
pub(crate) fn put(lab: &Lab) -> Result<Vec<Table>> {
    let random = &lab.workload.keys;
    let ascending = sorted(&random[..lab.keys / ASCENDING_SHARE]);
    Ok(vec![
        put_of(lab, "ordered put of new keys", random, false)?,
        put_of(lab, "ordered put of new keys in batches of 1000", random, true)?,
        put_of(lab, "ordered put of a quarter of the keys in ascending order", &ascending, false)?,
    ])
}

fn put_of(lab: &Lab, title: &str, keys: &[Key], is_batched: bool) -> Result<Table> {
    let mut race = Race::new(title);
    for entrant in lab.entrants() {
        race.add(entrant.name(), move |_| {
            let directory = lab.directory()?;
            let engine = entrant.open(directory.path())?;
            let measured = Measured::time(keys.len(), || {
                if is_batched {
                    return lab.load_keys(engine.as_ref(), keys).map(|()| 0);
                }
                for (at, key) in keys.iter().enumerate() {
                    engine.put(key, lab.workload.value(at, 0))?;
                }
                Ok(0)
            })?;
            Ok(Measured { sum: Some(sum_of_all(engine.as_ref())?), ..measured })
        });
    }
    race.run(lab.rounds)
}

/// Measures gets of keys that are there, and of absent ones.
pub(crate) fn get(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.filled_entrants()?;
    let mut hit = Race::new("ordered get of keys that are there");
    let mut miss = Race::new("ordered get of absent keys");
    let there = &lab.workload.probes[..lab.keys / READ_SHARE];
    let absent = &lab.workload.absent[..lab.keys / READ_SHARE];
    for Filled { name, engine, .. } in &loaded {
        hit.add(*name, |_| Measured::time(there.len(), || sum_of(engine.as_ref(), there)));
        miss.add(*name, |_| Measured::time(absent.len(), || sum_of(engine.as_ref(), absent)));
    }
    Ok(vec![hit.run(lab.rounds)?, miss.run(lab.rounds)?])
}

/// Measures overwrites in random order.
pub(crate) fn overwrite(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.filled_entrants()?;
    let mut race = Race::new("ordered overwrite in random order");
    let workload = &lab.workload;
    let count = lab.keys / WRITE_SHARE;
    for Filled { name, engine, .. } in &loaded {
        race.add(*name, move |round| {
            let from = round % WRITE_SHARE * count;
            let measured = Measured::time(count, || {
                for at in &workload.order[from..from + count] {
                    engine.put(&workload.keys[*at], workload.value(*at, round + 1))?;
                }
                Ok(0)
            })?;
            let sum = sum_of(engine.as_ref(), &workload.probes[from..from + count])?;
            Ok(Measured { sum: Some(sum), ..measured })
        });
    }
    Ok(vec![race.run(lab.rounds)?])
}

/// Measures a scan of all keys and values in order.
pub(crate) fn scan(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.filled_trees(&lab.workload.keys)?;
    let mut race = Race::new("ordered scan of all keys and values");
    add_reads(&mut race, &loaded, lab.keys, |reads, sum| {
        reads.range(&[], usize::MAX, &mut |bytes| *sum = sum.wrapping_add(whole(bytes)))
    });
    // A sum does not depend on the order.
    check_order(&loaded)?;
    Ok(vec![race.run(lab.rounds)?])
}

/// Measures ranges of three lengths from random keys on, and prefixes.
pub(crate) fn range(lab: &Lab) -> Result<Vec<Table>> {
    let groups = (lab.keys / GROUP).clamp(1, 1 << 16);
    let keys: Vec<Key> = lab.workload.keys.iter().map(|key| grouped(*key, groups)).collect();
    let loaded = lab.filled_trees(&keys)?;
    let starts: Vec<Key> = lab.workload.order.iter().map(|at| keys[*at]).collect();
    let in_order = sorted(&keys);
    let mut tables = Vec::new();
    for (limit, share) in [(10, 20), (100, 100), (10_000, 5000)] {
        let starts = &starts[..(lab.keys / share).max(1)];
        let behind = |start: &Key| in_order.len() - in_order.partition_point(|key| key < start);
        let count = starts.iter().map(|start| limit.min(behind(start))).sum();
        let mut race = Race::new(format!("ordered ranges of {limit} keys and values, keys read"));
        add_reads(&mut race, &loaded, count, |reads, sum| {
            let touch = &mut |bytes: &[u8]| *sum = sum.wrapping_add(whole(bytes));
            starts.iter().map(|start| reads.range(start, limit, touch)).sum()
        });
        tables.push(race.run(lab.rounds)?);
    }
    let prefixes: Vec<&[u8]> = starts.iter().take(groups).map(|key| &key[..2]).collect();
    let count_of = |prefix: &&[u8]| {
        let less = in_order.partition_point(|key| key[..2] < **prefix);
        in_order[less..].partition_point(|key| key.starts_with(prefix))
    };
    let count = prefixes.iter().map(count_of).sum();
    let mut race = Race::new("ordered prefixes of about 1000 keys and values, keys read");
    add_reads(&mut race, &loaded, count, |reads, sum| {
        let touch = &mut |bytes: &[u8]| *sum = sum.wrapping_add(whole(bytes));
        prefixes.iter().map(|prefix| reads.prefix(prefix, touch)).sum()
    });
    tables.push(race.run(lab.rounds)?);
    Ok(tables)
}

/// Adds every contender to a race of reads, and those of mapcask's owned values. `work` adds what it
/// reads to the sum and returns the number of keys, which must be `count`.
fn add_reads<'r>(
    race: &mut Race<'r>,
    loaded: &'r [Filled<dyn OrderedEngine>],
    count: usize,
    work: impl Fn(&dyn OrderedReads, &mut u64) -> Result<usize> + Copy + 'r,
) {
    let sum_by = move |reads: &dyn OrderedReads| {
        let mut sum = 0;
        let found = work(reads, &mut sum)?;
        if found != count {
            return Err(format!("{found} of {count} keys were read").into());
        }
        Ok(sum)
    };
    for tree in loaded {
        let engine = tree.engine.as_ref();
        race.add(tree.name, move |_| {
            Measured::time(count, || {
                let mut sum = 0;
                engine.read(&mut |reads| {
                    sum = sum_by(reads)?;
                    Ok(())
                })?;
                Ok(sum)
            })
        });
        if let Some(reads) = engine.owned() {
            let name = format!("{}, owned values", tree.name);
            race.add(name, move |_| Measured::time(count, || sum_by(reads)));
        }
    }
}

/// Returns an error if a contender returns keys out of order.
fn check_order(loaded: &[Filled<dyn OrderedEngine>]) -> Result<()> {
    for tree in loaded {
        let (mut last, mut is_key, mut is_ordered) = (Vec::new(), true, true);
        tree.engine.read(&mut |reads| {
            reads.range(&[], usize::MAX, &mut |bytes| {
                if is_key {
                    is_ordered &= last.as_slice() < bytes;
                    last.clear();
                    last.extend_from_slice(bytes);
                }
                is_key = !is_key;
            })?;
            Ok(())
        })?;
        if !is_ordered {
            return Err(format!("{}: keys are out of order", tree.name).into());
        }
    }
    Ok(())
}

/// Returns the sum over all keys, all values and their number.
pub(crate) fn sum_of_all(engine: &dyn Engine) -> Result<u64> {
    let mut sum = 0_u64;
    let count = engine.iterate(&mut |bytes| sum = sum.wrapping_add(whole(bytes)))?;
    Ok(sum.wrapping_add(count.ok_or("it cannot iterate")? as u64))
}

/// Returns keys in ascending order.
pub(crate) fn sorted(keys: &[Key]) -> Vec<Key> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys
}

/// Returns the key with one of so many prefixes of two bytes.
fn grouped(mut key: Key, groups: usize) -> Key {
    let group = usize::from(u16::from_be_bytes([key[0], key[1]])) % groups;
    // It is below the 65,536 groups that there are at most.
    key[..2].copy_from_slice(&(group as u16).to_be_bytes());
    key
}
