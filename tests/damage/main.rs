//! Tests of damaged files: every flipped bit, every cut, lost and misplaced pages, missing and
//! extra files.
//!
//! [`Sample::check`] states once which results of an open are allowed. It may refuse the store with
//! an error that names the file, and then no byte has changed. Or it may open the store, and then
//! all contents are states that the writer was told of. After a clean close only the last state is
//! allowed. After a kill any acknowledged state is allowed that is not older than the last flush.
//! That bound holds as long as one witness of the flush is intact: the control page, or later
//! records in the log.
//!
//! By default a sample of all damages is tried. With `MAPCASK_DAMAGE=full` in the environment, all
//! are.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod allocator;
mod sample;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mapcask::sim::SimDisk;
use mapcask::{Error, Store};

use self::allocator::largest_allocation;
use self::sample::{Files, PAGE, Sample, State, closed, disk_of, files_of, options, samples};

/// The largest single allocation of an open, besides the size of the files, in bytes.
const ALLOCATION_MAX: usize = 4 << 20;

fn full() -> bool {
    std::env::var_os("MAPCASK_DAMAGE").is_some_and(|value| value == "full")
}

/// Returns the step from one damage to the next, which is one if everything is tried.
fn stride(default: usize) -> usize {
    if full() { 1 } else { default }
}

// ---- The promises -------------------------------------------------------------------------------

/// The state that an open must return at least.
#[derive(Clone, Copy)]
enum Witness {
    /// At least one proof of the last flush is intact.
    Whole,
    /// All proofs of the last flush may be damaged.
    Perhaps,
}

fn content(store: &Store) -> Result<State, Error> {
    store.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

impl Sample {
    fn least(&self, witness: Witness) -> usize {
        if self.clean || matches!(witness, Witness::Whole) { self.durable } else { 0 }
    }

    /// Opens the files. Returns `None` if they were refused as promised, and the state found if
    /// they opened.
    fn check(&self, files: &Files, least: usize) -> Result<Option<usize>, String> {
        catch_unwind(AssertUnwindSafe(|| self.open(files, least))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!("panic: {}", text.unwrap_or_default()))
        })
    }

    fn open(&self, files: &Files, least: usize) -> Result<Option<usize>, String> {
        let disk = disk_of(files);
        let (opened, largest) = largest_allocation(|| options().open_on(&disk));
        let bytes: usize = files.values().map(Vec::len).sum();
        if largest > ALLOCATION_MAX + bytes {
            return Err(format!("an allocation of {largest} bytes"));
        }
        match opened {
            Err(error) => self.refused(&disk, files, &error).map(|()| None),
            Ok(store) => self.opened(&disk, store, least).map(Some),
        }
    }

    fn refused(&self, disk: &SimDisk, files: &Files, error: &Error) -> Result<(), String> {
        let file = match error {
            Error::Corrupt { path, offset, .. } => {
                let name = path.file_name().unwrap().to_str().unwrap();
                let len = [files, &self.files].map(|files| files.get(name).map_or(0, Vec::len));
                if *offset > len.into_iter().max().unwrap() as u64 {
                    return Err(format!("an offset outside of the file: {error}"));
                }
                path
            }
            Error::MissingSegment { path } | Error::ForeignFile { path } | Error::TooNew { path, .. } => path,
            Error::Foreign { found, .. } if files.contains_key(found) => return unchanged(disk, files),
            _ => return Err(format!("not an error about damage: {error:?}")),
        };
        let name = file.file_name().unwrap().to_str().unwrap();
        if !self.files.contains_key(name) && !files.contains_key(name) {
            return Err(format!("names a file that never was: {error}"));
        }
        unchanged(disk, files)
    }

    fn opened(&self, disk: &SimDisk, store: Store, least: usize) -> Result<usize, String> {
        let failed = |what| move |error: Error| format!("{what}: {error}");
        let found = content(&store).map_err(failed("iter"))?;
        let state = self.states.iter().rposition(|state| *state == found).ok_or("an invented state")?;
        if state < least {
            return Err(format!("state {state} came back, {least} was durable"));
        }
        let keys: BTreeSet<_> = self.states.iter().flat_map(State::keys).collect();
        let mut copy = Vec::new();
        for key in keys {
            let expected = found.get(key).map(Vec::as_slice);
            let got = store.get(key).map_err(failed("get"))?;
            let copied = store.get_into(key, &mut copy).map_err(failed("get_into"))?.then_some(&*copy);
            if got.as_deref() != expected || copied != expected {
                return Err(format!("get and iter differ about {}", key.escape_ascii()));
            }
        }
        if store.len() != found.len() {
            return Err(format!("{} keys, and len is {}", found.len(), store.len()));
        }
        store.verify().map_err(failed("verify"))?;
        store.insert("new", "value").map_err(failed("insert"))?;
        store.flush().map_err(failed("flush"))?;
        drop(store);
        let store = options().open_on(disk).map_err(failed("open again"))?;
        let mut expected = found;
        expected.insert(b"new".to_vec(), b"value".to_vec());
        if content(&store).map_err(failed("iter again"))? != expected {
            return Err("another state after opening again".to_owned());
        }
        Ok(state)
    }
}

