//! Events for a `tracing` subscriber, under the target `mapcask`; nothing without the feature `tracing`.
//!
//! Nothing is said per read or write. What there is to say waits on the thread that did the work, and is told when that
//! thread is about to leave the library, or its step in the background, with no lock of the store held ([`at_end`]): a
//! subscriber may call the store. What is said during that is told after it.

use std::fmt::Display;
use std::path::Path;

/// An event of a level, with its text and its fields: `name = value`, or `name => what is shown as text`.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $text:literal $(, $field:ident $(= $value:expr)? $(=> $shown:expr)?)*) => {
        ::tracing::$level!(
            target: "mapcask",
            $($field = $($value)? $(::tracing::field::display(&$shown))?,)*
            $text
        )
    };
}

/// What callers compute for an event is theirs to keep cheap.
#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($level:ident, $text:literal $(, $field:ident $(= $value:expr)? $(=> $shown:expr)?)*) => {{
        $(let _ = $(&$value)? $(&$shown)?;)*
    }};
}

/// Has an event wait for the end of the call; what it needs is its own by then.
macro_rules! later {
    ([$($name:ident = $owned:expr),*] $event:expr) => {{
        if cfg!(feature = "tracing") {
            $(let $name = $owned;)*
            outbox::later(move || $event);
        }
    }};
}

/// Tells subscribers what there is to say, when it is dropped.
#[derive(Debug)]
#[must_use = "events are told when this is dropped"]
pub(crate) struct AtEnd(());

/// Has subscribers told of what happens from here on to the end of the scope. Stands before the first lock that is taken
/// there, where the caller holds none: in every public function that makes events.
#[inline]
pub(crate) fn at_end() -> AtEnd {
    AtEnd(())
}

impl Drop for AtEnd {
    #[inline]
    fn drop(&mut self) {
        outbox::tell();
    }
}

/// What a thread has to say.
#[cfg(feature = "tracing")]
mod outbox {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    thread_local! {
        static WAITING: RefCell<VecDeque<Box<dyn FnOnce()>>> = const { RefCell::new(VecDeque::new()) };
        static TELLING: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn later(event: impl FnOnce() + 'static) {
        // Without a place to wait the thread is ending, and nobody hears it.
        WAITING.try_with(|waiting| waiting.borrow_mut().push_back(Box::new(event))).unwrap_or_default();
    }

    /// Says that nobody tells any more, also after a panic of a subscriber.
    struct Telling;

    impl Drop for Telling {
        fn drop(&mut self) {
            TELLING.set(false);
        }
    }

