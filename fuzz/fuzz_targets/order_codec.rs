//! Fuzzes the encoding of the keys of ordered typed keyspaces: bytes are refused, or are the encoding of
//! the value that they are decoded to, and two values are in the order of their bytes.

#![no_main]

use std::fmt::Debug;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mapcask::sim::SimDisk;
use mapcask::{Options, Postcard, Store, TypedReader};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

static STORE: LazyLock<Store> = LazyLock::new(|| {
    Options::new().background(false).open_on(&SimDisk::new()).expect("a new simulated disk does not fail")
});

#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f32),
    Named(String, Option<char>),
    Square { side: i64, parts: Vec<Shape> },
}

#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
struct Wrapped(Option<Box<Wrapped>>);

#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
struct Place {
    name: String,
    number: u16,
    is_open: bool,
    unit: (),
    shapes: Vec<Shape>,
}

fuzz_target!(|input: &[u8]| {
    check::<String>(input);
    check::<Vec<String>>(input);
    check::<(String, String, i128)>(input);
    check::<Option<Option<(f64, [i8; 2])>>>(input);
    check::<Vec<Vec<u8>>>(input);
    check::<Shape>(input);
    check::<Wrapped>(input);
    check::<Place>(input);
});

/// Checks both halves of the input, and all of it.
fn check<K: ToOwned<Owned = K> + Serialize + DeserializeOwned + PartialOrd + Debug>(input: &[u8]) {
    let keyspace = STORE.ordered_typed_keyspace("keys", Postcard).expect("nothing fails");
    let reader: TypedReader<K, (), Postcard> = TypedReader::clone(&keyspace);
    let decoded = |bytes: &[u8]| {
        let key = reader.decode_key(bytes).ok()?;
        assert_eq!(reader.encode_key(&key).expect("it was decoded"), bytes);
        Some(key)
    };
    decoded(input);
    let (one, other) = input.split_at(input.len() / 2);
    if let (Some(first), Some(second)) = (decoded(one), decoded(other)) {
        assert_eq!(first.partial_cmp(&second), Some(one.cmp(other)), "{first:?} {second:?}");
    }
}
