//! Random damages of every kind, and checks that all untouched data is copied.
//!
//! `MAPCASK_DAMAGES` sets their number, which is small by default.

use std::ops::Range;

use fastrand::Rng;

use super::history::{Files, History, contents, disk_of, files_of, options};
use super::truth::{Damaged, Truth};
use super::{cases, rescue};
use crate::error::Error;
use crate::fs::sim::SimDisk;

/// The number of damages per store.
const DAMAGES_PER_STORE: u64 = 25;

/// Moves a part of a file, or inserts garbage before it.
fn shift(rng: &mut Rng, bytes: &mut Vec<u8>, part: Range<usize>, is_move: bool) {
    let len = bytes.len();
    if is_move {
        let at = rng.usize(0..=len - part.len());
        bytes.copy_within(part, at);
    } else {
        let garbage: Vec<u8> = (0..part.len()).map(|_| rng.u8(..)).collect();
        bytes.splice(part.start..part.start, garbage);
        bytes.truncate(len);
    }
}

struct Store {
    truth: Truth,
    history: History,
    boot_id: Option<[u8; 16]>,
    foreign: Files,
}

fn make(seed: u64) -> Option<Store> {
    let mut history = History::new(seed);
    let steps = history.rng.usize(60..250);
    for step in 0..steps {
        history.step();
        if step % 40 == 39 {
            history.earlier.push(files_of(&history.disk));
        }
    }
    let mut disk = history.disk.clone();
    match history.rng.u8(0..3) {
        0 => {
            if let Some(store) = history.store.take() {
                store.close().ok()?;
            }
        }
        1 => disk = disk.kill(),
        _ => {
            // At a random crash point, often within a compaction pass.
            let points = disk.points();
            let (at, _) = points[points.len() - 1 - history.rng.usize(0..points.len().min(20))];
            disk = disk.crash_point(at, crate::fs::sim::Tears::None).kill();
        }
    }
    let boot_id = disk.dir().boot_id();
    let files = files_of(&disk);
    let opened = options().open_on(&disk_of(&files, boot_id)).ok()?;
    let expected = contents(&opened);
    let truth = Truth::of(files.clone(), &disk_of(&files, boot_id), expected)?;
    let mut other = History::new(seed + 1_000_000);
    for _ in 0..60 {
        other.step();
    }
    let foreign = files_of(&other.disk);
    Some(Store { truth, history, boot_id, foreign })
}

fn range(rng: &mut Rng, len: usize) -> Range<usize> {
    if len == 0 {
        return 0..0;
    }
    let at = rng.usize(0..len);
    let most = [8, 100, 5000][rng.usize(0..3)];
    at..(at + rng.usize(1..most)).min(len)
}

fn pick<'a>(rng: &mut Rng, files: &'a Files, ends: &str) -> Option<&'a String> {
    let names: Vec<_> = files.keys().filter(|name| name.ends_with(ends)).collect();
    (!names.is_empty()).then(|| names[rng.usize(0..names.len())])
}

const MANIFESTS: [&str; 2] = ["MANIFEST.0", "MANIFEST.1"];