/// Checks that a refusal changed nothing, except for the lock file, which taking the lock writes.
fn unchanged(disk: &SimDisk, before: &Files) -> Result<(), String> {
    let strip = |mut files: Files| {
        files.remove("LOCK");
        files
    };
    if strip(files_of(disk)) == strip(before.clone()) {
        Ok(())
    } else {
        Err("a refusal changed files".into())
    }
}

/// Collects the failures, so that one run shows all of them.
#[derive(Default)]
struct Verdict {
    tried: usize,
    refused: usize,
    wrong: Vec<String>,
}

impl Verdict {
    fn try_one(&mut self, sample: &Sample, files: &Files, witness: Witness, what: impl FnOnce() -> String) {
        self.tried += 1;
        match sample.check(files, sample.least(witness)) {
            Ok(None) => self.refused += 1,
            Ok(Some(_)) => {}
            Err(wrong) => self.wrong.push(format!("{}, {}: {wrong}", sample.name, what())),
        }
    }

    fn end(self) {
        let (wrong, tried) = (self.wrong.len(), self.tried);
        let shown = &self.wrong[..wrong.min(40)];
        assert!(wrong == 0, "{wrong} of {tried}:\n{}", shown.join("\n"));
        assert!(self.refused > 0, "damage is met at all");
    }
}

/// Calls `damage` with every file of every sample.
fn with_every_file(mut damage: impl FnMut(&Sample, &str, &[u8])) {
    for sample in &samples() {
        for (name, bytes) in sample.files.iter().filter(|(name, _)| *name != "LOCK") {
            damage(sample, name, bytes);
        }
    }
}

fn with_file(sample: &Sample, name: &str, bytes: Vec<u8>) -> Files {
    let mut files = sample.files.clone();
    files.insert(name.to_owned(), bytes);
    files
}

// ---- The damage ---------------------------------------------------------------------------------

#[test]
fn flipped_bit_is_refused_or_harmless() {
    let mut verdict = Verdict::default();
    with_every_file(|sample, name, bytes| {
        for bit in (0..bytes.len() * 8).step_by(stride(397)) {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let files = with_file(sample, name, damaged);
            let what = || format!("{name} byte {} bit {}", bit / 8, bit % 8);
            verdict.try_one(sample, &files, Witness::Whole, what);
        }
    });
    verdict.end();
}

#[test]
fn file_cut_at_any_length_is_refused_or_harmless() {
    let mut verdict = Verdict::default();
    with_every_file(|sample, name, bytes| {
        let last = bytes.len().saturating_sub(1);
        for len in
            (0..bytes.len()).step_by(stride(211)).chain([1, 7, 8, last]).filter(|len| *len < bytes.len())
        {
            let files = with_file(sample, name, bytes[..len].to_vec());
            verdict.try_one(sample, &files, Witness::Whole, || format!("{name} cut at {len}"));
        }
    });
    verdict.end();
}

