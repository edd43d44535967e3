//! Tests that a read-only open changes nothing in the directory, and shows the same contents as any
//! other open.
//!
//! A process can leave a store closed, killed, torn, or in the middle of a pass, a checkpoint or a
//! recovery. Each state is opened read-only, and then for writing. On the simulated disk no file
//! may change in between. On a real disk the tests compare the directory listing, with times,
//! owners and bytes, and the system calls. A follower of a store without a writer shows the same.

#![cfg(all(feature = "sim", feature = "serde", feature = "postcard"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "../support/api.rs"]
mod api;
#[path = "../support/contents.rs"]
mod contents;
#[cfg(target_os = "linux")]
#[path = "../sigbus/file_system.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod file_system;
mod follow;
mod full;
#[cfg(target_os = "linux")]
mod places;
mod refusals;
mod states;
