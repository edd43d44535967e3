//! Tests that a store survives resources that run out on real file systems.
//!
//! The resources are blocks, inodes, quotas, descriptors, mappings, address space and file sizes.
//! For each, a process fills a store until it is refused, writes on, and is killed. A second
//! process, with no more of the resource, opens the store. It must find every acknowledged write,
//! be refused with advice, and leave no file that is not counted. Removals and a compaction must
//! then free space; the store reserves some of the resource for them. `MAPCASK_LIMITS` sets the
//! runs of each test; `MAPCASK_SEED` repeats a run's operations.
//!
//! Most of these tests need root, for file systems of their own. Without it they pass and print
//! loudly that they have tested nothing.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mapcask::{Error, Options, Store};
use memmap2::MmapMut;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most operations that are answered between the first refusal and the kill.
const AFTER: u64 = 60;
/// The keys that are used; the resource runs out before all of them are inserted.
const KEYS: u32 = 100_000;
/// The most address space that a process gets where that is to run out, in bytes, besides a MiB.
const MORE_ADDRESSES: u64 = 24 << 20;
/// The refused writes that must leave nothing.
const REFUSALS: usize = 20;

/// A resource that is to run out, and the expected error.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    place: How,
    /// The limit that each process lowers for itself.
    lowered: &'static str,
    segment_bytes: u64,
    most_len: usize,
    /// The beginning of the error's `Debug`, and a part of its advice.
    error: &'static str,
    advice: &'static str,
}

/// The storage under the store.
#[derive(Debug, Clone, Copy)]
enum How {
    /// The build's folder, on any file system.
    Plain,
    /// A file system in memory, with these options.
    Memory(&'static str),
    /// A device of `mib` MiB, made by the command `make` and mounted with `options`. `free_kib` is
    /// the space left on it in KiB.
    Device { mib: u64, make: &'static [&'static str], options: &'static str, free_kib: Option<u64> },
}

const FULL: Case = Case {
    name: "",
    place: How::Plain,
    lowered: "",
    segment_bytes: 256 << 10,
    most_len: 3000,
    error: "NoSpace",
    advice: "free some space",
};
const XFS: &[&str] = &["mkfs.xfs", "-q", "-f"];

#[test]
fn a_full_memory_file_system_lets_a_store_out() {
    let case = Case { name: "tmpfs", place: How::Memory("size=2m"), ..FULL };
    meet(&case);
    meet(&Case { name: "tmpfs-default", segment_bytes: 64 << 20, ..case });
}

#[test]
fn a_full_ext4_lets_a_store_out() {
    for (name, size) in [("ext4-1k", "1024"), ("ext4-4k", "4096")] {
        let make: &'static [&'static str] = match size {
            "1024" => &["mkfs.ext4", "-q", "-F", "-b", "1024"],
            _ => &["mkfs.ext4", "-q", "-F", "-b", "4096"],
        };
        let place = How::Device { mib: 12, make, options: "loop", free_kib: Some(2048) };
        meet(&Case { name, place, ..FULL });
    }
}

#[test]
fn a_full_xfs_lets_a_store_out() {
    let place = How::Device { mib: 320, make: XFS, options: "loop", free_kib: Some(3072) };
    meet(&Case { name: "xfs", place, ..FULL });
}

#[test]
fn a_full_btrfs_lets_a_store_out() {
    let make: &'static [&'static str] = &["mkfs.btrfs", "-q", "-f", "--mixed"];
    let place = How::Device { mib: 24, make, options: "loop", free_kib: Some(6144) };
    meet(&Case { name: "btrfs", place, ..FULL });
}

/// Cause: only bytes were reserved for removals and passes. Symptom: with the last inode gone a
/// pass had none for its copies, so removals ended with the active segment, and no compaction was
/// possible. Fix: insertions leave files, too, and a pass turns many files into fewer.
#[test]
fn a_file_system_without_inodes_lets_a_store_out() {
    let case =
        Case { segment_bytes: 16 << 10, error: "Exhausted { resource: Files", advice: "inode left", ..FULL };
    meet(&Case { name: "tmpfs-inodes", place: How::Memory("size=8m,nr_inodes=24"), ..case });
    let make: &'static [&'static str] = &["mkfs.ext4", "-q", "-F", "-N", "32"];
    let place = How::Device { mib: 16, make, options: "loop", free_kib: None };
    meet(&Case { name: "ext4-inodes", place, ..case });
}

