//! The steps of a pass: it copies the live records of some segments into new ones, and removes the
//! old ones.
//!
//! **Order.**
//!
//! 1. Note F, the last number assigned, under the writer mutex, before the first lookup.
//! 2. Read the victims record by record. Copy the records that the index leads to, and those that
//!    the tombstone rule keeps.
//! 3. Make the copies durable, then the log up to its last record after the last lookup. The
//!    records that hide the dropped ones must not be less durable than those were (I11).
//! 4. Map the copies. Then one change of the manifest names them and marks the victims as retired.
//! 5. Under the writer mutex, a few records at a time, repoint the index to the copies, each only
//!    from its original's location.
//! 6. No live record is counted in the victims now. Remove their files, each in its own step. Their
//!    memory is freed after the last reader, in its own steps as well. A file system may take tens
//!    of milliseconds to free a segment, and other work must go on meanwhile.
//!
//! A pass runs in short steps, and may be given up at any time before step 4. Between steps it
//! holds no lock but the one that excludes a second pass.
//!
//! **Crash points.** Those of `output`, `compaction-named` after step 4, `compaction-switched`
//! after step 5, and `compaction-removed` before the directory's sync of step 6.

use std::sync::Arc;

use crate::engine::compaction::Compactor;
use crate::engine::compaction::copy_writer::{CopyPlan, CopyWriter};
use crate::engine::compaction::key_run::KeyRun;
use crate::engine::compaction::pass::{Pass, Phase, Victim};
use crate::engine::state::State;
use crate::engine::state::lookup::Lookup;
use crate::engine::state::syncer::WriteBackStep;
use crate::error::{Error, Resource, Result};
use crate::format::keyspace_change::KeyspaceChange;
use crate::format::manifest::SegmentState;
use crate::format::record::{HEADER_SIZE, RecordHeader, RecordKind};
use crate::format::record_reader::{READ_MAX, ReadAt, RecordAt};
use crate::format::segment_header::Role;
use crate::format::{Defect, KeyspaceId, Seq};
use crate::log::segment::Segment;
use crate::log::segment_file::unlink_segment;
use crate::log::segment_reader::{Records, SegmentReader};
use crate::mem::location::Location;

/// The bytes of a victim that one step reads.
const STEP: u64 = 256 << 10;
impl Compactor {
    /// Does one step of the pass.
    ///
    /// # Errors
    ///
    /// `NoSpace`, `Corrupt` if a record of a victim does not verify, and errors of the operating
    /// system. Before the manifest was changed the pass can be given up without effect. After that
    /// the step must be repeated.
    pub(crate) fn step_pass(&self, state: &State, pass: &mut Pass) -> Result<()> {
        match pass.phase {
            Phase::Copy => self.copy_some(state, pass),
            Phase::SyncAhead => {
                if state.syncer.write_back_some(state, &mut pass.ahead)? == WriteBackStep::Done {
                    pass.phase = Phase::Sync;
                }
                Ok(())
            }
            Phase::Sync => {
                // After the last lookup: every record that hides a dropped one has at most this
                // number.
                let upto = state.writer.lock().log.last_user();
                state.sync_upto(upto)?;
                pass.phase = Phase::Name;
                Ok(())
            }
            Phase::Name => self.name_copies(state, pass),
            Phase::NameAgain => {
                state.shared.manifest.update(|_| ())?;
                self.use_copies(state, pass);
                Ok(())
            }
            Phase::Switch { output, offset, moved } => self.repoint_some(state, pass, output, offset, moved),
            Phase::Retire => self.retire_victims(state, pass),
            Phase::Remove { at } => self.remove_victim(state, pass, at),
            Phase::Release => {
                pass.victims.pop();
                if pass.victims.is_empty() {
                    pass.phase = Phase::Done;
                }
                Ok(())
            }
            Phase::Done => Ok(()),
        }
    }

