//! A pool of threads that reads several segments at once, and returns their records in the order of
//! the log.
//!
//! **Order.** Threads take segments in the order in which they will be requested. So the next
//! requested one is being read, or a thread is free to read it. Threads wait while enough records
//! are queued, which bounds the memory. The thread with the requested segment never waits while the
//! queue holds nothing of it, so there is always progress. A segment behind a hole is never
//! requested, so neither its records nor an error in reading it matter.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::record_batch::{BatchReader, Begin, RecordBatch, Walked};
use crate::error::Result;
use crate::format::hash::HashKey;
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::mem::PAGE_SIZE;

/// The bytes from which threads are worth their cost.
const LARGE: u64 = 4 << 20;
/// The most threads that read.
const THREADS: usize = 8;

/// A segment to be read.
#[derive(Debug)]
pub(super) struct ReadTask {
    pub(super) segment: Arc<Segment>,
    pub(super) begin: Begin,
    /// The end of the reading, in bytes.
    pub(super) limit: u64,
}

/// Returns the records of the tasks, task by task.
pub(super) struct ReadAhead<'a> {
    dir: &'a dyn Dir,
    tasks: &'a [ReadTask],
    hash_key: &'a HashKey,
    /// The task that will be requested next.
    at: usize,
    /// The queue that threads fill. `None` if there are no threads.
    desk: Option<&'a ReadQueue>,
}

/// The state that the threads and the consumer share.
#[derive(Debug)]
struct ReadQueue {
    /// The approximate number of queued records at which threads wait.
    most: u64,
    state: Mutex<QueueState>,
    /// Notified after each change of the state.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    /// The task that a thread takes next.
    next: usize,
    /// The task that is requested.
    asked: usize,
    /// The queued messages, by task, and the number of their records.
    ready: BTreeMap<usize, VecDeque<Message>>,
    records: u64,
    /// True if no more will be requested.
    ended: bool,
    /// True if a thread has panicked.
    lost: bool,
}

impl QueueState {
    /// Returns true if the consumer waits for this task, or soon will, and none of it is queued.
    fn is_wanted(&self, at: usize) -> bool {
        self.asked == at && self.ready.get(&at).is_none_or(VecDeque::is_empty)
    }
}

#[derive(Debug)]
enum Message {
    Piece(RecordBatch),
    End(Result<Walked>),
}

impl ReadAhead<'_> {
    /// Reads the next task, and passes each batch, in order, to `take`.
    ///
    /// # Errors
    ///
    /// Errors of the operating system, and those of `take`.
    pub(super) fn next(&mut self, mut take: impl FnMut(RecordBatch) -> Result<()>) -> Result<Walked> {
        let at = self.at;
        self.at += 1;
        if let Some(desk) = self.desk {
            loop {
                match desk.ask(at) {
                    Message::Piece(piece) => take(piece)?,
                    Message::End(end) => return end,
                }
            }
        }
        let ReadTask { segment, begin, limit } = &self.tasks[at];
        let mut taken = Ok(());
        let walked = BatchReader::open(self.dir, segment, *begin, *limit, self.hash_key)?.read(|piece| {
            taken = take(piece);
            taken.is_ok()
        });
        taken.and(walked)
    }
}

impl ReadQueue {
    fn new(most: u64) -> Self {
        Self { most, state: Mutex::default(), moved: Condvar::new() }
    }

    /// Waits for the next message of a task.
    fn ask(&self, at: usize) -> Message {
        let mut state = self.state.lock();
        if state.asked != at {
            state.asked = at;
            self.moved.notify_all();
        }
        loop {
            if let Some(told) = state.ready.get_mut(&at).and_then(VecDeque::pop_front) {
                match &told {
                    Message::Piece(piece) => state.records -= piece.records,
                    Message::End(_) => drop(state.ready.remove(&at)),
                }
                self.moved.notify_all();
                return told;
            }
            assert!(!state.lost, "a thread that reads a segment has panicked");
            self.moved.wait(&mut state);
        }
    }

    /// Queues a message of a task, once there is space. Returns true to continue.
    fn tell(&self, at: usize, told: Message) -> bool {
        let records = if let Message::Piece(piece) = &told { piece.records } else { 0 };
        let mut state = self.state.lock();
        while records > 0 && state.records >= self.most && !state.is_wanted(at) && !state.ended {
            self.moved.wait(&mut state);
        }
        state.records += records;
        state.ready.entry(at).or_default().push_back(told);
        self.moved.notify_all();
        !state.ended
    }

    /// Takes the task to be read next.
    fn take(&self, tasks: &[ReadTask]) -> Option<usize> {
        let mut state = self.state.lock();
        let at = state.next;
        state.next += 1;
        (at < tasks.len() && !state.ended).then_some(at)
    }

    /// Runs one thread.
    fn work(&self, dir: &dyn Dir, tasks: &[ReadTask], hash_key: &HashKey) {
        let noted = Noted(self);
        while let Some(at) = self.take(tasks) {
            let ReadTask { segment, begin, limit } = &tasks[at];
            let reader = BatchReader::open(dir, segment, *begin, *limit, hash_key);
            let end = reader.and_then(|reader| reader.read(|piece| self.tell(at, Message::Piece(piece))));
            self.tell(at, Message::End(end));
        }
        std::mem::forget(noted);
    }
}

/// Tells the consumer that a thread has panicked.
struct Noted<'a>(&'a ReadQueue);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.state.lock().lost = true;
        self.0.moved.notify_all();
    }
}

/// Ends the threads.
struct Ended<'a>(&'a ReadQueue);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.moved.notify_all();
    }
}