#[test]
fn lost_or_misplaced_page_is_refused_or_harmless() {
    let mut verdict = Verdict::default();
    let other = closed(99);
    with_every_file(|sample, name, bytes| {
        let mut sources: Vec<(String, Vec<u8>)> = vec![("zeros".to_owned(), vec![0; PAGE])];
        for (kind, files) in
            [("this", &sample.files), ("another", &other.files), ("the older", &sample.older)]
        {
            for (source, bytes) in files.iter().filter(|(source, _)| *source != "LOCK") {
                let pages = bytes.chunks(PAGE).enumerate();
                sources
                    .extend(pages.map(|(n, page)| (format!("{kind} store's {source}:{n}"), page.to_vec())));
            }
        }
        for (n, page) in bytes.chunks(PAGE).enumerate() {
            for (source, content) in &sources {
                let mut damaged = bytes.to_vec();
                let len = page.len().min(content.len());
                damaged[n * PAGE..][..page.len()].fill(0);
                damaged[n * PAGE..][..len].copy_from_slice(&content[..len]);
                let files = with_file(sample, name, damaged);
                verdict.try_one(sample, &files, Witness::Whole, || format!("{name}:{n} is {source}"));
            }
        }
    });
    verdict.end();
}

#[test]
fn missing_copied_or_longer_file_is_refused_or_harmless() {
    let mut verdict = Verdict::default();
    with_every_file(|sample, name, bytes| {
        let mut files = sample.files.clone();
        files.remove(name);
        verdict.try_one(sample, &files, Witness::Whole, || format!("{name} removed"));
        for copy in ["0000000001.seg", "0000000002.seg", "0000000099.seg", "0000000099.seg.tmp", "CONTROL"] {
            let files = with_file(sample, copy, bytes.to_vec());
            verdict.try_one(sample, &files, Witness::Whole, || format!("{name} copied to {copy}"));
        }
        for more in [1, 8, 4095, 4096] {
            for filling in [0, 0xa5] {
                let mut longer = bytes.to_vec();
                longer.resize(bytes.len() + more, filling);
                let files = with_file(sample, name, longer);
                verdict.try_one(sample, &files, Witness::Whole, || format!("{name} {more} longer"));
            }
        }
    });
    verdict.end();
}

#[test]
fn random_damage_is_an_error_or_leads_to_an_acknowledged_state() {
    let mut verdict = Verdict::default();
    let samples = samples();
    for seed in 0..if full() { 10_000 } else { 300 } {
        let mut random = fastrand::Rng::with_seed(seed);
        let sample = &samples[random.usize(..samples.len())];
        let mut files = sample.files.clone();
        let names: Vec<_> = files.keys().cloned().collect();
        let mut hit = BTreeSet::new();
        for _ in 0..random.usize(1..=4) {
            let name = &names[random.usize(..names.len())];
            let bytes = files.get_mut(name).unwrap();
            if bytes.is_empty() {
                continue;
            }
            hit.insert(name);
            let from = random.usize(..bytes.len());
            let to = (from + random.usize(1..=64)).min(bytes.len());
            random.fill(&mut bytes[from..to]);
        }
        let witness = if hit.len() == 1 { Witness::Whole } else { Witness::Perhaps };
        verdict.try_one(sample, &files, witness, || format!("seed {seed}: {hit:?}"));
    }
    verdict.end();
}

