# Pieces of `.ci/run`, for working on one thing at a time.

_default: lint test doc

# Everything that must pass.
ci:
    .ci/run

# The tests, as the README gives them.
test *args:
    cargo test --features sim,cli {{args}}

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
    MAPCASK_KILLS={{kills}} MAPCASK_CUTS={{cuts}} cargo test --release --features sim --test kill --test power_cut -- --nocapture

# One fuzz target, until it finds something.
fuzz target:
    cargo fuzz run -s none {{target}}

bench *args:
    cargo bench {{args}}

# Licences, advisories and sources of all dependencies.
deny:
    cargo deny check

# The main job of the README.
demo:
    cargo run --release --features cli -- demo
