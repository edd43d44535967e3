//! Runs a bank with transactions: transfers from many threads, an audit that never stops them, and a
//! limit over all accounts of a customer.
//!
//! An account is a key `customer/account` of an ordered keyspace. A customer may overdraw one account
//! as long as the sum of all is not negative. So a withdrawal reads all accounts of the customer, by a
//! prefix, and writes one of them. Two withdrawals from two accounts would each be allowed alone, and
//! not both: one of them is a conflict, runs again, and sees the other one. An account that is opened
//! meanwhile is noticed, too.
//!
//! `cargo run --example bank`

use std::error::Error;
use std::io::Write;
use std::thread;

use mapcask::{Keyspace, Store, Transaction, TxValue};

const CUSTOMERS: u64 = 20;
const ACCOUNTS: u64 = 3;
const OPENING: i64 = 100;
const THREADS: u64 = 4;
const EACH: u64 = 2000;

/// The reason why a customer gets no money.
#[derive(Debug)]
enum Refusal {
    Poor,
    Store(mapcask::Error),
}

impl From<mapcask::Error> for Refusal {
    fn from(error: mapcask::Error) -> Self {
        Self::Store(error)
    }
}

fn money(value: &TxValue) -> i64 {
    value.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

fn balance(transaction: &mut Transaction, accounts: &Keyspace, account: &str) -> mapcask::Result<i64> {
    Ok(transaction.get(accounts, account)?.map_or(0, |value| money(&value)))
}

/// Returns the sum over all accounts of a customer.
fn sum(transaction: &mut Transaction, accounts: &Keyspace, customer: u64) -> mapcask::Result<i64> {
    let mut of_all = transaction.prefix(accounts, format!("{customer}/"));
    of_all.try_fold(0, |sum, item| item.map(|(_, value)| sum + money(&value)))
}

/// Moves money from an account to that of another customer.
fn transfer(
    store: &Store,
    accounts: &Keyspace,
    from: (u64, u64),
    to: u64,
    amount: i64,
) -> Result<(), Refusal> {
    store.transact(|transaction| {
        if sum(transaction, accounts, from.0)? < amount {
            return Err(Refusal::Poor);
        }
        let (payer, payee) = (format!("{}/{}", from.0, from.1), format!("{to}/0"));
        let left = balance(transaction, accounts, &payer)? - amount;
        transaction.insert(accounts, &payer, left.to_le_bytes())?;
        // The payer's account may be the payee's: the transaction reads what it has written.
        let more = balance(transaction, accounts, &payee)? + amount;
        transaction.insert(accounts, &payee, more.to_le_bytes())?;
        Ok(())
    })
}

/// Checks that no customer is in debt, and returns the money of all, as of one moment.
fn audit(store: &Store, accounts: &Keyspace) -> mapcask::Result<i64> {
    let mut transaction = store.begin();
    let mut all = 0;
    for customer in 0..CUSTOMERS {
        let sum = sum(&mut transaction, accounts, customer)?;
        assert!(sum >= 0, "customer {customer} is in debt");
        all += sum;
    }
    // It wrote nothing, so this cannot be a conflict.
    transaction.commit().map(|_| all)
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    let accounts = store.ordered_keyspace("accounts")?;
    store.transact(|transaction| {
        for customer in 0..CUSTOMERS {
            for account in 0..ACCOUNTS {
                transaction.insert(&accounts, format!("{customer}/{account}"), OPENING.to_le_bytes())?;
            }
        }
        Ok::<_, mapcask::Error>(())
    })?;
    let money = audit(&store, &accounts)?;

    let (mut refused, mut audits) = (0, 0);
    thread::scope(|scope| {
        let work = |thread: u64| {
            let (store, accounts) = (&store, &accounts);
            move || {
                let mut refused = 0;
                for n in 0..EACH {
                    // A mixture that is the same in each run.
                    let draw = (thread * EACH + n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
                    let from = (draw % CUSTOMERS, draw / 32 % ACCOUNTS);
                    match transfer(store, accounts, from, draw / 128 % CUSTOMERS, 70) {
                        Ok(()) => {}
                        Err(Refusal::Poor) => refused += 1,
                        Err(Refusal::Store(error)) => return Err(error),
                    }
                }
                Ok(refused)
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(work(thread))).collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            assert_eq!(audit(&store, &accounts)?, money, "money was made or lost");
            audits += 1;
        }
        for thread in threads {
            refused += thread.join().expect("no panic")?;
        }
        Ok::<_, mapcask::Error>(())
    })?;
    assert_eq!(audit(&store, &accounts)?, money);
    let transfers = THREADS * EACH - refused;
    writeln!(
        std::io::stdout(),
        "{transfers} transfers, {refused} refused; {audits} audits found all the money"
    )?;
    Ok(store.close()?)
}
