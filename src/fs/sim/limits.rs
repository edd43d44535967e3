//! What a program, or the simulated disk, may have of something besides space.

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

    /// Open files of the program, the lock's among them.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        self.shared.lock().descriptors
    }
}
