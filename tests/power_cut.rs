//! Tests that a power cut on a real file system keeps every durable write, and otherwise leaves a
//! prefix of the history.
//!
//! Each file system lies in a file behind a loop device. A cut is the ioctl that file systems have
//! for the purpose: after it nothing reaches the device, while programs still write to memory. Then
//! the writing process is killed, and the file system is mounted again. `MAPCASK_CUTS` sets the
//! number of cuts for each file system. `MAPCASK_SEED` repeats a run's operations, but not its
//! timing.
//!
//! These tests need root and loop devices. Without them they pass and print loudly that they have
//! tested nothing.
//!
//! They do not test sectors that the device tears, or writes that it reorders. The simulated disk
//! does.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use mapcask::Durability;

use support::{Chain, Fate, Totals};

/// The cuts of one store. The next store uses the same file system, where old blocks hold old
/// records.
const CUTS_PER_STORE: u64 = 10;
const DURABILITIES: [Durability; 6] = {
    use Durability::{Disk, Interval, Os};
    [Disk, Disk, Disk, Os, Os, Interval]
};

#[test]
fn child_writes_until_it_is_killed() {
    support::writer::write_until_killed();
}

#[test]
fn durable_writes_survive_power_cuts_on_ext4() {
    println!("{}", survive(&EXT4));
}

#[test]
fn durable_writes_survive_power_cuts_on_ext4_without_a_journal() {
    println!("{}", survive(&EXT4_WITHOUT_JOURNAL));
}

#[test]
fn durable_writes_survive_power_cuts_on_xfs() {
    println!("{}", survive(&XFS));
}

/// Leads stores on one file system through cuts, and returns the summary.
fn survive(kind: &'static Kind) -> String {
    let cuts = support::count_of("MAPCASK_CUTS", 3);
    let seed = support::count_of("MAPCASK_SEED", fastrand::u64(..));
    let mut file_system = match FileSystem::make(kind) {
        Ok(file_system) => file_system,
        Err(reason) => return skip(kind, &reason),
    };
    let mut rng = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let mut done = 0;
    let mut sum = Totals::default();
    while done < cuts {
        let totals = one_store(&mut file_system, &mut rng, &mut done, cuts);
        sum.deaths += totals.deaths;
        sum.acknowledged += totals.acknowledged;
        sum.in_recovery += totals.in_recovery;
        sum.torn += totals.torn;
        sum.quarantined += totals.quarantined;
        sum.taken += totals.taken;
    }
    // A few cuts may all happen before the first write.
    assert!(done < 20 || sum.acknowledged >= done, "hardly anything was written: {sum:?}");
    format!(
        "{}: cuts: {done}, kills among them: {}, {} deaths in recovery, {} operations acknowledged, {} not durable and \
         taken, {} torn writes met, {} times records set aside, {:.1} cuts/s, seed {seed}",
        kind.name,
        sum.deaths - done,
        sum.in_recovery,
        sum.acknowledged,
        sum.taken,
        sum.torn,
        sum.quarantined,
        done as f64 / begun.elapsed().as_secs_f64()
    )
}

