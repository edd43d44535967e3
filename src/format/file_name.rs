//! The names of all files of a store. No other module knows them.

use super::SegmentId;

/// The lock file, which is never removed.
pub const LOCK: &str = "LOCK";
/// The two copies of the manifest.
pub const MANIFESTS: [&str; 2] = ["MANIFEST.0", "MANIFEST.1"];
/// The control page, which other processes map.
pub const CONTROL: &str = "CONTROL";
/// The waiters page, on which followers ask to be woken.
pub const WAITERS: &str = "WAITERS";
/// The file that marks a store as being destroyed and names that store.
pub const REMOVING: &str = "REMOVING";
/// The file that marks a directory to which a backup is being restored.
pub const RESTORING: &str = "RESTORING";
/// The empty file by which standbys of the command-line tool take turns. A store ignores it.
pub const STANDBY: &str = ".standby";
/// The beginning of the name of a backup's list.
const BACKUP: &str = "BACKUP-";
/// The suffix of a segment's copy in a backup.
const COPY: &str = ".copy";
/// The suffix of a file that is being created.
const TEMPORARY: &str = ".tmp";

/// The meaning of a name in a store's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileName {
    /// The lock file.
    Lock,
    /// A copy of the manifest, 0 or 1.
    Manifest(usize),
    /// The control page.
    Control,
    /// The waiters page.
    Waiters,
    /// A segment.
    Segment(SegmentId),
    /// The hints of a segment, which are disposable.
    Hint(SegmentId),
    /// A segment, or the tail of one, that recovery quarantined. It is never read and never
    /// removed.
    Aside(SegmentId, u32),
    /// An index checkpoint.
    Checkpoint(u64),
    /// The mark of a store that is being destroyed.
    Removing,
    /// The mark of a restore that has not finished.
    Restoring,
    /// A file whose creation was interrupted. Its contents are ignored.
    Temporary,
    /// A file or folder that file systems, desktops or version control create by themselves.
    Neutral,
    /// A file that does not belong to the store.
    Foreign,
}

/// Returns the name of a segment.
#[must_use]
pub fn segment(id: SegmentId) -> String {
    format!("{id}.seg")
}

/// Returns the name of the `n`-th file quarantined from a segment.
#[must_use]
pub fn aside(id: SegmentId, n: u32) -> String {
    format!("{id}.{n}.aside")
}

/// Returns the name of a segment's hints.
#[must_use]
pub fn hint(id: SegmentId) -> String {
    format!("{id}.hint")
}

/// Returns the name of an index checkpoint.
#[must_use]
pub fn checkpoint(number: u64) -> String {
    format!("INDEX-{number:06}")
}

/// Returns the name of a backup's list.
#[must_use]
pub fn backup_list(number: u64) -> String {
    format!("{BACKUP}{number:06}")
}

/// Returns the name of a segment's copy in a backup. Equal names mean equal bytes, because a segment
/// never changes below an end.
#[must_use]
pub fn backup_copy(id: SegmentId, nonce: u64, end: u64) -> String {
    format!("{id}-{nonce:016x}-{end:x}{COPY}")
}

/// The meaning of a name in the directory of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupName {
    /// A list, by its number.
    List(u64),
    /// A copy of a segment.
    Copy,
    /// A file whose creation was interrupted.
    Temporary,
    /// A file that is ignored: the lock file, or one of file systems and desktops.
    Ignored,
    /// A file that is no part of a backup.
    Foreign,
}

/// Parses a name in the directory of a backup.
#[must_use]
pub fn parse_backup(name: &str) -> BackupName {
    if matches!(parse(name), FileName::Lock | FileName::Neutral) {
        return BackupName::Ignored;
    }
    if let Some(stem) = name.strip_suffix(TEMPORARY) {
        return match parse_backup(stem) {
            BackupName::List(_) | BackupName::Copy => BackupName::Temporary,
            _ => BackupName::Foreign,
        };
    }
    if let Some(number) = name.strip_prefix(BACKUP) {
        return digits(number, 6).map_or(BackupName::Foreign, BackupName::List);
    }
    let parts = name.strip_suffix(COPY).map(|stem| stem.split('-').collect::<Vec<_>>());
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let built = match parts.as_deref() {
        Some([id, nonce, end]) => digits(id, 10).zip(hex(nonce)).zip(hex(end)),
        _ => None,
    };
    match built {
        Some(((id, nonce), end)) if backup_copy(SegmentId(id), nonce, end) == name => BackupName::Copy,
        _ => BackupName::Foreign,
    }
}

