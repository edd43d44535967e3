//! Stores a program's configuration: atomic changes, durable before they are acknowledged, with a
//! history.
//!
//! Settings, their history and the revision lie in three keyspaces of one store, and every change
//! is one batch across them. An older version of the program had another name for its keyspace, so
//! the example renames it. A process that ends without closing the store keeps everything it
//! acknowledged; the next open reports it.
//!
//! `cargo run --example config_store`

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use mapcask::{Durability, Keyspace, Options, Store, WriteBatch};

struct Config {
    store: Store,
    settings: Keyspace,
    history: Keyspace,
}

impl Config {
    /// Opens the configuration, and brings an older one up to date.
    fn open(path: &Path) -> mapcask::Result<Self> {
        // Each write of this handle, and of the keyspaces from it, is on the disk when it returns.
        let store = Store::open(path)?.with_durability(Durability::Disk);
        if store.keyspace_names().iter().any(|name| name == "prefs") {
            store.rename_keyspace("prefs", "settings")?;
        }
        Ok(Self { settings: store.keyspace("settings")?, history: store.keyspace("history")?, store })
    }

    fn revision(&self) -> Result<u64, Box<dyn Error>> {
        let Some(revision) = self.store.get("revision")? else { return Ok(0) };
        Ok(u64::from_le_bytes(revision[..].try_into()?))
    }

    /// Changes settings together, if no other change was made since `revision`. Returns the new
    /// revision.
    fn change(&self, revision: u64, settings: &[(&str, &str)]) -> Result<u64, Box<dyn Error>> {
        let next = revision + 1;
        let mut batch = WriteBatch::new();
        match revision {
            0 => batch.require_absent("revision"),
            revision => batch.require("revision", revision.to_le_bytes()),
        }
        batch.insert("revision", next.to_le_bytes());
        for (name, value) in settings {
            if let Some(old) = self.settings.get(name)? {
                batch.on(&self.history).insert(format!("{name}@{revision}"), old);
            }
            batch.on(&self.settings).insert(name, value);
        }
        self.store.write(&batch)?;
        Ok(next)
    }

    fn get(&self, name: &str) -> Result<Option<String>, Box<dyn Error>> {
        Ok(self.settings.get(name)?.map(|value| String::from_utf8(value.into())).transpose()?)
    }
}

/// Writes the configuration of the older version.
fn write_as_the_older_version(path: &Path) -> mapcask::Result<()> {
    let store = Store::open(path)?;
    store.keyspace("prefs")?.insert("theme", "light")?;
    store.close()
}

/// Runs in another process: changes settings, and exits without closing the store.
fn change_and_vanish(path: &Path) -> Result<(), Box<dyn Error>> {
    let config = Config::open(path)?;
    config.change(config.revision()?, &[("theme", "dark"), ("font", "serif")])?;
    // `exit` drops nothing.
    std::process::exit(0)
}

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, vanish, path] = &std::env::args_os().collect::<Vec<_>>()[..]
        && vanish == "vanish"
    {
        return change_and_vanish(path.as_ref());
    }
    let mut out = std::io::stdout().lock();
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    // A mistyped path does not become a store.
    let missing = Options::new().create(false).open(path.join("missing"));
    assert!(matches!(missing, Err(mapcask::Error::NotFound { .. })));

    write_as_the_older_version(path)?;
    let config = Config::open(path)?;
    assert_eq!(config.store.keyspace_names(), ["history", "settings"]);
    assert_eq!(config.get("theme")?.as_deref(), Some("light"));
    assert!(config.store.recovery_report().clean);
    let revision = config.change(0, &[("theme", "blue")])?;
    // The change is on the disk already, without a flush.
    assert!(config.store.durable_seq() >= config.store.last_seq());
    // A writer that has not seen that change is refused, and none of its settings is written.
    let late = config.change(0, &[("theme", "red"), ("font", "mono")]).expect_err("it is late");
    assert!(matches!(late.downcast_ref(), Some(mapcask::Error::ConditionFailed { .. })), "{late}");
    assert_eq!(config.get("theme")?.as_deref(), Some("blue"));
    assert_eq!(config.get("font")?, None);
    config.store.close()?;

    assert!(Command::new(std::env::current_exe()?).arg("vanish").arg(path).status()?.success());
    let config = Config::open(path)?;
    let report = config.store.recovery_report();
    writeln!(out, "closed before: {}; {} keys in {} keyspaces", report.clean, report.keys, report.keyspaces)?;
    assert!(!report.clean && report.quarantined.is_empty());
    assert_eq!(config.revision()?, revision + 1);
    assert_eq!(config.get("theme")?.as_deref(), Some("dark"));
    assert_eq!(config.get("font")?.as_deref(), Some("serif"));
    assert_eq!(config.history.get("theme@0")?.as_deref(), Some(b"light".as_slice()));
    assert_eq!(config.history.get("theme@1")?.as_deref(), Some(b"blue".as_slice()));
    config.store.close()?;
    Ok(())
}