    fn copy_some(&self, state: &State, pass: &mut Pass) -> Result<()> {
        let Some(victim) = pass.victims.get(pass.at) else {
            self.keep_run(state, pass)?;
            if let Some(output) = pass.output.take() {
                pass.finished.push(output.finish(&state.shared)?);
            }
            pass.ahead = Some(state.syncer.pieces(state));
            pass.phase = Phase::SyncAhead;
            return Ok(());
        };
        if pass.records.is_none() {
            // Its file will be removed, and a snapshot may have to read it later.
            match state.shared.space.map_now(victim.segment.mapping()) {
                // Already gone, so it cannot be read, and nothing in it is live.
                Err(Error::MissingSegment { .. }) if victim.cost == 0 => {}
                other => other?,
            }
        }
        if victim.cost == 0 {
            // Nothing in it is live, or can become live.
            pass.at += 1;
            return Ok(());
        }
        let (segment, end) = (Arc::clone(&victim.segment), victim.end);
        let mut records = match pass.records.take() {
            Some(records) => records,
            None => Records::open(state.shared.dir.as_ref(), &segment, end)?,
        };
        let from = records.offset();
        while records.offset() < from + STEP {
            let Some(record) = records.next()? else {
                pass.report.bytes_read += records.offset() - from;
                pass.at += 1;
                return Ok(());
            };
            self.consider(state, pass, &segment, records.source(), &record)?;
        }
        pass.report.bytes_read += records.offset() - from;
        pass.records = Some(records);
        Ok(())
    }

    fn consider(
        &self,
        state: &State,
        pass: &mut Pass,
        segment: &Segment,
        source: &mut SegmentReader,
        placed: &RecordAt,
    ) -> Result<()> {
        let header = &placed.header;
        let location = segment.range().at(placed.offset);
        let kept = match header.kind {
            RecordKind::Put => self.index_leads_to(state, pass, source, placed, Some(location))?,
            RecordKind::Tombstone => {
                header.seq > pass.horizon
                    && state.catalog.by_id(header.keyspace).is_some()
                    && !self.index_leads_to(state, pass, source, placed, None)?
            }
            RecordKind::Keyspace | RecordKind::Batch | RecordKind::Watermark | RecordKind::Start => false,
        };
        if !kept {
            return Ok(());
        }
        let from = (header.kind == RecordKind::Put).then_some(location);
        if !KeyRun::takes(header) {
            return self.keep_record(state, pass, source, placed, from);
        }
        let len = usize::try_from(header.payload_len()).expect("a run takes short ones");
        let payload = source.bytes(placed.offset + HEADER_SIZE as u64, len)?;
        pass.run.add(header, from, payload).map_err(|error| Error::io("read", segment.path(), error))?;
        if pass.run.is_full() { self.keep_run(state, pass) } else { Ok(()) }
    }

    /// Copies the records that were gathered, in the order of their keys.
    fn keep_run(&self, state: &State, pass: &mut Pass) -> Result<()> {
        let mut run = std::mem::take(&mut pass.run);
        run.sort();
        for record in run.records() {
            let output = self.output_for(state, pass, &record.header)?;
            output.begin_record(&record.header);
            output.write(run.payload(record))?;
            output.end_record();
            self.note_kept(pass, &record.header, record.from)?;
        }
        run.clear();
        pass.run = run;
        Ok(())
    }

    /// Returns true if the index has an entry for a record's key: one that leads to `wanted`, or
    /// any. `wanted` is found by its location, because a copy may replace that entry only.
    fn index_leads_to(
        &self,
        state: &State,
        pass: &mut Pass,
        source: &mut SegmentReader,
        placed: &RecordAt,
        wanted: Option<Location>,
    ) -> Result<bool> {
        let Some(keyspace) = state.catalog.by_id(placed.header.keyspace) else { return Ok(false) };
        let pin = state.pin();
        let Some(contents) = keyspace.contents(&pin) else { return Ok(false) };
        if contents.id != placed.header.keyspace {
            return Ok(false);
        }
        if contents.index.has_ended() {
            // Whatever may be needed is kept.
            return Ok(wanted.is_some());
        }
        let key = source.bytes(placed.offset + HEADER_SIZE as u64, usize::from(placed.header.key_len))?;
        pass.key.clear();
        pass.key.extend_from_slice(key);
        let (index, key) = (&contents.index, state.search_key(&pass.key));
        if let Some(wanted) = wanted {
            return Ok(index.leads_to(key, wanted)?);
        }
        // A tombstone that is kept in vain does no harm.
        let lookup = Lookup { keyspace: contents.id, key };
        Ok(lookup.find_readable(state, index, &pin)?.is_some())
    }

