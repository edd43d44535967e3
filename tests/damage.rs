//! Damage to the files of a store: every flipped bit, every cut, lost and misplaced pages, missing and extra files.
//!
//! What an open of damaged files may do is stated once, in [`Sample::check`]: refuse with an error that names the
//! file, and then not a byte has changed; or open, and then everything it says is what the writer was told. After a
//! clean close that is the last state and nothing else. After a kill it is any acknowledged state, but none older than
//! the last flush as long as one witness of that flush is whole: the control page, or what lies behind in the log.
//!
//! By default a sample of all damage is tried; with `MAPCASK_DAMAGE=full` in the environment, all of it.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(unsafe_code, reason = "an allocator that remembers the largest allocation is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mapcask::sim::SimDisk;
use mapcask::{Error, Options, Store, WriteBatch};

type Files = BTreeMap<String, Vec<u8>>;
type State = BTreeMap<Vec<u8>, Vec<u8>>;

const PAGE: usize = 4096;
const BOOT: [u8; 16] = [7; 16];
/// What an open may allocate at once besides the size of what is there, in bytes.
const ALLOCATION_MAX: usize = 4 << 20;

// ---- The largest allocation ---------------------------------------------------------------------------------------

struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn watch(size: usize) {
    // A thread that is ending has no cell any more, and opens no store.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        // SAFETY: the caller's promises are the callee's demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        watch(size);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// ---- Stores to damage ---------------------------------------------------------------------------------------------

fn full() -> bool {
    std::env::var_os("MAPCASK_DAMAGE").is_some_and(|value| value == "full")
}

/// The step from one damage to the next: one when everything is tried.
fn stride(default: usize) -> usize {
    if full() { 1 } else { default }
}

fn options() -> Options {
    Options::new().background(false).segment_bytes(PAGE as u64)
}

/// A store that remembers every state it acknowledged.
struct Writer {
    disk: SimDisk,
    store: Store,
    states: Vec<State>,
    durable: usize,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::with_seed(seed);
        disk.set_boot_id(Some(BOOT));
        let store = options().open_on(&disk).unwrap();
        Self { disk, store, states: vec![State::new()], durable: 0 }
    }

    fn note(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.states.last().unwrap().clone();
        change(&mut state);
        self.states.push(state);
    }

    /// Inserts, overwrites and removes single keys, then writes a batch that does all three.
    fn part(&mut self, part: u32) {
        for n in 0..30_u32 {
            let key = format!("key {}", n * 5 % 14).into_bytes();
            if n % 6 == 5 {
                assert_eq!(self.store.remove(&key).unwrap(), self.states.last().unwrap().contains_key(&key));
                self.note(|state| drop(state.remove(&key)));
            } else {
                let value = format!("part {part} value {n} ").repeat(1 + n as usize % 7).into_bytes();
                self.store.insert(&key, &value).unwrap();
                self.note(|state| drop(state.insert(key, value)));
            }
        }
        let mut batch = WriteBatch::new();
        let mut state = self.states.last().unwrap().clone();
        for n in 0..4 + part % 3 {
            let (key, value) = (format!("batch {n}").into_bytes(), format!("part {part}").into_bytes());
            batch.insert(&key, &value);
            state.insert(key, value);
        }
        batch.remove("key 1");
        state.remove(b"key 1".as_slice());
        self.store.write(&batch).unwrap();
        self.states.push(state);
    }

    /// A value with a segment of its own, of several pages.
    fn large(&mut self) {
        let value: Vec<u8> = (0..9000_u32).flat_map(|n| n.to_le_bytes()).take(9000).collect();
        self.store.insert("large", &value).unwrap();
        self.note(|state| drop(state.insert(b"large".to_vec(), value)));
    }

    fn flush(&mut self) {
        self.store.flush().unwrap();
        self.durable = self.states.len() - 1;
    }

    /// The process dies and another one opens the store.
    fn kill_and_open(self) -> Self {
        let disk = self.disk.kill();
        disk.set_boot_id(Some(BOOT));
        let store = options().open_on(&disk).unwrap();
        Self { disk, store, ..self }
    }

    fn files(&self) -> Files {
        files_of(&self.disk)
    }

    fn sample(self, name: &'static str, older: Files) -> Sample {
        let (states, durable) = (self.states.clone(), self.durable);
        Sample { name, files: files_of(&self.disk.kill()), older, states, durable, clean: false }
    }
}

fn files_of(disk: &SimDisk) -> Files {
    disk.files().into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::new();
    disk.set_boot_id(Some(BOOT));
    for (name, bytes) in files {
        disk.put_file(name, bytes);
    }
    disk
}