#[test]
fn a_quota_that_is_not_told_of_lets_a_store_out() {
    let make: &'static [&'static str] = &["mkfs.btrfs", "-q", "-f", "--mixed"];
    let place = How::Device { mib: 32, make, options: "loop", free_kib: None };
    meet(&Case { name: "btrfs-quota", place, lowered: "quota", ..FULL });
}

#[test]
fn a_limit_on_file_sizes_lets_a_store_go_on_and_is_no_signal() {
    let case = Case {
        name: "file-size",
        lowered: "file size",
        most_len: 100_000,
        error: "Exhausted { resource: FileSize",
        advice: "ulimit -f",
        ..FULL
    };
    meet(&case);
}

/// A large buffer needs a mapping, too, and its allocation then fails like any other.
#[test]
fn a_store_without_mappings_goes_on_once_there_are_some() {
    let case = Case {
        name: "mappings",
        lowered: "mappings",
        segment_bytes: 64 << 10,
        error: "Exhausted { resource: M",
        advice: "vm.max_map_count",
        ..FULL
    };
    meet(&case);
}

/// Cause: large buffers were allocated as std does. Symptom: without address space an insertion or
/// the worker ended the process by SIGABRT. Fix: their allocation may fail.
#[test]
fn a_store_without_address_space_goes_on_once_there_is_some() {
    let case = Case {
        name: "address-space",
        lowered: "address space",
        segment_bytes: 4 << 20,
        error: "Exhausted { resource: M",
        advice: "ulimit -v",
        ..FULL
    };
    meet(&case);
}

#[test]
fn one_store_works_with_few_descriptors() {
    let case = Case { name: "descriptors", lowered: "descriptors", segment_bytes: 16 << 10, ..FULL };
    let place = Place::make(&case).unwrap();
    let worked = child(&case, "thrifty", &place.path.join("store"), 0).output().unwrap();
    let said = String::from_utf8_lossy(&worked.stdout) + String::from_utf8_lossy(&worked.stderr);
    assert!(worked.status.success(), "{}\n{said}", worked.status);
}

#[cfg(feature = "sim")]
#[test]
fn file_size_limit_stops_a_checkpoint_and_nothing_else() {
    let case = Case { name: "image-size", lowered: "file size", ..FULL };
    let place = Place::make(&case).unwrap();
    let worked = child(&case, "images", &place.path.join("store"), 0).output().unwrap();
    let said = String::from_utf8_lossy(&worked.stdout) + String::from_utf8_lossy(&worked.stderr);
    assert!(worked.status.success(), "{}\n{said}", worked.status);
}

/// Makes checkpoints larger than the limit on file sizes: in an open store, on close, and without
/// the limit.
#[cfg(feature = "sim")]
fn make_images(setting: &Setting) {
    let options = Options::new().segment_bytes(setting.segment_bytes).checkpoint_bytes(0).background(false);
    let images = || {
        let names = fs::read_dir(&setting.directory).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("INDEX")).count()
    };
    let fill = |store: &Store, keys: std::ops::Range<u32>| {
        for key in keys {
            store.insert(key.to_le_bytes(), setting.value(key, 40)).unwrap();
        }
    };
    let limits = getrlimit(Resource::Fsize);
    let store = options.clone().open(&setting.directory).unwrap();
    fill(&store, 0..60_000);
    let _held = setting.lower();
    while store.step().unwrap() {}
    assert_eq!(images(), 0);
    store.close().unwrap();
    let store = options.open(&setting.directory).unwrap();
    assert_eq!(images(), 0);
    setting.compare(&store, &(0..60_000).map(|key| (key, 40)).collect());
    setrlimit(Resource::Fsize, limits).unwrap();
    fill(&store, 60_000..70_000);
    while store.step().unwrap() {}
    assert_eq!((store.stats().checkpoints, images()), (1, 1));
}

