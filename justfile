# Lanes of the checks; `just` lists them. `.ci/run` is all of them in the order of the gate.
# Only `fix` changes files.

export CARGO_INCREMENTAL := "0"
export CARGO_TERM_COLOR := env("CARGO_TERM_COLOR", "auto")

_default:
    @just --list --unsorted

# All that a change must pass; needs Java, Node.js and Python 3 beside Rust
verify: fmt lint doc house quickstart test mutants fuzz deny

# What a contributor with Rust alone can run: no Java, no Node.js, no Python
offline: fmt lint doc house quickstart core simulation model

# Formatting
fmt:
    cargo fmt --all --check

# Clippy, warnings denied
lint:
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

# The documentation, warnings denied
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features

# The rules of the house: arrows, bans, file lengths, prose
house:
    cargo test --locked -p kcl-tests --test it house_rules::

# A fleet in one process, with a verdict
quickstart:
    cargo run --locked --example quickstart

# Every test of what ships; servers that are missing are reported as left out
test:
    cargo test --locked

# The same by nextest, where it is installed; doc tests are not part of it
nextest:
    cargo nextest run --locked
    cargo test --locked --doc

# Crates that know no AWS, in seconds to minutes
core:
    cargo test --locked -p kcl-core -p kcl-aggregation -p kcl-dead-letters -p kcl-lease-memory -p kcl-operations -p kcl-testkit

# A thousand fleets on virtual time
simulation:
    cargo test --locked -p kcl-tests --test simulation

# As many as you like, by seed
simulate seeds="10000" seed="0":
    cargo run --locked --release -p kcl-tests --bin simulate -- --seeds {{seeds}} --seed {{seed}}

# The lease protocols in every possible order, in small scopes
model:
    cargo test --locked -p kcl-model

# Deliberate bugs: each must be found by an invariant
mutants:
    cargo test --locked -p kcl-mutants -- --nocapture

# Processes on real endpoints, and the same behind a network that fails
fleet:
    KCL_TEST_REQUIRE_EMULATORS=1 cargo test --locked -p kcl-tests --test fleet

# The committed inputs of the fuzz targets, and a second's worth of others
fuzz:
    cargo test --locked -p kcl-fuzz

# Bans, licences and sources, where cargo-deny is installed
deny:
    @if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; else echo "deny: LEFT OUT: cargo install --locked cargo-deny"; fi

# Each feature by itself, and the oldest Rust, where cargo-hack is installed
features:
    cargo hack check --locked --each-feature --no-dev-deps -p kinesis-client -p kcl-core -p kcl-testkit

# Spelling, where typos is installed
spelling:
    typos

# Formats, and lets clippy mend what it can
fix:
    cargo fmt --all
    cargo clippy --fix --allow-dirty --workspace --all-targets --all-features