/// Returns the name that a file has while it is being created.
#[must_use]
pub fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// Parses a name.
#[must_use]
pub fn parse(name: &str) -> FileName {
    match name {
        LOCK => return FileName::Lock,
        CONTROL => return FileName::Control,
        WAITERS => return FileName::Waiters,
        REMOVING => return FileName::Removing,
        RESTORING => return FileName::Restoring,
        "lost+found" | "Thumbs.db" | "desktop.ini" => return FileName::Neutral,
        // No name of the store begins with a dot, unlike `.gitkeep`, `.DS_Store`, `.directory`,
        // `.nfs*`.
        _ if name.starts_with('.') => return FileName::Neutral,
        _ => {}
    }
    if let Some(copy) = MANIFESTS.iter().position(|manifest| *manifest == name) {
        return FileName::Manifest(copy);
    }
    if let Some(stem) = name.strip_suffix(TEMPORARY) {
        return if matches!(parse(stem), FileName::Foreign | FileName::Temporary) {
            FileName::Foreign
        } else {
            FileName::Temporary
        };
    }
    if let Some(number) = name.strip_prefix("INDEX-") {
        return digits(number, 6).map_or(FileName::Foreign, FileName::Checkpoint);
    }
    let Some((stem, extension)) = name.rsplit_once('.') else { return FileName::Foreign };
    match extension {
        "seg" => digits(stem, 10).map_or(FileName::Foreign, |id| FileName::Segment(SegmentId(id))),
        "hint" => digits(stem, 10).map_or(FileName::Foreign, |id| FileName::Hint(SegmentId(id))),
        "aside" => {
            let parts = stem.split_once('.').and_then(|(id, n)| Some((digits(id, 10)?, digits(n, 1)?)));
            let parts = parts.and_then(|(id, n)| Some((id, u32::try_from(n).ok()?)));
            parts.map_or(FileName::Foreign, |(id, n)| FileName::Aside(SegmentId(id), n))
        }
        _ => FileName::Foreign,
    }
}

/// Parses a number of at least `width` digits that is padded with zeros to `width` and no further.
fn digits(text: &str, width: usize) -> Option<u64> {
    let exact = text.len() == width || (text.len() > width && !text.starts_with('0'));
    (exact && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_parse_to_what_built_them() {
        for id in [1, 9_999_999_999, 10_000_000_000, u64::MAX] {
            assert_eq!(parse(&segment(SegmentId(id))), FileName::Segment(SegmentId(id)));
            assert_eq!(parse(&aside(SegmentId(id), 12)), FileName::Aside(SegmentId(id), 12));
        }
        assert_eq!(parse("LOCK"), FileName::Lock);
        assert_eq!(parse("MANIFEST.1"), FileName::Manifest(1));
        assert_eq!(parse("INDEX-000012"), FileName::Checkpoint(12));
        assert_eq!(
            [1, 1_234_567].map(|number| parse(&checkpoint(number))),
            [1, 1_234_567].map(FileName::Checkpoint)
        );
        assert_eq!(parse("0000000003.seg.tmp"), FileName::Temporary);
    }

    #[test]
    fn names_of_a_backup_parse_to_what_built_them() {
        for number in [1, 999_999, 1_000_000, u64::MAX] {
            assert_eq!(parse_backup(&backup_list(number)), BackupName::List(number));
            let copy = backup_copy(SegmentId(number), number, number);
            assert_eq!(parse_backup(&copy), BackupName::Copy);
            assert_eq!(parse_backup(&temporary(&copy)), BackupName::Temporary);
            assert_eq!(parse(&copy), FileName::Foreign, "no store holds one");
        }
        assert_eq!([LOCK, ".gitkeep"].map(parse_backup), [BackupName::Ignored; 2]);
        let others =
            ["MANIFEST.0", "0000000001.seg", "BACKUP-1", "BACKUP", "notes.txt", "1-2-3.copy", "x.tmp"];
        assert_eq!(others.map(parse_backup), [BackupName::Foreign; 7]);
    }

    #[test]
    fn names_found_in_any_directory_are_neutral() {
        for name in
            [".gitkeep", ".DS_Store", ".nfs000000", ".0000000001.seg", ".tmp", "lost+found", "Thumbs.db"]
        {
            assert_eq!(parse(name), FileName::Neutral, "{name}");
        }
    }

    #[test]
    fn other_names_are_foreign() {
        let names = [
            "1.seg",
            "00000000001.seg",
            "000000000a.seg",
            "0000000001.SEG",
            "0000000001.seg.tmp.tmp",
            "MANIFEST",
            "MANIFEST.2",
            "notes.txt",
            "x.tmp",
            "0000000001.0",
            "0000000001..aside",
            "INDEX-1",
            "+000000001.seg",
            "99999999999999999999999.seg",
        ];
        for name in names {
            assert_eq!(parse(name), FileName::Foreign, "{name}");
        }
    }
}
