//! A read-only open changes nothing in the directory, and shows the same as any other open.
//!
//! A store is left in every state that a process can leave it in: closed, killed, torn, in the middle of a pass, of an image,
//! of a recovery. It is looked at, and then opened. On the simulated disk nothing at all may happen to a file meanwhile; on
//! a real one the listing of the directory, with times, owners and bytes, and the system calls are compared.

#![cfg(all(feature = "sim", feature = "serde", feature = "postcard"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "../support/api.rs"]
mod api;
#[cfg(target_os = "linux")]
#[path = "../sigbus/file_system.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod file_system;
mod full;
#[cfg(target_os = "linux")]
mod places;
mod refusals;
mod states;