/// Works with more segments than descriptors, and without a worker that makes them durable.
fn work_thriftily(setting: &Setting) {
    let _held = setting.lower();
    let options = Options::new().segment_bytes(setting.segment_bytes).background(false);
    let store = options.clone().open(&setting.directory).unwrap();
    for key in 0..500_u32 {
        store.insert(key.to_le_bytes(), setting.value(key, 2000)).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    assert_eq!(options.open(&setting.directory).unwrap().len(), 500);
}

/// Runs one case as often as `MAPCASK_LIMITS` says.
fn meet(case: &Case) {
    let times = number("MAPCASK_LIMITS", 1);
    let place = match Place::make(case) {
        Ok(place) => place,
        Err(reason) => return skip(case, &reason),
    };
    for time in 0..times {
        let seed = number("MAPCASK_SEED", fastrand::u64(..)).wrapping_add(time);
        let store = place.path.join(format!("store-{time}"));
        let told = fill_until_killed(case, &store, seed);
        let known = place.folder.join("known");
        fs::write(&known, told.to_text()).unwrap();
        let judged = child(case, "judge", &store, seed).env("MAPCASK_LIMITS_KNOWN", &known).output().unwrap();
        let said = String::from_utf8_lossy(&judged.stdout) + String::from_utf8_lossy(&judged.stderr);
        assert!(judged.status.success(), "{}, seed {seed}: {}\n{said}", case.name, judged.status);
        fs::remove_dir_all(&store).unwrap();
    }
}

// ---- The process that is killed -----------------------------------------------------------------

/// The answers that a process got, and the call in progress when it died.
#[derive(Debug, Default)]
struct Told {
    there: BTreeMap<u32, usize>,
    under_way: Option<(u32, Option<usize>)>,
}

impl Told {
    fn to_text(&self) -> String {
        let line = |(key, len): (&u32, &usize)| format!("there {key} {len}\n");
        let doubt = self.under_way.map(|(key, _)| format!("doubt {key} 0\n"));
        self.there.iter().map(line).chain(doubt).collect()
    }
}

fn child(case: &Case, role: &str, store: &Path, seed: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_meets_a_resource_limit", "--nocapture", "--test-threads=1"]);
    command.env("MAPCASK_LIMITS_ROLE", role).env("MAPCASK_LIMITS_STORE", store);
    // With an arena for each thread, glibc would take 64 MiB of addresses before they run out.
    command.env("MALLOC_ARENA_MAX", "1");
    command.env("MAPCASK_LIMITS_LOWERED", case.lowered).env("MAPCASK_LIMITS_SEED", seed.to_string());
    command.env("MAPCASK_LIMITS_OPTIONS", format!("{} {}", case.segment_bytes, case.most_len));
    command.env("MAPCASK_LIMITS_ERROR", case.error).env("MAPCASK_LIMITS_ADVICE", case.advice);
    command
}

/// Lets a process fill a store, and kills it some operations after the first refusal.
fn fill_until_killed(case: &Case, store: &Path, seed: u64) -> Told {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut writer = child(case, "fill", store, seed).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let (mut told, mut left, mut refused) = (Told::default(), rng.u64(0..AFTER), 0);
    let mut is_killed = false;
    for line in lines {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["put", key, len] => told.under_way = Some((key.parse().unwrap(), Some(len.parse().unwrap()))),
            ["take", key] => told.under_way = Some((key.parse().unwrap(), None)),
            ["done"] => {
                let _before = match told.under_way.take().unwrap() {
                    (key, Some(len)) => told.there.insert(key, len),
                    (key, None) => told.there.remove(&key),
                };
            }
            ["refused"] => (told.under_way, refused) = (None, refused + 1),
            // The test harness prints lines, too.
            _ => continue,
        }
        if matches!(words[..], ["done" | "refused"]) && refused > 0 && !is_killed {
            // Where nothing can be freed, removals are refused in the end as well.
            if left == 0 {
                writer.kill().unwrap();
                is_killed = true;
            }
            left = left.saturating_sub(1);
        }
    }
    let status = writer.wait().unwrap();
    assert!(
        is_killed,
        "{}, seed {seed}: it ended by itself with {status}, {} keys in",
        case.name,
        told.there.len()
    );
    told
}

