//! File names: the only place that knows them.

use super::SegmentId;

/// The permanent lock file.
pub const LOCK: &str = "LOCK";
/// The two copies of the manifest.
pub const MANIFESTS: [&str; 2] = ["MANIFEST.0", "MANIFEST.1"];
/// The page that other processes map.
pub const CONTROL: &str = "CONTROL";
/// Says that the store is being destroyed, and which one.
pub const REMOVING: &str = "REMOVING";
/// Ends the name of a file that is being made.
const TEMPORARY: &str = ".tmp";

/// What a name in a store's directory means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileName {
    /// The lock file.
    Lock,
    /// A copy of the manifest, 0 or 1.
    Manifest(usize),
    /// The control page.
    Control,
    /// A segment.
    Segment(SegmentId),
    /// A disposable list of a segment's keys.
    Hint(SegmentId),
    /// A segment, or the tail of one, that recovery set aside; never read, never removed.
    Aside(SegmentId, u32),
    /// An image of the index.
    Image(u64),
    /// Says that the store is being destroyed.
    Removing,
    /// A file that was being made when its process ended; holds nothing that counts.
    Temporary,
    /// Nobody's data: what file systems, desktops and version control leave in a directory by themselves.
    Neutral,
    /// None of ours.
    Foreign,
}

/// The name of a segment.
#[must_use]
pub fn segment(id: SegmentId) -> String {
    format!("{id}.seg")
}

/// The name of the `n`-th thing set aside from a segment.
#[must_use]
pub fn aside(id: SegmentId, n: u32) -> String {
    format!("{id}.{n}.aside")
}

/// The name of an image of the indexes.
#[must_use]
pub fn checkpoint(number: u64) -> String {
    format!("INDEX-{number:06}")
}

/// The name a file has while it is being made.
#[must_use]
pub fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// What a name means.
#[must_use]
pub fn parse(name: &str) -> FileName {
    match name {
        LOCK => return FileName::Lock,
        CONTROL => return FileName::Control,
        REMOVING => return FileName::Removing,
        "lost+found" | "Thumbs.db" | "desktop.ini" => return FileName::Neutral,
        // None of ours begins with a dot: `.gitkeep`, `.DS_Store`, `.directory`, `.nfs*`.
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
        return digits(number, 6).map_or(FileName::Foreign, FileName::Image);
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

/// A number written with at least `width` digits and no more zeros in front than that.
fn digits(text: &str, width: usize) -> Option<u64> {
    let exact = text.len() == width || (text.len() > width && !text.starts_with('0'));
    (exact && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_were_made_from() {
        for id in [1, 9_999_999_999, 10_000_000_000, u64::MAX] {
            assert_eq!(parse(&segment(SegmentId(id))), FileName::Segment(SegmentId(id)));
            assert_eq!(parse(&aside(SegmentId(id), 12)), FileName::Aside(SegmentId(id), 12));
        }
        assert_eq!(parse("LOCK"), FileName::Lock);
        assert_eq!(parse("MANIFEST.1"), FileName::Manifest(1));
        assert_eq!(parse("INDEX-000012"), FileName::Image(12));
        assert_eq!(
            [1, 1_234_567].map(|number| parse(&checkpoint(number))),
            [1, 1_234_567].map(FileName::Image)
        );
        assert_eq!(parse("0000000003.seg.tmp"), FileName::Temporary);
    }

    #[test]
    fn what_lies_in_directories_by_itself_is_neutral() {
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