/// Leads one store through cuts, with kills among them, so that a cut also meets data that recovery
/// only read from memory.
fn one_store(file_system: &mut FileSystem, rng: &mut fastrand::Rng, done: &mut u64, cuts: u64) -> Totals {
    // Earlier stores are removed. They may return in a cut, so each store has its own name.
    for entry in fs::read_dir(&file_system.mount).unwrap().map(Result::unwrap) {
        if entry.file_name().as_encoded_bytes().starts_with(b"store") {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    let store = file_system.mount.join(format!("store-{done}"));
    let mut chain = Chain::new(rng.u64(..), &file_system.folder, &store);
    for _ in 0..CUTS_PER_STORE.min(cuts - *done) {
        if rng.u8(0..3) == 0 {
            let fate = Fate::draw(rng, &DURABILITIES);
            chain.live_and_die(rng, fate, None);
        }
        let fate = Fate::draw(rng, &DURABILITIES);
        let flag = FLAGS[rng.usize(0..FLAGS.len())];
        let mut order = rng.fork();
        let mut cut = || {
            write_some_back(&store, &mut order);
            file_system.cut(flag);
        };
        chain.live_and_die(rng, fate, Some(&mut cut));
        file_system.mount_again();
        *done += 1;
        if rng.u8(0..8) == 0 {
            chain.look_and_close();
        }
    }
    chain.look_and_close();
    // A closed store needs no more syncs.
    file_system.cut(NO_LOG_FLUSH);
    file_system.mount_again();
    chain.look_and_close();
    chain.totals
}

/// Writes some pages of the store back, and not the pages before them, which makes holes in the
/// log. The kernel may do this at any time, but seldom does within milliseconds.
fn write_some_back(store: &Path, rng: &mut fastrand::Rng) {
    const PAGE: u64 = 4096;
    // The process may not have made the directory yet, and may rename files meanwhile.
    let Ok(entries) = fs::read_dir(store) else { return };
    for entry in entries.flatten() {
        if rng.bool() {
            continue;
        }
        let Ok(file) = File::options().read(true).write(true).open(entry.path()) else { continue };
        let pages = file.metadata().unwrap().len() / PAGE;
        if pages == 0 {
            continue;
        }
        let map = memmap2::MmapOptions::new().map_raw(&file).unwrap();
        for _ in 0..rng.usize(0..3) {
            let from = rng.u64(0..pages);
            let len = rng.u64(1..=pages - from);
            map.flush_range(usize::try_from(from * PAGE).unwrap(), usize::try_from(len * PAGE).unwrap())
                .unwrap();
        }
    }
}

// ---- The file systems ---------------------------------------------------------------------------

/// Everything is written, then the file system is shut down.
const WRITE_BACK: u32 = 0;
/// The journal is written.
const LOG_FLUSH: u32 = 1;
/// Nothing is written: the power cut.
const NO_LOG_FLUSH: u32 = 2;
const FLAGS: [u32; 6] = [NO_LOG_FLUSH, NO_LOG_FLUSH, NO_LOG_FLUSH, NO_LOG_FLUSH, LOG_FLUSH, WRITE_BACK];

struct Kind {
    name: &'static str,
    make: &'static [&'static str],
    mount_type: &'static str,
    image_bytes: u64,
    /// The command that a system runs before it mounts such a file system after a crash.
    repair: Option<&'static [&'static str]>,
}

const EXT4: Kind = Kind {
    name: "ext4",
    make: &["mkfs.ext4", "-q", "-F"],
    mount_type: "ext4",
    image_bytes: 192 << 20,
    repair: None,
};
const EXT4_WITHOUT_JOURNAL: Kind = Kind {
    name: "ext4 without a journal",
    make: &["mkfs.ext4", "-q", "-F", "-O", "^has_journal"],
    repair: Some(&["e2fsck", "-f", "-y"]),
    ..EXT4
};
const XFS: Kind = Kind {
    name: "xfs",
    make: &["mkfs.xfs", "-q", "-f"],
    mount_type: "xfs",
    // mkfs.xfs accepts no less than 300 MiB.
    image_bytes: 320 << 20,
    repair: None,
};

/// A mounted file system that the test made.
struct FileSystem {
    kind: &'static Kind,
    /// A folder outside of the file system, for its image and the acknowledged operations.
    folder: PathBuf,
    device: String,
    mount: PathBuf,
    _alone: File,
}

fn place() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("power-cut")
}

/// Admits one file system at a time, also among processes, so that any files found are leftovers.
fn alone() -> File {
    let lock = File::create(place().with_extension("lock")).unwrap();
    lock.lock().unwrap();
    lock
}

