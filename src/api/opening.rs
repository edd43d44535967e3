//! Opening a directory that another process may be destroying and creating again.

use std::path::Path;
use std::sync::Arc;

use super::keyspace::Keyspace;
use super::store::Store;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::handle::Handle;
use crate::error::{Error, Result};
use crate::fs::read_only::ReadOnlyDir;
use crate::fs::real::RealDir;
use crate::fs::{Dir, Misplaced};
use crate::recovery;

/// The most attempts of an open whose directory disappears during it.
const ATTEMPTS: usize = 100;

/// Opens the store at a path.
///
/// # Errors
///
/// Fails as [`Options::open`](crate::Options::open) does.
pub(super) fn open(config: &Config, path: &Path) -> Result<Store> {
    let mut left = ATTEMPTS;
    loop {
        let dir = Arc::new(RealDir::new(path).map_err(|error| Error::io("find", path, error))?);
        let opened = open_in(config.clone(), Arc::clone(&dir) as Arc<dyn Dir>);
        left -= 1;
        // Another process removed the directory during the attempt. Now there is another one, or
        // none.
        let is_gone = || matches!(dir.check_place(), Err(Misplaced::Removed | Misplaced::Replaced));
        if opened.is_ok() || left == 0 || !is_gone() {
            return opened;
        }
    }
}

/// Opens the store in a directory that may be simulated.
///
/// # Errors
///
/// Fails as [`open`] does.
pub(super) fn open_in(mut config: Config, mut dir: Arc<dyn Dir>) -> Result<Store> {
    let _events = crate::trace::at_end();
    if config.read_only {
        dir = Arc::new(ReadOnlyDir(dir));
        (config.create, config.background) = (false, false.into());
    }
    let durability = config.durability;
    let engine = Engine::start(recovery::open(dir, &config)?, config)?;
    engine.compactor.tidy_up(&engine)?;
    let handle = Arc::new(Handle::start(engine)?);
    handle.state.report.announce(handle.state.shared.dir.path());
    let default = Arc::clone(&handle.state.default);
    Ok(Store { default: Keyspace::new(handle, default, durability) })
}