#[test]
fn bit_flipped_in_an_open_store_is_never_read_as_data() {
    let sample = closed(1);
    let disk = disk_of(&sample.files);
    let store = options().verify_reads(true).open_on(&disk).unwrap();
    let state = sample.states.last().unwrap();
    let mut wrong = Vec::new();
    let segments = sample.files.iter().filter(|(name, _)| name.ends_with(".seg"));
    for (name, bit) in segments
        .flat_map(|(name, bytes)| (0..bytes.len() * 8).step_by(stride(499)).map(move |bit| (name, bit)))
    {
        let (byte, place) = (bit / 8, u8::try_from(bit % 8).unwrap());
        disk.rot_bit(name, byte as u64, place).unwrap();
        let mut copy = Vec::new();
        for (key, value) in state {
            let got = store.get(key);
            let copied = store.get_into(key, &mut copy).map(|found| found.then_some(&copy));
            let right = |found: Option<&[u8]>| found == Some(value);
            let got = got.as_ref().map_or(true, |found| right(found.as_deref()));
            let copied = copied.as_ref().map_or(true, |found| right(found.map(Vec::as_slice)));
            if !got || !copied {
                wrong.push(format!("{name} byte {byte} bit {place}: get {got}, get_into {copied}"));
            }
        }
        // If an open refuses these bytes, a verification must find the damage.
        let mut damaged = sample.files[name].clone();
        damaged[byte] ^= 1 << place;
        let refused = matches!(sample.check(&with_file(&sample, name, damaged), 0), Ok(None));
        if refused && store.verify().is_ok() {
            wrong.push(format!("{name} byte {byte} bit {place}: verify finds nothing"));
        }
        disk.rot_bit(name, byte as u64, place).unwrap();
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    store.verify().unwrap();
}

#[test]
fn iterators_return_an_error_for_a_damaged_record_and_go_on() {
    let disk = SimDisk::new();
    let store = options().verify_reads(true).open_on(&disk).unwrap();
    for key in 0..200_u8 {
        store.insert([key], [key; 50]).unwrap();
    }
    let segments: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    let place = |name: &String| {
        let bytes = disk.read_file(name).unwrap();
        Some((name.clone(), bytes.windows(50).position(|window| *window == [77; 50])?))
    };
    let (name, at) = segments.iter().find_map(place).unwrap();
    disk.rot_bit(&name, at as u64 + 9, 3).unwrap();
    let expected: BTreeSet<u8> = (0..200).filter(|key| *key != 77).collect();
    let owned = store.iter().map(|item| item.map(|(key, _)| key[0]));
    let view = store.view();
    let borrowed = view.iter().map(|item| item.map(|(key, _)| key[0]));
    for items in [owned.collect::<Vec<_>>(), borrowed.collect()] {
        assert_eq!(items.len(), 200, "an error takes the place of the item");
        let (right, wrong): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
        assert!(matches!(wrong[..], [Err(Error::Corrupt { .. })]), "{wrong:?}");
        assert_eq!(right.into_iter().flatten().collect::<BTreeSet<_>>(), expected);
    }
}

/// Cause: data was read up to the size of the file, which costs nothing where it is a hole.
/// Symptom: an open read 512 MiB of a lengthened copy of the manifest, and a salvage read a
/// terabyte of a segment. Fix: both stop where the file's contents end.
#[test]
fn a_hole_behind_a_files_end_is_not_read() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = scratch.path().join("data");
    let store = options().open(&path).unwrap();
    for n in 0..100_u32 {
        store.insert(n.to_le_bytes(), vec![7; 300]).unwrap();
    }
    store.close().unwrap();
    for (n, name) in ["MANIFEST.0", "MANIFEST.1", "CONTROL", "LOCK", "0000000001.seg"].into_iter().enumerate()
    {
        let file = std::fs::OpenOptions::new().write(true).open(path.join(name)).unwrap();
        let before = file.metadata().unwrap().len();
        file.set_len(1 << 40).unwrap();
        let rescued = options().open(scratch.path().join(n.to_string())).unwrap();
        let (report, largest) = largest_allocation(|| mapcask::salvage(&path, &rescued).unwrap());
        assert!(largest <= ALLOCATION_MAX, "{name}: an allocation of {largest} bytes");
        assert_eq!(report.keys, 100, "{name}: {report:?}");
        let (opened, largest) = largest_allocation(|| options().open(&path));
        assert!(largest <= ALLOCATION_MAX, "{name}: an allocation of {largest} bytes");
        match opened {
            Ok(store) => {
                assert_eq!(store.len(), 100, "{name}");
                store.close().unwrap();
            }
            Err(error) => assert!(name.ends_with("seg") && error.is_corruption(), "{name}: {error}"),
        }
        file.set_len(before).unwrap();
    }
}

#[test]
fn a_copying_read_verifies_under_all_options() {
    let sample = closed(1);
    let disk = disk_of(&sample.files);
    let store = options().verify_reads(false).open_on(&disk).unwrap();
    let state = sample.states.last().unwrap();
    let mut refused = 0;
    for (name, bytes) in sample.files.iter().filter(|(name, _)| name.ends_with(".seg")) {
        for bit in (0..bytes.len() * 8).step_by(stride(499)) {
            let (byte, place) = (bit / 8, u8::try_from(bit % 8).unwrap());
            disk.rot_bit(name, byte as u64, place).unwrap();
            let mut copy = Vec::new();
            for (key, value) in state {
                match store.get_into(key, &mut copy) {
                    Ok(found) => assert!(found && copy == *value, "{name} byte {byte} bit {place}"),
                    Err(_) => refused += 1,
                }
            }
            disk.rot_bit(name, byte as u64, place).unwrap();
        }
    }
    assert!(refused > 10, "{refused}");
}