fn fill(setting: &Setting) {
    let mut rng = fastrand::Rng::with_seed(setting.seed);
    let mut out = std::io::stdout();
    let store = setting.open();
    let held = setting.lower();
    let mut say = |line: String| out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
    // The test harness has begun a line.
    say("\n".to_owned());
    let (mut next, mut is_full) = (0, false);
    loop {
        let key = if is_full { rng.u32(0..next) } else { next };
        let done = if is_full && rng.u8(0..3) == 0 {
            say(format!("take {key}\n"));
            store.remove(key.to_le_bytes()).map(drop)
        } else {
            let len = rng.usize(0..setting.most_len);
            say(format!("put {key} {len}\n"));
            store.insert(key.to_le_bytes(), setting.value(key, len)).map(drop)
        };
        next += u32::from(!is_full);
        assert!(next < KEYS, "nothing ran out");
        match done {
            Ok(()) => say("done\n".to_owned()),
            Err(error) => {
                setting.check(&error);
                is_full = true;
                say("refused\n".to_owned());
            }
        }
        std::hint::black_box(&held);
    }
}

// ---- The process that judges --------------------------------------------------------------------

fn judge(setting: &Setting) {
    let text = fs::read_to_string(std::env::var("MAPCASK_LIMITS_KNOWN").unwrap()).unwrap();
    let mut there = BTreeMap::new();
    let mut doubt = None;
    for line in text.lines() {
        let mut words = line.split(' ');
        let word = words.next();
        let mut number = || words.next().unwrap().parse::<usize>().unwrap();
        let (key, len) = (u32::try_from(number()).unwrap(), number());
        if word == Some("doubt") {
            doubt = Some(key);
        } else {
            there.insert(key, len);
        }
    }
    let store = setting.open();
    let held = setting.lower();
    if let Some(key) = doubt {
        match store.get(key.to_le_bytes()).unwrap() {
            Some(value) => there.insert(key, value.len()),
            None => there.remove(&key),
        };
    }
    setting.compare(&store, &there);
    // No number of refusals may leave a file. A limit on file sizes refuses the large values only.
    let mut refused = 0;
    for key in KEYS.. {
        let len = setting.most_len - 1;
        match store.insert(key.to_le_bytes(), setting.value(key, len)) {
            Ok(_) => {
                there.insert(key, len);
            }
            Err(error) => {
                setting.check(&error);
                refused += 1;
            }
        }
        if refused == REFUSALS {
            break;
        }
    }
    setting.compare(&store, &there);
    // No write can free such a resource, so the limit is lifted.
    let held = setting.lift(held);
    lead_out(setting, store, there);
    std::hint::black_box(&held);
}

/// Removes most keys and compacts the store, then inserts into the freed space.
fn lead_out(setting: &Setting, store: Store, mut there: BTreeMap<u32, usize>) {
    let keys: Vec<_> = there.keys().copied().collect();
    for key in keys.iter().copied().filter(|key| !key.is_multiple_of(4)) {
        store
            .remove(key.to_le_bytes())
            .unwrap_or_else(|error| panic!("removal of {key}: {error} ({error:?})"));
        there.remove(&key);
    }
    store.compact().unwrap_or_else(|error| panic!("compaction: {error} ({error:?})"));
    for key in 2 * KEYS..2 * KEYS + 20 {
        let inserted = store.insert(key.to_le_bytes(), setting.value(key, 500));
        inserted.unwrap_or_else(|error| panic!("insertion afterwards: {error} ({error:?})"));
        there.insert(key, 500);
    }
    setting.compare(&store, &there);
    store.close().unwrap();
    let store = setting.open();
    setting.compare(&store, &there);
    for key in there.keys() {
        store.remove(key.to_le_bytes()).unwrap();
    }
    store.close().unwrap();
    assert_eq!(setting.open().len(), 0);
}

// ---- Shared by both processes -------------------------------------------------------------------

#[test]
fn child_meets_a_resource_limit() {
    let Ok(role) = std::env::var("MAPCASK_LIMITS_ROLE") else { return };
    let setting = Setting::from_env();
    match role.as_str() {
        "fill" => fill(&setting),
        "thrifty" => work_thriftily(&setting),
        #[cfg(feature = "sim")]
        "images" => make_images(&setting),
        _ => judge(&setting),
    }
}

