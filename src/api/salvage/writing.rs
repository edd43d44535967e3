//! Writing salvaged records to another store.

use std::collections::HashSet;

use super::fates::{Fates, SALVAGE_UNFINISHED};
use super::members::Member;
use super::reading::{Newest, SalvagedKeys, SalvagedRecords};
use super::report::{Account, Damage, DamageCause};
use crate::api::keyspace::Keyspace;
use crate::api::store::Store;
use crate::api::write_batch::WriteBatch;
use crate::engine::write::keyspaces::KeyOrder;
use crate::error::{Error, Result};
use crate::format::record::{HEADER_SIZE, RawHeader, RecordHeader, RecordPlace, payload_sum};
use crate::format::{Defect, KeyspaceId};
use crate::fs::{Dir, File, read_exact_at};

/// The bytes of keys and values per batch.
const BATCH_BYTES: usize = 1 << 20;

/// Writes the newest value of each key, keyspace by keyspace.
///
/// # Errors
///
/// Every error of writing to `into`.
pub(super) fn write(
    dir: &dyn Dir,
    mut records: SalvagedRecords,
    fates: &Fates,
    into: &Store,
    account: &mut Account,
) -> Result<()> {
    let mut taken = HashSet::new();
    let members = std::mem::take(&mut records.members);
    // If a lost record left one name to two keyspaces, the newer one gets it.
    for (id, keys) in std::mem::take(&mut records.keys).into_iter().rev() {
        if fates.is_dropped(id) || keys.values().all(|newest| !newest.is_put()) {
            continue;
        }
        if fates.get(id).is_some_and(|fate| fate.name == SALVAGE_UNFINISHED) {
            account.note(dir.path().to_owned(), 0, DamageCause::Unfinished);
            account.doubt(None);
            continue;
        }
        let keyspace = keyspace_for(id, fates, &mut taken, into)?;
        SalvageWriter {
            dir,
            members: &members,
            keyspace: &keyspace,
            batch: WriteBatch::new(),
            bytes: 0,
            account,
        }
        .keys(keys)?;
        account.report.keyspaces.push(keyspace.name());
    }
    account.report.keyspaces.sort_unstable();
    Ok(())
}

/// Returns the keyspace that the keys of a salvaged keyspace are written to.
fn keyspace_for(
    id: KeyspaceId,
    fates: &Fates,
    taken: &mut HashSet<String>,
    into: &Store,
) -> Result<Keyspace> {
    let numbered = format!("salvaged-{}", id.number());
    let codec = fates.get(id).map_or("", |fate| fate.codec.as_str());
    let name = fates.get(id).map(|fate| fate.name.clone()).filter(|name| taken.insert(name.clone()));
    let mut name = name.unwrap_or_else(|| numbered.clone());
    let order = KeyOrder::of(id);
    let mut keyspace = into.keyspace_of(&name, codec, KeyOrder::of(id));
    let fits =
        |keyspace: &Keyspace| keyspace.inner().codec() == codec && keyspace.is_ordered() == id.is_ordered();
    let is_unfit = match &keyspace {
        Ok(keyspace) => !fits(keyspace),
        Err(error) => matches!(error, Error::KeyspaceNotOrdered { .. }),
    };
    if is_unfit {
        // The keyspace of this name has another codec, and a mixture could not be decoded. Or it has no
        // order.
        name = numbered;
        keyspace = into.keyspace_of(&name, codec, order);
    }
    let keyspace = keyspace?;
    if keyspace.inner().codec() != codec {
        let (stored, asked) = (keyspace.inner().codec().to_owned(), codec.to_owned());
        return Err(Error::CodecMismatch { name, stored, asked });
    }
    Ok(keyspace)
}

struct SalvageWriter<'a> {
    dir: &'a dyn Dir,
    members: &'a [Member],
    keyspace: &'a Keyspace,
    batch: WriteBatch,
    bytes: usize,
    account: &'a mut Account,
}

impl SalvageWriter<'_> {
    /// Writes the values of these records in file order. One value is in memory at a time, or as
    /// many small ones as fit into a batch.
    fn keys(mut self, keys: SalvagedKeys) -> Result<()> {
        let mut sorted: Vec<Newest> = keys.into_values().filter(|newest| newest.is_put()).collect();
        sorted.sort_unstable();
        for records in sorted.chunk_by(|one, next| one.file() == next.file()) {
            let member = &self.members[records[0].file()];
            let file = match member.open(self.dir) {
                Ok(file) => file,
                Err(error) => {
                    self.lost(member, member.from..member.limit, DamageCause::Unreadable(error.to_string()));
                    continue;
                }
            };
            for newest in records {
                match read_record(file.as_ref(), member, newest.offset()) {
                    Ok((header, payload)) => self.put(*newest, &header, &payload)?,
                    Err((len, cause)) => {
                        let at = newest.offset();
                        self.lost(member, at..at + len, cause);
                    }
                }
            }
        }
        self.keyspace.write(&self.batch).map(drop)
    }

    fn put(&mut self, newest: Newest, header: &RecordHeader, payload: &[u8]) -> Result<()> {
        let (key, value) = payload.split_at(usize::from(header.key_len));
        self.account.report.keys += 1;
        self.account.report.doubtful_keys += u64::from(newest.seq() < self.account.doubt);
        if payload.len() >= BATCH_BYTES {
            return self.keyspace.insert(key, value).map(drop);
        }
        self.batch.insert(key, value);
        self.bytes += payload.len();
        if self.bytes >= BATCH_BYTES {
            self.keyspace.write(&self.batch)?;
            self.batch.clear();
            self.bytes = 0;
        }
        Ok(())
    }

    fn lost(&mut self, member: &Member, range: std::ops::Range<u64>, cause: DamageCause) {
        let (path, len) = (member.path.clone(), range.end - range.start);
        self.account.report.damage.push(Damage { path, offset: range.start, len, cause, missing: None });
        self.account.report.intact = false;
    }
}

/// Reads a record that was intact before. On failure returns its length and the cause.
fn read_record(
    file: &dyn File,
    member: &Member,
    offset: u64,
) -> std::result::Result<(RecordHeader, Vec<u8>), (u64, DamageCause)> {
    let unreadable = |error: std::io::Error| DamageCause::Unreadable(error.to_string());
    let mut bytes = [0; HEADER_SIZE];
    read_exact_at(file, &mut bytes, offset).map_err(|error| (HEADER_SIZE as u64, unreadable(error)))?;
    let place = RecordPlace { nonce: member.nonce, offset };
    let header = RawHeader::new(&bytes).validate(place, u64::MAX);
    let header = header.map_err(|defect| (HEADER_SIZE as u64, DamageCause::Defect(defect)))?;
    let failed = |cause| (header.size(), cause);
    let len = usize::try_from(header.payload_len());
    let len = len.map_err(|_| failed(DamageCause::Defect(Defect::LengthOutOfRange)))?;
    let mut payload = Vec::new();
    payload.try_reserve_exact(len).map_err(|error| failed(DamageCause::Unreadable(error.to_string())))?;
    payload.resize(len, 0);
    read_exact_at(file, &mut payload, offset + HEADER_SIZE as u64)
        .map_err(|error| failed(unreadable(error)))?;
    if payload_sum(&payload, b"") != header.payload_sum {
        return Err(failed(DamageCause::Defect(Defect::PayloadChecksum)));
    }
    Ok((header, payload))
}
