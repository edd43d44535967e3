//! Images of the indexes of an open store: when one is made, and how, beside writers.
//!
//! **Order.** (1) Under the writer mutex, in one hold, between batches and while no pass of compaction is under way: note
//! the last number P0 and what the store is then, and begin to capture every index. A pass that had looked up a record
//! before P0 and copies it after could bring back what was removed in between. (2) Write the captures to a file.
//! (3) Make the log durable up to P0 (I3), and have the manifest call every segment sealed that was full at P0: an open
//! relies on it. (4) Give the file its name, durably. (5) The manifest names it. (6) The image before it goes.
//!
//! **Failure.** An image is disposable: what stops one is told to a subscriber of events, and the one before goes on to count.
//! Only a failed sync of the log is more.
//!
//! **Concurrency.** The state has a lock of its own, which comes before the writer mutex and every other lock; whoever finds
//! it taken goes on with something else, except for `close`.
//!
//! **Crash points.** Those of `checkpoint`, and `image-named` before the older image goes.

mod rebuild;
pub(crate) mod state;
mod take;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::Engine;
use crate::engine::checkpoint::state::{Images, Named};
use crate::error::{Error, Result};
use crate::format::file_name;
use crate::index::checkpoint::is_of_image;
use crate::index::hash::lazy::Unread;

/// A clean close makes no image where the next open would have less to read than this, in bytes.
const CLOSE_MIN: u64 = 1 << 20;
/// Where it would have more to read than this, the image may be large in comparison.
const CLOSE_MAX: u64 = 16 << 20;
/// While the store is open an image is made when there is so many times more to read than it takes.
const SHARE: u64 = 4;

impl Engine {
    /// Loads a piece of an index; whether one was left to load.
    ///
    /// # Errors
    ///
    /// What stopped building the indexes anew, where the image is damaged.
    pub(crate) fn load_some(&self) -> Result<bool> {
        if !self.imaging.is_loading() || self.imaging.stuck.lock().is_some() {
            return Ok(false);
        }
        let Some(index) = self.imaging.loading.lock().last().map(Arc::clone) else { return Ok(false) };
        // Where only this list has it, its keyspace is gone.
        let more = if Arc::strong_count(&index) <= 2 { Ok(false) } else { index.bring_more() };
        match more {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(unread) => self.rebuild(&unread.into())?,
        }
        let mut loading = self.imaging.loading.lock();
        // Another thread may have loaded it, too.
        loading.retain(|other| !Arc::ptr_eq(other, &index));
        // Release: pairs with the acquire in `is_loading`.
        self.imaging.is_loading.store(!loading.is_empty(), Ordering::Release);
        Ok(true)
    }

    /// Loads all indexes.
    ///
    /// # Errors
    ///
    /// As [`Engine::load_some`].
    pub(crate) fn load_all(&self) -> Result<()> {
        while self.load_some()? {}
        let stuck = self.imaging.stuck.lock();
        stuck.as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Whether what failed may be tried again: it needed a damaged block of an image, and the indexes were built anew.
    ///
    /// # Errors
    ///
    /// What stopped that.
    #[cold]
    pub(crate) fn mends(&self, error: &Error) -> Result<bool> {
        let _events = crate::trace::at_end();
        if !is_of_image(error) {
            return Ok(false);
        }
        self.rebuild(error)?;
        Ok(true)
    }

    /// As [`Engine::mends`], for what an index says.
    ///
    /// # Errors
    ///
    /// What stopped that.
    #[cold]
    pub(crate) fn mend(&self, unread: Unread) -> Result<()> {
        let _events = crate::trace::at_end();
        self.rebuild(&unread.into())
    }

    /// A piece of an image, where one is due; whether there was one.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn image_step(&self) -> Result<bool> {
        let Some(mut images) = self.imaging.images.try_lock() else { return Ok(false) };
        self.forget_spoiled(&mut images)?;
        if images.taking.is_none() && !self.begin_due(&mut images)? {
            return Ok(false);
        }
        self.advance(&mut images)?;
        Ok(true)
    }

    /// Has the manifest name no image, where the one that it names is damaged.
    fn forget_spoiled(&self, images: &mut Images) -> Result<()> {
        // Relaxed: who misses it finds it the next time.
        if self.imaging.is_spoiled.load(Ordering::Relaxed) {
            // Relaxed: a statistic.
            self.imaging.size.store(0, Ordering::Relaxed);
            self.shared.manifest.update(|manifest| manifest.image = 0)?;
            self.remove_image(images.named.take());
            // Relaxed: indexes are built anew once, and have been.
            self.imaging.is_spoiled.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes the file of an image that the manifest names no longer.
    fn remove_image(&self, image: Option<Named>) {
        if let Some(image) = image {
            self.shared.leftovers.remove(self.shared.dir.as_ref(), file_name::image(image.number), 0);
        }
    }

    /// Begins an image if so much was written since the last one that an open after a kill would take long.
    fn begin_due(&self, images: &mut Images) -> Result<bool> {
        let active = self.provision.active_id();
        if images.looked == Some(active) {
            return Ok(false);
        }
        let least = self.config.image_bytes.max(SHARE.saturating_mul(self.image_size()));
        if self.bytes_to_read(images) < least {
            images.looked = Some(active);
            return Ok(false);
        }
        let begun = self.begin_image(images)?;
        if begun {
            images.looked = Some(active);
        }
        Ok(begun)
    }

    /// Bytes that an open after a kill would have to read now.
    fn bytes_to_read(&self, images: &Images) -> u64 {
        let held = |id| images.named.as_ref().and_then(|named| named.ends.get(&id).copied()).unwrap_or(0);
        let segments = self.shared.segments.read();
        segments
            .values()
            .map(|segment| segment.mapping().published().saturating_sub(held(segment.id())))
            .sum()
    }

    /// What an image would take now, in bytes.
    fn image_size(&self) -> u64 {
        self.all_keyspaces().1.index_bytes as u64
    }

    /// Makes an image now, whatever was written since the last one; false where an index cannot be captured just now.
    ///
    /// # Errors
    ///
    /// What stopped it.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) fn take_image(&self) -> Result<bool> {
        self.load_all()?;
        let mut images = self.imaging.images.lock();
        self.check_writable()?;
        self.forget_spoiled(&mut images)?;
        if images.taking.is_none() && !self.begin_image(&mut images)? {
            return Ok(false);
        }
        let before = self.imaging.stats().made;
        while images.taking.is_some() {
            self.advance(&mut images)?;
        }
        Ok(self.imaging.stats().made > before)
    }

    /// Makes an image for the next open, where that would have much to read: the store is being closed, and everything is
    /// durable.
    pub(crate) fn image_at_close(&self) -> Result<()> {
        let mut images = self.imaging.images.lock();
        self.forget_spoiled(&mut images)?;
        let (to_read, size) = (self.bytes_to_read(&images), self.image_size());
        let share = if to_read > CLOSE_MAX { 64 } else { 8 };
        if to_read <= CLOSE_MIN || size > to_read.saturating_mul(share) {
            return Ok(());
        }
        self.load_all()?;
        if !self.begin_image(&mut images)? {
            return Ok(());
        }
        while images.taking.is_some() {
            if let Err(error) = self.advance(&mut images) {
                self.give_up(&mut images);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives up the image that is being made: the store is being closed.
    pub(crate) fn end_image(&self) {
        self.give_up(&mut self.imaging.images.lock());
    }
}