    pub(super) fn tell() {
        let is_empty = WAITING.try_with(|waiting| waiting.borrow().is_empty()).unwrap_or(true);
        // A panic goes on to whoever catches it; the next call of this thread tells.
        if is_empty || std::thread::panicking() || TELLING.replace(true) {
            return;
        }
        let _telling = Telling;
        while let Some(event) = WAITING.with(|waiting| waiting.borrow_mut().pop_front()) {
            event();
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod outbox {
    pub(super) fn later(_: impl FnOnce() + 'static) {}

    #[inline]
    pub(super) fn tell() {}
}

/// What an open found.
#[derive(Debug)]
pub(crate) struct OpenedEvent<'a> {
    pub(crate) path: &'a Path,
    pub(crate) clean: bool,
    pub(crate) keys: usize,
    pub(crate) segments: usize,
    pub(crate) incarnation: u64,
    pub(crate) records: u64,
    pub(crate) bytes_read: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) quarantined_records: u64,
    pub(crate) quarantined_files: usize,
}

/// A store is open; and what an unclean end cost, if it cost anything.
pub(crate) fn opened(found: &OpenedEvent<'_>) {
    let OpenedEvent { path, clean, keys, segments, incarnation, records, bytes_read, torn_bytes, .. } =
        *found;
    let OpenedEvent { quarantined_records, quarantined_files, .. } = *found;
    later!([path = path.to_owned()] event!(
        info, "opened", path => path.display(), clean = clean, keys = keys, segments = segments, incarnation = incarnation,
        records = records, bytes_read = bytes_read, torn_bytes = torn_bytes
    ));
    if torn_bytes > 0 || quarantined_files > 0 {
        later!([path = path.to_owned()] event!(
            warn, "the end of the log was cut off", path => path.display(), torn_bytes = torn_bytes,
            quarantined_records = quarantined_records, quarantined_files = quarantined_files
        ));
    }
}

/// A store is closed, for whatever reason; `clean` says whether everything is durable and marked so.
pub(crate) fn closed(path: &Path, clean: bool) {
    later!([path = path.to_owned()] event!(info, "closed", path => path.display(), clean = clean));
}

/// The file of a new segment is there.
pub(crate) fn segment_made(id: u64, bytes: u64) {
    later!([] event!(debug, "segment made", id = id, bytes = bytes));
}

/// A segment is full, with its records ending at `bytes`, and the next one is active.
pub(crate) fn segment_full(id: u64, bytes: u64) {
    later!([] event!(debug, "segment full", id = id, bytes = bytes));
}

/// A pass of compaction begins; its victims take so many bytes.
pub(crate) fn compaction_begun(segments: usize, bytes: u64) {
    later!([] event!(debug, "compaction begun", segments = segments, bytes = bytes));
}

/// A pass of compaction has ended.
pub(crate) fn compaction_ended(removed: u64, bytes_read: u64, bytes_moved: u64, bytes_freed: u64) {
    later!([] event!(
        debug,
        "compaction ended",
        removed = removed,
        bytes_read = bytes_read,
        bytes_moved = bytes_moved,
        bytes_freed = bytes_freed
    ));
}

/// An image of the index that holds everything up to a sequence number is there.
pub(crate) fn checkpoint_made(number: u64, seq: u64, bytes: u64) {
    later!([] event!(debug, "image made", number = number, seq = seq, bytes = bytes));
}

/// An image of the index could not be made; the one before goes on to count.
pub(crate) fn checkpoint_failed(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "an image was not made", error => error));
}

/// The image that the store names is damaged or missing: the log is read instead.
pub(crate) fn checkpoint_unusable(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "the image cannot be used", error => error));
}

/// A segment was not needed when the store was opened, and cannot be mapped now.
pub(crate) fn segment_unusable(error: &dyn Display) {
    later!([error = error.to_string()] event!(error, "a segment cannot be used", error => error));
}

/// A record was asked for of which a page cannot be read.
pub(crate) fn page_unreadable(error: &dyn Display) {
    event!(error, "a page cannot be read", error => error);
}

/// The leader of a commit has made everything up to a sequence number durable.
pub(crate) fn synced(upto: u64, bytes: u64) {
    later!([] event!(trace, "synced", upto = upto, bytes = bytes));
}

/// The store takes no more writes.
pub(crate) fn poisoned(cause: &dyn Display) {
    later!([cause = cause.to_string()] event!(error, "poisoned", cause => cause));
}

/// The helper could not do a piece of its work, and tries again later.
pub(crate) fn background_failed(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "the helper failed", error => error));
}

/// An open found no room for a segment; the first write tries again.
pub(crate) fn no_segment(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "no room for a segment to write to", error => error));
}

/// A panic ended the helper.
pub(crate) fn background_panicked() {
    later!([] event!(error, "the helper panicked"));
}

/// A keyspace was created.
pub(crate) fn keyspace_created(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace created", name = name.as_str(), id = id));
}

/// A keyspace has a new name.
pub(crate) fn keyspace_renamed(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace renamed", name = name.as_str(), id = id));
}

/// A keyspace is gone.
pub(crate) fn keyspace_dropped(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace dropped", name = name.as_str(), id = id));
}

/// All keys of a keyspace are gone.
pub(crate) fn keyspace_cleared(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace cleared", name = name.as_str(), id = id));
}
