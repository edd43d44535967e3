//! Keeps a secondary index: users by their names, and an ordered keyspace of their cities.
//!
//! A key of the index is the city, a zero byte and the name. So a prefix finds all users of a city, and
//! a page of them begins behind the last key of the page before. A transaction writes both keyspaces: no
//! reader sees a user without an entry, and two changes of one user cannot leave two entries.
//!
//! `cargo run --example secondary_index`

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Write;
use std::ops::Bound;
use std::thread;

use mapcask::{Keyspace, Result, Store, Transaction};

const CITIES: [&str; 5] = ["Bern", "Graz", "Linz", "Linz am Rhein", "Ulm"];
const USERS: usize = 500;
const MOVES: usize = 400;
const PAGE: usize = 20;

struct Users {
    store: Store,
    /// From the name to the city.
    cities: Keyspace,
    /// The index: the city and the name, with an empty value.
    by_city: Keyspace,
}

fn entry(city: &str, name: &str) -> String {
    format!("{city}\0{name}")
}

impl Users {
    fn open(store: Store) -> Result<Self> {
        let cities = store.keyspace("users")?;
        let by_city = store.ordered_keyspace("users by city")?;
        Ok(Self { store, cities, by_city })
    }

    /// Adds a user, or moves one to another city.
    fn put(&self, name: &str, city: &str) -> Result<()> {
        // After a conflict with another change of the user, this is done again.
        self.store.transact(|transaction: &mut Transaction| {
            if let Some(before) = transaction.get(&self.cities, name)? {
                let before = String::from_utf8_lossy(&before).into_owned();
                transaction.remove(&self.by_city, entry(&before, name))?;
            }
            transaction.insert(&self.cities, name, city)?;
            transaction.insert(&self.by_city, entry(city, name), "")
        })
    }

    fn of_city(&self, city: &str) -> Result<Vec<String>> {
        let prefix = entry(city, "");
        let names = self.by_city.prefix(&prefix).map(|item| Ok(name_of(&item?.0, &prefix)));
        names.collect()
    }

    /// Returns the next users of a city behind one of them, as of one moment.
    fn page(&self, city: &str, after: Option<&str>) -> Result<Vec<String>> {
        let prefix = entry(city, "");
        let start = match after {
            Some(name) => Bound::Excluded(entry(city, name)),
            None => Bound::Included(prefix.clone()),
        };
        // The byte behind zero ends the city.
        let end = Bound::Excluded(format!("{city}\u{1}"));
        let page = self.by_city.get_range((start, end), PAGE)?;
        Ok(page.iter().map(|(key, _)| name_of(key, &prefix)).collect())
    }

    /// Returns the cities that have users, with one read each.
    fn cities(&self) -> Result<Vec<String>> {
        let mut range = self.by_city.range::<&str>(..);
        let mut cities = Vec::new();
        while let Some(item) = range.next() {
            let key = item?.0;
            let city =
                String::from_utf8_lossy(key.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
            range.seek(format!("{city}\u{1}"));
            cities.push(city);
        }
        Ok(cities)
    }
}

fn name_of(key: &[u8], prefix: &str) -> String {
    String::from_utf8_lossy(&key[prefix.len()..]).into_owned()
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let users = Users::open(Store::open(directory.path().join("data"))?)?;
    for n in 0..USERS {
        users.put(&format!("user {n:03}"), CITIES[n % 2])?;
    }
    assert_eq!(users.cities()?, CITIES[..2]);

    // Threads move the same users at the same time.
    thread::scope(|scope| {
        let start = |seed: usize| {
            let users = &users;
            scope.spawn(move || {
                (0..MOVES).try_for_each(|n| {
                    let name = format!("user {:03}", n * 7 % 100);
                    users.put(&name, CITIES[(n * (seed + 2) + seed) % CITIES.len()])
                })
            })
        };
        let movers: Vec<_> = (0..3).map(start).collect();
        movers.into_iter().try_for_each(|mover| mover.join().expect("no panic"))
    })?;

    // The index says what the users say.
    let mut indexed = BTreeSet::new();
    for city in users.cities()? {
        for name in users.of_city(&city)? {
            assert_eq!(users.cities.get(&name)?.ok_or("each entry has a user")?, city);
            indexed.insert(name);
        }
    }
    assert_eq!((indexed.len(), users.by_city.len(), users.cities.len()), (USERS, USERS, USERS));

    // Pages of one city, until one is not full.
    let (mut pages, mut last) = (Vec::new(), None::<String>);
    loop {
        let page = users.page("Bern", last.as_deref())?;
        last = page.last().cloned().or(last);
        let is_full = page.len() == PAGE;
        pages.push(page);
        if !is_full {
            break;
        }
    }
    assert_eq!(pages.concat(), users.of_city("Bern")?);
    writeln!(
        std::io::stdout(),
        "{USERS} users of {} cities; the {} of Bern fill {} pages",
        users.cities()?.len(),
        users.of_city("Bern")?.len(),
        pages.len()
    )?;
    Ok(users.store.close()?)
}
