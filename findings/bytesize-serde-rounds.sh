#!/bin/sh
# A size that the crate bytesize writes with serde is not read back the same: in JSON, TOML and every other readable format it writes its
# display form, which has one digit behind the point. 100,000,001 bytes become "95.4 MiB", which is read as 100,034,150 bytes.
# In formats that are not readable it writes the number of bytes, so the same value survives bincode and not JSON.
#
# It matters to a program that writes its settings to a file and reads them again: a limit grows or shrinks by up to 5 % at small sizes,
# and a comparison of the two fails.
#
# Installs from crates.io: bytesize 2.7.0, serde_json 1. Needs cargo. Takes about half a minute.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
bytesize = { version = "=2.7.0", features = ["serde"] }
serde_json = "1"
TOML
cat > "$dir/src/main.rs" <<'RUST'
use bytesize::ByteSize;

fn main() {
    for bytes in [256 << 20, 100_000_001, 1_600] {
        let written = serde_json::to_string(&ByteSize(bytes)).unwrap();
        let read: ByteSize = serde_json::from_str(&written).unwrap();
        println!("{bytes} bytes are written as {written} and read as {} bytes", read.as_u64());
    }
}
RUST
cd "$dir"
cargo run --quiet > out.txt
echo "bytesize 2.7.0:"
cat out.txt
grep -q '^268435456 bytes are written as "256.0 MiB" and read as 268435456 bytes$' out.txt
grep -q '^100000001 bytes are written as "95.4 MiB" and read as 100034150 bytes$' out.txt
grep -q '^1600 bytes are written as "1.6 KiB" and read as 1638 bytes$' out.txt
echo "as described"
