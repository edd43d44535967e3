//! Keeps the readings of sensors in the order of sensor and time: ranges, the latest value, pages, and
//! removal of what is old.
//!
//! The key is a pair of a sensor's name and a time. Keys of an ordered typed keyspace are in the order of
//! their values, so the readings of one sensor stand together, the oldest one first.
//!
//! `cargo run --features postcard --example time_series`

use std::error::Error;
use std::io::Write;
use std::ops::Bound::{Excluded, Included};
use std::ops::Range;

use mapcask::{Postcard, Store, TypedKeyspace, WriteBatch};

/// A sensor and a time in seconds, which may be before 1970.
type Key = (String, i64);

const SENSORS: [&str; 3] = ["attic", "cellar", "cellar door"];
const READINGS: usize = 1000;
/// They begin before 1970.
const TIMES: Range<i64> = -500..500;
const PAGE: usize = 64;
const BATCH: usize = 100;

struct Series {
    store: Store,
    readings: TypedKeyspace<Key, f32, Postcard>,
}

impl Series {
    fn open(path: &std::path::Path) -> mapcask::Result<Self> {
        let store = Store::open(path)?;
        Ok(Self { readings: store.ordered_typed_keyspace("readings", Postcard)?, store })
    }

    /// Returns the last reading of a sensor.
    fn latest(&self, sensor: &str) -> mapcask::Result<Option<(i64, f32)>> {
        let last = self.readings.prefix(&(sensor,)).next_back().transpose()?;
        Ok(last.map(|((_, time), value)| (time, value)))
    }

    /// Returns the reading of a sensor that was valid at a time: the last one up to it.
    fn at(&self, sensor: &str, time: i64) -> mapcask::Result<Option<f32>> {
        let last = self.readings.get_le(&(sensor.to_owned(), time))?;
        // The key before the first one of a sensor is one of another sensor.
        Ok(last.filter(|((found, _), _)| found == sensor).map(|(_, value)| value))
    }

    /// Returns the mean of the readings of a sensor from a time on and before another one.
    fn mean(&self, sensor: &str, from: i64, to: i64) -> mapcask::Result<f32> {
        let (mut count, mut sum) = (0_u16, 0.0);
        for item in self.readings.range((sensor.to_owned(), from)..(sensor.to_owned(), to)) {
            sum += item?.1;
            count += 1;
        }
        Ok(sum / f32::from(count))
    }

    /// Returns the next readings of a sensor behind a time.
    fn page(&self, sensor: &str, behind: i64) -> mapcask::Result<Vec<(Key, f32)>> {
        let end = Included((sensor.to_owned(), i64::MAX));
        self.readings.get_range((Excluded((sensor.to_owned(), behind)), end), PAGE)
    }

    /// Removes the readings of a sensor before a time, and returns their number.
    fn forget(&self, sensor: &str, before: i64) -> mapcask::Result<usize> {
        let mut old = self.readings.range((sensor.to_owned(), i64::MIN)..(sensor.to_owned(), before));
        let mut removed = 0;
        loop {
            let mut batch = WriteBatch::new();
            for item in old.by_ref().take(BATCH) {
                self.readings.remove_in(&mut batch, &item?.0)?;
            }
            if batch.is_empty() {
                return Ok(removed);
            }
            removed += batch.len();
            self.store.write(&batch)?;
        }
    }
}

/// Returns the made-up reading of a sensor at a time.
fn reading(sensor: usize, time: i64) -> f32 {
    f32::from(u8::try_from((time + 500).rem_euclid(100)).expect("it is below 100")) + sensor as f32
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let directory = tempfile::tempdir()?;
    let series = Series::open(directory.path())?;
    // They come in the order of time, for all sensors at once, and the first half is before 1970.
    for time in TIMES {
        for (number, sensor) in SENSORS.iter().enumerate() {
            series.readings.insert(&((*sensor).to_owned(), time), &reading(number, time))?;
        }
    }
    series.store.close()?;

    let series = Series::open(directory.path())?;
    assert_eq!(series.latest("cellar")?, Some((499, reading(1, 499))));
    assert_eq!(series.latest("cell")?, None, "a sensor is its whole name");
    assert_eq!(series.readings.prefix("cell").count(), 2 * READINGS, "a text alone is a beginning");
    assert_eq!(series.at("attic", 1_000_000)?, Some(reading(0, 499)));
    assert_eq!(series.at("cellar", -501)?, None, "the key before is one of the attic");
    let mean = series.mean("attic", -100, 100)?;
    assert!((mean - 49.5).abs() < 0.001, "{mean}");
    writeln!(out, "the attic had {mean} on the average around 1970")?;

    // Readings that come between two pages do not move what is on the next one.
    let (mut pages, mut times, mut behind) = (0, Vec::new(), i64::MIN);
    loop {
        let page = series.page("cellar", behind)?;
        let Some(((_, last), _)) = page.last() else { break };
        behind = *last;
        pages += 1;
        times.extend(page.into_iter().map(|((_, time), _)| time));
        let before_all = TIMES.start - i64::try_from(pages)?;
        series.readings.insert(&("cellar".to_owned(), before_all), &0.0)?;
    }
    assert!(times.iter().copied().eq(TIMES));
    writeln!(out, "{} readings on {pages} pages", times.len())?;

    let removed = series.forget("cellar", 0)?;
    assert_eq!(removed, READINGS / 2 + pages);
    assert_eq!(series.readings.prefix(&("cellar",)).next().transpose()?.map(|(key, _)| key.1), Some(0));
    assert_eq!(series.readings.prefix(&("attic",)).count(), READINGS);
    writeln!(out, "{removed} old readings removed")?;
    series.store.close()?;
    Ok(())
}