#[derive(Debug)]
struct Setting {
    directory: PathBuf,
    lowered: String,
    seed: u64,
    segment_bytes: u64,
    most_len: usize,
    error: String,
    advice: String,
}

/// Mappings that are held so that no more are available.
type Held = Vec<MmapMut>;

impl Setting {
    fn from_env() -> Self {
        let word = |name: &str| std::env::var(format!("MAPCASK_LIMITS_{name}")).unwrap();
        let options = word("OPTIONS");
        let (segment_bytes, most_len) = options.split_once(' ').unwrap();
        Self {
            directory: word("STORE").into(),
            lowered: word("LOWERED"),
            seed: word("SEED").parse().unwrap(),
            segment_bytes: segment_bytes.parse().unwrap(),
            most_len: most_len.parse().unwrap(),
            error: word("ERROR"),
            advice: word("ADVICE"),
        }
    }

    fn open(&self) -> Store {
        let opened = Options::new().segment_bytes(self.segment_bytes).open(&self.directory);
        opened.unwrap_or_else(|error| panic!("open: {error} ({error:?})"))
    }

    fn value(&self, key: u32, len: usize) -> Vec<u8> {
        vec![key.to_le_bytes()[0]; len]
    }

    fn check(&self, error: &Error) {
        let (shape, text) = (format!("{error:?}"), error.to_string());
        assert!(shape.starts_with(&self.error) && text.contains(&self.advice), "{text} ({shape})");
    }

    /// Lowers the limit of this process.
    fn lower(&self) -> Held {
        let lower = |resource, to| {
            let maximum = getrlimit(resource).maximum;
            setrlimit(resource, Rlimit { current: Some(to), maximum }).unwrap();
        };
        match self.lowered.as_str() {
            "descriptors" => lower(Resource::Nofile, 20),
            "file size" => lower(Resource::Fsize, 64 << 10),
            "mappings" => return take_mappings(64),
            "address space" => {
                take_small_memory();
                lower(Resource::As, address_space() + (1 << 20) + self.seed % MORE_ADDRESSES);
            }
            _ => {}
        }
        Held::new()
    }

    /// Lifts the limit for mappings and address space: the store cannot free them.
    fn lift(&self, held: Held) -> Held {
        match self.lowered.as_str() {
            "mappings" => return Held::new(),
            "address space" => {
                let maximum = getrlimit(Resource::As).maximum;
                setrlimit(Resource::As, Rlimit { current: maximum, maximum }).unwrap();
            }
            _ => {}
        }
        held
    }

    /// Checks that the store holds exactly these keys, and its directory no uncounted file.
    fn compare(&self, store: &Store, there: &BTreeMap<u32, usize>) {
        for (key, len) in there {
            let found = store.get(key.to_le_bytes()).unwrap();
            assert_eq!(found.as_deref(), Some(&*self.value(*key, *len)), "key {key}");
        }
        assert_eq!(store.len(), there.len());
        // The worker may be making or removing a segment just now. The copies of a pass count once
        // the manifest names them, which takes long where a file system commits slowly.
        for attempt in 0.. {
            let stats = store.stats();
            let most = if stats.compaction.running { 200_000 } else { 1000 };
            let (before, mut size, mut strange) = (stats.segment_bytes, 0, Vec::new());
            for entry in fs::read_dir(&self.directory).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                if name.ends_with(".seg") {
                    size += entry.metadata().map_or(0, |metadata| metadata.len());
                } else if name.ends_with(".tmp") || name.ends_with(".aside") {
                    strange.push(name);
                }
            }
            let is_still = store.stats().segment_bytes == before;
            if is_still && size == before && strange.is_empty() {
                break;
            }
            assert!(attempt < most, "{size} bytes of segments, {before} counted, and {strange:?}");
            std::thread::yield_now();
        }
    }
}

/// Makes the allocator keep memory for small pieces, in gaps between pieces that are never freed.
fn take_small_memory() {
    let pieces: Vec<Box<[u8]>> = (0..4096).map(|_| vec![1; 1000].into()).collect();
    pieces.into_iter().step_by(32).for_each(std::mem::forget);
}

