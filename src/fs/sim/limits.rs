//! The limits of a program, and of the simulated disk: on space, and on other things.

use super::SimDisk;
use crate::error::Resource;

impl SimDisk {
    /// Lets there be so much of something, and no more, until the power fails or the process is killed: open files, the lock's
    /// among them; names in the directory; mappings; bytes of a file. `None` lifts the limit. Listing and syncing the directory
    /// need a descriptor for the moment.
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

    /// Limits the blocks of all files together, in bytes. Unlinked files count no longer.
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

    /// As [`SimDisk::set_capacity`], of which the disk does not tell, as of some quotas: it says that there is room, and has none.
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
    /// // Room is kept for what leads out of that.
    /// store.clear()?;
    /// store.insert("a", "1")?;
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.shared.lock().settings.quota = bytes;
    }

    /// Open files of the program, the lock's among them.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        self.shared.lock().descriptors
    }
}
