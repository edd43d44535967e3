//! A materialized view: a process that keeps a summary of another process's store, each change
//! applied exactly once.
//!
//! The shop writes orders. The view keeps the turnover of each product in a store of its own. It
//! stores its position in the feed in the same batch as the effect of the changes, so that after a
//! kill it goes on where it stopped: nothing is counted twice, and nothing is left out. If the shop's
//! compaction has removed changes that the view has not seen, the view reads the state anew.
//!
//! The program is three processes: this one checks, and starts the shop and the view. It kills the
//! view again and again, and compares the turnover in the end.
//!
//! `cargo run --example materialized_view`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mapcask::{
    ChangeKind, Changes, FeedPosition, Follower, Keyspace, Options, Since, Store, Value, WriteBatch,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The number of times that the view is killed.
const KILLS: u64 = 8;
/// The number of orders that the shop takes from one kill to the next: more than the view is to apply.
const SHARE: u64 = 7500;
/// The time after which a view that stands still has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The key under which the view keeps its place.
const POSITION: &str = "position";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("shop"), Some(folder)) => shop(Path::new(&folder)),
        (Some("view"), Some(folder)) => view(Path::new(&folder)),
        _ => check(),
    }
}

/// Takes orders, changes some, and cancels others: a share of all for each line of its input. Each
/// order is a key with a product and a price.
fn shop(folder: &Path) -> Result<()> {
    let options = Options::new().segment_bytes(256 << 10).keep_changes(1 << 20);
    let store = options.open(folder.join("shop"))?;
    let orders = store.keyspace("orders")?;
    for (line, share) in std::io::stdin().lines().zip(0..) {
        line?;
        for n in share * SHARE..(share + 1) * SHARE {
            let order = |price: u64| [(n % 7).to_le_bytes(), price.to_le_bytes()].concat();
            orders.insert(n.to_le_bytes(), order(100 + n % 50))?;
            if n % 3 == 0 {
                orders.insert(n.to_le_bytes(), order(n % 90))?;
            }
            if n % 5 == 4 {
                orders.remove((n / 2).to_le_bytes())?;
            }
        }
    }
    store.close()?;
    Ok(())
}

/// The view's tables: the orders that it knows, and the turnover by product.
struct View {
    store: Store,
    orders: Keyspace,
    turnover: Keyspace,
}

impl View {
    fn open(folder: &Path) -> Result<Self> {
        // A killed view may not be gone yet.
        let options = Options::new().wait_for_lock(Duration::from_secs(30));
        let store = options.open(folder.join("view"))?;
        let (orders, turnover) = (store.keyspace("orders")?, store.keyspace("turnover")?);
        Ok(Self { store, orders, turnover })
    }

    /// Returns the place up to which the view is complete.
    fn since(&self) -> Result<Since> {
        let stored = self.store.get(POSITION)?;
        Ok(stored.map_or(Ok(Since::State), |bytes| FeedPosition::from_bytes(&bytes).map(Since::from))?)
    }
}

/// The changes of orders that take effect together: the new contents, or none.
type Pending = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Applies what belongs together, with the position behind it, in one batch.
fn apply(view: &View, pending: &mut Pending, is_state: bool, position: FeedPosition) -> Result<()> {
    let mut batch = WriteBatch::new();
    let mut sums: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    if is_state {
        // An order that is not in the state is gone.
        for key in view.orders.keys() {
            pending.entry(key?.to_vec()).or_insert(None);
        }
    }
    for (key, new) in std::mem::take(pending) {
        let old = view.orders.get(&key)?;
        for (order, sign) in [(old.as_deref(), -1), (new.as_deref(), 1)] {
            if let Some((product, price)) = order.map(|order| order.split_at(8)) {
                *sums.entry(product.to_vec()).or_default() += sign * i64::from_le_bytes(price.try_into()?);
            }
        }
        match new {
            Some(order) => batch.on(&view.orders).insert(&key, order),
            None => batch.on(&view.orders).remove(&key),
        };
    }
    for (product, change) in sums {
        let before = view.turnover.get(&product)?;
        let before = before.map_or(Ok(0), |bytes| bytes[..].try_into().map(i64::from_le_bytes))?;
        batch.on(&view.turnover).insert(&product, (before + change).to_le_bytes());
    }
    batch.insert(POSITION, position.to_bytes());
    view.store.write(&batch)?;
    Ok(())
}