impl ReadTask {
    /// Returns about how many bytes are read. Of a segment whose end is not known, a part is.
    fn size(&self) -> u64 {
        let limit = self.limit.saturating_sub(self.begin.offset);
        if limit < LARGE { limit } else { self.written_size(limit) }
    }

    /// Returns half of a large size if the log seems to end before: zeros follow it.
    fn written_size(&self, limit: u64) -> u64 {
        let mut page = [0; PAGE_SIZE];
        let Some(file) = self.segment.file() else { return limit };
        match file.read_at(&mut page, self.begin.offset + LARGE) {
            // A value of zeros costs time only.
            Ok(len) if page[..len].iter().all(|byte| *byte == 0) => LARGE / 2,
            _ => limit,
        }
    }
}

/// Returns the number of threads that the reading is worth. Zero if the calling thread does as
/// well.
pub(super) fn threads_for(tasks: &[ReadTask]) -> usize {
    if tasks.iter().map(ReadTask::size).sum::<u64>() < LARGE {
        // Not queried for small reads, since the answer lies in files.
        return 0;
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors < 2 { 0 } else { processors.min(THREADS) }
}

/// Calls `with` on the records of the tasks, in order, while at most `threads` threads read ahead
/// of it.
///
/// # Errors
///
/// Errors that `with` returns.
pub(super) fn read<R>(
    dir: &dyn Dir,
    tasks: &[ReadTask],
    threads: usize,
    hash_key: &HashKey,
    with: impl FnOnce(ReadAhead<'_>) -> Result<R>,
) -> Result<R> {
    let desk = ReadQueue::new(dir.tuning().read_ahead);
    thread::scope(|scope| {
        let ended = Ended(&desk);
        let started = (0..threads.min(tasks.len())).map_while(|_| {
            let thread = thread::Builder::new().name("mapcask-read".to_owned());
            // If no more threads can be started, the started ones do the work, or this one.
            thread.spawn_scoped(scope, || desk.work(dir, tasks, hash_key)).ok()
        });
        let desk = (started.count() > 0).then_some(&desk);
        let done = with(ReadAhead { dir, tasks, hash_key, at: 0, desk });
        drop(ended);
        done
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::fs::sim::SimDisk;
    use crate::log::segment::Prefault;
    use crate::log::segment::segment_plan::SegmentPlan;
    use crate::mem::address_space::AddressSpace;

    const READY: u64 = 4 << 10;

    fn piece(records: u64) -> Message {
        let mut piece = RecordBatch::default();
        piece.records = records;
        Message::Piece(piece)
    }

    fn end() -> Message {
        Message::End(Ok(Walked { stop: 0, defect: None, last: None, written: 0, samples: Vec::new() }))
    }

    /// Returns the record counts of a task's messages, up to its end.
    fn records(desk: &ReadQueue, at: usize) -> Vec<u64> {
        std::iter::from_fn(|| match desk.ask(at) {
            Message::Piece(piece) => Some(piece.records),
            Message::End(end) => end.map(|_| None).expect("no error"),
        })
        .collect()
    }

    #[test]
    fn read_queue_is_bounded_and_delivers_in_order() {
        let desk = ReadQueue::new(READY);
        thread::scope(|scope| {
            let _ended = Ended(&desk);
            for at in [2, 1, 0] {
                let desk = &desk;
                scope.spawn(move || {
                    for number in 0..50 {
                        assert!(desk.tell(at, piece(READY / 10 + number)));
                    }
                    desk.tell(at, end());
                });
            }
            let expected: Vec<_> = (0..50).map(|number| READY / 10 + number).collect();
            for at in 0..3 {
                assert_eq!(records(&desk, at), expected, "task {at}");
                // Each of the three threads may have begun to queue a batch before it saw those of
                // the others.
                assert!(desk.state.lock().records < READY + 3 * (READY / 10 + 50));
            }
        });
        assert_eq!(desk.state.lock().records, 0);
    }

    /// Cause: the whole space of an open segment counted. Symptom: each open after a kill started
    /// threads, however little was written. Fix: a look at the place where reading gets large.
    #[test]
    fn task_in_an_open_segment_counts_the_written_part() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        dir.create_dir().expect("a new one");
        let space = AddressSpace::reserve().expect("address space");
        let plan = SegmentPlan::sample(1, 3 * LARGE, Prefault::Plain);
        let segment = Segment::create(dir.as_ref(), &space, &plan).expect("there is room");
        let begin = Begin { offset: LARGE, last: None };
        let task = |limit| ReadTask { segment: Arc::clone(&segment), begin, limit };
        assert_eq!((task(LARGE + 100).size(), task(3 * LARGE).size()), (100, LARGE / 2));
        assert_eq!(threads_for(&[task(3 * LARGE)]), 0);
        segment.file().expect("it was just made").write_at(&[1], 2 * LARGE + 9).expect("there is room");
        assert_eq!(task(3 * LARGE).size(), 2 * LARGE);
    }

    #[test]
    fn waiting_reader_thread_ends_with_its_consumer() {
        let desk = ReadQueue::new(READY);
        assert!(desk.tell(1, piece(READY)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| desk.tell(1, piece(1)));
            drop(Ended(&desk));
            assert!(!waiting.join().expect("no panic"));
        });
        assert_eq!(desk.take(&[]), None);
    }

    #[test]
    #[should_panic(expected = "a thread that reads a segment has panicked")]
    fn panic_of_a_reader_thread_reaches_its_consumer() {
        let desk = ReadQueue::new(READY);
        drop(Noted(&desk));
        desk.ask(0);
    }
}
