//! The newest manifest of a store that another process writes to, and the segments in it.

use std::sync::Arc;
use std::thread;

use super::copies::NewCopies;
use super::{ATTEMPTS, Inner};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::Defect;
use crate::format::file_name::{MANIFESTS, REMOVING};
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::segment_header::Role;
use crate::log::control_page::ControlState;
use crate::log::segment::Segment;
use crate::recovery::directory::read_manifest;

impl Inner {
    /// Reads the newest manifest, and waits for one of this generation as long as a writer may be
    /// writing it.
    ///
    /// # Errors
    ///
    /// `Replaced` if the store is gone, or another one is there; errors of the operating system.
    pub(super) fn newest(&self, engine: &Engine, announced: u64) -> Result<Manifest> {
        let dir = engine.shared.dir.as_ref();
        let mut newest = None;
        for _ in 0..ATTEMPTS {
            let Some(manifest) = read_manifest(dir)? else {
                if MANIFESTS.iter().all(|name| matches!(dir.id_of(name), Ok(None))) {
                    return Err(self.replaced(engine));
                }
                // Both copies may have been read while they were written.
                thread::yield_now();
                continue;
            };
            if manifest.store != engine.shared.store {
                return Err(self.replaced(engine));
            }
            if manifest.generation >= announced {
                return Ok(manifest);
            }
            // No checksum covers the announced number, so the last word is the manifest's.
            newest = Some(manifest);
            thread::yield_now();
        }
        newest.ok_or_else(|| self.unsteady(engine))
    }

    /// Reads the manifest, and maps the segments that are new in it. Returns false if it is older
    /// than the one at hand, or names other segments under the same numbers.
    ///
    /// # Errors
    ///
    /// The errors of [`Inner::newest`] and [`Segment::open`].
    pub(super) fn take_manifest(&mut self, engine: &Engine, state: Option<&ControlState>) -> Result<bool> {
        let live = state.filter(|_| self.may_have_writer(engine));
        let announced = live.map_or(0, |state| state.generation);
        for _ in 0..ATTEMPTS {
            let manifest = self.newest(engine, announced)?;
            engine.shared.dir.reader_point("follow-manifest");
            if manifest.generation < self.manifest.generation || self.has_other_segments(engine, &manifest) {
                return Ok(false);
            }
            match self.map_new(engine, &manifest) {
                Ok(()) => {
                    engine.shared.manifest.follow(manifest.clone());
                    (self.manifest, self.must_let_go) = (manifest, true);
                    self.nonce = state.map(|state| state.header.writer_nonce);
                    return Ok(true);
                }
                // Compaction has replaced it, if there is a newer manifest.
                Err(Error::MissingSegment { .. })
                    if self.newest(engine, 0)?.generation > manifest.generation => {}
                Err(Error::MissingSegment { .. }) if self.is_being_removed(engine) => {
                    return Err(self.replaced(engine));
                }
                Err(error) => return Err(error),
            }
        }
        Err(self.unsteady(engine))
    }

    /// Returns true if another process destroys the store.
    fn is_being_removed(&self, engine: &Engine) -> bool {
        !matches!(engine.shared.dir.id_of(REMOVING), Ok(None))
    }

    /// Returns true if a manifest names a segment under the number of another one that is mapped. A
    /// number that was never durable is given again.
    fn has_other_segments(&self, engine: &Engine, manifest: &Manifest) -> bool {
        let segments = engine.shared.segments.read();
        manifest
            .segments
            .iter()
            .any(|entry| segments.get(&entry.id).is_some_and(|segment| segment.nonce() != entry.nonce))
    }

    /// Maps the segments of a manifest that are not mapped yet.
    fn map_new(&mut self, engine: &Engine, manifest: &Manifest) -> Result<()> {
        let shared = &engine.shared;
        for entry in manifest.segments.iter().filter(|entry| entry.state != SegmentState::Retired) {
            if shared.segments.read().contains_key(&entry.id) {
                continue;
            }
            let segment = Segment::open(shared.dir.as_ref(), &shared.space, shared.store, entry)?;
            segment.follow();
            if entry.role == Role::Log {
                // A pass that failed gave it back, and it was read long ago.
                let is_read = entry.state == SegmentState::Sealed && entry.last_seq <= engine.last_seq();
                if is_read {
                    segment.mapping().publish_existing(entry.end);
                } else {
                    self.ahead.push(Arc::clone(&segment));
                }
            } else {
                segment.mapping().publish_existing(entry.end);
                let (offset, end) = (segment.data_offset(), entry.end);
                self.copies.push(NewCopies { segment: Arc::clone(&segment), offset, end });
            }
            shared.segments.write().insert(entry.id, segment);
        }
        Ok(())
    }

    pub(super) fn replaced(&self, engine: &Engine) -> Error {
        Error::Replaced { path: engine.shared.dir.path().to_owned() }
    }

    /// Returns the error for a store whose files do not settle.
    fn unsteady(&self, engine: &Engine) -> Error {
        let path = engine.shared.dir.path().join(MANIFESTS[0]);
        Error::Corrupt { path, offset: 0, defect: Defect::Truncated }
    }
}