/// Follows the shop until this process is killed.
fn view(folder: &Path) -> Result<()> {
    let view = View::open(folder)?;
    let open = |since| Changes::open(folder.join("shop"), since).map(|changes| changes.only(["orders"]));
    let mut changes = open(view.since()?)?;
    let (mut pending, mut is_state) = (Pending::new(), false);
    loop {
        let more = match changes.next_within(PATIENCE) {
            Ok(None) => continue,
            Err(mapcask::Error::Lagged { .. } | mapcask::Error::Rewound { .. }) => {
                pending.clear();
                changes = open(Since::State)?;
                continue;
            }
            Err(error) => return Err(error.into()),
            Ok(Some(change)) => {
                match change.kind {
                    ChangeKind::Insert { key, value } | ChangeKind::State { key, value } => {
                        pending.insert(key.to_vec(), Some(value.to_vec()));
                    }
                    ChangeKind::Remove { key } => drop(pending.insert(key.to_vec(), None)),
                    ChangeKind::StateEnd => is_state = true,
                    _ => {}
                }
                change.more
            }
        };
        if !more {
            apply(&view, &mut pending, std::mem::take(&mut is_state), changes.position())?;
        }
    }
}

/// Starts a part of the program as a process of its own.
fn start(part: &str, folder: &Path) -> Result<Child> {
    Ok(Command::new(std::env::current_exe()?).arg(part).arg(folder).stdin(Stdio::piped()).spawn()?)
}

/// Returns the turnover by product, counted from the orders.
fn count(folder: &Path) -> Result<BTreeMap<Vec<u8>, i64>> {
    let mut turnover = BTreeMap::new();
    for order in Follower::open(folder.join("shop"))?.keyspace("orders")?.values() {
        let order = order?;
        let (product, price) = order.split_at(8);
        *turnover.entry(product.to_vec()).or_default() += i64::from_le_bytes(price.try_into()?);
    }
    Ok(turnover)
}

/// Waits until the view has applied every change up to a number. Returns how far it is.
fn await_view(view: &Follower, least: u64) -> Result<u64> {
    loop {
        let seen = view.last_seq();
        let stored = view.get(POSITION)?;
        let position = stored.map_or(Ok(0), |bytes| FeedPosition::from_bytes(&bytes).map(|at| at.seq().0))?;
        if position >= least {
            return Ok(position);
        }
        if !view.wait(seen, PATIENCE)? {
            return Err(format!("the view stands still at {position}, and {least} is expected").into());
        }
    }
}

/// Returns the turnover in the view.
fn read_view(view: &Follower) -> Result<BTreeMap<Vec<u8>, i64>> {
    let turnover = view.keyspace("turnover")?;
    let item = |item: mapcask::Result<(Value, Value)>| {
        let (product, sum) = item?;
        Ok((product.to_vec(), i64::from_le_bytes(sum[..].try_into()?)))
    };
    turnover.iter().map(item).collect()
}

fn check() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let folder = scratch.path();
    // Stores to follow must exist.
    for name in ["shop", "view"] {
        Store::open(folder.join(name))?.close()?;
    }
    let seen = Follower::open(folder.join("view"))?;
    let mut shop = start("shop", folder)?;
    let mut customers = shop.stdin.take().ok_or("it has a pipe")?;
    let mut position = 0;
    for n in 0..KILLS {
        let mut view = start("view", folder)?;
        writeln!(customers)?;
        // It is killed in the middle of its work: some changes after the last kill.
        let reached = await_view(&seen, position + 1 + 50 * n);
        view.kill()?;
        view.wait()?;
        position = reached?;
    }
    drop(customers);
    assert!(shop.wait()?.success(), "the shop closes");
    let expected = count(folder)?;
    let mut last = Changes::open(folder.join("shop"), Since::Now)?;
    assert!(last.next()?.is_none());
    let mut view = start("view", folder)?;
    let reached = await_view(&seen, last.position().seq().0);
    view.kill()?;
    view.wait()?;
    reached?;
    let found = read_view(&seen)?;
    assert_eq!(found, expected);
    let total: i64 = found.values().sum();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} orders, {KILLS} kills of the view: a turnover of {total}, each change counted once",
        SHARE * KILLS
    )?;
    Ok(())
}
