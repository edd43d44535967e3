//! Tests the promises about the space that a store takes, with exact accounts.
//!
//! Each workload overwrites everything ten times, in the ways that programs do it. Compaction gets
//! its turn after every segment.
//!
//! The test's thread is the only one, so every run makes the same decisions.

use std::fs;
use std::path::{Path, PathBuf};

use mapcask::{Durability, Options, Stats, Store};

/// The size of a segment, in bytes.
const SEGMENT: u64 = 64 << 10;
/// The number of keys that stay. The record of each takes 128 bytes, and all of them take 40
/// segments.
const KEYS: u64 = 20_480;
const RECORD: u64 = 128;
const LIVE: u64 = KEYS * RECORD;
/// The writes between two turns of the background, which fill half of a segment.
const TURN: u64 = SEGMENT / RECORD / 2;
/// The bounds of the policy, for each hundred live bytes: freeable bytes and retained tombstones.
const FREEABLE_PERCENT: u64 = 35;
const KEPT_PERCENT: u64 = 12;
const SLACK: u64 = 4 * SEGMENT;

fn options() -> Options {
    Options::new().segment_bytes(SEGMENT).background(false).durability(Durability::Os)
}

/// Makes a directory in memory where the system has one. The numbers do not depend on the medium,
/// and the tests make ten thousand syncs.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| super::directory())
}

fn value(n: u64) -> [u8; 88] {
    let mut value = [7; 88];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value
}

/// A store under writes, together with its background.
struct Rig {
    directory: tempfile::TempDir,
    store: Store,
    /// The number of the last write of each key.
    expected: Vec<u64>,
    writes: u64,
    /// The bytes of all written records.
    user: u64,
    /// The greatest excess of the files over the live bytes, at any moment.
    excess: u64,
    turns: u64,
}

impl Rig {
    /// Makes a store with every key written once.
    fn new() -> Self {
        let directory = directory();
        let store = options().open(directory.path().join("store")).unwrap();
        let expected = vec![0; usize::try_from(KEYS).unwrap()];
        let mut rig = Self { directory, store, expected, writes: 0, user: 0, excess: 0, turns: 0 };
        (0..KEYS).for_each(|key| rig.put(key));
        rig.settle();
        rig
    }

    fn put(&mut self, key: u64) {
        self.writes += 1;
        self.store.insert(key.to_le_bytes(), value(self.writes)).unwrap();
        self.expected[usize::try_from(key).unwrap()] = self.writes;
        self.wrote(RECORD);
    }

    fn wrote(&mut self, bytes: u64) {
        self.user += bytes;
        if self.user / (TURN * RECORD) > self.turns {
            self.turns = self.user / (TURN * RECORD);
            self.settle();
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Lets the background work until it has nothing to do.
    fn settle(&mut self) {
        loop {
            let more = self.store.step().unwrap();
            let stats = self.store.stats();
            self.excess = self.excess.max(stats.segment_bytes - stats.live_bytes);
            // The policy uses an examination for a while, so it may notice work late.
            if !more && !stats.compaction.running && stats.compaction.next_reason.is_none() {
                return;
            }
        }
    }

    fn rest(&mut self) -> Stats {
        loop {
            self.settle();
            if !self.store.rest_step().unwrap() {
                break;
            }
        }
        let stats = self.store.stats();
        assert!(!stats.compaction.running && stats.compaction.next_reason.is_none(), "{stats:?}");
        stats
    }

    /// Checks that every key has its last value.
    fn check(&self, store: &Store) {
        for (key, n) in (0_u64..).zip(&self.expected) {
            assert_eq!(store.get(key.to_le_bytes()).unwrap().as_deref(), Some(&value(*n)[..]), "{key}");
        }
    }
}

/// Returns the bytes of a segment's header and of its records, computed from their lengths alone.
fn read_out(bytes: &[u8]) -> (u64, u64) {
    let number = |at: usize, len: usize| {
        let mut word = [0; 8];
        word[..len].copy_from_slice(&bytes[at..at + len]);
        usize::try_from(u64::from_le_bytes(word)).unwrap()
    };
    let header = 128 + 8 * number(68, 4);
    let mut at = header;
    while at + 32 <= bytes.len() && number(at, 8) != 0 {
        at += (32 + number(at + 6, 2) + number(at + 8, 4)).next_multiple_of(8);
    }
    (header as u64, (at - header) as u64)
}

/// Checks that the store's statistics match its files.
fn check_accounts(path: &Path, store: &Store, live: u64) {
    let stats = store.stats();
    let (mut sizes, mut headers, mut records, mut unused) = (0, 0, 0, 0);
    for entry in fs::read_dir(path).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".tmp") && !name.ends_with(".aside"), "{name}");
        if name.ends_with(".seg") {
            let bytes = fs::read(path.join(&name)).unwrap();
            let (header, used) = read_out(&bytes);
            let rest = &bytes[usize::try_from(header + used).unwrap()..];
            assert!(rest.iter().all(|byte| *byte == 0), "{name}");
            sizes += bytes.len() as u64;
            headers += header;
            records += used;
            unused += rest.len() as u64;
        }
    }
    assert_eq!(stats.live_bytes, live, "{stats:?}");
    assert_eq!(stats.live_bytes + stats.dead_bytes, records, "{stats:?}");
    assert_eq!(stats.segment_bytes, sizes, "{stats:?}");
    assert_eq!(stats.live_bytes + stats.dead_bytes + headers + unused, sizes);
    assert!(store.size_on_disk().unwrap() >= records);
}

