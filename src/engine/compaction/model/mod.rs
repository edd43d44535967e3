//! A store in miniature that tests the tombstone rule: its values are numbers, and it has no bytes.
//!
//! It has a log in segments, outputs of jobs, the index, the durable moment, and one job at a time,
//! cut into steps between which writers continue. It does not have: repointing the index to the
//! copies (an entry is the number of a record, in any location), batches, damage, or other jobs
//! beside the one. The [`Variant`] names the store's departure from the rule's text. The models
//! must find each departure that loses something, or they prove nothing.

mod random;
mod search;
mod variant;

use std::rc::Rc;

use self::variant::{ALLOWED, Variant, WRONG};
use super::tombstone_rule;
use super::tombstone_rule::SegmentBound;
use crate::format::Seq;

/// A sequence number. 0 stands for none.
type Number = u16;

/// The most keys a model may have.
const KEYS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    key: u8,
    number: Number,
    put: bool,
}

#[derive(Debug, Clone)]
struct Segment {
    /// True if it is part of the log, not an output.
    log: bool,
    filtered: Number,
    records: Vec<Record>,
    /// The number of hidden puts that the store's count leaves out.
    uncounted: u8,
}

#[derive(Debug, Clone)]
struct Job {
    stage: Stage,
    /// F, the last number assigned when the job began.
    noted: Number,
    /// The victims, a bit for each position.
    victims: u64,
    /// The bounds of all segments that count, by position, when they are taken down.
    taken: Vec<SegmentBound>,
    /// The number of segments when the victims were chosen.
    seen: usize,
    looked: usize,
    copies: Vec<Record>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Noted,
    Looking,
    Synced,
    Unnamed,
}

/// One step of a run. A counterexample is a list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Put(u8),
    Remove(u8),
    /// Begins a new segment.
    Roll,
    Sync,
    /// Begins a job, which notes F.
    Note,
    Choose(u64),
    /// Looks at the next record of a victim.
    Look,
    /// Runs the job's own sync.
    SyncForJob,
    Unname,
    Name,
    /// Crashes. Of the records that are not durable, those up to this number survive.
    Crash(Number),
}

#[derive(Debug, Clone)]
struct Store {
    variant: Variant,
    /// The number of records that a segment holds.
    capacity: usize,
    /// In the order of their ids. The last one of the log is active.
    segments: Vec<Rc<Segment>>,
    last: Number,
    durable: Number,
    /// The expected record of each key: as of the durable moment, and now. The latter is also the
    /// index.
    durable_map: [Number; KEYS],
    index: [Number; KEYS],
    /// The records written since the durable moment.
    tail: Vec<Record>,
    job: Option<Rc<Job>>,
}

impl Segment {
    fn begin(filtered: Number) -> Rc<Self> {
        Rc::new(Self { log: true, filtered, records: Vec::new(), uncounted: 0 })
    }

    fn hidden(&self, index: &[Number; KEYS]) -> usize {
        self.puts().filter(|put| index[usize::from(put.key)] != put.number).count()
    }

    fn puts(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.put)
    }

    fn has_tombstones(&self) -> bool {
        self.records.iter().any(|record| !record.put)
    }
}

fn seq(number: Number) -> Seq {
    Seq(number.into())
}

fn note(map: &mut [Number; KEYS], record: Record) {
    map[usize::from(record.key)] = if record.put { record.number } else { 0 };
}

impl Store {
    fn new(variant: Variant, capacity: usize) -> Self {
        Self {
            variant,
            capacity,
            segments: vec![Segment::begin(0)],
            last: 0,
            durable: 0,
            durable_map: [0; KEYS],
            index: [0; KEYS],
            tail: Vec::new(),
            job: None,
        }
    }

    // ---- Possible steps -------------------------------------------------------------------------

    /// Returns the position of the active segment.
    fn active(&self) -> usize {
        self.segments.iter().rposition(|segment| segment.log).expect("a log never ends")
    }

    fn may_write(&self) -> bool {
        self.segments[self.active()].records.len() < self.capacity
    }

    fn may_roll(&self) -> bool {
        !self.segments[self.active()].records.is_empty()
    }

    /// Returns the positions of the sealed segments, a bit for each.
    fn sealed(&self) -> u64 {
        let active = self.active();
        let sealed = self.segments.iter().enumerate().filter(|(place, segment)| {
            *place != active && segment.records.iter().all(|record| record.number <= self.durable)
        });
        sealed.fold(0, |bits, (place, _)| bits | 1 << place)
    }

    /// Returns the next step of the job, once its victims are chosen.
    fn next_of_job(&self) -> Option<Step> {
        let job = self.job.as_ref()?;
        Some(match job.stage {
            Stage::Noted => return None,
            Stage::Looking if self.under_look(job).is_some() => Step::Look,
            Stage::Looking if !self.syncs_last() => Step::Name,
            Stage::Looking => Step::SyncForJob,
            Stage::Synced if self.variant == Variant::UnnamedFirst => Step::Unname,
            Stage::Synced | Stage::Unnamed => Step::Name,
        })
    }

