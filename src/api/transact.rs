//! Transactions of a store: one that the caller commits, and one that is run until it commits.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::store::Store;
use super::transaction::Transaction;
use crate::error::{Error, Result};

/// The most attempts of [`Store::transact`].
const ATTEMPTS: u32 = 1000;
/// The longest pause between two attempts of [`Store::transact`].
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

impl Store {
    /// Begins a transaction. It sees all writes that were acknowledged before.
    ///
    /// Its commit is as durable as the writes of this handle.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let mut transaction = store.begin();
    /// transaction.insert(&store, "a", "1")?;
    /// assert_eq!(store.get("a")?, None);
    /// transaction.commit()?;
    /// assert!(store.contains_key("a")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "begin_write")]
    #[doc(alias = "write_tx")]
    #[doc(alias = "write_txn")]
    #[doc(alias = "transaction")]
    #[must_use]
    pub fn begin(&self) -> Transaction {
        Transaction::new(Arc::clone(self.handle()), self.durability())
    }

    /// Runs `body` in a transaction and commits it. If that is a conflict, it does so again, with what
    /// the store holds then.
    ///
    /// So `body` may run many times, and should have no effect but through the transaction. No lock is
    /// held while it runs. If it fails, nothing is written, and its error is returned.
    ///
    /// The second attempt follows at once. Before each later one there is a random pause, of at most one
    /// millisecond. After 1,000 attempts the last conflict is returned: other writers never paused, or `body`
    /// writes to what it reads without the transaction. For a counter that many threads change, use
    /// [`update_and_fetch`](crate::Keyspace::update_and_fetch).
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let accounts = store.keyspace("accounts")?;
    /// accounts.insert("anna", [10])?;
    /// accounts.insert("berta", [0])?;
    /// let is_paid = store.transact(|transaction| {
    ///     let balance = |value: Option<mapcask::TxValue>| value.map_or(0, |value| value[0]);
    ///     let from = balance(transaction.get(&accounts, "anna")?);
    ///     let to = balance(transaction.get(&accounts, "berta")?);
    ///     if from < 7 {
    ///         return Ok(false);
    ///     }
    ///     transaction.insert(&accounts, "anna", [from - 7])?;
    ///     transaction.insert(&accounts, "berta", [to + 7])?;
    ///     Ok::<_, mapcask::Error>(true)
    /// })?;
    /// assert!(is_paid);
    /// assert_eq!(accounts.get("berta")?.expect("paid"), [7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of `body`, and those of [`Transaction::commit`]; `Conflict` after 1,000 attempts only.
    #[doc(alias = "transaction")]
    #[doc(alias = "retry")]
    pub fn transact<T, E: From<Error>>(
        &self,
        mut body: impl FnMut(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut conflicts = 0;
        loop {
            let mut transaction = self.begin();
            let result = body(&mut transaction)?;
            match transaction.commit() {
                Ok(_) => return Ok(result),
                Err(Error::Conflict { .. }) if conflicts + 1 < ATTEMPTS => conflicts += 1,
                Err(error) => return Err(error.into()),
            }
            pause(conflicts);
        }
    }
}

/// Waits for a random time, after so many conflicts, so that those that compete go apart. Nothing depends on
/// its length but the number of attempts.
fn pause(conflicts: u32) {
    let Some(doublings) = conflicts.checked_sub(2) else { return };
    let most = Duration::from_micros(1 << doublings.min(16)).min(LONGEST_PAUSE);
    // The state is random for each, and that is all that is needed.
    let share = RandomState::new().hash_one(conflicts) % 1024;
    let pause = most.mul_f64(share as f64 / 1024.0);
    if pause < Duration::from_micros(20) {
        // A thread sleeps longer than that.
        thread::yield_now();
    } else {
        thread::sleep(pause);
    }
}
