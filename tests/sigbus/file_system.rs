//! A file system for one test, in a file behind a loop device.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kind of file system, the command that makes it, and the size of the file behind it.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) make: &'static [&'static str],
    pub(crate) image_bytes: u64,
}

/// A mounted file system.
pub(crate) struct FileSystem {
    folder: PathBuf,
    device: String,
    _alone: File,
}

/// Runs a program. Returns its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program} {}: {complaint} ({})", arguments.join(" "), output.status))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the build folder has a readable name")
}

impl FileSystem {
    /// Makes and mounts a file system. Returns `None` and prints a notice if that is impossible
    /// here.
    pub(crate) fn make(test: &str, kind: &Kind) -> Option<Self> {
        Self::try_make(test, kind).inspect_err(|reason| skip(test, kind, reason)).ok()
    }

    fn try_make(test: &str, kind: &Kind) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sigbus-{test}-{}", kind.name));
        // Only one process at a time holds the lock, so any leftovers are from an earlier run.
        let alone = File::create(folder.with_extension("lock")).unwrap();
        alone.lock().unwrap();
        clean_up(&folder);
        fs::create_dir_all(folder.join("mount")).unwrap();
        let image = folder.join("image");
        File::create(&image).and_then(|file| file.set_len(kind.image_bytes)).unwrap();
        let (make, arguments) = kind.make.split_first().expect("a program");
        run(make, &[arguments, &[text(&image)]].concat())?;
        let device = run("losetup", &["--find", "--show", text(&image)])?;
        // From here on the drop of this value removes the file system in any case.
        let file_system = Self { folder, device, _alone: alone };
        run("mount", &["-t", kind.name, &file_system.device, text(&file_system.mount())])?;
        Ok(file_system)
    }

    /// Returns the mount point.
    pub(crate) fn mount(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// Returns the file behind the device.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("image")
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // Unmounts lazily, because a failed test may still have files open.
        drop(run("umount", &["-l", text(&self.mount())]));
        drop(run("losetup", &["-d", &self.device]));
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
    // Deletes nothing through a mount that could not be removed.
    if folder.exists() {
        drop(fs::remove_dir(&mount));
        assert!(!mount.exists(), "{} is in the way; unmount and remove it", mount.display());
        fs::remove_dir_all(folder).unwrap();
    }
}

/// Prints that a test was skipped, past the capture of its output.
fn skip(test: &str, kind: &Kind, reason: &str) {
    let text = format!("\n## {test} on {} SKIPPED: {reason}; nothing was shown\n", kind.name);
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
