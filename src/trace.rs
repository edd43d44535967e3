//! Events for a `tracing` subscriber, under the target `mapcask`. Without the feature `tracing`
//! there are none.
//!
//! No event is sent per read or write. An event waits on the thread that did the work. It is sent
//! when that thread is about to leave the library, or its step in the background, with no lock of
//! the store held ([`at_end`]). So a subscriber may call the store. Events from that call are sent
//! after it.

use std::fmt::Display;
use std::path::Path;

/// An event of a level, with its text and its fields: `name = value`, or `name => value` shown by
/// `Display`.
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

/// Evaluates the values of an event, which callers keep cheap, and sends nothing.
#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($level:ident, $text:literal $(, $field:ident $(= $value:expr)? $(=> $shown:expr)?)*) => {{
        $(let _ = $(&$value)? $(&$shown)?;)*
    }};
}

/// Queues an event for the end of the call. It owns the values that it needs by then.
macro_rules! later {
    ([$($name:ident = $owned:expr),*] $event:expr) => {{
        if cfg!(feature = "tracing") {
            $(let $name = $owned;)*
            outbox::later(move || $event);
        }
    }};
}

/// Sends the queued events to subscribers when it is dropped.
#[derive(Debug)]
#[must_use = "events are told when this is dropped"]
pub(crate) struct AtEnd(());

/// Returns a guard that sends the events of the scope at its end.
///
/// It stands before the first lock taken there, in every public function that makes events. The
/// caller holds no lock.
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

/// The queued events of a thread.
#[cfg(feature = "tracing")]
mod outbox {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    thread_local! {
        static WAITING: RefCell<VecDeque<Box<dyn FnOnce()>>> = const { RefCell::new(VecDeque::new()) };
        static TELLING: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn later(event: impl FnOnce() + 'static) {
        // Without a queue the thread is ending, and no subscriber receives the event.
        WAITING.try_with(|waiting| waiting.borrow_mut().push_back(Box::new(event))).unwrap_or_default();
    }

    /// Resets the flag that this thread is sending, even after a panic of a subscriber.
    struct Telling;

    impl Drop for Telling {
        fn drop(&mut self) {
            TELLING.set(false);
        }
    }

    pub(super) fn tell() {
        let is_empty = WAITING.try_with(|waiting| waiting.borrow().is_empty()).unwrap_or(true);
        // A panic continues to its handler, and the next call of this thread sends the events.
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

/// The findings of an open.
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

/// Reports that a store is open, and the cost of an unclean end, if there was one.
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

/// Reports that a store is closed. `clean` is true if everything is durable and marked so.
pub(crate) fn closed(path: &Path, clean: bool) {
    later!([path = path.to_owned()] event!(info, "closed", path => path.display(), clean = clean));
}

/// Reports that the file of a new segment exists.
pub(crate) fn segment_made(id: u64, bytes: u64) {
    later!([] event!(debug, "segment made", id = id, bytes = bytes));
}

/// Reports that a segment is full, with its records ending at `bytes`, and the next one is active.
pub(crate) fn segment_full(id: u64, bytes: u64) {
    later!([] event!(debug, "segment full", id = id, bytes = bytes));
}

/// Reports that a pass of compaction begins, with victims of `bytes` bytes.
pub(crate) fn compaction_begun(segments: usize, bytes: u64) {
    later!([] event!(debug, "compaction begun", segments = segments, bytes = bytes));
}

/// Reports that a pass of compaction has ended.
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

/// Reports that there is a new index checkpoint, which covers everything up to a sequence number.
pub(crate) fn checkpoint_made(number: u64, seq: u64, bytes: u64) {
    later!([] event!(debug, "checkpoint made", number = number, seq = seq, bytes = bytes));
}

/// Reports that an index checkpoint could not be made. The one before stays in force.
pub(crate) fn checkpoint_failed(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "a checkpoint was not made", error => error));
}

/// Reports that the checkpoint in the manifest is damaged or missing: the log is read instead.
pub(crate) fn checkpoint_unusable(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "the checkpoint cannot be used", error => error));
}

/// Reports that no more hints are written until the next open.
pub(crate) fn hints_failed(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "hints were not written", error => error));
}

/// Reports that a hint is damaged: the log is read instead.
pub(crate) fn hints_unusable(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "a hint cannot be used", error => error));
}

/// Reports that a segment that was not needed when the store was opened cannot be mapped now.
pub(crate) fn segment_unusable(error: &dyn Display) {
    later!([error = error.to_string()] event!(error, "a segment cannot be used", error => error));
}

/// Reports that a page of a record cannot be read.
pub(crate) fn page_unreadable(error: &dyn Display) {
    event!(error, "a page cannot be read", error => error);
}

/// Reports that the leader of a commit has made everything up to a sequence number durable.
pub(crate) fn synced(upto: u64, bytes: u64) {
    later!([] event!(trace, "synced", upto = upto, bytes = bytes));
}

/// Reports that the store takes no more writes.
pub(crate) fn poisoned(cause: &dyn Display) {
    later!([cause = cause.to_string()] event!(error, "poisoned", cause => cause));
}

/// Reports that the worker failed in a step, which it repeats later.
pub(crate) fn background_failed(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "a background step failed", error => error));
}

/// Reports that an open found no space for a segment. The first write tries again.
pub(crate) fn no_segment(error: &dyn Display) {
    later!([error = error.to_string()] event!(warn, "no room for a segment to write to", error => error));
}

/// Reports that a panic ended the worker.
pub(crate) fn background_panicked() {
    later!([] event!(error, "a background step panicked"));
}

/// Reports that a keyspace was created.
pub(crate) fn keyspace_created(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace created", name = name.as_str(), id = id));
}

/// Reports that a keyspace has a new name.
pub(crate) fn keyspace_renamed(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace renamed", name = name.as_str(), id = id));
}

/// Reports that a keyspace was dropped.
pub(crate) fn keyspace_dropped(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace dropped", name = name.as_str(), id = id));
}

/// Reports that a keyspace was cleared.
pub(crate) fn keyspace_cleared(name: &str, id: u32) {
    later!([name = name.to_owned()] event!(info, "keyspace cleared", name = name.as_str(), id = id));
}