/// Runs a program, and returns its output.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    // The codes 1 and 2 of e2fsck report expected errors.
    let fine =
        output.status.success() || program == "e2fsck" && output.status.code().is_some_and(|code| code < 4);
    if fine {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program} {}: {complaint} ({})", arguments.join(" "), output.status))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the build folder has a readable name")
}

impl FileSystem {
    /// Makes and mounts a file system, or returns the reason why that is impossible here.
    fn make(kind: &'static Kind) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let alone = alone();
        let folder = place();
        clean_up(&folder);
        let mount = folder.join("mount");
        fs::create_dir_all(&mount).unwrap();
        let image = folder.join("image");
        File::create(&image).and_then(|file| file.set_len(kind.image_bytes)).unwrap();
        let (make, arguments) = kind.make.split_first().expect("a program");
        run(make, &[arguments, &[text(&image)]].concat())?;
        let device = run("losetup", &["--find", "--show", text(&image)])?;
        // From here on `drop` removes the file system.
        let file_system = Self { kind, folder, device, mount, _alone: alone };
        file_system.mount()?;
        Ok(file_system)
    }

    fn mount(&self) -> Result<String, String> {
        run("mount", &["-t", self.kind.mount_type, &self.device, text(&self.mount)])
    }

    /// Cuts the power: nothing reaches the device from here on.
    fn cut(&self, flag: u32) {
        let directory = File::open(&self.mount).unwrap();
        shut_down(&directory, flag);
    }

    /// Restores the power. The processes that used the file system are dead.
    fn mount_again(&self) {
        run("umount", &[text(&self.mount)]).unwrap();
        if let Some((program, arguments)) = self.kind.repair.and_then(<[_]>::split_first) {
            run(program, &[arguments, &[self.device.as_str()]].concat()).unwrap();
        }
        self.mount().unwrap();
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // The unmount is lazy: a failed test may still have files open.
        drop(run("umount", &["-l", text(&self.mount)]));
        drop(run("losetup", &["-d", &self.device]));
        // The files of a failure are evidence, until the next run.
        if !std::thread::panicking() {
            clean_up(&self.folder);
        }
    }
}

/// Removes the leftovers of an earlier run.
fn clean_up(folder: &Path) {
    let mount = folder.join("mount");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for _ in mounts.lines().filter(|line| line.split(' ').nth(1) == Some(text(&mount))) {
        drop(run("umount", &["-l", text(&mount)]));
    }
    let devices = run("losetup", &["--noheadings", "--output", "NAME", "-j", text(&folder.join("image"))]);
    for device in devices.unwrap_or_default().lines() {
        drop(run("losetup", &["-d", device.trim()]));
    }
    // Files are never removed through a mount that could not be undone.
    if folder.exists() {
        drop(fs::remove_dir(&mount));
        assert!(!mount.exists(), "{} is in the way; unmount and remove it", mount.display());
        fs::remove_dir_all(folder).unwrap();
    }
}

/// Shuts a file system down with `FS_IOC_SHUTDOWN`, which ext4, xfs, f2fs and btrfs share.
#[expect(unsafe_code, reason = "an ioctl that rustix does not wrap")]
fn shut_down(directory: &File, flag: u32) {
    const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    // SAFETY: despite its direction the operation only reads one `u32` through the pointer.
    let request = unsafe { rustix::ioctl::Setter::<SHUTDOWN, u32>::new(flag) };
    // SAFETY: the descriptor is open, and the operation touches no memory of ours but its argument.
    unsafe { rustix::ioctl::ioctl(directory, request) }.unwrap();
}

/// Prints that the cuts are skipped, past the capture of the test's output.
fn skip(kind: &Kind, reason: &str) -> String {
    let bar = "#".repeat(100);
    let text = format!(
        "\n{bar}\n##  POWER CUTS ON {} SKIPPED: {reason}\n##  Nothing was shown about power cuts.\n{bar}\n",
        kind.name.to_uppercase()
    );
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    format!("{}: cuts: 0", kind.name)
}
