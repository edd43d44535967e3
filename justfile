# Pieces of `.ci/run`, for working on one thing at a time.

_default: lint test doc

# Everything that must pass.
ci:
    .ci/run

# The tests, as the README gives them.
test *args:
    cargo test --all-features {{args}}

lint:
    cargo fmt --all --check
    cargo clippy --all-targets --all-features -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

# The models of what runs concurrently.
loom:
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib loom_

# Kills and power cuts; the cuts need root.
crash kills="2000" cuts="500":
    MAPCASK_KILLS={{kills}} MAPCASK_CUTS={{cuts}} cargo test --release --all-features --test kill --test power_cut -- --nocapture

# What `.ci/run` only samples: every bit and every cut of a damaged store, a million crash states, random histories. Hours.
exhaustive states="1000000" cases="4000":
    MAPCASK_DAMAGE=full MAPCASK_STATES={{states}} MAPCASK_CASES={{cases}} cargo test --release --all-features --test damage --test enumerate --test model -- --nocapture

# One fuzz target, until it finds something; see fuzz/README.md.
fuzz target *args:
    RUSTFLAGS="--cfg mapcask_internal" cargo fuzz run -s none {{target}} -- -max_len=4096 {{args}}

# All rows, or those named: `just bench get put --keys 100000`.
bench *args:
    cargo bench -- --date "$(date +%F)" {{args}}

# mapcask beside other stores, in one run: `just peers large`.
peers *args:
    cargo run --release --manifest-path benches/peers/Cargo.toml -- --date "$(date +%F)" {{args}}

# Licences, advisories and sources of all dependencies.
deny:
    cargo deny check

# One example; those in a folder of their own are run by `--manifest-path`.
example name:
    cargo run --release --all-features --example {{name}}

# The main job of the README.
demo:
    cargo run --release --features cli -- demo
