//! Reading several segments at once, and giving what they hold in the order of the log.
//!
//! **Order.** Threads take segments in the order in which they will be asked for, so whoever is asked for next is being
//! read, or free threads are there. They wait once enough lies ready, which bounds the memory; but never while nothing lies ready
//! of the one that is asked for, so somebody always goes on. What a segment behind a hole holds is never asked for, and so
//! never counts; nor does an error in reading it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::record_batch::{BatchReader, Begin, RecordBatch, Walked};
use crate::error::Result;
use crate::format::hash::HashKey;
use crate::fs::Dir;
use crate::log::segment::Segment;

/// From so many bytes on threads pay for themselves.
const LARGE: u64 = 4 << 20;
/// Threads that read, at most.
const THREADS: usize = 8;

/// A segment to be read.
#[derive(Debug)]
pub(super) struct ReadTask {
    pub(super) segment: Arc<Segment>,
    pub(super) begin: Begin,
    /// Where to stop, in bytes.
    pub(super) limit: u64,
}

/// Gives what the tasks hold, task by task.
pub(super) struct ReadAhead<'a> {
    dir: &'a dyn Dir,
    tasks: &'a [ReadTask],
    hash_key: &'a HashKey,
    /// The task that will be asked for next.
    at: usize,
    /// Where threads put what they read; none where there are no threads.
    desk: Option<&'a ReadQueue>,
}

/// What the threads and whoever takes from them share.
#[derive(Debug)]
struct ReadQueue {
    /// Records that lie ready before threads wait, about.
    most: u64,
    state: Mutex<QueueState>,
    /// Something came or went.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    /// The task that a thread takes next.
    next: usize,
    /// The task that is being asked for.
    asked: usize,
    /// What lies ready, by task, and how many records that are.
    ready: BTreeMap<usize, VecDeque<Message>>,
    records: u64,
    /// Nobody asks for more.
    ended: bool,
    /// A thread has panicked.
    lost: bool,
}

impl QueueState {
    /// Whether somebody waits for just this task, or soon will, and nothing of it is there.
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
    /// Reads the next task: `take` does something with each piece, in order.
    ///
    /// # Errors
    ///
    /// What the operating system says; what `take` says.
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

    /// Waits for what a task says next.
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

    /// Lays down what a task says, once there is room; whether to go on.
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

    /// The task that is to be read next.
    fn take(&self, tasks: &[ReadTask]) -> Option<usize> {
        let mut state = self.state.lock();
        let at = state.next;
        state.next += 1;
        (at < tasks.len() && !state.ended).then_some(at)
    }

    /// What one thread does.
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

/// Tells whoever waits that a thread has panicked.
struct Noted<'a>(&'a ReadQueue);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.state.lock().lost = true;
        self.0.moved.notify_all();
    }
}

/// Ends what the threads do.
struct Ended<'a>(&'a ReadQueue);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.moved.notify_all();
    }
}

/// How many threads pay for reading so much; none where this one does it as well.
pub(super) fn threads_for(tasks: &[ReadTask]) -> usize {
    let size: u64 = tasks.iter().map(|task| task.limit.saturating_sub(task.begin.offset)).sum();
    if size < LARGE {
        // Not asked where it does not count: the answer lies in files.
        return 0;
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors < 2 { 0 } else { processors.min(THREADS) }
}

/// Has `with` take what the tasks hold, in order; while so many threads at most read ahead of it.
///
/// # Errors
///
/// What `with` says.
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
            // Where there are no more threads to be had, those that are there do it, or this one.
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

    const READY: u64 = 4 << 10;

    fn piece(records: u64) -> Message {
        let mut piece = RecordBatch::default();
        piece.records = records;
        Message::Piece(piece)
    }

    fn end() -> Message {
        Message::End(Ok(Walked { stop: 0, defect: None, last: None, written: 0, samples: Vec::new() }))
    }

    /// What a task says, up to its end.
    fn records(desk: &ReadQueue, at: usize) -> Vec<u64> {
        std::iter::from_fn(|| match desk.ask(at) {
            Message::Piece(piece) => Some(piece.records),
            Message::End(end) => end.map(|_| None).expect("no error"),
        })
        .collect()
    }

    #[test]
    fn what_lies_ready_is_bounded_and_comes_in_order_whoever_is_faster() {
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
                // Each of the three may have begun to lay one down before the others were seen.
                assert!(desk.state.lock().records < READY + 3 * (READY / 10 + 50));
            }
        });
        assert_eq!(desk.state.lock().records, 0);
    }

    #[test]
    fn a_thread_that_waits_ends_when_nobody_asks_for_more() {
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
    fn a_panic_of_a_thread_is_one_of_whoever_waits_for_it() {
        let desk = ReadQueue::new(READY);
        drop(Noted(&desk));
        desk.ask(0);
    }
}
