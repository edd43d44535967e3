//! The limits of a simulated machine: on space, and on other resources.

use super::SimDisk;
use crate::error::Resource;

impl SimDisk {
    /// Limits a resource until the power fails or the process is killed; `None` lifts the limit.
    /// The resources are open files, including the lock's; names in the directory; mappings; and
    /// the bytes of a file. Listing and syncing the directory need a descriptor for their duration.
    ///
    /// ```
    /// use mapcask::sim::SimDisk;
    /// use mapcask::{Error, Options, Resource};
    ///
    /// let disk = SimDisk::new();
    /// disk.set_limit(Resource::Descriptors, Some(2));
    /// let refused = Options::new().background(false).open_on(&disk);
    /// assert!(matches!(refused, Err(Error::Exhausted { resource: Resource::Descriptors, .. })));
    /// disk.set_limit(Resource::Descriptors, None);
    /// Options::new().background(false).open_on(&disk)?;
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn set_limit(&self, resource: Resource, most: Option<u64>) {
        let mut machine = self.shared.lock();
        match most {
            Some(most) => drop(machine.limits.insert(resource, most)),
            None => drop(machine.limits.remove(&resource)),
        }
    }

    /// Limits the blocks of all files together, in bytes. Unlinked files do not count.
    ///
    /// ```
    /// use mapcask::sim::SimDisk;
    /// use mapcask::{Error, Options};
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).segment_bytes(4096).open_on(&disk)?;
    /// disk.set_capacity(Some(64 << 10));
    /// let refused = (0..100_u8).find_map(|n| store.insert([n], [7; 1000]).err());
    /// assert!(matches!(refused, Some(Error::NoSpace { .. })));
    /// disk.set_capacity(None);
    /// store.insert("a", "1")?;
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.lock().settings.capacity = bytes;
    }

    /// Limits the blocks like [`SimDisk::set_capacity`], but the disk does not report the limit, as
    /// with some quotas: it reports free space and then refuses.
    ///
    /// ```
    /// use mapcask::sim::SimDisk;
    /// use mapcask::{Error, Options};
    ///
    /// let disk = SimDisk::new();
    /// disk.set_quota(Some(256 << 10));
    /// let store = Options::new().background(false).segment_bytes(4096).open_on(&disk)?;
    /// let refused = (0..=255_u8).find_map(|n| store.insert([n], [7; 1000]).err());
    /// assert!(matches!(refused, Some(Error::NoSpace { .. })));
    /// // The store reserves space for operations that free space.
    /// store.clear()?;
    /// store.insert("a", "1")?;
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.shared.lock().settings.quota = bytes;
    }

    /// Returns the number of bytes that the program has read from files, mappings not counted.
    #[cfg(test)]
    pub(crate) fn bytes_read(&self) -> u64 {
        self.shared.lock().bytes_read
    }

    /// Returns the number of files that the program has open, including the lock's.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        self.shared.lock().descriptors
    }
}