/// Returns the address space of this process, in bytes.
fn address_space() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

/// Takes all but `left` mappings. The kernel merges equal neighbours, so they alternate.
fn take_mappings(left: usize) -> Held {
    let mut held = Vec::with_capacity(1 << 20);
    let mut frozen = Vec::with_capacity(1 << 20);
    // Each new mapping lies directly below the one before.
    while let Ok(mapping) = MmapMut::map_anon(4096) {
        match held.len() == frozen.len() {
            true => held.push(mapping),
            false => match mapping.make_read_only() {
                Ok(mapping) => frozen.push(mapping),
                // The mapping was merged with its neighbour, and there is none left to split it.
                Err(_) => break,
            },
        }
    }
    // Each freed mapping leaves a gap, so that its neighbours are not merged.
    for _ in 0..left {
        held.pop();
    }
    std::mem::forget(frozen);
    held
}

// ---- The places ---------------------------------------------------------------------------------

/// The location of a store, and a folder outside of it.
#[derive(Debug)]
struct Place {
    folder: PathBuf,
    path: PathBuf,
    is_mounted: bool,
    _alone: File,
}

impl Place {
    fn make(case: &Case) -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("limits-{}", case.name));
        // A lock admits one test at a time, also among processes, so that any files found are
        // leftovers.
        let alone = File::create(folder.with_extension("lock")).unwrap();
        alone.lock().unwrap();
        clean_up(&folder);
        let path = folder.join("mount");
        fs::create_dir_all(&path).unwrap();
        let mut place = Self { folder, path, is_mounted: false, _alone: alone };
        if matches!(case.place, How::Plain) {
            return Ok(place);
        }
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let mount = place.path.to_str().unwrap().to_owned();
        match case.place {
            How::Plain => {}
            How::Memory(options) => run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &mount])?,
            How::Device { mib, make, options, .. } => {
                let image = place.folder.join("image");
                File::create(&image).and_then(|file| file.set_len(mib << 20)).unwrap();
                let image = image.to_str().unwrap();
                run(make[0], &[&make[1..], &[image]].concat())?;
                run("mount", &["-o", options, image, &mount])?;
            }
        }
        place.is_mounted = true;
        place.prepare(case, &mount)?;
        Ok(place)
    }

    /// Prepares the file system for the case.
    fn prepare(&mut self, case: &Case, mount: &str) -> Result<(), String> {
        if let How::Device { free_kib: Some(free), .. } = case.place {
            let system = rustix::fs::statvfs(&self.path).unwrap();
            let there = system.f_bavail * system.f_frsize;
            let ballast = File::create(self.path.join("ballast")).unwrap();
            let len = there.saturating_sub(free << 10).max(4096);
            rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
        }
        if case.lowered == "quota" {
            self.path.push("part");
            let part = self.path.to_str().unwrap();
            run("btrfs", &["quota", "enable", mount])?;
            run("btrfs", &["subvolume", "create", part])?;
            run("btrfs", &["qgroup", "limit", "3m", part])?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_mounted {
            // The unmount is lazy: a failed process may still have files open.
            drop(run("umount", &["-l", self.folder.join("mount").to_str().unwrap()]));
        }
        // After a failure the files stay as evidence, until the next run.
        if !std::thread::panicking() {
            clean_up(&self.folder);
        }
    }
}

/// Removes the leftovers of an earlier run.
fn clean_up(folder: &Path) {
    let mount = folder.join("mount");
    let text = mount.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for _ in mounts.lines().filter(|line| line.split(' ').nth(1) == Some(text)) {
        drop(run("umount", &["-l", text]));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // Files are never removed through a mount that could not be undone.
    assert!(!mounts.lines().any(|line| line.split(' ').nth(1) == Some(text)), "unmount {text}");
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {complaint}")) }
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {value}")),
        Err(_) => default,
    }
}

/// Prints that a case is skipped, past the capture of the test's output.
fn skip(case: &Case, reason: &str) {
    let text = format!("\n##  LIMITS ON {} SKIPPED: {reason}\n", case.name.to_uppercase());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
