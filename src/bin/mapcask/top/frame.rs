//! A view as text: a frame for people, and a line of JSON for programs.

use std::fmt::Write;

use indicatif::{HumanBytes, HumanCount};

use super::super::look::counts_of;
use super::super::tail::quoted;
use super::sample::Sample;

impl Sample {
    /// Returns a rate per second. `None` if no time has passed, or not all of it was seen.
    fn rate(&self, count: u64) -> Option<u64> {
        let nanos = self.time.as_nanos();
        if self.jumped || nanos == 0 {
            return None;
        }
        u64::try_from(u128::from(count) * 1_000_000_000 / nanos).ok()
    }

    /// Returns the frame, with as many keyspaces as fit on a terminal of so many lines.
    pub(super) fn frame(&self, path: &str, rows: usize) -> Vec<String> {
        let stats = &self.stats;
        let rate = |count: u64, show: &dyn Fn(u64) -> String| match self.rate(count) {
            Some(rate) => format!("{}/s", show(rate)),
            None => "-".to_owned(),
        };
        let bytes = |bytes: u64| HumanBytes(bytes).to_string();
        let count = |count: u64| HumanCount(count).to_string();
        let durable = match self.waits {
            Some(waits) => format!(
                "{} numbers behind the last write, for {:.1} s at least",
                count(self.not_durable),
                waits.as_secs_f64()
            ),
            None => "everything".to_owned(),
        };
        let log = stats.live_bytes + stats.dead_bytes;
        let share = (100 * stats.dead_bytes).checked_div(log).unwrap_or(0);
        let mut lines = vec![
            format!("store       {path}   writer {}", self.writer),
            format!(
                "writes      {}   log {}   last number {}",
                rate(self.writes, &count),
                rate(self.log_bytes, &bytes),
                count(stats.last_seq)
            ),
            format!("durable     {durable}"),
            format!("keys        {} in {} keyspaces", count(stats.keys), count(stats.keyspaces as u64)),
            format!(
                "log         {} live, {} dead ({share} %)",
                bytes(stats.live_bytes),
                bytes(stats.dead_bytes)
            ),
            format!(
                "files       {} segments, {}; {} on the disk in all",
                count(stats.segments as u64),
                bytes(stats.segment_bytes),
                bytes(self.size_on_disk)
            ),
            format!(
                "compaction  freed {}, {} since the start of this view",
                rate(self.freed, &bytes),
                bytes(self.freed_in_all)
            ),
        ];
        lines.push(format!("{:>15} {:>12}  keyspace, the largest first", "keys", "live"));
        for (name, stats) in self.keyspaces.iter().take(rows) {
            // Quoted and escaped: a name may be empty, and may hold control characters.
            lines.push(format!("{:>15} {:>12}  {name:?}", count(stats.keys), bytes(stats.live_bytes)));
        }
        // One line stays free for the cursor.
        lines.truncate(rows.saturating_sub(1));
        lines
    }

    /// Returns the view as a line of JSON, with so many of the largest keyspaces.
    pub(super) fn line(&self, largest: usize) -> String {
        let stats = &self.stats;
        let mut line = format!(
            "{{\"writer\":{},\"seconds\":{:.3},\"jumped\":{}",
            quoted(self.writer),
            self.time.as_secs_f64(),
            self.jumped
        );
        let read = [("writes", self.writes), ("written_bytes", self.log_bytes), ("freed_bytes", self.freed)];
        let others = [
            ("size_on_disk", self.size_on_disk),
            ("last_seq", stats.last_seq),
            ("durable_seq", self.durable_seq.0),
            ("not_durable", self.not_durable),
        ];
        for (name, count) in read.into_iter().chain(counts_of(stats)).chain(others) {
            // A write to a string does not fail.
            let _ = write!(line, ",\"{name}\":{count}");
        }
        let waits = self.waits.map_or(0.0, |waits| waits.as_secs_f64());
        let of = |(name, stats): &(String, mapcask::KeyspaceStats)| {
            let (keys, live) = (stats.keys, stats.live_bytes);
            format!("{{\"name\":{},\"keys\":{keys},\"live_bytes\":{live}}}", quoted(name))
        };
        let all: Vec<String> = self.keyspaces.iter().take(largest).map(of).collect();
        let _ = write!(line, ",\"not_durable_seconds\":{waits:.3},\"largest\":[{}]}}", all.join(","));
        line
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mapcask::{KeyspaceStats, Seq, Stats};

    use super::*;

    fn sample() -> Sample {
        let stats = |keys, live_bytes| {
            let mut stats = KeyspaceStats::default();
            (stats.keys, stats.live_bytes) = (keys, live_bytes);
            stats
        };
        let mut all = Stats::default();
        (all.keys, all.keyspaces, all.live_bytes, all.dead_bytes) = (1203, 3, 3 << 20, 1 << 20);
        (all.segments, all.segment_bytes, all.last_seq) = (2, 8 << 20, 5000);
        Sample {
            writer: "open",
            time: Duration::from_millis(500),
            writes: 1000,
            log_bytes: 1 << 20,
            freed: 0,
            jumped: false,
            freed_in_all: 5 << 20,
            stats: all,
            size_on_disk: 9 << 20,
            durable_seq: Seq(4000),
            not_durable: 999,
            waits: Some(Duration::from_millis(1250)),
            keyspaces: vec![
                ("users\t".to_owned(), stats(1200, 2 << 20)),
                (String::new(), stats(2, 1 << 20)),
                ("small".to_owned(), stats(1, 0)),
            ],
        }
    }

    #[test]
    fn frame_shows_rates_sizes_and_the_largest_keyspaces() {
        let frame = sample().frame("data", 11);
        let expected = [
            "store       data   writer open",
            "writes      2,000/s   log 2.00 MiB/s   last number 5,000",
            "durable     999 numbers behind the last write, for 1.2 s at least",
            "keys        1,203 in 3 keyspaces",
            "log         3.00 MiB live, 1.00 MiB dead (25 %)",
            "files       2 segments, 8.00 MiB; 9.00 MiB on the disk in all",
            "compaction  freed 0 B/s, 5.00 MiB since the start of this view",
            "           keys         live  keyspace, the largest first",
            "          1,200     2.00 MiB  \"users\\t\"",
            "              2     1.00 MiB  \"\"",
        ];
        assert_eq!(frame, expected);
        assert_eq!(sample().frame("data", 5), expected[..4]);
    }

    #[test]
    fn frame_shows_no_rate_of_time_that_was_not_seen() {
        let mut sample = sample();
        (sample.jumped, sample.waits) = (true, None);
        let frame = sample.frame("data", 24);
        assert_eq!(frame[1], "writes      -   log -   last number 5,000");
        assert_eq!(frame[2], "durable     everything");
        (sample.jumped, sample.time) = (false, Duration::ZERO);
        assert_eq!(sample.frame("data", 24)[1], "writes      -   log -   last number 5,000");
    }

    #[test]
    fn line_is_json_with_the_largest_keyspaces() {
        let line: serde_json::Value = serde_json::from_str(&sample().line(2)).unwrap();
        assert_eq!((line["writes"].as_u64(), line["not_durable"].as_u64()), (Some(1000), Some(999)));
        assert_eq!((line["seconds"].as_f64(), line["not_durable_seconds"].as_f64()), (Some(0.5), Some(1.25)));
        assert_eq!(line["largest"].as_array().unwrap().len(), 2);
        assert_eq!(line["largest"][0]["name"], "users\t");
    }
}