impl Store {
    fn damage(&mut self, damaged: &mut Damaged) {
        let rng = &mut self.history.rng;
        let any = rng.u8(0..8) == 0;
        let Some(name) = pick(rng, &damaged.files, if any { "" } else { ".seg" }).cloned() else { return };
        let kind = rng.u32(0..17);
        let bytes = damaged.files.get_mut(&name).expect("it was picked");
        let part = range(rng, bytes.len());
        damaged.told.push(format!("kind {kind}, {name} {part:?}"));
        match kind {
            0 | 1 if !bytes.is_empty() => bytes[part.start] ^= 1 << rng.u8(0..8),
            2 => bytes[part].fill(0),
            3 => bytes[part].iter_mut().for_each(|byte| *byte = rng.u8(..)),
            4 => bytes.truncate(part.start),
            5 => drop(damaged.files.remove(&name)),
            6 | 7 => {
                let bytes = bytes.clone();
                let other = pick(rng, &damaged.files, ".seg").cloned();
                let new = format!("{:010}.seg", rng.u32(1..200));
                let target = other.filter(|_| rng.bool()).unwrap_or(new);
                damaged.told.push(format!("onto {target}"));
                let there = damaged.files.insert(target, bytes);
                if let (6, Some(there)) = (kind, there) {
                    damaged.files.insert(name, there);
                }
            }
            8 => {
                let Some(foreign) = pick(rng, &self.foreign, ".seg") else { return };
                let bytes = self.foreign[foreign].clone();
                let target = if rng.bool() { name } else { format!("{:010}.seg", rng.u32(1..200)) };
                damaged.told.push(format!("of another store, onto {target}"));
                damaged.files.insert(target, bytes);
            }
            9 if !self.history.earlier.is_empty() => {
                let earlier = &self.history.earlier[rng.usize(0..self.history.earlier.len())];
                if let Some(old) = pick(rng, earlier, ".seg") {
                    damaged.told.push(format!("an older {old}"));
                    damaged.files.insert(old.clone(), earlier[old].clone());
                }
            }
            10 => {
                let pages = part.start / 4096 * 4096..part.end.next_multiple_of(4096);
                damaged.unreadable.push((name, pages));
            }
            11 if !self.history.earlier.is_empty() => {
                let earlier = &self.history.earlier[rng.usize(0..self.history.earlier.len())];
                for name in MANIFESTS {
                    if let Some(old) = earlier.get(name) {
                        damaged.files.insert(name.to_owned(), old.clone());
                    }
                }
            }
            12 => {
                let name = MANIFESTS[rng.usize(0..2)];
                if let Some(bytes) = damaged.files.get_mut(name) {
                    bytes[rng.usize(8..40)] ^= 1;
                }
            }
            13 => MANIFESTS.iter().for_each(|name| drop(damaged.files.remove(*name))),
            14 if bytes.len() > 128 => bytes[rng.usize(0..128)] ^= 1 << rng.u8(0..8),
            15 | 16 => shift(rng, bytes, part, kind == 16),
            _ => {}
        }
    }

    fn disk(&self, damaged: &Damaged) -> SimDisk {
        let disk = disk_of(&damaged.files, self.boot_id);
        for (name, range) in &damaged.unreadable {
            // The file may have been removed since.
            let _ = disk.make_unreadable(name, range.start as u64, range.len() as u64);
        }
        disk
    }

    /// Damages the store and salvages it. Returns `true` if an open refused it, and the complaints.
    fn try_one(&mut self) -> (bool, Vec<String>) {
        let mut damaged =
            Damaged { files: self.truth.files.clone(), unreadable: Vec::new(), told: Vec::new() };
        for _ in 0..self.history.rng.u32(1..4) {
            self.damage(&mut damaged);
        }
        let said = |complaints: Vec<String>| {
            complaints.into_iter().map(|text| format!("{:?}: {text}", damaged.told)).collect()
        };
        let rescued = rescue(&self.disk(&damaged));
        let (report, found) = match rescued {
            Ok(rescued) => rescued,
            Err(Error::NotFound { .. }) if !damaged.files.keys().any(|name| name.ends_with(".seg")) => {
                return (true, Vec::new());
            }
            Err(error) => return (true, said(vec![error.to_string()])),
        };
        let opened = options().open_on(&self.disk(&damaged)).ok();
        if let Some(store) = opened.as_ref().filter(|_| report.intact) {
            let same = contents(store) == found;
            return (
                false,
                if same { Vec::new() } else { said(vec![format!("an open shows another store {report:?}")]) },
            );
        }
        let written = |value: &[u8]| self.history.written.get(value).cloned();
        let complaints = damaged.complaints(&self.truth, &written, &report, &found);
        let complaints = complaints.into_iter().map(|text| format!("{text}; {report:?}")).collect();
        (opened.is_none(), said(complaints))
    }
}

#[test]
fn salvage_copies_all_undamaged_data() {
    let damages = cases(300, "MAPCASK_DAMAGES");
    let (mut tried, mut refused, mut wrong) = (0, 0, Vec::new());
    let mut seed = 0;
    while tried < damages {
        seed += 1;
        let Some(mut store) = make(seed) else { continue };
        for n in 0..DAMAGES_PER_STORE.min(damages - tried) {
            let (is_refused, complaints) = store.try_one();
            refused += u64::from(is_refused);
            wrong.extend(complaints.into_iter().take(1).map(|text| format!("seed {seed}.{n}: {text}")));
        }
        tried += DAMAGES_PER_STORE;
    }
    println!("{tried} damaged stores, of which an open refused {refused}");
    assert!(
        wrong.is_empty(),
        "{} of {tried} are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(8)].join("\n\n")
    );
    assert!(refused > tried / 3, "an open refused {refused} of {tried} only");
}