    /// Returns the output, with space for a record and with the name of its keyspace.
    fn output_for<'p>(
        &self,
        state: &State,
        pass: &'p mut Pass,
        header: &RecordHeader,
    ) -> Result<&'p mut CopyWriter> {
        let size = header.size();
        // A reader of the file without any manifest needs the keyspace's name.
        let name = state.catalog.by_id(header.keyspace).filter(|_| header.keyspace != KeyspaceId::DEFAULT);
        let name = name.map(|keyspace| KeyspaceChange::Create {
            id: header.keyspace,
            name: keyspace.name().to_string(),
            codec: keyspace.codec().to_owned(),
        });
        let size = size + name.as_ref().map_or(0, CopyWriter::name_size);
        if let Some(full) = pass.output.take_if(|output| !output.fits(size)) {
            pass.finished.push(full.finish(&state.shared)?);
        }
        let generation = pass.generation();
        let output = match &mut pass.output {
            Some(output) => output,
            none => {
                let created = loop {
                    let room = (pass.left + pass.names).min(pass.file_max).max(size);
                    let plan = CopyPlan { room, generation, filtered: pass.filtered, replaced: &pass.ids };
                    match CopyWriter::create(&state.shared, &plan) {
                        // The process may not create a file this large.
                        Err(Error::Exhausted { resource: Resource::FileSize, .. }) if room > size => {
                            pass.file_max = room / 2;
                        }
                        created => break created?,
                    }
                };
                none.insert(created)
            }
        };
        if let Some(name) = name {
            output.introduce(header.keyspace, &name);
        }
        Ok(output)
    }

    /// Copies a record to the output. `from` is the location of a value.
    fn keep_record(
        &self,
        state: &State,
        pass: &mut Pass,
        source: &mut SegmentReader,
        placed: &RecordAt,
        from: Option<Location>,
    ) -> Result<()> {
        let header = &placed.header;
        let output = self.output_for(state, pass, header)?;
        output.begin_record(header);
        let (mut at, end) =
            (placed.offset + HEADER_SIZE as u64, placed.offset + HEADER_SIZE as u64 + header.payload_len());
        while at < end {
            let len = usize::try_from((end - at).min(READ_MAX as u64)).expect("at most READ_MAX");
            output.write(source.bytes(at, len)?)?;
            at += len as u64;
        }
        output.end_record();
        self.note_kept(pass, header, from)
    }

    /// Notes that a record was copied.
    fn note_kept(&self, pass: &mut Pass, header: &RecordHeader, from: Option<Location>) -> Result<()> {
        pass.left = pass.left.saturating_sub(header.size());
        pass.report.bytes_moved += header.size();
        match from {
            Some(from) => pass.output.as_mut().expect("just written to").note_moved(from),
            None => Ok(()),
        }
    }

    /// Names the copies in the manifest instead of the victims.
    fn name_copies(&self, state: &State, pass: &mut Pass) -> Result<()> {
        self.map_copies(state, pass)?;
        let gone = pass.victims.iter().filter(|victim| victim.segment.role() == Role::Log);
        let last = gone.map(|victim| victim.last).max().unwrap_or(Seq::ZERO);
        let named = state.shared.manifest.update(|manifest| {
            for id in &pass.ids {
                if let Some(entry) = manifest.segment_mut(*id) {
                    entry.state = SegmentState::Retired;
                }
            }
            manifest.segments.extend(pass.finished.iter().map(|finished| finished.entry));
            manifest.segments.sort_unstable_by_key(|entry| entry.id);
            manifest.retired_seq = manifest.retired_seq.max(last);
            state.catalog.note_durable(manifest, state.shared.commit.durable());
        });
        if let Err(error) = named {
            if pass.finished.iter().any(|finished| state.shared.manifest.has(finished.entry.id)) {
                pass.phase = Phase::NameAgain;
            }
            return Err(error);
        }
        self.use_copies(state, pass);
        Ok(())
    }

    /// Maps the copies before they are named.
    ///
    /// Once named, a pass cannot be given up, and one whose copies cannot be mapped could not
    /// finish either.
    fn map_copies(&self, state: &State, pass: &mut Pass) -> Result<()> {
        let shared = &state.shared;
        for finished in &pass.finished[pass.made.len()..] {
            let segment = Segment::open(shared.dir.as_ref(), &shared.space, shared.store, &finished.entry)?;
            segment.release_file();
            pass.made.push(segment);
        }
        Ok(())
    }

    /// Makes the copies a part of the store, after the manifest names them.
    fn use_copies(&self, state: &State, pass: &mut Pass) {
        state.shared.dir.crash_point("compaction-named");
        for (segment, finished) in pass.made.iter().zip(&pass.finished) {
            segment.mapping().publish_existing(finished.entry.end);
            state.shared.add_segment(segment);
        }
        state.hint_writer.note_copies();
        state.allocator.recount(&state.shared);
        pass.phase = Phase::Switch { output: 0, offset: 0, moved: 0 };
    }

    /// Gives up a pass that the manifest does not know, and removes its copies.
    pub(super) fn give_up_pass(&self, state: &State, pass: Pass) {
        // After a finished pass the copies belong to the store.
        if pass.can_give_up() && !pass.is_done() {
            for segment in &pass.made {
                state.shared.space.retire(segment.mapping(), segment.size());
            }
        }
        drop(pass);
        state.allocator.recount(&state.shared);
    }

    /// Retires the victims.
    fn retire_victims(&self, state: &State, pass: &mut Pass) -> Result<()> {
        let shared = &state.shared;
        let strays: Vec<_> = {
            let writer = state.writer.lock();
            let live = |victim: &&Victim| writer.indexes.live_in(victim.segment.mapping().ordinal()) > 0;
            pass.victims.iter().filter(live).map(|victim| Arc::clone(&victim.segment)).collect()
        };
        if let Some(segment) = strays.first() {
            // The index leads to a location where no record was found: nothing may be removed.
            shared.manifest.update(|manifest| {
                for id in &pass.ids {
                    if let Some(entry) = manifest.segment_mut(*id) {
                        entry.state = SegmentState::Sealed;
                    }
                }
            })?;
            pass.strays = strays.iter().map(|segment| segment.id()).collect();
            pass.phase = Phase::Done;
            return Err(segment.corrupt_at(0, Defect::IndexMismatch));
        }
        for victim in &pass.victims {
            let segment = &victim.segment;
            state.allocator.leaves(segment.size());
            shared.segments.write().remove(&segment.id());
            shared.space.retire(segment.mapping(), segment.size());
            pass.report.segments_removed += 1;
            pass.report.bytes_freed += victim.footprint;
        }
        let made: u64 = pass.made.iter().map(|segment| segment.size()).sum();
        pass.report.bytes_freed = pass.report.bytes_freed.saturating_sub(made);
        pass.report.segments_made = pass.made.len() as u64;
        state.allocator.recount(shared);
        pass.phase = Phase::Remove { at: 0 };
        Ok(())
    }

    /// Removes a victim's file, and after the last one the victims' entries.
    fn remove_victim(&self, state: &State, pass: &mut Pass, at: usize) -> Result<()> {
        let shared = &state.shared;
        if let Some(victim) = pass.victims.get(at) {
            let segment = &victim.segment;
            unlink_segment(shared.dir.as_ref(), segment.id())?;
            state.hint_writer.forget(state, segment.id());
            state.allocator.has_left(segment.size(), shared);
            pass.phase = Phase::Remove { at: at + 1 };
            return Ok(());
        }
        shared.dir.crash_point("compaction-removed");
        shared.sync_dir()?;
        shared.manifest.forget(&pass.ids);
        // Their addresses are free. Their memory and blocks, if only this pass holds them, are
        // freed one by one.
        state.collect_removed();
        pass.phase = Phase::Release;
        Ok(())
    }
}
