//! A moment of an open store: a manifest, the segments that it names, and the place where the log
//! ends.
//!
//! It is a state that a kill could have left, so an open of a copy recovers it. For that, three
//! things are needed:
//!
//! - The manifest was in force when the log ended there. Then it names every segment of the log up
//!   to the place, and no copy that was made later.
//! - Nothing behind the place belongs to it. A segment without a record up to the place is not named.
//! - Its bytes stay, whatever compaction removes. Every segment is mapped, and published bytes never
//!   change (I1).
//!
//! **Concurrency.** The manifest is read before and after the end of the log, and both must be of one
//! generation. After some attempts it is read with the writer mutex held, where the log cannot grow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use crate::engine::state::State;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::{SegmentId, Seq, file_name};
use crate::log::segment::Segment;

/// The number of attempts that do not hold the writer mutex while the manifest is read.
const ATTEMPTS: usize = 8;

/// The most attempts as long as a segment is missing that the manifest names.
const LOOKS: usize = 1_000_000;

/// A segment of a moment, and the end of its bytes.
#[derive(Debug)]
pub(crate) struct MomentPart {
    pub(crate) segment: Arc<Segment>,
    pub(crate) end: u64,
}

/// A moment of a store.
#[derive(Debug)]
pub(crate) struct Moment {
    /// It names exactly the parts, in their order, and does not call the store closed.
    pub(crate) manifest: Manifest,
    /// The number of the last write.
    pub(crate) last: Seq,
    pub(crate) parts: Vec<MomentPart>,
}

impl Moment {
    /// Assembles a moment. `end_of_open` returns the end of a segment whose entry has none.
    ///
    /// # Errors
    ///
    /// The number of a segment that the manifest names, and that is not among `segments`.
    pub(crate) fn of(
        mut manifest: Manifest,
        last: Seq,
        segments: &BTreeMap<SegmentId, Arc<Segment>>,
        end_of_open: impl Fn(&Segment, &SegmentEntry) -> u64,
    ) -> Result<Self, SegmentId> {
        let mut parts = Vec::new();
        let mut blank = Vec::new();
        for entry in &manifest.segments {
            if entry.state == SegmentState::Retired {
                blank.push(entry.id);
                continue;
            }
            let is_open = entry.state == SegmentState::Open;
            let Some(segment) = segments.get(&entry.id) else {
                if is_open {
                    // It was named just now, and the log reaches it later.
                    blank.push(entry.id);
                    continue;
                }
                return Err(entry.id);
            };
            let end = if is_open { end_of_open(segment, entry) } else { entry.end };
            if is_open && end <= segment.data_offset() {
                blank.push(entry.id);
                continue;
            }
            parts.push(MomentPart { segment: Arc::clone(segment), end });
        }
        manifest.forget(&blank);
        // A close may have recorded an end, and the log may have grown since.
        manifest.clean = false;
        manifest.checkpoint = 0;
        Ok(Self { manifest, last, parts })
    }
}

impl State {
    /// Returns the present moment. It holds every write that returned before, and these are durable
    /// unless the store is read-only.
    ///
    /// # Errors
    ///
    /// `Poisoned`, `Closed` or `Forked`, and the error of a segment that cannot be mapped.
    pub(crate) fn moment(&self) -> Result<Moment> {
        self.fork_guard.check()?;
        if !self.config.read_only {
            // A sealed segment need not be copied again by a later backup.
            self.flush()?;
            self.seal()?;
        }
        let (mut changes, mut looks) = (0, 0);
        loop {
            self.fork_guard.check()?;
            let is_held = changes >= ATTEMPTS;
            let before = self.shared.segments.read().clone();
            let (generation, found) = self.moment_once(is_held, before);
            let moment = match found {
                Ok(moment) => moment,
                Err(_) if looks < LOOKS => {
                    // A pass has named its copies, and makes them a part of the store in a moment.
                    looks += 1;
                    thread::yield_now();
                    continue;
                }
                Err(id) => {
                    let path = self.shared.dir.path().join(file_name::segment(id));
                    return Err(Error::MissingSegment { path });
                }
            };
            let mapped = self.map_parts(&moment);
            let is_current = self.shared.manifest.read(|manifest| manifest.generation) == generation;
            if is_current || is_held && mapped.is_ok() {
                return mapped.map(|()| moment);
            }
            changes += 1;
        }
    }

    /// Takes a moment, and returns the generation of its manifest. `before` are the segments before.
    fn moment_once(
        &self,
        is_held: bool,
        mut segments: BTreeMap<SegmentId, Arc<Segment>>,
    ) -> (u64, Result<Moment, SegmentId>) {
        let writer = is_held.then(|| self.writer.lock());
        let manifest = self.shared.manifest.read(Manifest::clone);
        if !is_held {
            self.shared.dir.reader_point("moment-manifest");
        }
        let writer = writer.unwrap_or_else(|| self.writer.lock());
        let (active, offset) = writer.log.position();
        let (active, full, last) = (active.id(), writer.log.full_ends(), writer.log.last_user());
        segments.extend(self.shared.segments.read().iter().map(|(id, segment)| (*id, Arc::clone(segment))));
        let is_read_only = self.config.read_only;
        let moment = Moment::of(manifest.clone(), last, &segments, |segment, entry| {
            if is_read_only {
                // Nothing is appended, so the entry has the end of a closed store's last segment.
                return entry.end;
            }
            if segment.id() == active {
                return offset;
            }
            let full = full.iter().find(|(id, _)| *id == segment.id());
            full.map_or_else(|| segment.mapping().published(), |(_, end)| *end)
        });
        drop(writer);
        (manifest.generation, moment)
    }

    /// Maps every part, so that no part is lost with the name of its file. A pass of this store maps
    /// its victims, but another process may have the store once this one has closed it.
    fn map_parts(&self, moment: &Moment) -> Result<()> {
        moment.parts.iter().try_for_each(|part| self.shared.space.map_now(part.segment.mapping()))
    }
}