/// Copies the files, as the death of the process would leave them, into another directory.
fn killed(path: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Checks the accounts and every key: now, after a kill, and after a close.
fn check_everything(rig: Rig, live: u64) {
    let path = rig.path();
    check_accounts(&path, &rig.store, live);
    rig.check(&rig.store);
    let dead = rig.store.stats().dead_bytes;
    let copy = rig.directory.path().join("killed");
    killed(&path, &copy);
    rig.store.clone().close().unwrap();
    for path in [copy, path] {
        let store = options().open(&path).unwrap();
        check_accounts(&path, &store, live);
        // Opening and closing write internal records.
        let after = store.stats().dead_bytes;
        assert!(after >= dead && after <= dead + 1024, "{dead}, then {after}");
        rig.check(&store);
        store.verify().unwrap();
    }
}

/// The result of one workload.
#[derive(Debug)]
struct Outcome {
    stats: Stats,
    amplification: f64,
    /// The size of the files, as a multiple of the live bytes.
    space: f64,
}

/// Prints the figures of a workload, which `--nocapture` shows.
#[expect(clippy::print_stdout, reason = "the figures are the point")]
fn outcome_is(line: &str) {
    println!("{line}");
}

/// Overwrites ten times the live bytes, and checks the bounds.
fn overwritten(name: &str, rig: &mut Rig, mut write: impl FnMut(&mut Rig)) -> Outcome {
    let (user, moved) = (rig.user, rig.store.stats().compaction.bytes_moved);
    rig.excess = 0;
    while rig.user < user + 10 * LIVE {
        write(rig);
    }
    let stats = rig.rest();
    let user = rig.user - user;
    let amplification = (user + stats.compaction.bytes_moved - moved) as f64 / user as f64;
    let space = stats.segment_bytes as f64 / stats.live_bytes as f64;
    let line = format!(
        "{name}: files {space:.3} x live ({} + {:.1} segments), at most {:.1} segments more than live, writes x \
         {amplification:.3}, {} passes, kept removals {}",
        stats.live_bytes / SEGMENT,
        (stats.segment_bytes - stats.live_bytes) as f64 / SEGMENT as f64,
        rig.excess as f64 / SEGMENT as f64,
        stats.compaction.passes,
        stats.compaction.retained_tombstone_bytes
    );
    outcome_is(&line);
    let live = stats.live_bytes;
    assert!(stats.segment_bytes * 2 <= live * 3 + 6 * SEGMENT, "{line}");
    // The policy's limit under load, and the output of one pass before its victims are removed.
    assert!(rig.excess <= live + SLACK + 8 * SEGMENT + SEGMENT, "{line}");
    assert!(stats.compaction.freeable_bytes <= SLACK + live / 100 * FREEABLE_PERCENT, "{stats:?}");
    assert!(stats.compaction.retained_tombstone_bytes <= SLACK + live / 100 * KEPT_PERCENT, "{stats:?}");
    Outcome { stats, amplification, space }
}

/// Returns the bound on the written bytes per byte of the user, for uniformly drawn keys and a log
/// of `space` times the live bytes.
///
/// A segment is rewritten when a share u of it is still live. The log is then filled to a = (1 - u)
/// / -ln u.
fn uniform_amplification(space: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        let full = (1.0 - middle) / -middle.ln();
        if full < 1.0 / space {
            low = middle;
        } else {
            high = middle;
        }
    }
    1.0 / (1.0 - low)
}