    fn syncs_last(&self) -> bool {
        use Variant::{EntryNotDurable, NoSync, OnlyForDurable, SyncBeforeTheLooks};
        !matches!(self.variant, NoSync | SyncBeforeTheLooks | OnlyForDurable | EntryNotDurable)
    }

    /// Returns true if puts that are the newest durable ones of their keys are copied.
    fn spares_durable(&self) -> bool {
        matches!(self.variant, Variant::OnlyForDurable | Variant::EntryNotDurable)
    }

    /// Returns the record that the job looks at next, and the position of its segment.
    fn under_look(&self, job: &Job) -> Option<(usize, Record)> {
        let victims = (0..job.seen).filter(|place| job.victims >> place & 1 == 1);
        let mut records =
            victims.flat_map(|place| self.segments[place].records.iter().map(move |&record| (place, record)));
        records.nth(job.looked)
    }

    // ---- The steps ------------------------------------------------------------------------------

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(key) => self.write(key, true),
            Step::Remove(key) => self.write(key, false),
            Step::Roll => self.segments.push(Segment::begin(self.last)),
            Step::Sync => self.sync(),
            Step::Note => self.begin_job(),
            Step::Choose(victims) => self.choose(victims),
            Step::Look => self.look(),
            Step::SyncForJob => self.sync_for_job(),
            Step::Unname => self.job_mut().stage = Stage::Unnamed,
            Step::Name => self.name(),
            Step::Crash(survivor) => self.crash(survivor),
        }
    }

    fn write(&mut self, key: u8, put: bool) {
        self.last += 1;
        let record = Record { key, number: self.last, put };
        let active = self.active();
        Rc::make_mut(&mut self.segments[active]).records.push(record);
        self.tail.push(record);
        note(&mut self.index, record);
    }

    fn sync(&mut self) {
        self.durable = self.last;
        self.durable_map = self.index;
        self.tail.clear();
    }

    fn job_mut(&mut self) -> &mut Job {
        Rc::make_mut(self.job.as_mut().expect("a step of a job"))
    }

    fn begin_job(&mut self) {
        let noted = if self.spares_durable() { self.durable } else { self.last };
        let taken = if self.variant == Variant::OthersWithF { self.sieves() } else { Vec::new() };
        let job =
            Job { stage: Stage::Noted, noted, victims: 0, taken, seen: 0, looked: 0, copies: Vec::new() };
        self.job = Some(Rc::new(job));
    }

    fn choose(&mut self, victims: u64) {
        if self.variant == Variant::SyncBeforeTheLooks {
            self.sync();
        }
        let taken = (self.variant == Variant::HiddenAtTheChoice).then(|| self.sieves());
        let seen = self.segments.len();
        let job = self.job_mut();
        if let Some(taken) = taken {
            job.taken = taken;
        }
        (job.stage, job.victims, job.seen) = (Stage::Looking, victims, seen);
    }

    fn look(&mut self) {
        let job = self.job.as_ref().expect("a step of a job");
        let (place, record) = self.under_look(job).expect("asked before");
        let key = usize::from(record.key);
        let copied = if record.put {
            self.index[key] == record.number
                || self.spares_durable() && self.durable_map[key] == record.number
        } else {
            !self.forgets(job, place, record)
        };
        let job = self.job_mut();
        job.looked += 1;
        if copied {
            job.copies.push(record);
        }
    }

    fn forgets(&self, job: &Job, place: usize, tombstone: Record) -> bool {
        let key = usize::from(tombstone.key);
        let entry = match self.variant {
            Variant::NoTombstones => return true,
            Variant::EntryTheOtherWay => return self.index[key] == 0,
            Variant::OnlyForDurable => self.durable_map[key],
            _ => self.index[key],
        };
        let counts = |other: &usize| {
            job.victims >> other & 1 == 0 && (self.variant != Variant::OlderOnly || *other < place)
        };
        let others = match self.variant {
            Variant::OthersWithF | Variant::HiddenAtTheChoice => job.taken.len(),
            _ => job.seen,
        };
        let others = (0..others)
            .filter(counts)
            .map(|other| job.taken.get(other).copied().unwrap_or_else(|| self.sieve(other)));
        entry != 0 || tombstone_rule::may_go(seq(tombstone.number), others)
    }

    fn sieves(&self) -> Vec<SegmentBound> {
        (0..self.segments.len()).map(|place| self.sieve(place)).collect()
    }

    fn sieve(&self, place: usize) -> SegmentBound {
        let segment = &self.segments[place];
        let numbers = || segment.records.iter().map(|record| record.number);
        let hidden = segment.hidden(&self.index);
        let count = hidden.saturating_sub(segment.uncounted.into());
        let (first, greatest) = (numbers().min().unwrap_or(0), numbers().max().unwrap_or(0));
        SegmentBound {
            first: match self.variant {
                Variant::FirstIsTheGreatest => seq(greatest),
                Variant::FirstIsNothing => seq(0),
                _ => seq(first),
            },
            filtered: match self.variant {
                Variant::LogFilteredIsItsLast if segment.log => seq(greatest),
                _ => seq(segment.filtered),
            },
            hidden: match self.variant {
                Variant::LiveNeverBlocks => count > 0 && segment.puts().count() == hidden,
                Variant::EverythingHides => segment.puts().next().is_some(),
                _ => count > 0,
            },
        }
    }

    fn sync_for_job(&mut self) {
        self.sync();
        let (late, last) = (self.variant == Variant::NotedAfterTheLooks, self.last);
        let job = self.job_mut();
        job.stage = Stage::Synced;
        if late {
            job.noted = last;
        }
    }

    fn name(&mut self) {
        let job = self.job.take().expect("a step of a job");
        self.drop_victims(job.victims);
        for records in job.copies.chunks(self.capacity) {
            let filtered = match self.variant {
                Variant::NotedAtTheNaming => self.last,
                Variant::FilteredIsTheGreatest => {
                    records.iter().map(|record| record.number).max().unwrap_or(0)
                }
                _ => job.noted,
            };
            let mut output = Segment { log: false, filtered, records: records.to_vec(), uncounted: 0 };
            if self.variant == Variant::CopiesUncounted {
                output.uncounted = output.hidden(&self.index).try_into().expect("a few");
            }
            self.segments.push(Rc::new(output));
        }
    }

    fn drop_victims(&mut self, mut victims: u64) {
        self.segments.retain(|_| {
            let range_pins = victims & 1 == 0;
            victims >>= 1;
            range_pins
        });
    }

    fn crash(&mut self, survivor: Number) {
        if let Some(job) = self.job.take()
            && job.stage == Stage::Unnamed
        {
            self.drop_victims(job.victims);
        }
        for segment in &mut self.segments {
            if segment.uncounted > 0 || segment.records.iter().any(|record| record.number > survivor) {
                let segment = Rc::make_mut(segment);
                segment.records.retain(|record| record.number <= survivor);
                segment.uncounted = 0;
            }
        }
        self.segments.retain(|segment| !segment.records.is_empty());
        for &record in self.tail.iter().filter(|record| record.number <= survivor) {
            note(&mut self.durable_map, record);
        }
        let records = self.segments.iter().flat_map(|segment| &segment.records);
        self.last = match self.variant {
            Variant::NumbersFromRecords => records.map(|record| record.number).max().unwrap_or(0),
            _ => survivor,
        };
        self.durable = self.last;
        self.index = self.durable_map;
        self.tail.clear();
        self.segments.push(Segment::begin(self.last));
    }

    // ---- Required properties --------------------------------------------------------------------

    /// Fails if a power cut at this moment would leave a store whose open shows anything but a
    /// prefix of the history.
    fn check(&self) -> Result<(), String> {
        let mut expected = self.durable_map;
        self.check_survivor(self.durable, &expected)?;
        for &record in &self.tail {
            note(&mut expected, record);
            self.check_survivor(record.number, &expected)?;
        }
        Ok(())
    }

    fn check_survivor(&self, survivor: Number, expected: &[Number; KEYS]) -> Result<(), String> {
        let unnamed = match &self.job {
            Some(job) if job.stage == Stage::Unnamed => job.victims,
            _ => 0,
        };
        let mut newest: [Option<Record>; KEYS] = [None; KEYS];
        let named = self.segments.iter().enumerate().filter(|(place, _)| unnamed >> place & 1 == 0);
        for &record in named.flat_map(|(_, segment)| &segment.records) {
            let newest = &mut newest[usize::from(record.key)];
            if record.number <= survivor && newest.is_none_or(|newest| newest.number < record.number) {
                *newest = Some(record);
            }
        }
        let found = newest.map(|record| record.filter(|record| record.put).map_or(0, |record| record.number));
        if found == *expected {
            return Ok(());
        }
        Err(format!("after a crash that spares {survivor} there is {found:?} and not {expected:?}"))
    }

    /// Compacts the store at rest to the end, one segment at a time. Fails if that does not end.
    fn settle(&self) -> Result<(), String> {
        let mut store = self.clone();
        store.sync();
        let most = 2 * store.segments.len() + 2;
        for _ in 0..most {
            let Some(place) = store.most_worthwhile() else { return Ok(()) };
            store.take(Step::Note);
            store.take(Step::Choose(1 << place));
            while let Some(step) = store.next_of_job() {
                store.take(step);
            }
            store.check()?;
        }
        Err(format!("after {most} jobs there is something left to compact: {:?}", store.segments))
    }

    fn most_worthwhile(&self) -> Option<usize> {
        let sealed = self.sealed();
        let worthwhile = (0..self.segments.len()).filter(|place| {
            let segment = &self.segments[*place];
            sealed >> place & 1 == 1 && (segment.hidden(&self.index) > 0 || segment.has_tombstones())
        });
        worthwhile.min_by_key(|&place| self.segments[place].filtered)
    }
}
