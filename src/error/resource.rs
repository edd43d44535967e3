//! The resources that can run out, with the advice for each.

use std::fmt;

/// A resource, other than space, of a process or a file system that can run out.
///
/// The text of each variant is advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Open files, of the process or of the system.
    Descriptors,
    /// Inodes: the number of files that the file system can hold.
    Files,
    /// Mappings, or address space for them.
    Mappings,
    /// The largest file that this process may create.
    FileSize,
    /// Memory of the process, or address space or a mapping for it.
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "too many files are open; close some, or raise the limit (ulimit -n), and try again",
            Self::Files => {
                "the file system has no inode left for it; remove some files, however small, or compact the store, and try again"
            }
            Self::Mappings => {
                "no memory can be mapped; raise vm.max_map_count or the limit on address space (ulimit -v), or close other \
                 stores, and try again"
            }
            Self::FileSize => {
                "the file would be larger than a file of this process may be; raise the limit (ulimit -f), or open the store \
                 with smaller segments, and try again"
            }
            Self::Memory => {
                "no memory is left for it; free some, or raise vm.max_map_count or the limit on address space (ulimit -v), \
                 and try again"
            }
        })
    }
}
