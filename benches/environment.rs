//! Describes the machine, kernel and file system. A reader cannot judge a figure without them.

use std::fs;
use std::path::Path;
use std::thread;

/// Returns the facts that a reader needs to judge the figures, one a line.
pub(crate) fn describe(directory: &Path, date: &str) -> Vec<String> {
    vec![
        format!("date: {date}"),
        format!("machine: {}, {} cores, {} memory", processor(), cores(), memory()),
        format!("kernel: {}, huge pages: {}", read("/proc/sys/kernel/osrelease"), huge_pages()),
        format!("file system: {}", file_system(directory)),
    ]
}

/// Returns the load average of the last minute. Above the number of cores, figures are worth
/// little.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn memory() -> String {
    field("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown".to_owned())
}

fn huge_pages() -> String {
    let text = read("/sys/kernel/mm/transparent_hugepage/enabled");
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(text.clone(), |(on, _)| on.to_owned())
}

/// Returns the file system's kind, and for ext4 its use of a journal: with one a durable write
/// costs more.
pub(crate) fn file_system(directory: &Path) -> String {
    let Ok(directory) = directory.canonicalize() else { return "unknown".to_owned() };
    let mounts = read("/proc/self/mountinfo");
    let mut found: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4) else { continue };
        let mut source = source.split(' ');
        let (kind, device) = (source.next().unwrap_or("unknown"), source.next().unwrap_or(""));
        let is_longer = found.as_ref().is_none_or(|(len, _)| *len <= point.len());
        if directory.starts_with(point) && is_longer {
            found = Some((point.len(), format!("{kind}{}", journal(kind, device))));
        }
    }
    found.map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

fn journal(kind: &str, device: &str) -> &'static str {
    if kind != "ext4" {
        return "";
    }
    let name = device.rsplit('/').next().unwrap_or(device);
    let entries = fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
    let has_journal = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')));
    if has_journal { " with a journal" } else { " without a journal" }
}
