//! segment_header
