# Single steps of `.ci/run`, and the tasks that it leaves out.

_default: lint test doc

# Run every check that a change must pass.
ci:
    .ci/run

# Run all tests, the long suites at a small size.
test *args:
    cargo test --all-features {{args}}

# Check formatting and lints.
lint:
    cargo fmt --all --check
    cargo clippy --all-targets --all-features -- -D warnings

# Build the documentation; a warning is an error.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

# Explore the concurrent parts with loom.
loom:
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib loom_

# Run the kill suite and the power-cut suite. Power cuts need root and loop devices.
crash kills="2000" cuts="500":
    MAPCASK_KILLS={{kills}} MAPCASK_CUTS={{cuts}} cargo test --release --all-features --test kill --test power_cut -- --nocapture

# Run in full what `.ci/run` samples: every flipped bit, every cut, a million crash states. Takes hours.
exhaustive states="1000000" cases="4000":
    MAPCASK_DAMAGE=full MAPCASK_STATES={{states}} MAPCASK_CASES={{cases}} cargo test --release --all-features --test damage --test enumerate --test model -- --nocapture

# Run one fuzz target until it finds something; fuzz/README.md lists the targets.
fuzz target *args:
    RUSTFLAGS="--cfg mapcask_internal" cargo fuzz run -s none {{target}} -- -max_len=4096 {{args}}

# Run all benches, or those named: `just bench get put --keys 100000`.
bench *args:
    cargo bench -- --date "$(date +%F)" {{args}}

# Features of the comparison: `just features=rocksdb compare` builds RocksDB as well, for half an hour.
features := ""

# Measure mapcask beside other stores in one process: `just compare read --keys 100000`.
compare *args:
    cargo run --release --manifest-path benches/compare/Cargo.toml --features "{{features}}" -- --date "$(date +%F)" {{args}}

# Measure mapcask beside other stores, add the figures to the record, and write benches/README.md anew.
compare-record machine *args:
    mkdir -p target
    just compare {{args}} > target/compare.md
    python3 benches/record/import.py {{machine}} "$(date +%F)" < target/compare.md
    python3 benches/record/draw.py {{machine}} "$(date +%F)"
    python3 benches/record/render.py

# Render benches/README.md and benches/record/README.md from the CSV files.
report:
    python3 benches/record/render.py

# Draw the figures of a comparison from its CSV file: `just draw MACHINE DATE`.
draw machine date:
    python3 benches/record/draw.py {{machine}} {{date}}

# Check licences, advisories and sources of all dependencies.
deny:
    cargo deny check

# Run one example. An example with a package of its own needs `--manifest-path`.
example name:
    cargo run --release --all-features --example {{name}}

# Run the demo of the README.
demo:
    cargo run --release --features cli -- demo

# Record the demo anew and render docs/demo.svg.
demo-picture:
    python3 docs/demo.py --record
