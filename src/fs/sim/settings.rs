//! The settings of a simulated machine.

use std::time::Duration;

use super::chooser::Seeded;
use crate::fs::Medium;

/// The settings of a machine, which a test decides and the machines after a crash inherit.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) boot_id: Option<[u8; 16]>,
    /// The identity of the mount. Another one means that the cache was lost in between.
    pub(super) mount_id: Option<u64>,
    /// Bytes of the log that a chunk of hints describes; `None` for no hints.
    pub(super) hint_chunk: Option<u64>,
    /// The time at which the clock starts.
    pub(super) now: Duration,
    pub(super) medium: Medium,
    pub(super) capacity: Option<u64>,
    /// A further limit, which the disk does not report.
    pub(super) quota: Option<u64>,
}

impl Settings {
    pub(super) fn new(seed: u64) -> Self {
        let boot_id = Some(boot_id_of(seed));
        let (now, medium) = (Duration::from_secs(1), Medium::Device);
        let mount_id = Some(seed);
        Self { seed, boot_id, mount_id, hint_chunk: None, now, medium, capacity: None, quota: None }
    }

    /// Returns the size that the disk reports; `None` if it is unlimited.
    pub(super) fn told_capacity(&self) -> Option<u64> {
        /// The reported size of a disk that has a quota and no capacity.
        const LARGE: u64 = 1 << 40;
        self.capacity.or(self.quota.map(|_| LARGE))
    }

    /// Returns the settings of the next boot. Its random numbers must not repeat those of the boot
    /// before, because nonces distinguish runs.
    pub(super) fn after_power_cut(&self, position: usize) -> Self {
        let seed = successor(self.seed, position, 1);
        let boot_id = self.boot_id.map(|_| boot_id_of(seed));
        Self { seed, boot_id, mount_id: self.mount_id.map(|_| seed), ..self.clone() }
    }

    /// Returns the settings of the next process in the same boot.
    pub(super) fn after_kill(&self, position: usize) -> Self {
        Self { seed: successor(self.seed, position, 2), ..self.clone() }
    }
}

fn successor(seed: u64, position: usize, kind: u64) -> u64 {
    let at = Seeded::new(position as u64 * 4 + kind).next();
    Seeded::new(seed ^ at).next()
}

fn boot_id_of(seed: u64) -> [u8; 16] {
    let mut random = Seeded::new(!seed);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random.next().to_le_bytes());
    id[8..].copy_from_slice(&random.next().to_le_bytes());
    id
}
