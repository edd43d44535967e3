//! The notation of times on the command line.

use std::time::Duration;

/// The longest time. A longer one would be beyond the clock.
const MOST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses a time in seconds, which may have a fraction.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| !time.is_zero() && *time <= MOST)
        .ok_or_else(|| "give a number of seconds above 0 and up to a year, like 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_above_zero_and_at_most_a_year() {
        assert_eq!(parse_seconds("0.25").unwrap(), Duration::from_millis(250));
        for wrong in ["0", "-1", "inf", "nan", "1e30", "1e9", "soon", ""] {
            assert!(parse_seconds(wrong).unwrap_err().contains("like 0.5"), "{wrong}");
        }
    }
}
