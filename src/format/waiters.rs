//! The waiters page: words by which followers in other processes ask the writer for something.
//!
//! **Format.** One page of zeros and three words, each on a cache line of its own; see
//! docs/design/format.md, "Waiters page". A follower that waits writes them. The writer believes
//! none of them: a wrong word costs needless wake-ups and syncs, and no more. So there is no
//! checksum, and no block on the disk before the first waiter.

/// Size of the page in bytes.
pub const WAITERS_SIZE: usize = 4096;
/// Offset of the word with the reasons for which waiters ask to be woken.
pub const ASKED_OFFSET: usize = 0;
/// Offset of the word with the greatest sequence number that a waiter wants to be durable.
pub const WANTED_OFFSET: usize = 64;
/// Offset of the word on which the writer's idle worker sleeps, by its low half.
pub const WORKER_OFFSET: usize = 128;

/// A waiter asks to be woken when the log has grown.
pub const FOR_RECORDS: u64 = 1;
/// A waiter asks to be woken when more of the log is durable.
pub const FOR_DURABLE: u64 = 2;
/// A waiter asks for a sync, up to the number in the wanted word.
pub const FOR_SYNC: u64 = 4;

/// The fields: name, offset and size in bytes, as docs/design/format.md prints them.
pub const LAYOUT: [(&str, usize, usize); 3] =
    [("asked", ASKED_OFFSET, 8), ("wanted", WANTED_OFFSET, 8), ("worker", WORKER_OFFSET, 8)];
