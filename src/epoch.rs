//! Pins and grace periods.