/// Returns the same bound for a Zipf distribution and one stream of copies. The table was measured
/// with a perfect choice of victims.
fn zipf_amplification(space: f64) -> f64 {
    let table = [(0.5, 1.42), (0.667, 2.01), (0.75, 2.58), (0.80, 2.99)];
    let full = (1.0 / space).clamp(0.5, 0.80);
    let at = table.windows(2).find(|pair| full <= pair[1].0).unwrap();
    let ((from, low), (to, high)) = (at[0], at[1]);
    low + (high - low) * (full - from) / (to - from)
}

/// Draws keys by their rank to the power of -0.99, and scatters the ranks over the keys.
struct Zipf {
    sums: Vec<f64>,
    keys: Vec<u64>,
    random: fastrand::Rng,
}

impl Zipf {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut keys: Vec<u64> = (0..KEYS).collect();
        random.shuffle(&mut keys);
        let mut sum = 0.0;
        let sums = (1..=KEYS).map(|rank| {
            sum += (rank as f64).powf(-0.99);
            sum
        });
        Self { sums: sums.collect(), keys, random }
    }

    fn draw(&mut self) -> u64 {
        let at = self.random.f64() * self.sums[self.sums.len() - 1];
        self.keys[self.sums.partition_point(|sum| *sum <= at)]
    }
}

#[test]
fn uniform_overwrites_keep_space_and_copying_within_theory() {
    let mut rig = Rig::new();
    let mut random = fastrand::Rng::with_seed(1);
    let outcome = overwritten("uniform", &mut rig, |rig| rig.put(random.u64(0..KEYS)));
    assert!(outcome.amplification <= 1.25 * uniform_amplification(outcome.space), "{outcome:?}");
    check_everything(rig, LIVE);
}

#[test]
fn zipf_overwrites_keep_space_and_copying_within_theory() {
    let mut rig = Rig::new();
    let mut zipf = Zipf::new(2);
    let outcome = overwritten("Zipf", &mut rig, |rig| rig.put(zipf.draw()));
    assert!(outcome.amplification <= 1.25 * zipf_amplification(outcome.space), "{outcome:?}");
    check_everything(rig, LIVE);
}

#[test]
fn one_hot_key_causes_hardly_any_copying() {
    let mut rig = Rig::new();
    let outcome = overwritten("one hot key", &mut rig, |rig| rig.put(KEYS / 2));
    assert!(outcome.amplification <= 1.25, "{outcome:?}");
    check_everything(rig, LIVE);
}

#[test]
fn queue_beside_cold_keys_keeps_space_bounded() {
    let mut rig = Rig::new();
    // From now on the first segment hides a record, so it retains tombstones.
    rig.put(0);
    let (mut next, lag) = (KEYS, 1000);
    let mut turn = |rig: &mut Rig| {
        rig.store.insert(next.to_le_bytes(), value(next)).unwrap();
        rig.wrote(RECORD);
        if next >= KEYS + lag {
            assert!(rig.store.remove((next - lag).to_le_bytes()).unwrap());
            rig.wrote(40);
        }
        next += 1;
    };
    let first = overwritten("queue", &mut rig, &mut turn);
    let second = overwritten("queue, again", &mut rig, &mut turn);
    for Outcome { stats, .. } in [&first, &second] {
        assert_eq!((stats.keys, stats.live_bytes), (KEYS + lag, (KEYS + lag) * RECORD));
    }
    // The assignment of keys to index lines is random for each store.
    assert!(second.stats.index_bytes <= first.stats.index_bytes * 51 / 50, "{first:?}, {second:?}");
    assert!(first.amplification <= 1.25 && second.amplification <= 1.25, "{first:?}, {second:?}");
    check_everything(rig, (KEYS + lag) * RECORD);
}