/// The files of a store, and what its writer was told.
struct Sample {
    name: &'static str,
    files: Files,
    /// The same files earlier in its life.
    older: Files,
    /// Every acknowledged state, in order.
    states: Vec<State>,
    /// The state at the last flush.
    durable: usize,
    /// Whether it was closed.
    clean: bool,
}

fn closed(seed: u64) -> Sample {
    let mut writer = Writer::new(seed);
    writer.part(0);
    writer.flush();
    writer.part(1);
    let older = writer.files();
    writer.large();
    writer.part(2);
    let (states, disk) = (writer.states, writer.disk);
    writer.store.close().unwrap();
    let durable = states.len() - 1;
    Sample { name: "closed", files: files_of(&disk), older, states, durable, clean: true }
}

fn killed() -> Sample {
    let mut writer = Writer::new(2);
    writer.part(0);
    let older = writer.files();
    writer.part(1);
    writer.large();
    writer.flush();
    writer.part(2);
    writer.part(3);
    writer.sample("killed", older)
}

fn killed_after_recovery() -> Sample {
    let mut writer = Writer::new(3);
    writer.part(0);
    writer.flush();
    writer.part(1);
    let mut writer = writer.kill_and_open();
    let older = writer.files();
    writer.part(2);
    writer.flush();
    writer.part(3);
    writer.sample("killed after a recovery", older)
}

/// What was recovered has not been made durable when the process dies again.
fn killed_in_recovery() -> Sample {
    let mut writer = Writer::new(4);
    writer.part(0);
    writer.flush();
    writer.part(1);
    let older = writer.files();
    writer.kill_and_open().sample("killed in recovery", older)
}

fn samples() -> [Sample; 4] {
    let samples = [closed(1), killed(), killed_after_recovery(), killed_in_recovery()];
    for sample in &samples {
        let bytes: usize = sample.files.values().map(Vec::len).sum();
        assert!(bytes <= 64 << 10, "{}: {bytes} bytes", sample.name);
        assert!(sample.files.keys().filter(|name| name.ends_with(".seg")).count() >= 3, "{}", sample.name);
        assert_eq!(sample.check(&sample.files, 0), Ok(Some(sample.states.len() - 1)), "{}", sample.name);
    }
    samples
}

// ---- What is promised ---------------------------------------------------------------------------------------------

/// Which state an open may come back with at the least.
#[derive(Clone, Copy)]
enum Witness {
    /// Something that proves the last flush is whole.
    Whole,
    /// Perhaps nothing.
    Perhaps,
}

fn content(store: &Store) -> Result<State, Error> {
    store.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

impl Sample {
    fn least(&self, witness: Witness) -> usize {
        if self.clean || matches!(witness, Witness::Whole) { self.durable } else { 0 }
    }

    /// Opens the files. `Ok(None)`: refused as promised; `Ok(state)`: opened with that state, and all is well.
    fn check(&self, files: &Files, least: usize) -> Result<Option<usize>, String> {
        catch_unwind(AssertUnwindSafe(|| self.open(files, least))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!("panic: {}", text.unwrap_or_default()))
        })
    }

    fn open(&self, files: &Files, least: usize) -> Result<Option<usize>, String> {
        let disk = disk_of(files);
        LARGEST.set(0);
        let opened = options().open_on(&disk);
        let largest = LARGEST.get();
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

/// A refusal changes nothing. The lock file is written by taking the lock.
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

/// Collects what went wrong, so that one run shows all of it.
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

// ---- The damage ---------------------------------------------------------------------------------------------------

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
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
fn a_file_cut_at_any_length_is_an_error_or_changes_nothing() {
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
fn a_lost_or_misplaced_page_is_an_error_or_changes_nothing() {
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
fn a_missing_repeated_or_longer_file_is_an_error_or_changes_nothing() {
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
fn a_bit_that_flips_while_the_store_is_open_is_never_read_as_data_and_verify_finds_it() {
    let sample = closed(1);
    let disk = disk_of(&sample.files);
    let store = options().verify_reads(true).open_on(&disk).unwrap();
    let state = sample.states.last().unwrap();
    let mut wrong = Vec::new();
    let segments = sample.files.iter().filter(|(name, _)| name.ends_with(".seg"));
    for (name, bit) in segments
        .flat_map(|(name, bytes)| (0..bytes.len() * 8).step_by(stride(499)).map(move |bit| (name, bit)))
    {
        let (byte, place) = (bit / 8, (bit % 8) as u8);
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
        // What an open of these bytes would refuse, no verification may pass.
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
